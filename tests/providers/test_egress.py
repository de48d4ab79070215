"""Which addresses and links the egress policy lets through, as tables, and that its guard works on a socket.

Held here: the corpus. Not held here: the transport's own behaviour (test_transport).
"""

from __future__ import annotations

import ipaddress

import httpx
import pytest

from providers.egress import AddressPolicy, EgressRefused, Reach, check_url, guard, origin, reach_of
from providers.transport import Transport
from tests.providers import wire
from tests.providers.wire import answer, default_tls

pytestmark = pytest.mark.anyio

PUBLIC = (
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0",
    "169.253.255.255", "192.0.1.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
    "2001:4860:4860::8888", "2606:4700:4700::1111", "2a00:1450::1", "2003::1", "3ffe::1",
)
NOT_PUBLIC = (
    "0.0.0.0",  # noqa: S104 - an address in a table, nothing listens on it
    "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.0.1",
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.2.1", "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "233.252.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "100::1", "2001::1",
    "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::",
    "2002:808:808::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1",
    "febf::1", "fec0::1", "ff00::1", "ff02::1", "ff0e::1",
)
METADATA = (
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "169.254.0.23", "169.254.42.42", "100.96.0.96", "fd00:42::42",
    "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "::ffff:169.254.169.254", "::169.254.169.254",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:0:169.254.169.254",
)
EVERYTHING = AddressPolicy((ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0")))
INSIDE = AddressPolicy(
    (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd12::/16")),
    frozenset({origin("http://127.0.0.1:9000/prefix"), origin("https://Vendor.Internal/v1")}),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_fine(address: str) -> None:
    parsed = ipaddress.ip_address(address)
    assert AddressPolicy().permits(parsed)
    assert not AddressPolicy().permits(parsed, "listed")


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_other_address_wants_a_listing(address: str) -> None:
    parsed = ipaddress.ip_address(address)
    assert not AddressPolicy().permits(parsed)
    assert EVERYTHING.permits(parsed)
    assert EVERYTHING.permits(parsed, "listed")
    assert AddressPolicy().permits(parsed, "origin")


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("reach", ["origin", "public", "listed"])
def test_metadata_is_never_reached(address: str, reach: Reach) -> None:
    assert not EVERYTHING.permits(ipaddress.ip_address(address), reach)


def test_listing_is_exact() -> None:
    assert INSIDE.permits(ipaddress.ip_address("10.255.0.1"))
    assert not INSIDE.permits(ipaddress.ip_address("11.0.0.1"), "listed")
    assert not INSIDE.permits(ipaddress.ip_address("192.168.0.1"))
    assert not INSIDE.permits(ipaddress.ip_address("::ffff:10.0.0.1"))


FINE: tuple[tuple[str, Reach], ...] = (
    ("https://cdn.test/a.mp4?sig=x", "public"),
    ("https://cdn.test:8443/a", "public"),
    ("HTTPS://CDN.TEST./a", "public"),
    ("https://8.8.8.8/a", "public"),
    ("https://[2606:4700:4700::1111]/a", "public"),
    ("https://10.1.2.3/a", "public"),
    ("http://10.1.2.3:8080/a", "listed"),
    ("http://[fd12::1]/a", "listed"),
    ("http://hooks.internal/a", "listed"),
    ("http://127.0.0.1:9000/files/a.mp4", "origin"),
    ("https://vendor.internal./files/a.mp4", "origin"),
    ("https://vendor.internal:443/a", "origin"),
    ("https://ümlaut.test/a", "public"),
)


@pytest.mark.parametrize(("url", "reach"), FINE)
def test_link_is_fine(url: str, reach: Reach) -> None:
    assert check_url(url, INSIDE) is None
    assert reach_of(url, INSIDE) == reach


BAD = (
    "", "cdn.test/a", "//cdn.test/a", "ftp://cdn.test/a", "file:///etc/passwd", "gopher://cdn.test",
    "https://", "https:///a", "https://u:p@cdn.test/a", "https://u@cdn.test/a", "https://:@10.1.2.3/a",
    "https://a\\@cdn.test/", "https://cdn.test\\.evil.test/", "https://cdn.test/a b",
    "https://cdn.test/a\nb", " https://cdn.test/a", "https://cdn.test:0/", "https://cdn.test:65536/",
    "https://cdn.test:99999/", "https://cdn.test:x/", "https://127.0.0.1/", "https://127.0.0.1./",
    "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://[fe80::1%25eth0]/", "https://2130706433/",
    "https://0x7f.1/", "https://0x7f000001/", "https://127.1/", "https://017700000001/", "https://0/",
    "https://1.2.3.4.5/", "https://cdn.1/", "https://10.0.0.0x1/", "https://xn--/", "https://cdn..test/",
    "https://h%2f.evil.test/", "https://169.254.169.254/", "https://[fd00:ec2::254]/",
    "http://169.254.169.254/", "http://8.8.8.8/", "http://127.0.0.1:9001/", "http://127.0.0.1/",
    "http://192.168.0.1/", "https://127.0.0.1:9000/", "https://\uff11\uff12\uff17.0.0.1/",
    "https://\u24db\u24de\u24d2\u24d0\u24db/", "https://[::1", "https://[1.2.3.4]/",
    "data:video/mp4;base64,AAAA", "https://cdn.test:+443/", "https://cdn.test:\u0664\u0664\u0663/",
    "https://[2606:4700::1%25eth0]/", f"https://{'a' * 64}.test/", "https://" + "a." * 127 + "test/",
)


@pytest.mark.parametrize("url", BAD)
def test_link_is_refused(url: str) -> None:
    assert check_url(url, INSIDE)


def test_a_listed_name_is_reached_as_an_origin_is() -> None:
    named = AddressPolicy(hosts=frozenset({"hooks.internal"}))
    for url in ("http://hooks.internal/", "https://HOOKS.internal.:8443/a"):
        assert (check_url(url, named), reach_of(url, named)) == (None, "origin")
    for url in ("http://other.internal/", "http://a.hooks.internal/", "http://hooks.internal.evil.test/"):
        assert check_url(url, named) == "is not https"


def test_plain_http_by_name_wants_something_listed() -> None:
    assert check_url("http://hooks.internal/", AddressPolicy()) == "is not https"
    assert check_url("http://8.8.8.8/", INSIDE) == "is not https"
    assert check_url("http://192.168.0.1/", INSIDE) == "leads to a forbidden address"


@pytest.mark.parametrize("url", ["ftp://a.test", "a.test", "https://", "https://xn--"])
def test_origin_of_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        origin(url)


@pytest.mark.parametrize("reach", ["public", "listed"])
async def test_guard_stops_the_connection(reach: Reach) -> None:
    check = guard(AddressPolicy(), reach)
    async with wire.serve(answer(b"{}")) as server, Transport(tls=default_tls(), guard=check) as transport:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(httpx.ConnectError, match="egress policy refuses"):
                await transport.handle_async_request(httpx.Request("GET", f"http://{host}:{server.port}"))
        assert server.connections == 0


async def test_guard_lets_an_origin_and_a_listed_address_through() -> None:
    listed = AddressPolicy((ipaddress.ip_network("127.0.0.0/8"),))
    checks = guard(AddressPolicy(), "origin"), guard(listed, "public"), guard(listed, "listed")
    async with wire.serve(answer(b"{}")) as server:
        for check in checks:
            async with Transport(tls=default_tls(), guard=check) as transport:
                response = await transport.handle_async_request(httpx.Request("GET", server.url))
                assert await response.aread() == b"{}"
                await response.aclose()
        assert server.connections == 3


def test_guard_knows_zones_and_refuses_what_is_no_address() -> None:
    check = guard(AddressPolicy(), "public")
    check((10, 1, 6, "", ("2606:4700:4700::1111", 443, 0, 0)))
    for host in ("fe80::1%eth0", "fe80::1%2", "cdn.test", ""):
        with pytest.raises(EgressRefused) as caught:
            check((10, 1, 6, "", (host, 443, 0, 0)))
        assert isinstance(caught.value, OSError)
