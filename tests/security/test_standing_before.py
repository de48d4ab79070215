"""What stands before a gateway: proxies that forward callers, a path before all paths, pages of elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from gateway.api import auth
from gateway.api.auth import BAD_KEYS_PER_MINUTE
from gateway.api.hops import address_of
from gateway.settings import SettingsError
from tests.api.bodies import png
from tests.api.test_webhooks import MORE, SECRET, receiving
from tests.security.proxy import nginx
from tests.serving import Served, problem, read, serving

# --- whose address ------------------------------------------------------------------------------------------

TRUSTED: Final = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8", "127.0.0.1")))
HOPS: Final = [
    # peer, what it forwards, whose address that is
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
    ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
    ("10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.9.9.9"], "1.2.3.4"),
    ("10.0.0.1", ["6.6.6.6", "1.2.3.4", "10.9.9.9,10.9.9.8"], "1.2.3.4"),
    ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ("8.8.8.8", ["1.2.3.4"], "8.8.8.8"),
    ("8.8.8.8", ["10.0.0.1"], "8.8.8.8"),
    ("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
    ("10.0.0.1", ["[2001:db8::1]:5678"], "2001:db8::1"),
    ("10.0.0.1", ["2001:DB8:0::1"], "2001:db8::1"),
    ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
    ("10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4"),
    ("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
    ("fd00::1", ["1.2.3.4"], "1.2.3.4"),
    ("10.0.0.1", ["unknown"], "10.0.0.1"),
    ("10.0.0.1", ["1.2.3.4, _hidden"], "10.0.0.1"),
    ("10.0.0.1", ["1.2.3.4, _hidden, 10.0.0.7"], "10.0.0.7"),
    ("10.0.0.1", ["1.2.3.4,"], "10.0.0.1"),
    ("10.0.0.1", [""], "10.0.0.1"),
    ("10.0.0.1", ["010.8.8.8"], "10.0.0.1"),
    ("10.0.0.1", ["0x8.8.8.8"], "10.0.0.1"),
    ("10.0.0.1", ["134744072"], "10.0.0.1"),
    ("10.0.0.1", ["fe80::1%eth0"], "10.0.0.1"),
    ("10.0.0.1", ["\xb9.2.3.4"], "10.0.0.1"),
    ("10.0.0.1", ["1.2.3.4 5.6.7.8"], "10.0.0.1"),
    ("10.0.0.1", ["," * 4_000], "10.0.0.1"),
    ("somewhere", ["1.2.3.4"], "somewhere"),
]


@pytest.mark.parametrize(("peer", "forwarded", "whose"), HOPS)
def test_a_forwarded_address_counts_as_far_as_proxies_are_trusted(
    peer: str, forwarded: list[str], whose: str
) -> None:
    headers = [(b"host", b"a"), *((b"x-forwarded-for", value.encode("latin-1")) for value in forwarded)]
    scope: Any = {"type": "http", "client": (peer, 1), "headers": headers}
    assert address_of(scope, TRUSTED) == whose
    assert address_of(scope, ()) == peer


def test_no_peer_has_no_address() -> None:
    scope: Any = {"type": "http", "client": None, "headers": [(b"x-forwarded-for", b"1.2.3.4")]}
    assert address_of(scope, TRUSTED) == ""


def wrong_keys(client: httpx.Client, url: str, address: str, count: int) -> set[int]:
    """What so many wrong keys get that are said to come from `address`."""
    headers = {"Authorization": "Bearer wrong", "X-Forwarded-For": address}
    return {client.get(f"{url}/v1/models", headers=headers).status_code for _ in range(count)}


def test_wrong_keys_behind_a_trusted_proxy_are_counted_by_caller(tmp_path: Path) -> None:
    more = 'trusted_proxies = ["127.0.0.1"]'
    with serving(tmp_path, auth="keys", server=more) as served:
        assert wrong_keys(served.client, served.url, "1.2.3.4", BAD_KEYS_PER_MINUTE) == {401}
        assert wrong_keys(served.client, served.url, "1.2.3.4", 1) == {429}
        assert wrong_keys(served.client, served.url, "6.6.6.6, 1.2.3.4", 1) == {429}
        assert wrong_keys(served.client, served.url, "1.2.3.5", 1) == {401}


def test_nobody_else_is_believed_whom_they_forward(tmp_path: Path) -> None:
    with serving(tmp_path, auth="keys") as served:
        half = BAD_KEYS_PER_MINUTE // 2
        assert wrong_keys(served.client, served.url, "1.2.3.4", half) == {401}
        assert wrong_keys(served.client, served.url, "1.2.3.5", BAD_KEYS_PER_MINUTE - half) == {401}
        assert wrong_keys(served.client, served.url, "1.2.3.6", 1) == {429}


def test_a_caller_behind_nginx_cannot_choose_an_address(tmp_path: Path) -> None:
    more = 'trusted_proxies = ["127.0.0.0/30"]'
    with (
        serving(tmp_path, auth="keys", server=more) as served,
        nginx(tmp_path, served.settings.server.listen) as proxy,
    ):
        for number in range(BAD_KEYS_PER_MINUTE):
            assert wrong_keys(served.client, f"http://{proxy}", f"1.2.3.{number}, 127.0.0.9", 1) == {401}
        assert wrong_keys(served.client, f"http://{proxy}", "1.2.4.1, 127.0.0.9", 1) == {429}


def test_wrong_keys_are_counted_by_network_where_a_machine_has_many_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = 'trusted_proxies = ["127.0.0.1"]'
    with serving(tmp_path, auth="keys", server=more) as served:
        for number in range(BAD_KEYS_PER_MINUTE):
            assert wrong_keys(served.client, served.url, f"2001:db8::{number:x}:1", 1) == {401}
        assert wrong_keys(served.client, served.url, "2001:db8::ffff:1", 1) == {429}
        assert wrong_keys(served.client, served.url, "2001:db8:0:1::1", 1) == {401}
        # Who comes from many networks makes room by the oldest, and not for all at once.
        monkeypatch.setattr(auth, "ADDRESSES_MAX", 3)
        assert wrong_keys(served.client, served.url, "1.2.3.4", BAD_KEYS_PER_MINUTE) == {401}
        assert wrong_keys(served.client, served.url, "1.2.3.5", 1) == {401}
        assert wrong_keys(served.client, served.url, "1.2.3.4", 1) == {429}


# --- a path before all paths --------------------------------------------------------------------------------

BASE: Final = "/reelgate/v2.1"
PICTURE: Final = png(640, 480)


@pytest.fixture(scope="module")
def based(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway under a path, with files."""
    folder = tmp_path_factory.mktemp("based")
    (folder / "hook").write_text(SECRET)
    with serving(folder, server=f'base_path = "{BASE}/"', files='url = "file:videos"', more=MORE) as served:
        yield served


