"""The transport by itself: its error table, when it repeats and when it reuses, its pool, proxy and guard.

Held here: what its callers rely on. Not held here: what an error proves about a submit (test_truth_table).
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import socket
import ssl
from pathlib import Path

import aiohttp
import httpx
import pytest
from aiohttp import client_exceptions, http_exceptions

from providers.transport import ERRORS, AddressInfo, Transport, tls_context
from tests.providers import wire
from tests.providers.wire import End, answer, default_tls

pytestmark = pytest.mark.anyio

OK = answer(b"{}")

# httpx classes that say "nothing was sent", and all that may become one: raised before aiohttp writes.
NOTHING_SENT = (
    httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.PoolTimeout, httpx.UnsupportedProtocol,
)
WHILE_CONNECTING = {
    aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError, aiohttp.ClientConnectorDNSError,
    aiohttp.ClientSSLError, aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL,
    aiohttp.InvalidUrlClientError, aiohttp.NonHttpUrlClientError, client_exceptions.UnixClientConnectorError,
}
# Raised by web sockets' methods, and no failure of a network.
ELSEWHERE = {client_exceptions.WSMessageTypeError}


def exceptions_of(module: object) -> set[type[Exception]]:
    """Every exception class that the module shows."""
    found = (thing for name, thing in inspect.getmembers(module) if not name.startswith("_"))
    return {thing for thing in found if isinstance(thing, type) and issubclass(thing, Exception)}


FAILURES = sorted(
    exceptions_of(client_exceptions)
    | exceptions_of(http_exceptions)
    | {failure for failure in exceptions_of(builtins) if issubclass(failure, OSError)}
    | exceptions_of(ssl),
    key=repr,
)


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_every_failure_is_mapped_and_only_the_listed_mean_nothing_was_sent(failure: type[Exception]) -> None:
    mapped = next((ours for known, ours in ERRORS if issubclass(failure, known)), None)
    assert (mapped is None) == (failure in ELSEWHERE)
    if mapped is not None:
        assert issubclass(mapped, NOTHING_SENT) == (failure in WHILE_CONNECTING)


def post(url: str, **timeout: float) -> httpx.Request:
    """A small POST."""
    return httpx.Request("POST", url, content=b"{}", extensions={"timeout": timeout})


async def fetch(transport: Transport, request: httpx.Request) -> bytes:
    """The whole body of the answer."""
    response = await transport.handle_async_request(request)
    try:
        return await response.aread()
    finally:
        await response.aclose()


@pytest.mark.parametrize("fresh", [True, False])
async def test_post_is_never_repeated(fresh: bool) -> None:
    async with wire.serve(OK) as server, Transport(fresh=fresh, tls=default_tls()) as transport:
        await fetch(transport, post(server.url))
        server.script = (End.CLOSE,)
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, post(server.url))
        assert len(server.requests) == 2
        assert server.connections == (2 if fresh else 1)


async def test_get_is_repeated_once() -> None:
    async with wire.serve(End.CLOSE) as server, Transport(tls=default_tls()) as transport:
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, httpx.Request("GET", server.url))
        assert len(server.requests) == 2


@pytest.mark.parametrize(("fresh", "connections"), [(True, 5), (False, 1)])
async def test_fresh_connects_each_time_and_the_pool_reuses(fresh: bool, connections: int) -> None:
    async with wire.serve(OK) as server, Transport(fresh=fresh, tls=default_tls()) as transport:
        for _ in range(5):
            assert await fetch(transport, post(server.url)) == b"{}"
        assert server.connections == connections


async def test_half_read_answer_is_not_reused() -> None:
    cut = answer(length=10) + b"x"
    async with wire.serve(cut, End.HANG) as server, Transport(tls=default_tls()) as transport:
        response = await transport.handle_async_request(httpx.Request("GET", server.url))
        await response.aclose()
        async with asyncio.timeout(60):
            await server.client_gone.wait()
        server.script = (OK,)
        assert await fetch(transport, httpx.Request("GET", server.url)) == b"{}"
        assert server.connections == 2


async def test_pool_survives_cancelled_requests() -> None:
    async with wire.serve(OK) as server, Transport(tls=default_tls(), max_connections=5) as transport:

        async def cancelled_after(turns: int) -> None:
            task = asyncio.create_task(fetch(transport, httpx.Request("GET", server.url)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        for _ in range(20):
            await asyncio.gather(*(cancelled_after(turns) for turns in range(15)))
        requests = [httpx.Request("GET", server.url, extensions={"timeout": {"pool": 10}}) for _ in range(20)]
        assert await asyncio.gather(*(fetch(transport, request) for request in requests)) == [b"{}"] * 20


async def test_full_pool_sends_nothing() -> None:
    async with wire.serve(End.HANG) as server, Transport(tls=default_tls(), max_connections=1) as transport:
        held = asyncio.create_task(fetch(transport, post(server.url)))
        await server.request_read.wait()
        with pytest.raises(httpx.ConnectTimeout):
            await fetch(transport, post(server.url, pool=0.05))
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        assert len(server.requests) == 1


async def test_closed_transport_sends_nothing() -> None:
    async with wire.serve(OK) as server:
        transport = Transport(tls=default_tls())
        await fetch(transport, post(server.url))
        await transport.aclose()
        with pytest.raises(httpx.ConnectError):
            await fetch(transport, post(server.url))
        assert len(server.requests) == 1


async def test_body_comes_as_it_was_sent() -> None:
    packed = answer(b"\x1f\x8b not unpacked", "200 OK", "Content-Encoding: gzip")
    async with wire.serve(packed) as server, Transport(tls=default_tls()) as transport:
        response = await transport.handle_async_request(httpx.Request("GET", server.url))
        assert b"".join([chunk async for chunk in response.aiter_raw()]) == b"\x1f\x8b not unpacked"
        await response.aclose()


async def test_read_timeout_is_no_connect_timeout() -> None:
    async with wire.serve(End.HANG) as server, Transport(tls=default_tls()) as transport:
        with pytest.raises(httpx.ReadTimeout):
            await fetch(transport, post(server.url, read=0.05))


async def test_guard_sees_each_address_and_may_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []

    def guard(info: AddressInfo) -> None:
        judged.append(info[4][0])
        if info[4][0] != "127.0.0.1":
            raise PermissionError("not there")

    async def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        addresses = found if host.endswith(".invalid") else [host]  # one loop asks of addresses too
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, server.port)) for host in addresses]

    found = ["127.0.0.2", "127.0.0.1"]
    async with wire.serve(OK) as server, Transport(tls=default_tls(), guard=guard, fresh=True) as transport:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        with pytest.raises(httpx.ConnectError):
            await fetch(transport, post(f"http://127.0.0.2:{server.port}"))
        assert server.connections == 0
        await fetch(transport, post(server.url))
        assert await fetch(transport, post(f"http://some.invalid:{server.port}")) == b"{}"
        found = ["127.0.0.3"]
        with pytest.raises(httpx.ConnectError):
            await fetch(transport, post(f"http://other.invalid:{server.port}"))
    assert sorted(set(judged)) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert server.connections == 2


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0x7f000001", "017700000001", "127.1", "0"])
async def test_number_for_a_host_does_not_pass_the_guard(host: str) -> None:
    def guard(info: AddressInfo) -> None:
        if info[4][0].startswith("127.") or info[4][0] == "0.0.0.0":  # noqa: S104 - a name for this machine
            raise PermissionError(info[4][0])

    async with wire.serve(OK) as server, Transport(tls=default_tls(), guard=guard) as transport:
        with pytest.raises((httpx.UnsupportedProtocol, httpx.ConnectError)):
            await fetch(transport, post(f"http://{host}:{server.port}"))
        assert server.connections == 0


async def test_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    async with wire.serve(OK) as proxy, wire.serve(OK) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        context = tls_context()
        async with Transport(tls=context) as transport:
            await fetch(transport, post(server.url))
    assert (proxy.connections, server.connections) == (0, 1)
    assert not context.keylog_filename
    assert not (tmp_path / "keys").exists()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_proxy_takes_plain_requests() -> None:
    async with wire.serve(OK) as proxy, Transport(tls=default_tls(), proxy=proxy.url) as transport:
        assert await fetch(transport, post("http://vendor.invalid/x")) == b"{}"
    assert proxy.requests[0].startswith(b"POST http://vendor.invalid/x HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ((answer(b"", "502 Bad Gateway"),), httpx.ProxyError),
        ((answer(b"", "407 Who"),), httpx.ProxyError),
        ((End.CLOSE,), httpx.RemoteProtocolError),
        ((End.HANG,), httpx.ConnectTimeout),
    ],
    ids=["502", "407", "closed", "silent"],
)
async def test_refused_tunnel(script: tuple[wire.Step, ...], error: type[httpx.TransportError]) -> None:
    request = post("https://vendor.invalid/x?signed=1", pool=0.3 if End.HANG in script else 10)
    async with wire.serve(*script) as proxy:
        url = proxy.url.replace("//", "//user:hidden@")
        async with Transport(tls=default_tls(), proxy=url) as transport:
            with pytest.raises(error) as caught:
                await fetch(transport, request)
    assert proxy.requests[0].startswith(b"CONNECT vendor.invalid:443 HTTP/1.1\r\n")
    assert "hidden" not in f"{caught.value!r}"
    assert "signed" not in f"{caught.value!r}"


async def test_absent_proxy_sends_nothing() -> None:
    proxy = f"http://127.0.0.1:{wire.unused_port()}"
    async with Transport(tls=default_tls(), proxy=proxy) as transport:
        with pytest.raises(httpx.ProxyError):
            await fetch(transport, post("https://vendor.invalid/x"))


def test_options_that_would_not_protect_are_refused() -> None:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    with pytest.raises(ValueError, match="does not verify"):
        Transport(tls=trusting)
    with pytest.raises(ValueError, match="proxy"):
        Transport(proxy="socks5://127.0.0.1:1")
    with pytest.raises(ValueError, match="proxy"):
        Transport(proxy="http://127.0.0.1:1", guard=lambda _: None)
