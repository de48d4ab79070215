"""The databases that the store is tested on, and short ways to fill and read one. No expectation is here."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg

from gateway.core.states import Task, accepted_event
from gateway.storage.db import Database, StorageError
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.rows import Filters, NewVideo, Page
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from gateway.storage.store import Store
from tests import postgres
from tests.core.made import make_task

# A connection to PostgreSQL that has nothing to do with the driver; and two replicas' drivers.
Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Two: TypeAlias = tuple[PostgresDatabase, PostgresDatabase]

TABLES = ("videos", "video_requests", "video_inputs", "video_labels", "events", "idempotency_keys")


@asynccontextmanager
async def sqlite_at(path: Path) -> AsyncIterator[Database]:
    """A SQLite database with the schema in it."""
    made = SqliteDatabase(path)
    await made.migrate()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def on_postgres() -> AsyncIterator[Database]:
    """A database of a PostgreSQL server with the schema in it."""
    async with postgres.database() as url:
        made = PostgresDatabase(url)
        try:
            yield made
        finally:
            await made.close()


# Each opens a database of its kind, empty but for the schema, in a folder of the test's own.
DATABASES: dict[str, Callable[[Path], AbstractAsyncContextManager[Database]]] = {
    "sqlite-file": lambda folder: sqlite_at(folder / "reelgate.db"),
    "sqlite-memory": lambda _folder: sqlite_at(IN_MEMORY),
    "postgres": lambda _folder: on_postgres(),
}


def opened(kind: str, folder: Path) -> AbstractAsyncContextManager[Database]:
    """A database of DATABASES, closed at the end."""
    return DATABASES[kind](folder)


@contextmanager
def held_up(path: Path) -> Iterator[None]:
    """The write lock in other hands: what is written meanwhile has to wait."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    try:
        yield
    finally:
        other.execute("rollback")
        other.close()


def new(task: Task, metadata: dict[str, str] | None = None, inputs: dict[str, str] | None = None) -> NewVideo:
    """A video to store, with its first event."""
    return NewVideo(
        task=task, request=f'{{"prompt":"of {task.id}"}}', metadata=metadata or {}, inputs=inputs or {},
        events=(accepted_event(task),),
    )


async def add(store: Store, *made: Task, **metadata: str) -> None:
    """Store these tasks as videos, each with this metadata."""
    for task in made:
        assert await store.video_add(new(task, metadata)) is None


def ended(task_id: str = "video_1", **fields: object) -> Task:
    """A completed task."""
    return make_task(task_id, state="completed", stage="linked", **fields)


async def ids(
    store: Store, filters: Filters | None = None, page: Page | None = None, owner: str = "key_1"
) -> list[str]:
    """The ids of a list."""
    found = await store.video_list(owner, filters or Filters(), page or Page(limit=100))
    return [video.task.id for video in found]


async def sizes(database: Database) -> dict[str, int]:
    """How many rows each table has."""
    counted = [(await database.read(f"select count(*) from {table}"))[0][0] for table in TABLES]  # noqa: S608
    return {table: int(count or 0) for table, count in zip(TABLES, counted, strict=True)}


async def stored(admin: Admin) -> set[str]:
    """The videos, as somebody else sees them."""
    return {str(row[0]) for row in await admin.fetch("select id from videos")}


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until it is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (it is whatever a test looks at, and sets no event)
            await asyncio.sleep(0)


def content(path: Path) -> str:
    """All that is stored, as another process reads it."""
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


async def failure_of(write: Awaitable[object]) -> StorageError | None:
    """What `write` raises."""
    try:
        await write
    except StorageError as error:
        return error
    return None
