"""The httpx transport on aiohttp: how bytes leave us, and the one table that says what a failure proves.

Held here: connections, TLS, the proxy, the check of each address just before connecting, and the table from
aiohttp's exceptions to httpx's. Not held here: which addresses are fine (`providers.egress`), keys, deadlines
over a whole exchange, and what an answer means (`providers.http`).

Why not httpx's own transport: its pool never recovers from cancelled requests, and costs several times the
CPU.
Why not a ready-made one: those call a disconnect after the request left a connect error, and that buys a
video twice.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

import aiohttp
import certifi
import httpx
from aiohttp.abc import AbstractResolver, AbstractStreamWriter
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from aiohttp.tracing import Trace
from yarl import URL

# Called with each resolved address, IP literals too, just before it is connected to, and with the peer's
# before anything is written; an OSError refuses it.
AddressInfo: TypeAlias = aiohttp.AddrInfoType
Guard: TypeAlias = Callable[[AddressInfo], None]
Resolver: TypeAlias = AbstractResolver


class Withheld(httpx.ConnectError):
    """The connection was made, but by then the request might not leave any more: none of it was written."""


class UnreadableAnswer(httpx.RemoteProtocolError):
    """The other side answered, but not in readable HTTP: a bad status line, or headers over the limits."""


# The first class that fits decides. Only rows above the line may say that nothing of the request was sent:
# aiohttp raises those classes while it connects (name, TCP, TLS, the proxy's tunnel) and nowhere else.
ERRORS: Final[tuple[tuple[type[Exception], type[httpx.TransportError]], ...]] = (
    (aiohttp.RedirectClientError, httpx.RemoteProtocolError),  # an answer came, though some are InvalidURL
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ClientProxyConnectionError, httpx.ProxyError),
    (aiohttp.ClientHttpProxyError, httpx.ProxyError),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol),
    # ---- from here on the request may have been read, and acted on ----
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, UnreadableAnswer),
    (HttpProcessingError, UnreadableAnswer),
    (aiohttp.ClientError, httpx.ReadError),
    (TimeoutError, httpx.ReadTimeout),
    (OSError, httpx.ReadError),
)


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """A verifying client context: certifi's authorities, and those of `ca_file` (PEM) besides.

    By hand, because `ssl.create_default_context` obeys SSLKEYLOGFILE, and the system store SSL_CERT_FILE.
    Raises OSError or ssl.SSLError when `ca_file` cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name unless told otherwise
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=certifi.where())
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


class Transport(httpx.AsyncBaseTransport):
    """Sends httpx requests through aiohttp: no redirects, cookies, decoding, environment, or repeated POST.

    `fresh` makes a new connection for every request: a pooled one may be closed by the other side while we
    write, and nobody can tell then whether a paid request arrived. `guard` judges addresses; it would judge
    the proxy's, so the two exclude each other. `max_connections` is a count, 0 without limit. `resolver`
    finds the addresses of names; absent, the machine's own. A request's `timeout` extension is read as httpx
    means it, in seconds, but `pool` spans all of connecting: slot, name, TCP, TLS, tunnel. Its `may_send`
    extension is asked when the connection is made and the first byte is about to be written: False is
    `Withheld`. Its `query` extension is encoded text that goes behind the URL, which then has none itself.
    aiohttp limits an answer's headers to 128 of 8190 bytes, and repeats a GET once when its connection broke.
    Raises ValueError for a proxy that is no http(s) URL or comes with a guard, and a `tls` without checks.

    aiohttp takes an answer that nobody asked for, on an idle pooled connection, for that to the next request
    (ran with 3.14.5): who polls through the pool compares the id in the answer with the one asked for.
    """

    def __init__(
        self,
        *,
        fresh: bool = False,
        guard: Guard | None = None,
        proxy: str | None = None,
        tls: ssl.SSLContext | None = None,
        max_connections: int = 100,
        resolver: Resolver | None = None,
    ) -> None:
        if proxy is not None and guard is not None:
            raise ValueError("with a proxy there is no address of ours to guard")
        if proxy is not None and not proxy.lower().startswith(("http://", "https://")):
            raise ValueError("the proxy is not an http or https URL")
        if tls is not None and (tls.verify_mode is not ssl.CERT_REQUIRED or not tls.check_hostname):
            raise ValueError("the TLS context does not verify")
        self._fresh = fresh
        self._guard = guard
        self._proxy = proxy
        self._tls = tls or tls_context()
        self._max_connections = max_connections
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, wait for the answer's headers. Raises httpx.TransportError by `ERRORS`."""
        try:
            request.url.raw_host.decode("ascii").encode("idna")
        except UnicodeError as exc:  # else the resolver raises it, past aiohttp
            raise httpx.UnsupportedProtocol("no such host name can exist", request=request) from exc
        session = self._session or self._open(request)
        limits = request.extensions.get("timeout", {})
        timeout = _timeout(limits.get("pool"), limits.get("connect"), limits.get("read"))
        url, query = str(request.url), request.extensions.get("query")
        body = await request.aread()
        may_send: Callable[[], bool] | None = request.extensions.get("may_send")
        data = _Checked(body, may_send) if may_send else body or None
        headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers.raw
                   if name.lower() not in {b"content-length", b"transfer-encoding"}]
        try:
            answer = await session.request(
                request.method, URL(f"{url}?{query}" if query else url, encoded=True), headers=headers,
                data=data, allow_redirects=False, timeout=timeout, proxy=self._proxy,
            )
        except Exception as exc:
            failure = _translated(exc, request)
            if isinstance(data, _Checked) and data.is_withheld:
                failure = Withheld("it might not be sent any more when it was connected", request=request)
            if failure is None:
                raise
        else:
            return httpx.Response(
                answer.status, headers=answer.raw_headers, stream=_Body(answer, request), request=request,
                extensions={"http_version": b"HTTP/1.1"},
            )
        raise failure  # out here, to leave aiohttp's own behind: its repr shows every header, and the key

    async def aclose(self) -> None:
        """Close all connections for good: what is in flight breaks, what comes later is a ConnectError."""
        session, self._session, self._closed = self._session, None, True
        if session is not None:
            await session.close()

    def _open(self, request: httpx.Request) -> aiohttp.ClientSession:
        """Late, because aiohttp wants the running loop."""
        if self._closed:
            raise httpx.ConnectError("the transport is closed", request=request)
        connector = _Connector(
            ssl=self._tls, force_close=self._fresh, limit=self._max_connections, socket_factory=self._socket,
            resolver=self._resolver,
        )
        connector.guard = self._guard
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        return self._session

    def _socket(self, address: AddressInfo) -> socket.socket:
        if self._guard is not None:
            self._guard(address)
        family, kind, protocol, _, _ = address
        return socket.socket(family, kind, protocol)