@pytest.fixture
def under(based: Served) -> httpx.Client:
    """A client that knows the path."""
    client = based.client_with({})
    client.base_url = httpx.URL(based.url + BASE)
    return client


def test_all_urls_lie_under_the_path(based: Served, under: httpx.Client) -> None:
    answer = under.post("/v1/videos", json={"prompt": "a fox"})
    video = read(answer)
    assert answer.headers["location"] == f"{BASE}/v1/videos/{video['id']}"
    based.started(video["id"], under)
    done = based.finish(video["id"], under)
    assert done["output"]["url"] == f"{BASE}/v1/videos/{video['id']}/content"
    assert under.get(based.url + done["output"]["url"]).status_code == 200
    link = read(under.post(f"/v1/videos/{video['id']}/links"))["url"]
    assert link.startswith(f"{based.url}{BASE}/v1/videos/{video['id']}/content?")
    assert httpx.get(link, trust_env=False).content[4:8] == b"ftyp"
    assert read(under.get("/v1/videos"))["data"][0]["output"]["url"] == done["output"]["url"]
    assert read(under.get("/openapi.json"))["servers"] == [{"url": BASE}]
    assert 'href="openapi.json"' in under.get("/docs").text


def test_an_upload_is_known_by_its_url_under_the_path(based: Served, under: httpx.Client) -> None:
    files = {"file": ("a.png", PICTURE, "image/png")}
    shown = read(under.post("/v1/files", files=files, data={"purpose": "vision"}))
    assert shown["url"] == f"{BASE}/v1/files/{shown['id']}/content"
    assert under.get(based.url + shown["url"]).content == PICTURE
    for url in (shown["url"], based.url + shown["url"]):
        planned = under.post("/v1/videos/plan", json={"prompt": "a fox", "image": url})
        assert planned.status_code == 200, planned.text


def test_a_problem_under_the_path_says_so(based: Served, under: httpx.Client) -> None:
    found = problem(under.get("/v1/nothing"), 404, "not_found")
    assert found["type"] == f"{BASE}/docs#not_found"
    refused = problem(under.get("/v1/version", headers={"Host": "a b"}), 400, "invalid_request")
    assert refused["type"] == f"{BASE}/docs#invalid_request"


@pytest.mark.parametrize("path", [
    "/v1/version", "/", "/reelgate", "/reelgate/v1/version", BASE, f"{BASE}x/v1/version",
    f"/x{BASE}/v1/version", BASE.upper() + "/v1/version",
])  # fmt: skip
def test_nothing_lies_beside_the_path(based: Served, path: str) -> None:
    problem(based.client.get(path), 404, "not_found")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_who_watches_the_process_needs_no_path(based: Served, under: httpx.Client, path: str) -> None:
    assert based.client.get(path).status_code == under.get(path).status_code == 200


def test_a_message_shows_urls_under_the_path(based: Served, under: httpx.Client) -> None:
    with receiving() as receiver:
        body = {"prompt": "a fox", "webhook_url": f"{receiver.url}/own"}
        done = based.finish(read(under.post("/v1/videos", json=body))["id"], under)
        (letter,) = receiver.at("/own")
    assert letter.content["data"]["output"]["url"] == done["output"]["url"]


