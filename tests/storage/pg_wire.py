"""A TCP proxy between a driver and PostgreSQL that knows where messages begin, counts them and can cut.

Held here: forwarding, and what a test may order about a message of the client. No expectation is here.
Source of the message format: PostgreSQL documentation, "Frontend/Backend Protocol", 54.7.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import Final, TypeAlias
from urllib.parse import urlsplit

_SSL_REQUEST: Final = 80_877_103
Pipe: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Order(Enum):
    """What happens to a message of the client."""

    PASS = auto()
    LOSE = auto()  # it never arrives, and the connection breaks
    DEAFEN = auto()  # it arrives, the connection breaks before the answer
    HOLD = auto()  # it arrives when the test says so; for the client the connection breaks now


Decide: TypeAlias = Callable[[bytes], Order]


def passing(_message: bytes) -> Order:
    """Nothing special."""
    return Order.PASS


def at_commit(order: Order) -> Decide:
    """`order` for the first COMMIT, nothing special for whatever else there is."""
    left = [order]

    def decide(message: bytes) -> Order:
        return left.pop() if left and message.endswith(b"commit\0") else Order.PASS

    return decide


class Wire:
    """The proxy. `decide` is asked about every message of a client, once it is past its start."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 5432)
        self._path = parts.path
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.decide: Decide = passing
        self.round_trips = 0  # each ends with one of the two messages that the server answers "ready" to
        self.is_refusing = False
        self.may_pass = asyncio.Event()  # what is held up waits for it; cleared: a black hole for everybody
        self.may_pass.set()
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Wire]:
        """Take connections as long as the context lasts."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{port}{self._path}"
        try:
            yield self
        finally:
            server.close()
            self.release.set()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    def cut(self) -> None:
        """Break every connection that there is."""
        for writer in self._writers:
            writer.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse((reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, client: Pipe) -> None:
        if self.is_refusing:
            client[1].transport.abort()
            return
        server = await asyncio.open_connection(*self._target)
        ends = {client[1], server[1]}
        self._writers |= ends
        back = asyncio.create_task(self._answers(server[0], client[1]))
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._starts(client[0], server[1])
                await self._messages(client, server, back)
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            for end in ends:
                end.close()
            self._writers -= ends

    async def _starts(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The first messages have no type; a wish for TLS comes before the real one."""
        code = _SSL_REQUEST
        while code == _SSL_REQUEST:
            head = await reader.readexactly(8)
            code = int.from_bytes(head[4:])
            writer.write(head + await reader.readexactly(int.from_bytes(head[:4]) - 8))

    async def _messages(self, client: Pipe, server: Pipe, back: asyncio.Task[None]) -> None:
        while True:
            head = await client[0].readexactly(5)
            message = head + await client[0].readexactly(int.from_bytes(head[1:]) - 4)
            await self.may_pass.wait()
            self.round_trips += head[:1] in (b"Q", b"S")
            order = self.decide(message)
            if order is Order.PASS:
                server[1].write(message)
                continue
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            if order is Order.DEAFEN:
                server[1].write(message)
                await server[0].read(1)  # the server has done it when it answers
            client[1].transport.abort()
            if order is Order.HOLD:
                self.held.set()
                await self.release.wait()
                server[1].write(message)
                await server[0].read(1)
            return

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self.may_pass.wait()
                writer.write(data)
        writer.close()
