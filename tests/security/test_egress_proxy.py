"""`[egress] proxy` and `ca_file`: all that leaves goes through a real CONNECT proxy, whatever else says how.

Held here: vendors, webhooks and files as the gateway wires them, a proxy, an authority of the test's own, and
traps in the environment. Not held here: what a proxy's failures prove of a submit (`tests/providers`).
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import pytest
import trustme

from gateway import assembly
from gateway.core.lease import Lease
from gateway.engine.collect import LinkUnreachable, open_link
from gateway.engine.webhooks import Answer, Letter, post
from gateway.settings import SettingsError, parse
from gateway.values import Secret
from providers import adapters
from providers.http import Account, VendorHTTP
from providers.spec import VendorError
from tests.providers import wire
from tests.providers.wire import Wire, answer
from tests.security.ssrf_corpus import Canary, canary, connects

pytestmark = pytest.mark.anyio

NAME: Final = "vendor.test"  # known to the proxy alone
KEY: Final = "sk-vendor-canary-0123456789"
USER, PASSWORD = "gateway", "p@ss:w/rd é%"
SECRET: Final = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
CERTIFICATE: Final = "certificate verify failed"
NOW: Final = 1_800_000_000.0
FILE: Final = answer(b"video", "200 OK", "Content-Type: video/mp4")


class Proxy:
    """Tunnels to 127.0.0.1 whatever the name, for who knows the password. `heads`: what it was asked."""

    def __init__(self, password: str) -> None:
        told = base64.b64encode(f"{USER}:{password}".encode("latin-1"))
        self._line, self.port = b"Proxy-Authorization: Basic " + told, 0
        self.heads: list[bytes] = []

    async def met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self._line not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()
            return
        port = int(head.split(b" ")[1].rpartition(b":")[2])
        there, away = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_carry(reader, away), _carry(there, writer), return_exceptions=True)


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()


@asynccontextmanager
async def proxying(password: str = PASSWORD, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    made = Proxy(password)
    server = await asyncio.start_server(made.met, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@asynccontextmanager
async def wires(
    folder: Path, authority: trustme.CA | None, proxy: str | None = None
) -> AsyncIterator[assembly.Wires]:
    """What the gateway makes of such an `[egress]`."""
    lines = ["[egress]"]
    if authority is not None:
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        lines.append('ca_file = "ca.pem"')
    if proxy is not None:
        lines.append('proxy = { env = "PROXY" }')
    lines += ["[providers.one]", 'adapter = "highwayapi"', 'api_key = { env = "KEY" }']
    settings = parse("\n".join(lines), folder, adapters(), {"KEY": KEY, "PROXY": proxy or ""})
    built = assembly.Wires(settings, Lease(assembly.elapsed, is_shared=False))
    yield built
    await built.close()


def proxy_url(proxy: Proxy, scheme: str = "http", host: str = "127.0.0.1") -> str:
    return f"{scheme}://{USER}:{quote(PASSWORD, safe='')}@{host}:{proxy.port}"


class Ways(NamedTuple):
    """The three kinds of traffic to one server, and what came of each: a word, or the error's text."""

    built: assembly.Wires
    url: str

    async def vendor(self) -> str:
        """A submit and a poll."""
        account = Account(base_url=self.url, api_key=KEY)
        observe = lambda *_: None  # noqa: E731 - nobody measures
        door = VendorHTTP(account, fresh=self.built.fresh, pooled=self.built.pooled, observe=observe)
        try:
            await door.submit("/v3/async/slug", {"prompt": "x"})
            await door.ask("/v3/async/task-result", {"task_id": "a"})
        except VendorError as error:
            return error.message if error.outcome == "not_sent" else f"{error.outcome}: {error.message}"
        return "ok"

    async def webhook(self) -> str:
        """A letter."""
        letter = Letter(id="msg_1", url=f"{self.url}/hook", body="{}", secrets=(SECRET,))
        found = await post(self.built.hooks.links, letter, NOW)
        return "ok" if found == Answer(status=200) else found.error or str(found.status)

    async def file(self) -> str:
        """A result link."""
        try:
            piece = await open_link(self.built.links, f"{self.url}/a.mp4", None)
        except LinkUnreachable as error:
            return str(error)
        await piece.close()
        return "ok"

    async def all(self) -> list[str]:
        """Each in turn."""
        return [await self.vendor(), await self.webhook(), await self.file()]


