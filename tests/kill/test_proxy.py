"""The proxy that the kill tests stand on: what reaches each side when the gateway dies at each place."""

from __future__ import annotations

import asyncio

import pytest

from tests.kill.points import PLACES
from tests.kill.proxy import Proxy

pytestmark = pytest.mark.anyio

REQUEST = b'POST /v3/async/x HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n{"a":1'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\x00\r\n"


def _upto(message: bytes, place: str) -> bytes:
    ends = {"before": 0, "first": 1, "amid": len(message) // 2, "last": len(message)}
    return message[: ends[place]]


async def _exchange(deadly: str) -> tuple[bytes, bytes, list[str]]:
    """One exchange, ended at a label: what the vendor got, what the gateway got, and the labels crossed."""
    crossed: list[str] = []
    received = asyncio.get_running_loop().create_future()

    async def vendor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = b""
        while len(got) < len(REQUEST) and (piece := await reader.read(65536)):
            got += piece
        received.set_result(got)
        if got == REQUEST:
            writer.write(ANSWER)
        await reader.read()
        writer.close()

    async def cross(label: str) -> bool:
        crossed.append(label)
        return label == deadly

    server = await asyncio.start_server(vendor, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1], cross)
    async with server, proxy.listening():
        reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rsplit(":", 1)[1]))
        writer.write(REQUEST)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return await received, answer, crossed


@pytest.mark.parametrize("place", PLACES)
async def test_dies_in_the_request(place: str) -> None:
    request, answer, crossed = await _exchange(f"submit request {place}")
    assert (request, answer) == (_upto(REQUEST, place), b"")
    assert crossed == [f"submit request {name}" for name in PLACES[: PLACES.index(place) + 1]]


@pytest.mark.parametrize("place", PLACES)
async def test_dies_in_the_answer(place: str) -> None:
    request, answer, crossed = await _exchange(f"submit answer {place}")
    assert (request, answer) == (REQUEST, _upto(ANSWER, place))
    assert crossed[-1] == f"submit answer {place}"


async def test_lives() -> None:
    request, answer, crossed = await _exchange("nowhere")
    assert (request, answer) == (REQUEST, ANSWER)
    assert len(crossed) == 2 * len(PLACES)
