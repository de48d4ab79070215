"""The network between a client and the gateway, cut once at a chosen byte of a request or of its answer.

Not held here: which bytes, and what a client makes of it (`test_retries`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal, NamedTuple, TypeAlias

from tests.conversing import conversing

Way: TypeAlias = Literal["asked", "answered"]
_READ_BYTES: Final = 65_536


class Cut(NamedTuple):
    """After this many bytes of one way; 0 of an answer: when there is one, and before any of it is told."""

    way: Way
    after: int


class Cutter:
    """Passes connections on to `port` of the loopback, the next one until it is to be cut.

    `passed` counts what went each way on the latest connection, `connections` all of them.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.port = 0
        self.next_cut: Cut | None = None
        self.connections = 0
        self.passed: dict[Way, int] = {"asked": 0, "answered": 0}

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Cutter]:
        """Take connections on `port` for as long as the context lasts."""
        async with conversing(self._converse) as self.port:
            yield self

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cut, self.next_cut = self.next_cut, None
        self.connections += 1
        passed = self.passed = {"asked": 0, "answered": 0}
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)

        async def forward(way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            limit = None if cut is None or cut.way != way else cut.after
            while limit is None or passed[way] < limit or limit == 0:
                data = await source.read(_READ_BYTES)
                if not data:
                    return
                data = data if limit is None else data[: limit - passed[way]]
                passed[way] += len(data)
                sink.write(data)
                await sink.drain()
                if limit == 0:
                    return

        ways = [
            asyncio.create_task(forward("asked", reader, to_server)),
            asyncio.create_task(forward("answered", from_server, writer)),
        ]
        try:
            with suppress(OSError):
                done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()
            to_server.transport.abort()