@pytest.mark.parametrize(("written", "words"), [
    ('base_path = "reelgate"', "server.base_path"), ('base_path = "/"', "server.base_path"),
    ('base_path = "/a//b"', "server.base_path"), ('base_path = "/a/../b"', "server.base_path"),
    ('base_path = "/.a"', "server.base_path"), ('base_path = "/a b"', "server.base_path"),
    ('base_path = "/a%2fb"', "server.base_path"), ('base_path = "/a\\n"', "server.base_path"),
    (f'base_path = "/{"a" * 200}"', "server.base_path"), ("base_path = 5", "server.base_path"),
    ('base_path = "/a"\npublic_url = "https://b/c"', "server.public_url"),
    ('trusted_proxies = ["proxy.internal"]', "server.trusted_proxies"),
    ('trusted_proxies = ["10.0.0.1/8"]', "server.trusted_proxies"),
    ('trusted_proxies = "10.0.0.0/8"', "server.trusted_proxies"),
    ('trusted_proxies = ["0.0.0.0/0"]', "server.trusted_proxies"),
    ('trusted_proxies = ["10.0.0.1", "::/0"]', "server.trusted_proxies"),
    ('cors_origins = ["https://a.example"]', "server.cors_origins: needs auth.mode"),
    ('cors_origins = ["*"]', "server.cors_origins"), ('cors_origins = ["null"]', "server.cors_origins"),
    ('cors_origins = ["https://a.example/x"]', "server.cors_origins"),
    ('cors_origins = ["https://*.example"]', "server.cors_origins"),
    ('cors_origins = ["a.example"]', "server.cors_origins"),
    ('cors_origins = ["file:///a"]', "server.cors_origins"),
])  # fmt: skip
def test_a_value_that_means_nothing_is_refused(tmp_path: Path, written: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words), serving(tmp_path, server=written):
        pass


# --- pages of elsewhere -------------------------------------------------------------------------------------

PAGE: Final = "https://studio.example"
OTHER: Final = "http://[2001:db8::1]:3000"
ASKING: Final = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
SAYING: Final = "access-control-"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway that two pages may call."""
    more = f'cors_origins = ["{PAGE}:443", "{OTHER}"]'
    with serving(tmp_path_factory.mktemp("shared"), auth="keys", server=more) as served:
        yield served


def said_of_pages(answer: httpx.Response) -> dict[str, str]:
    """The headers that are for browsers."""
    return {name: value for name, value in answer.headers.items() if name.startswith(SAYING)}


@pytest.mark.parametrize("origin", [PAGE, OTHER])
def test_a_listed_page_may_ask_and_read(shared: Served, origin: str) -> None:
    asked = shared.client.options("/v1/videos", headers={"Origin": origin} | ASKING)
    assert (asked.status_code, asked.headers["vary"]) == (204, "Origin")
    told = said_of_pages(asked)
    assert told[f"{SAYING}allow-origin"] == origin
    may = set(told[f"{SAYING}allow-headers"].split(", "))
    assert {"Authorization", "Idempotency-Key", "Content-Type"} <= may
    assert "POST" in told[f"{SAYING}allow-methods"].split(", ")
    caller = shared.as_caller("page")
    for answer in (
        caller.post("/v1/videos", json={"prompt": "a fox"}, headers={"Origin": origin}),
        caller.get("/v1/videos", headers={"Origin": origin}),
        shared.client.get("/v1/videos", headers={"Origin": origin}),
        shared.client.get("/v1/videos", headers={"Origin": origin, "Host": "a b"}),
    ):
        assert said_of_pages(answer)[f"{SAYING}allow-origin"] == origin
        assert "Location" in said_of_pages(answer)[f"{SAYING}expose-headers"].split(", ")
        assert not {"*", "true"} & {*said_of_pages(answer).values()}
        assert f"{SAYING}allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", [
    "https://evil.example", "null", "*", "http://studio.example", f"{PAGE}:444", f"{PAGE}/", PAGE.upper(), "",
    f"{PAGE}.evil.example", f"{PAGE}, https://evil.example", f"{PAGE}:443",
])  # fmt: skip
def test_no_other_page_may(shared: Served, origin: str) -> None:
    for answer in (
        shared.client.options("/v1/videos", headers={"Origin": origin} | ASKING),
        shared.as_caller("page").get("/v1/videos", headers={"Origin": origin}),
    ):
        assert said_of_pages(answer) == {}
        assert answer.headers["vary"] == "Origin"


def test_unless_told_no_page_may(based: Served, under: httpx.Client) -> None:
    for answer in (under.options("/v1/videos", headers={"Origin": PAGE} | ASKING), under.get("/v1/version")):
        assert said_of_pages(answer) == {}
        assert "vary" not in answer.headers
