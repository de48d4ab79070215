"""Callers in a closed loop: each keeps one connection, and sends again when it has its answer.

Held here: sending and timing. Not held here: what is sent, and what it costs the server (`cases`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tests.bench.wire import HOST, message_end


class UnexpectedAnswer(Exception):
    """A server answered something else, or went away."""


class _Run:
    """What the callers of one run share: how many requests are still to be sent and answered."""

    def __init__(self, count: int, status: int) -> None:
        self.unsent = self.unanswered = count
        self.expected = b"HTTP/1.1 %d " % status
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
    def __init__(self, run: _Run, request: bytes) -> None:
        self._run, self._request = run, request
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
            self._transport.write(self._request)

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
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.failed(f"the server closed a connection that was to be kept: {exc}")

    def close(self) -> None:
        self._transport.abort()


async def drive(
    port: int, requests: Sequence[bytes], connections: int, count: int, *, status: int,
    on_connected: Callable[[], None],
) -> list[float]:
    """Send `count` requests over `connections` and return the seconds that each took.

    Caller i sends `requests[i]` (modulo) each time. `on_connected` is called before the first is sent. Raises
    UnexpectedAnswer for any status but `status`.
    """
    run = _Run(count, status)
    loop = asyncio.get_running_loop()
    callers: list[_Caller] = []
    for index in range(connections):
        _, caller = await loop.create_connection(
            lambda sent=requests[index % len(requests)]: _Caller(run, sent), HOST, port  # type: ignore[misc]
        )
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