def said(server: Wire) -> list[bytes]:
    """What the server was asked for."""
    return [request.split(b" HTTP/")[0] for request in server.requests]


ASKED: Final = [
    b"POST /v3/async/slug", b"GET /v3/async/task-result?task_id=a", b"POST /hook", b"GET /a.mp4",
]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_all_that_leaves_goes_through_the_proxy(
    tmp_path: Path, authority: trustme.CA, scheme: str
) -> None:
    proxy_tls = certified(authority, "localhost") if scheme == "https" else None
    async with (
        wire.serve(FILE, tls=certified(authority, NAME)) as server,
        proxying(tls=proxy_tls) as proxy,
        wires(tmp_path, authority, proxy_url(proxy, scheme, "localhost")) as built,
    ):
        assert await Ways(built, f"https://{NAME}:{server.port}").all() == ["ok"] * 3
        assert said(server) == ASKED
        assert b"proxy-authorization" not in b"".join(server.requests).lower()
        seen = b"".join(proxy.heads)
        assert [head.split(b"\r\n")[0] for head in proxy.heads] == [
            f"CONNECT {NAME}:{server.port} HTTP/1.1".encode()
        ] * 4
        assert KEY.encode() not in seen
        assert b"\r\nAuthorization:" not in seen


async def test_a_refused_password_is_told_for_what_it_is_and_nothing_was_sent(
    tmp_path: Path, authority: trustme.CA
) -> None:
    async with (
        wire.serve(FILE, tls=certified(authority, NAME)) as server,
        proxying("another") as proxy,
        wires(tmp_path, authority, proxy_url(proxy)) as built,
    ):
        found = await Ways(built, f"https://{NAME}:{server.port}").all()
        assert found[0] == "the proxy answered 407 Proxy Authentication Required"
        assert found[1] == "not_connected"
        assert found[2].endswith("did not answer: ProxyError")
        assert PASSWORD not in "".join(found)
        assert server.connections == 0


async def test_a_proxy_does_not_make_a_stranger_trusted(tmp_path: Path, authority: trustme.CA) -> None:
    """Who breaks TLS up on the way is believed by `ca_file`, and not otherwise."""
    async with (
        wire.serve(FILE, tls=certified(trustme.CA(), NAME)) as server,
        proxying() as proxy,
        wires(tmp_path, authority, proxy_url(proxy)) as built,
    ):
        found = await Ways(built, f"https://{NAME}:{server.port}").all()
        assert CERTIFICATE in found[0]
        assert "ok" not in found
        assert server.requests == []


async def test_what_is_private_by_its_looks_is_refused_before_a_proxy(
    tmp_path: Path, authority: trustme.CA
) -> None:
    async with proxying() as proxy, wires(tmp_path, authority, proxy_url(proxy)) as built:
        for url in ("https://127.0.0.1/", "https://[::1]/", "https://2130706433/", "http://10.0.0.1/"):
            assert built.hooks.refuses(url) is not None
            assert built.links.refuses(url) is not None
        assert proxy.heads == []


@pytest.mark.parametrize("user", ["a%3Ab:c", "%E2%82%AC:c", "a:%F0%9F%8E%AC"])
def test_credentials_that_no_header_takes_stop_the_start(tmp_path: Path, user: str) -> None:
    text = '[egress]\nproxy = { env = "PROXY" }\n[providers.one]\nadapter = "highwayapi"\n'
    text += 'api_key = { env = "KEY" }'
    with pytest.raises(SettingsError, match="no proxy can be told") as caught:
        parse(text, tmp_path, adapters(), {"KEY": KEY, "PROXY": f"http://{user}@proxy.test:3128"})
    assert user not in str(caught.value)


