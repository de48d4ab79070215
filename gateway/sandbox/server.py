"""The simulators' server: sockets, HTTP/1.1 by h11, and which part answers what. Not held here: any answer.

It is written on bare sockets because a framework would not send the wrong answers that `wire` sends.

    /highwayapi, /myrouter, /unified    the vendors: each is a `base_url`
    /files                              result links
    /admin                              ledger, tasks, faults, ports; see `admin`
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from random import Random
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import msgspec

from gateway.sandbox import admin
from gateway.sandbox.attacker import Attacker
from gateway.sandbox.downloads import download
from gateway.sandbox.faults import Armed
from gateway.sandbox.media import Clips
from gateway.sandbox.ports import Ports
from gateway.sandbox.protocols import VENDORS
from gateway.sandbox.renders import Entry, World
from gateway.sandbox.settings import Clock, SandboxSettings, SystemClock
from gateway.sandbox.vendor import Outcome
from gateway.sandbox.wire import Answer, Request, Wire, head

__all__ = ["Clock", "Sandbox", "SandboxSettings", "SystemClock", "running", "serve"]

_BODY_BYTES = 64 * 1024 * 1024
_READ_BYTES = 256 * 1024
_TOO_LARGE = Answer(status=413, headers=(("content-type", "text/plain"),), body=b"too large")
_NOWHERE = Answer(status=404, headers=(("content-type", "text/plain"),), body=b"no vendor here")


class Sandbox:
    """All vendors in one process. `url` has no path or final slash; a vendor's `base_url` is `url/NAME`."""

    def __init__(
        self, settings: SandboxSettings, clock: Clock, random: Random, clips: Clips | None = None
    ) -> None:
        self.world = World(settings, clock, random)
        self.url = ""
        self._clock = clock
        self.most_sent_bytes = 0  # over one connection: how much of an endless answer was taken
        self.ports = Ports(settings.host, self._connected)
        self.attacker = Attacker(settings.host, [settings.key])
        self._clips = clips or Clips()
        self._vendors = {name: kind(name, self.world) for name, kind in VENDORS.items()}
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def ledger(self) -> list[Entry]:
        """Every charge so far, oldest first."""
        return list(self.world.ledger)

    def arm(self, wanted: admin.ArmRequest) -> Armed:
        """As `POST /admin/faults`. Raises ValueError for what does not exist."""
        return admin.arm(self.world, wanted)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take connections for as long as the context lasts; open ones are dropped at its end."""
        settings = self.world.settings
        server = await asyncio.start_server(self._connected, settings.host, settings.port)
        host, port = server.sockets[0].getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        try:
            yield
        finally:
            server.close()
            self.ports.close()
            self.attacker.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer, self._clock)
        task = asyncio.create_task(self._converse(wire))
        self._connections.add(task)

        def is_over(done: asyncio.Task[None]) -> None:
            self._connections.discard(done)
            self.most_sent_bytes = max(self.most_sent_bytes, wire.sent_bytes)

        task.add_done_callback(is_over)

    async def _converse(self, wire: Wire) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while connection.our_state is h11.IDLE and await self._exchange(wire, connection):
                connection.start_next_cycle()
        except h11.RemoteProtocolError as error:
            text = str(error).encode()
            wire.writer.write(head(Answer(status=error.error_status_hint, headers=(), body=text)) + text)
        except ConnectionError:
            wire.writer.transport.abort()  # the other side has gone
        finally:
            wire.writer.close()

    async def _exchange(self, wire: Wire, connection: h11.Connection) -> bool:
        """One request and its answer; whether another may follow on this connection."""
        request = await _read(wire, connection)
        if request is None:
            return False
        too_large = len(request.body) > _BODY_BYTES
        outcome = Outcome(answer=_TOO_LARGE) if too_large else await self._answer(request)
        if outcome.send is not None:
            await outcome.send(wire, outcome.answer, outcome.call)
            return False
        answer = outcome.answer
        headers = [*answer.headers, ("content-length", str(len(answer.body)))]
        await wire.send(connection.send(h11.Response(status_code=answer.status, headers=headers)) or b"")
        if request.method != "HEAD" and answer.body:
            connection.send(h11.Data(data=answer.body))
            await wire.send(answer.body)
        connection.send(h11.EndOfMessage())
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _answer(self, request: Request) -> Outcome:
        """Hand the request to whoever its path belongs to."""
        first = request.path.split("/", 2)[1] if request.path.startswith("/") else ""
        if first in self._vendors:
            inner = request.path.removeprefix(f"/{first}")
            return self._vendors[first].exchange(_at(request, inner))
        if request.path == "/admin/ports":
            return Outcome(answer=await admin.answer_ports(request, self.ports))
        if request.path == "/admin/attacker":
            return Outcome(answer=await admin.answer_attacker(request, self.attacker))
        if first == "admin":
            return Outcome(answer=admin.answer(request, self.world))
        if first == "files":
            return await download(request, self.world, self._vendors, self._clips)
        return Outcome(answer=_NOWHERE)


async def _read(wire: Wire, connection: h11.Connection) -> Request | None:
    """The next whole request, or None where the other side closed. An endless body is cut over the limit."""
    start: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
                await wire.send(go_on or b"")
            connection.receive_data(await wire.reader.read(_READ_BYTES))
        elif isinstance(event, h11.Request):
            start = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _BODY_BYTES and start is not None:
                return _request(start, bytes(body), wire.scheme)
        elif isinstance(event, h11.EndOfMessage) and start is not None:
            return _request(start, bytes(body), wire.scheme)
        else:
            return None


def _request(start: h11.Request, body: bytes, scheme: str) -> Request:
    target = urlsplit(start.target.decode("latin-1"))
    return Request(
        method=start.method.decode("ascii"),
        path=unquote(target.path),
        query=dict(parse_qsl(target.query, keep_blank_values=True)),
        headers={name.decode("ascii"): value.decode("latin-1") for name, value in start.headers},
        body=body,
        scheme=scheme,
    )


def _at(request: Request, path: str) -> Request:
    return msgspec.structs.replace(request, path=path)


@contextlib.asynccontextmanager
async def running(
    settings: SandboxSettings | None = None, *, clock: Clock | None = None, random: Random | None = None,
    clips: Clips | None = None,
) -> AsyncIterator[Sandbox]:
    """A sandbox for as long as the context lasts, on a free port unless the settings say otherwise.

    `clips` is where its files come from, when it is not to make its own.
    """
    settings = SandboxSettings(port=0) if settings is None else settings
    dice = random or Random(settings.seed)  # noqa: S311 - dice, no secrets
    sandbox = Sandbox(settings, clock or SystemClock(), dice, clips)
    async with sandbox.listening():
        yield sandbox


async def serve(
    settings: SandboxSettings,
    *,
    clock: Clock | None = None,
    random: Random | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run until cancelled. `on_ready` gets the URL once it listens. Raises OSError for a taken port."""
    async with running(settings, clock=clock, random=random) as sandbox:
        if on_ready is not None:
            on_ready(sandbox.url)
        await asyncio.Event().wait()
