"""Callers whose answers are held back: each keeps a connection, and sees when its answer begins and ends.

Held here: sending and timing of long polls and event streams. Not held here: what they cost (`waiting`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from tests.bench.load import UnexpectedAnswer
from tests.bench.wire import HOST, message_end

LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A request for each of so many connections. `begins` stands in what comes at once; empty: nothing does.

    With `is_stream` an answer ends with its last chunk.
    """

    requests: Sequence[bytes]
    begins: bytes = b""
    is_stream: bool = False


class _Room:
    """Those who are held: how many have not begun, or ended, yet."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.unbegun = len(held.requests) if held.begins else 0
        self.unended = len(held.requests)
        self.ended_at: list[float] = []
        self.begun, self.over = asyncio.Event(), asyncio.Event()
        self.fault: str | None = None
        if not self.unbegun:
            self.begun.set()

    def begins(self) -> None:
        self.unbegun -= 1
        if not self.unbegun:
            self.begun.set()

    def ends(self) -> None:
        self.ended_at.append(time.perf_counter())
        self.unended -= 1
        if not self.unended:
            self.over.set()

    def fails(self, what: str) -> None:
        self.fault = what
        self.begun.set()
        self.over.set()


class _Caller(asyncio.Protocol):
    def __init__(self, room: _Room) -> None:
        self._room, self._received = room, bytearray()
        self._has_begun, self._has_ended = not room.held.begins, False

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.startswith(b"HTTP/1.1 200 "[: len(self._received)]):
            self._room.fails(self._received[:600].decode("utf-8", "replace"))
            return
        if not self._has_begun and self._room.held.begins in self._received:
            self._has_begun = True
            self._room.begins()
        is_whole = (self._received.endswith(LAST_CHUNK) if self._room.held.is_stream
                    else message_end(self._received) > 0)
        if is_whole and not self._has_ended:
            self._has_ended = True
            self._room.ends()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._has_ended:
            self._room.fails(f"the server closed a connection: {exc}")


async def hold(
    port: int, held: Held, begin: Callable[[], None], end: Callable[[], object]
) -> list[float]:
    """The moments, on `time.perf_counter`, at which each answer ended.

    `begin` is called when all are held, `end` then lets them go; each in a thread. Raises UnexpectedAnswer.
    """
    room, loop = _Room(held), asyncio.get_running_loop()
    transports: list[asyncio.Transport] = []
    try:
        for text in held.requests:
            transport, _ = await loop.create_connection(partial(_Caller, room), HOST, port)
            transports.append(transport)
            transport.write(text)
        await room.begun.wait()
        await asyncio.to_thread(begin)
        await asyncio.to_thread(end)
        await room.over.wait()
        if room.fault is not None:
            raise UnexpectedAnswer(room.fault)
        return room.ended_at
    finally:
        for transport in transports:
            transport.abort()
