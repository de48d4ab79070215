"""The raw socket: what an answer is, and every wrong way to send one.

Not held here: when which is chosen (`faults`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TypeAlias

import msgspec

from gateway.sandbox.settings import Clock

_CHUNK_BYTES = 256 * 1024


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One whole request. Header names are lower case; of a repeated header or query the last one counts.

    `scheme` is what it came by, `http` or `https`.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    scheme: str = "http"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What would be sent if nothing went wrong. Content-Length is left to whoever sends it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One use of a fault: its arguments, how often it was used, the id of the vendor's previous task."""

    args: Mapping[str, str | int | float]
    used: int = 0
    previous_id: str | None = None


class Wire:
    """One accepted connection, below HTTP. Methods raise ConnectionError once the other side has gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: Clock) -> None:
        self.reader, self.writer, self.clock = reader, writer, clock
        self.sent_bytes = 0

    @property
    def scheme(self) -> str:
        """`https` over TLS, else `http`."""
        return "http" if self.writer.get_extra_info("sslcontext") is None else "https"

    async def send(self, data: bytes) -> None:
        """Write all of it, in pieces, waiting for the other side to take them."""
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK_BYTES):
            piece = view[start : start + _CHUNK_BYTES]
            self.writer.write(piece)
            self.sent_bytes += len(piece)
            await self.writer.drain()

    async def until_closed(self) -> None:
        """Say nothing until the other side gives up."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """End the connection with RST instead of FIN: what was not yet read may be lost."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()


Send: TypeAlias = Callable[[Wire, Answer, Call], Awaitable[None]]


def head(answer: Answer, length: int | None = None) -> bytes:
    """Status line and headers up to and with the empty line; `length` None means the body's own."""
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    length = len(answer.body) if length is None else length
    lines += [f"content-length: {length}", "connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def hang(wire: Wire, _answer: Answer, _call: Call) -> None:
    """No answer at all, and the connection stays open."""
    await wire.until_closed()


async def reset(wire: Wire, _answer: Answer, _call: Call) -> None:
    """RST before the first byte of the answer."""
    wire.reset()


async def close(_wire: Wire, _answer: Answer, _call: Call) -> None:
    """FIN before the first byte of the answer."""


async def reset_mid_headers(wire: Wire, answer: Answer, _call: Call) -> None:
    """Half of the headers, then RST."""
    start = head(answer)
    await wire.send(start[: len(start) // 2])
    wire.reset()


async def reset_mid_body(wire: Wire, answer: Answer, _call: Call) -> None:
    """The headers and half of the body, then RST."""
    await wire.send(head(answer) + answer.body[: len(answer.body) // 2])
    wire.reset()


async def truncated_body(wire: Wire, answer: Answer, _call: Call) -> None:
    """The headers and half of the body, then FIN."""
    await wire.send(head(answer) + answer.body[: len(answer.body) // 2])


async def length_too_high(wire: Wire, answer: Answer, _call: Call) -> None:
    """A whole body behind a Content-Length that promises more, then FIN."""
    await wire.send(head(answer, len(answer.body) + 100) + answer.body)


async def length_too_low(wire: Wire, answer: Answer, _call: Call) -> None:
    """A whole body behind a Content-Length of half of it."""
    await wire.send(head(answer, len(answer.body) // 2) + answer.body)


async def drip(wire: Wire, answer: Answer, call: Call) -> None:
    """The right answer, one byte at a time."""
    data = head(answer) + answer.body
    for position in range(len(data)):
        await wire.send(data[position : position + 1])
        await wire.clock.sleep(float(call.args["seconds"]))


async def late(wire: Wire, answer: Answer, call: Call) -> None:
    """The right answer, after a pause."""
    await wire.clock.sleep(float(call.args["seconds"]))
    await wire.send(head(answer) + answer.body)


async def endless_headers(wire: Wire, answer: Answer, call: Call) -> None:
    """Header lines for as long as the other side listens."""
    await wire.send(f"HTTP/1.1 {answer.status} OK\r\n".encode())
    while True:
        await wire.send(b"x-more: to come\r\n")
        await wire.clock.sleep(float(call.args["seconds"]))


async def many_headers(wire: Wire, answer: Answer, call: Call) -> None:
    """The right answer behind very many header lines."""
    extra = tuple((f"x-filler-{number}", "x") for number in range(int(call.args["count"])))
    await wire.send(head(msgspec.structs.replace(answer, headers=answer.headers + extra)) + answer.body)


async def huge_header(wire: Wire, answer: Answer, call: Call) -> None:
    """The right answer behind one very long header."""
    extra = (("x-filler", "x" * int(call.args["bytes"])),)
    await wire.send(head(msgspec.structs.replace(answer, headers=answer.headers + extra)) + answer.body)


async def endless_body(wire: Wire, _answer: Answer, call: Call) -> None:
    """Chunks of a JSON string for as long as the other side listens, or until that many bytes of them."""
    start = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    await wire.send(start.encode() + b'2\r\n["\r\n')
    while wire.sent_bytes < int(call.args["bytes"]):
        await wire.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


async def huge_body(wire: Wire, answer: Answer, call: Call) -> None:
    """One JSON string of the given size behind a true Content-Length."""
    size = int(call.args["bytes"])
    await wire.send(head(msgspec.structs.replace(answer, body=b""), size + 4) + b'["')
    for start in range(0, size, _CHUNK_BYTES):
        await wire.send(b"x" * min(_CHUNK_BYTES, size - start))
    await wire.send(b'"]')


async def broken_chunk(wire: Wire, answer: Answer, _call: Call) -> None:
    """A chunk whose size is no number."""
    start = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    await wire.send(start.encode() + b"zz\r\n" + answer.body + b"\r\n0\r\n\r\n")


async def not_http(wire: Wire, _answer: Answer, _call: Call) -> None:
    """Bytes that are not HTTP."""
    await wire.send(b"\x16\x03\x01 SSH-2.0-nothing to see here\r\n\r\n")
