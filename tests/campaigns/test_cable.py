"""The cable between a replica and its database: what reaches either side when it is cut in each way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.campaigns.cable import Cable, Cut, Loss

pytestmark = pytest.mark.anyio

COMMIT = b"Q\0\0\0\x0bcommit\0"
SOON_SECONDS = 0.05  # in which nothing may come where nothing is to come


class Database:
    """What the other end got; it answers every message with `done`."""

    def __init__(self) -> None:
        self.got = b""
        self.came = asyncio.Event()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            self.got += data
            self.came.set()
            writer.write(b"done")
        writer.close()


@asynccontextmanager
async def laid() -> AsyncIterator[tuple[Cable, Database]]:
    database = Database()
    server = await asyncio.start_server(database.converse, "127.0.0.1", 0)
    async with server, Cable(server.sockets[0].getsockname()[1], late_seconds=0.01).laid() as cable:
        yield cable, database


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(SOON_SECONDS):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_whole() -> None:
    async with laid() as (cable, database):
        reader, writer = await asyncio.open_connection("127.0.0.1", cable.port)
        writer.write(b"x" + COMMIT)
        assert await reader.readexactly(4) == b"done"
        assert database.got == b"x" + COMMIT
        writer.close()


@pytest.mark.parametrize(("how", "arrives"), [("hole", b""), ("half", b"x")])
async def test_held_up_until_it_heals(how: Cut, arrives: bytes) -> None:
    async with laid() as (cable, database):
        reader, writer = await asyncio.open_connection("127.0.0.1", cable.port)
        writer.write(b"0")
        await reader.readexactly(4)
        database.got = b""
        cable.cut(how)
        writer.write(b"x")
        assert await nothing_comes(reader)
        assert database.got == arrives
        cable.heal()
        assert await reader.readexactly(4) == b"done"
        assert database.got == b"x"
        writer.close()


async def test_reset_breaks_what_is_there_and_what_comes() -> None:
    async with laid() as (cable, _):
        old = await asyncio.open_connection("127.0.0.1", cable.port)
        old[1].write(b"0")
        await old[0].readexactly(4)
        cable.cut("reset")
        new = await asyncio.open_connection("127.0.0.1", cable.port)
        for reader, writer in (old, new):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.transport.abort()
        cable.heal()
        reader, writer = await asyncio.open_connection("127.0.0.1", cable.port)
        writer.write(b"1")
        assert await reader.readexactly(4) == b"done"
        writer.close()


@pytest.mark.parametrize("how", ["done", "late"])
async def test_a_commit_is_done_and_its_answer_lost(how: Loss) -> None:
    async with laid() as (cable, database):
        cable.lose(how)
        reader, writer = await asyncio.open_connection("127.0.0.1", cable.port)
        writer.write(b"begin")
        assert await reader.readexactly(4) == b"done"
        writer.write(COMMIT)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        async with asyncio.timeout(10):
            await cable.lost.wait()
        assert database.got == b"begin" + COMMIT
        writer.transport.abort()
