"""Both ends of a wire on 127.0.0.1: servers that misbehave to order, on real sockets, and the door to them.

Held here: what a peer does (a script of bytes and ways to end) and what it received, the door as the gateway
builds it, and the search for its key. Not held here: what must come of it (the tests).
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import re
import socket
import ssl
import struct
import traceback
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from providers.http import Account, CallOutcome, Clocks, Limits, Operation, VendorHTTP
from providers.spec import Reply, VendorDoor
from providers.transport import Transport, tls_context

KEY = "sk_live/canary+key=="
NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
OPERATIONS: tuple[Operation, ...] = ("submit", "poll")
# For faults that end by themselves: wide, so that a slow machine cannot turn them into a timeout.
WIDE = Limits(connect_seconds=5, submit_seconds=10, ask_seconds=10, max_body_bytes=100_000)

Seen: TypeAlias = list[tuple[Operation, CallOutcome, float]]


class End(enum.Enum):
    """A step that is no fixed bytes."""

    CLOSE = "end of file"
    RESET = "a TCP reset"
    HANG = "nothing more until the client goes"
    ENDLESS = "64 KiB of the last bytes again and again"
    DRIP = "the last bytes, one every few ms, again and again"


Step: TypeAlias = bytes | End


@dataclass
class Wire:
    """A running server. `connections` counts the accepted (after TLS), `requests` holds each as read.

    `cut_off` holds what came of one that did not come whole. `script` may be changed between requests.
    """

    script: tuple[Step, ...] = ()
    port: int = 0
    scheme: str = "http"
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    cut_off: list[bytes] = field(default_factory=list)
    request_read: asyncio.Event = field(default_factory=asyncio.Event)
    client_gone: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """The origin to use as a base_url."""
        return f"{self.scheme}://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def serve(
    *script: Step, tls: ssl.SSLContext | None = None, reads: bool = True, scheme: str | None = None
) -> AsyncIterator[Wire]:
    """Play `script` after each request (when not `reads`: after accepting), then read the next request."""
    wire = Wire(script=script, scheme=scheme or ("https" if tls else "http"))
    running: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        wire.connections += 1
        try:
            await _converse(wire, reader, writer, reads=reads)
        except asyncio.IncompleteReadError as gone:
            wire.cut_off.append(gone.partial)
            wire.client_gone.set()
        except (ConnectionError, asyncio.CancelledError):
            wire.client_gone.set()  # or the test is over, and the cancellation is ours
        finally:
            writer.close()
            running.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, backlog=512)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        wire.stopping.set()
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _converse(
    wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reads: bool
) -> None:
    while True:
        if reads:
            wire.requests.append(await _request(reader))
            wire.request_read.set()
        last = b""
        for step in wire.script:
            if isinstance(step, bytes):
                last = step
                writer.write(step)
                await writer.drain()
            elif await _ended(wire, step, last, reader, writer):
                return
        if not reads:
            return


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    return head + (await reader.readexactly(int(length[1])) if length else b"")


async def _ended(
    wire: Wire, step: End, last: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    if step is End.RESET:
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.transport.abort()
    elif step is End.HANG:
        while await reader.read(65536):
            pass
        wire.client_gone.set()
    elif step is End.ENDLESS:
        block = last * (65536 // len(last))
        while True:
            writer.write(block)
            await writer.drain()
    elif step is End.DRIP:
        while True:
            for byte in last:
                writer.write(bytes((byte,)))
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wire.stopping.wait(), 0.005)
    return True


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """The port of a listening socket whose queue is full: a connect to it neither succeeds nor fails."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answer(body: bytes = b"", status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """A whole HTTP/1.1 answer; Content-Length is `length` or right, and absent with Transfer-Encoding."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if not any(header.lower().startswith("transfer-encoding") for header in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@functools.cache
def default_tls() -> ssl.SSLContext:
    """One context for the whole run: reading the authorities costs more than most tests."""
    return tls_context()


@contextlib.asynccontextmanager
async def door_to(
    url: str, *, limits: Limits = WIDE, tls: ssl.SSLContext | None = None, seen: Seen | None = None,
    prefix: str = "",
) -> AsyncIterator[VendorHTTP]:
    """A door to `url` as the gateway builds it, with its two transports."""
    tls = tls or default_tls()
    fresh, pooled = Transport(fresh=True, tls=tls, max_connections=500), Transport(tls=tls)
    record: Seen = [] if seen is None else seen
    ticks = iter(range(1_000_000))
    try:
        yield VendorHTTP(
            Account(base_url=url + prefix, api_key=KEY), fresh=fresh, pooled=pooled, limits=limits,
            observe=lambda *call: record.append(call),
            clocks=Clocks(monotonic=lambda: float(next(ticks)), wall=NOW.timestamp),
        )
    finally:
        await fresh.aclose()
        await pooled.aclose()


async def call(door: VendorDoor, operation: Operation) -> Reply:
    """One call of that kind."""
    if operation == "submit":
        return await door.submit("/v3/async/slug", {"prompt": "x"})
    return await door.ask("/v3/async/task-result", {"task_id": "a"})


def assert_no_key(error: BaseException) -> None:
    """Neither the error nor anything that it drags along shows the key."""
    link: BaseException | None = error
    shown = "".join(traceback.format_exception(error))
    while link is not None:
        shown += f"{link!r}{link}{link.args!r}{vars(link)!r}"
        link = link.__cause__ or link.__context__
    assert KEY not in shown