class _Connector(aiohttp.TCPConnector):
    """Has the guard judge the peer too, of every connection that a request is about to use."""

    guard: Guard | None = None

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the base class's name, and it is no number
    ) -> Connection:
        """A connection for `req`. Raises ClientConnectorError for a refused peer: nothing was written."""
        connection = await super().connect(req, traces, timeout)
        try:
            if self.guard is not None:
                self.guard(_peer(connection))
        except OSError as exc:
            connection.close()
            raise aiohttp.ClientConnectorError(req.connection_key, exc) from exc
        return connection


def _peer(connection: Connection) -> AddressInfo:
    """Who is at the other end; of one that has gone already there is no address, which no guard lets pass."""
    transport = connection.transport
    found = None if transport is None else transport.get_extra_info("peername")
    return (socket.AF_UNSPEC, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", found or ("", 0))


class _Checked(aiohttp.BytesPayload):
    """A body that is asked for only now, when the connection is made, and that may be kept back.

    aiohttp holds the headers back until the body's first bytes, so that both leave in one packet.
    """

    def __init__(self, body: bytes, may_send: Callable[[], bool]) -> None:
        super().__init__(body)
        self._may_send = may_send
        self.is_withheld = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.is_withheld = not self._may_send()
        if self.is_withheld:
            raise OSError("withheld")  # aiohttp closes the connection
        await super().write_with_length(writer, content_length)


@lru_cache(64)
def _timeout(pool: float | None, connect: float | None, read: float | None) -> aiohttp.ClientTimeout:
    # The one spans the other: a timer less where both are the same.
    connecting = None if connect == pool else connect
    return aiohttp.ClientTimeout(total=None, connect=pool, sock_connect=connecting, sock_read=read)


class _Body(httpx.AsyncByteStream):
    """The raw bytes of an answer's body, as they come."""

    def __init__(self, answer: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while chunk := await self._answer.content.readany():
                yield chunk
        except Exception as exc:
            failure = _translated(exc, self._request)
            if failure is None:
                raise
        else:
            return
        raise failure

    async def aclose(self) -> None:
        """Give the connection back; aiohttp drops it when the body was not read to its end."""
        self._answer.release()


def _translated(exc: Exception, request: httpx.Request) -> httpx.TransportError | None:
    """The httpx error for `exc`, None when it is no failure of the network."""
    for known, ours in ERRORS:
        if isinstance(exc, known):
            return ours(_said(exc), request=request)
    return None


def _said(exc: Exception) -> str:
    """What `exc` says, less the URLs (signed queries, a proxy's password) that aiohttp puts into some."""
    if isinstance(exc, aiohttp.ClientResponseError):
        who = "the proxy answered " if isinstance(exc, aiohttp.ClientHttpProxyError) else ""
        return f"{who}{exc.status} {exc.message}"
    if isinstance(exc, aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return type(exc).__name__
    return str(exc) or type(exc).__name__
