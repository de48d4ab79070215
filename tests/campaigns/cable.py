"""The network between one replica and its database: a TCP proxy that can be cut in the ways networks are.

Held here: forwarding bytes, holding them up, breaking connections, losing the answer to a COMMIT. Not held
here: when any of it happens (`replicas`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal, TypeAlias

from tests.conversing import conversing

# hole: nothing arrives on either side, until it does. half: what is sent arrives, and no answer comes.
# reset: every connection breaks, and so does every new one.
Cut: TypeAlias = Literal["hole", "half", "reset"]
CUTS: Final[tuple[Cut, ...]] = ("hole", "half", "reset")
# What becomes of the next COMMIT: done: the server does it, and the connection breaks before the answer.
# late: the connection breaks at once, and the server gets it some time after that.
Loss: TypeAlias = Literal["done", "late"]
LOSSES: Final[tuple[Loss, ...]] = ("done", "late")

_COMMIT: Final = b"commit\0"  # the end of the message that the driver sends it in, alone
_READ_BYTES: Final = 65_536
_Ends: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Cable:
    """Passes connections on to `port` of the loopback. `late_seconds` is how late a late COMMIT arrives."""

    def __init__(self, port: int, late_seconds: float = 1.0) -> None:
        self._server_port, self._late_seconds = port, late_seconds
        self._asked, self._answered = asyncio.Event(), asyncio.Event()  # whether bytes pass, each way
        self._is_refusing = False
        self._loss: Loss | None = None
        self.lost = asyncio.Event()  # set once the chosen COMMIT has gone that way
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.heal()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Cable]:
        """Take connections on `port` for as long as the context lasts."""
        async with conversing(self._converse) as self.port:
            yield self

    def cut(self, how: Cut) -> None:
        """Cut it, until it heals."""
        self._is_refusing = how == "reset"
        if how == "reset":
            self._break()
            return
        self._answered.clear()
        if how == "hole":
            self._asked.clear()

    def heal(self) -> None:
        """Let everything pass again, also what was held up."""
        self._is_refusing = False
        self._asked.set()
        self._answered.set()

    def lose(self, how: Loss | None) -> None:
        """Have the next COMMIT go that way; None: let it pass after all."""
        self._loss = how
        self.lost.clear()

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client, writers = (reader, writer), {writer}
        try:
            if self._is_refusing:
                client[1].transport.abort()
                return
            await self._asked.wait()
            with suppress(OSError):  # either side has gone, or the database is not there
                server = await asyncio.open_connection("127.0.0.1", self._server_port)
                writers.add(server[1])
                self._writers |= writers
                answering = asyncio.create_task(self._answer(server[0], client[1]))
                try:
                    commit = await self._ask(client, server)
                    if commit:
                        answering.cancel()
                        await asyncio.gather(answering, return_exceptions=True)
                        await self._lose(client, server, commit)
                finally:
                    answering.cancel()
                    await asyncio.gather(answering, return_exceptions=True)
        finally:
            self._writers -= writers
            for end in writers:
                end.close()

    async def _ask(self, client: _Ends, server: _Ends) -> bytes:
        """Pass on what the replica says until it says no more; or the COMMIT that is to be lost."""
        while data := await client[0].read(_READ_BYTES):
            await self._asked.wait()
            if self._loss is not None and data.endswith(_COMMIT):
                return data
            server[1].write(data)
            await server[1].drain()
        return b""

    async def _lose(self, client: _Ends, server: _Ends, commit: bytes) -> None:
        how, self._loss = self._loss, None
        if how == "late":
            client[1].transport.abort()
            await asyncio.sleep(self._late_seconds)
        server[1].write(commit)
        await server[0].read(1)  # the server has done it when it answers
        client[1].transport.abort()
        self.lost.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                await self._answered.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
