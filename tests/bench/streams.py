"""Downloads that throw away what they get. Not held here: requests with small answers (`load`)."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Final

from tests.bench.load import UnexpectedAnswer
from tests.bench.wire import HOST

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")


class _Download(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self._head: bytes | None = b""
        self._left_bytes = 0
        self.got_bytes = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            data = self._begin(self._head + data)
        self.got_bytes += len(data)
        self._left_bytes -= len(data)
        if self._head is None and self._left_bytes == 0:
            self.ended.set_result(None)
            self._transport.close()

    def _begin(self, received: bytes) -> bytes:
        """Read the head, when it is whole; what came of the body with it."""
        head, found, body = received.partition(b"\r\n\r\n")
        self._head = None if found else received
        if not found:
            return b""
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            self._fail(received)
            return b""
        self._left_bytes = int(length[1])
        return body

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended with {self._left_bytes} bytes to come: {exc}".encode())

    def _fail(self, what: bytes) -> None:
        if not self.ended.done():
            self.ended.set_exception(UnexpectedAnswer(what[:600].decode("utf-8", "replace")))


async def download(port: int, request: bytes, count: int) -> int:
    """Do `request` on `count` connections at once, to the end of each; how many bytes came.

    Raises UnexpectedAnswer for any answer but a 200 with a length, and for one that breaks off.
    """
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(partial(_Download, request), HOST, port) for _ in range(count)]
    await asyncio.gather(*(stream.ended for _, stream in made))
    return sum(stream.got_bytes for _, stream in made)
