"""A byte-exact TCP proxy between a gateway and its vendor that knows where messages begin and end.

Held here: passing on requests and answers in pieces, and asking at every edge between them whether the
gateway dies there. Not held here: who kills it, and how (`lane`).

A gateway that dies once the vendor has the whole request leaves a vendor that does the work: the proxy waits
for its answer, so that a charge is in the ledger before anybody looks. If it dies earlier, the vendor gets a
request that is cut short.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

from tests.conversing import conversing

# Called with a point's label as soon as it is crossed. It counts before it first waits for anything, and
# returns whether the gateway is dead now.
Cross: TypeAlias = Callable[[str], Awaitable[bool]]


class Proxy:
    """Passes connections on to `port` of the loopback, one exchange after the other."""

    def __init__(self, port: int, cross: Cross) -> None:
        self._vendor_port, self._cross = port, cross
        self.url = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take connections for as long as the context lasts."""
        async with conversing(self._converse) as port:
            self.url = f"http://127.0.0.1:{port}"
            yield

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        vendor_reader, vendor_writer = await asyncio.open_connection("127.0.0.1", self._vendor_port)
        try:
            # A dead gateway's connection ends in one of these; there is nobody left to tell.
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange((reader, writer), (vendor_reader, vendor_writer)):
                    pass
        finally:
            for end in (writer, vendor_writer):
                end.close()

    async def _exchange(self, gateway: _Ends, vendor: _Ends) -> bool:
        """One request and its answer; whether the gateway is alive after it."""
        request = await _message(gateway[0])
        name = _name(request)
        is_alive = await self._pass(request, vendor[1], f"{name} request")
        if not is_alive and vendor[1].is_closing():
            return False
        answer = await _message(vendor[0])
        return is_alive and await self._pass(answer, gateway[1], f"{name} answer")

    async def _pass(self, message: bytes, to: asyncio.StreamWriter, label: str) -> bool:
        """Write `message`, a point after each piece; whether the gateway lives. `to` is closed if cut."""
        to.transport.set_write_buffer_limits(0)  # so that drained means sent
        middle = len(message) // 2
        for place, piece in (("before", b""), ("first", message[:1]), ("amid", message[1:middle])):
            to.write(piece)
            await to.drain()
            if await self._cross(f"{label} {place}"):
                to.close()
                return False
        to.write(message[middle:-1])
        await to.drain()
        # Nothing may come between these two: what the last byte sets off must be counted after it.
        to.write(message[-1:])
        return not await self._cross(f"{label} last")


_Ends: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One whole message of HTTP/1.1 with a Content-Length or without a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


def _name(request: bytes) -> str:
    """Which of the three exchanges this is."""
    method, path, _ = request.split(b" ", 2)
    if method == b"POST":
        return "submit"
    return "content" if path.startswith(b"/files/") else "poll"
