"""Callers in a closed loop: each keeps one connection, and sends again when it has its answer.

Held here: sending and timing. Not held here: what is sent, and what it costs the server (`cases`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from tests.bench.wire import HOST, message_end


class UnexpectedAnswer(Exception):
    """A server answered something else, or went away."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`count` requests over `connections`, those of `requests` in turn, from the first again after the last.

    Every answer must have `status`. `pause_seconds` lie between an answer and the next request.
    """

    requests: Sequence[bytes]
    connections: int
    count: int
    status: int
    pause_seconds: float = 0.0


class _Run:
    """What the callers of one run share: how many requests are still to be sent and answered."""

    def __init__(self, load: Load) -> None:
        self.unsent = self.unanswered = load.count
        self.requests = itertools.cycle(load.requests)
        self.expected = b"HTTP/1.1 %d " % load.status
        self.pause_seconds = load.pause_seconds
        self.seconds: list[float] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.unanswered -= 1
        if self.unanswered == 0 and not self.finished.done():
            self.finished.set_result(None)

    def failed(self, what: str) -> None:
        if not self.finished.done():
            self.finished.set_exception(UnexpectedAnswer(what))


class _Caller(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = bytearray()
        self._sent_at = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self) -> None:
        """Send the next request, if there is one left."""
        if self._run.unsent > 0:
            self._run.unsent -= 1
            self._sent_at = time.perf_counter()
            self._transport.write(next(self._run.requests))

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = message_end(self._received)
        if end == 0:
            return
        if end != len(self._received) or not self._received.startswith(self._run.expected):
            self._run.failed(self._received[:600].decode("utf-8", "replace"))
            return
        self._received.clear()
        self._run.answered(time.perf_counter() - self._sent_at)
        if self._run.pause_seconds:
            asyncio.get_running_loop().call_later(self._run.pause_seconds, self.send)
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.failed(f"the server closed a connection that was to be kept: {exc}")

    def close(self) -> None:
        self._transport.abort()


async def drive(port: int, load: Load, on_connected: Callable[[], None]) -> list[float]:
    """Do `load` and return the seconds that each request took. `on_connected` is called before the first.

    Raises UnexpectedAnswer for any other status, and for a connection that was not kept.
    """
    run = _Run(load)
    loop = asyncio.get_running_loop()
    callers: list[_Caller] = []
    for _ in range(load.connections):
        _, caller = await loop.create_connection(partial(_Caller, run), HOST, port)
        callers.append(caller)
    on_connected()
    for caller in callers:
        caller.send()
    try:
        await run.finished
    finally:
        for caller in callers:
            caller.close()
    return run.seconds
