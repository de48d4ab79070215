"""The campaigns' own client tells apart the ways in which an answer does not come."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.campaigns.restarts import Stop, unfair
from tests.campaigns.wire import HOST, Client, Unanswered
from tests.serving import free_port

pytestmark = pytest.mark.anyio

WHOLE = b'HTTP/1.1 202 Accepted\r\nX-A: b\r\nContent-Length: 8\r\n\r\n{"a": 1}'


@asynccontextmanager
async def answering(*answers: bytes, resets: bool = False) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that says one of `answers` to each request of a connection, then ends it."""
    requests: list[bytes] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
        if resets:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    server = await asyncio.start_server(converse, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


async def test_an_answer() -> None:
    async with answering(WHOLE) as (port, requests):
        answer = await Client(port, keeps=False).call("POST", "/x", {"b": 2}, {"Idempotency-Key": "k"})
    assert (answer.status, answer.headers["x-a"], answer.json()) == (202, "b", {"a": 1})
    assert b"Idempotency-Key: k" in requests[0]
    assert b"connection: close" in requests[0].lower()


async def test_a_kept_connection_is_used_again_until_the_other_side_ends_it() -> None:
    async with answering(WHOLE, WHOLE) as (port, requests):
        client = Client(port, keeps=True)
        for _ in range(2):
            await client.call("GET", "/x")
        assert len(requests) == 2
        client.close()


@pytest.mark.parametrize("resets", [False, True])
async def test_an_end_before_any_byte(resets: bool) -> None:
    async with answering(b"", resets=resets) as (port, _):
        with pytest.raises(Unanswered) as told:
            await Client(port, keeps=False).call("GET", "/x")
    assert told.value.fate == "reset"


@pytest.mark.parametrize("length", [1, 20, len(WHOLE) - 1])
async def test_half_an_answer(length: int) -> None:
    async with answering(WHOLE[:length]) as (port, _):
        client = Client(port, keeps=False)
        with pytest.raises(Unanswered) as told:
            await client.call("GET", "/x")
    assert (told.value.fate, client.failures) == ("half", 1)


async def test_nobody_there() -> None:
    with pytest.raises(Unanswered) as told:
        await Client(free_port(), keeps=False).call("GET", "/x")
    assert told.value.fate == "refused"


@pytest.mark.parametrize(
    ("fate", "sent_at", "count"),
    [("reset", 10.1, 0), ("reset", 9.9, 0), ("reset", 9.5, 1), ("reset", 12.5, 1), ("half", 10.1, 1)],
)
def test_a_restart_excuses_only_what_was_sent_during_it(fate: str, sent_at: float, count: int) -> None:
    failure = Unanswered(fate, "GET /x", sent_at)  # type: ignore[arg-type]
    assert len(list(unfair([failure], [Stop(10.0, 11.0, 12.0, 0)]))) == count