@pytest.mark.parametrize("name", ["a..b", "-a.b", "a-.b", ".a", "a" * 64 + ".b", "a." * 127 + "b", "xn--ü"])
@pytest.mark.parametrize("key", ["base_url", "allow", "proxy"])
def test_a_name_that_cannot_be_is_no_place(tmp_path: Path, name: str, key: str) -> None:
    lines = ["[providers.one]", 'adapter = "highwayapi"', 'api_key = { env = "KEY" }']
    value = f'["{name}"]' if key == "allow" else f'"https://{name}/"'
    lines = [*lines, f"{key} = {value}"] if key == "base_url" else ["[egress]", f"{key} = {value}", *lines]
    with pytest.raises(SettingsError, match=key):
        parse("\n".join(lines), tmp_path, adapters(), {"KEY": KEY})


# --- the environment ------------------------------------------------------------------------------------

PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY", "WSS_PROXY", "FTP_PROXY")
TRUST: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@asynccontextmanager
async def traps(
    folder: Path, stranger: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Canary]:
    """An environment that wants everything to go another way, and to trust somebody else."""
    (folder / "trap").mkdir()
    stranger.cert_pem.write_to_path(str(folder / "trap" / "ca.pem"))
    (folder / "netrc").write_text("default login trap password trapped\n")
    async with canary() as bird:
        for name in (*PROXIES, *map(str.lower, PROXIES)):
            monkeypatch.setenv(name, f"http://127.0.0.1:{bird.port}")
        for name in TRUST:
            place = folder / "trap" / ("" if name.endswith("DIR") else "ca.pem")
            monkeypatch.setenv(name, str(place))
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("NETRC", str(folder / "netrc"))
        monkeypatch.setenv("SSLKEYLOGFILE", str(folder / "keys"))
        yield bird
    assert bird.connections == 0
    assert not (folder / "keys").exists()


@pytest.mark.parametrize("bypass", ["*", ""], ids=["bypassing all", "bypassing nothing"])
async def test_no_variable_adds_removes_or_changes_a_proxy(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, bypass: str
) -> None:
    async with (
        traps(tmp_path, trustme.CA(), monkeypatch),
        wire.serve(FILE, tls=certified(authority, NAME, "127.0.0.1")) as server,
        proxying() as proxy,
    ):
        monkeypatch.setenv("NO_PROXY", bypass)
        monkeypatch.setenv("no_proxy", bypass)
        with connects() as heard:
            async with wires(tmp_path, authority) as direct:
                assert await Ways(direct, server.url).vendor() == "ok"
        assert set(heard) == {str(("127.0.0.1", server.port))}
        async with wires(tmp_path, authority, proxy_url(proxy)) as tunnelled:
            assert await Ways(tunnelled, f"https://{NAME}:{server.port}").all() == ["ok"] * 3
        assert len(proxy.heads) == 4
        assert b"trap" not in b"".join([*server.requests, *proxy.heads])


async def test_no_variable_says_whom_to_trust(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = trustme.CA()
    async with (
        traps(tmp_path, stranger, monkeypatch),
        wire.serve(FILE, tls=certified(stranger, "127.0.0.1")) as strange,
        wire.serve(FILE, tls=certified(authority, "127.0.0.1")) as known,
        wires(tmp_path, authority) as with_file,
        wires(tmp_path, None) as without,
    ):
        assert CERTIFICATE in await Ways(with_file, strange.url).vendor()
        assert CERTIFICATE in await Ways(without, strange.url).vendor()
        assert CERTIFICATE in await Ways(without, known.url).vendor()
        assert await Ways(with_file, known.url).vendor() == "ok"
        assert strange.requests == []
