"""What the tests of the PostgreSQL driver share: a database, a proxy before it, somebody who looks on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from gateway.storage import postgres_writer
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.store import Store
from tests import postgres
from tests.core.made import make_task
from tests.storage.pg_wire import Wire
from tests.storage.stores import Admin, Two, add, ids


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A database with the schema in it."""
    async with postgres.database() as one:
        yield one


@pytest.fixture
async def wire(url: str) -> AsyncIterator[Wire]:
    """A proxy in front of it."""
    async with Wire(url).open() as one:
        yield one


@pytest.fixture
async def admin(url: str) -> AsyncIterator[Admin]:
    """A connection to it that has nothing to do with the driver."""
    connection = await asyncpg.connect(url)
    yield connection
    connection.terminate()


@pytest.fixture
async def two(url: str) -> AsyncIterator[Two]:
    """Two replicas' drivers on it."""
    both = PostgresDatabase(url), PostgresDatabase(url)
    yield both
    for one in both:
        await one.close()


@pytest.fixture
async def behind(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresDatabase]:
    """A driver behind the proxy: a video `first` is stored, connections are made, and pauses are short."""
    monkeypatch.setattr(postgres_writer, "PAUSE_SECONDS", (0.01, 0.02))
    one = PostgresDatabase(wire.url)
    await add(Store(one), make_task("first"))
    assert await ids(Store(one)) == ["first"]
    yield one
    await one.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[postgres.Server]:
    """A server of the test's own, which may be stopped; drivers look often whether it is back."""
    if postgres.binaries() is None:
        pytest.skip("needs a server that may be stopped: run `make .venv/.dev`")
    monkeypatch.setattr(postgres_writer, "PAUSE_SECONDS", (0.01, 0.02))
    one = postgres.Server()
    one.start()
    yield one
    one.close()
