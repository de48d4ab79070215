"""Several versions, several starts at once: who may run on which schema, and who has to say no."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from gateway.app import running
from gateway.storage.db import MIGRATIONS, SchemaTooNew, StorageError, migrations
from gateway.storage.postgres import PostgresDatabase
from tests.replicas.house import House, Replica, house, reached

pytestmark = pytest.mark.anyio

# What an upgrade may do while the version before it runs: add. Every table that is written is touched.
ADDS: Final = """-- runs-from: 3
alter table videos add column colour text;
alter table video_requests add column colour text not null default 'none';
alter table events add column colour text;
alter table replicas add column colour text;
create index videos_by_colour on videos (colour) where colour is not null;
create table colours (name text primary key);
"""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, is_empty=True) as made:
        yield made


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The migrations of the next version."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    known = len(list(folder.glob("*.sql")))
    (folder / f"{known + 1:04}_colours.sql").write_text(ADDS.replace("3", str(known), 1), "utf-8")
    return folder


async def _migrated(place: House, folder: Path) -> int:
    database = PostgresDatabase(place.url)
    try:
        return await database.migrate(folder)
    finally:
        await database.close()


async def _ordered(place: House, by: Replica, prompt: str) -> None:
    """A whole life there, with a save of every kind."""
    video = await by.create(prompt)
    # Not "in progress": another may have finished it, the clock is shared.
    await by.until(video["id"], lambda video: bool(video["status"] != "queued"))
    place.finish()
    assert (await by.video(video["id"], wait=30))["status"] == "completed"


async def test_replicas_that_start_at_once_on_an_empty_database_all_come_up(place: House) -> None:
    async with place.replicas(3) as three:
        assert len({one.name for one in three}) == 3
        await reached(lambda: all(one.gateway.engine.peers == 2 for one in three))
        await asyncio.gather(*(_ordered(place, one, f"by {one.name}") for one in three))
    assert sorted(place.prompts()) == sorted(f"by {one.name}" for one in three)


async def test_a_replica_goes_on_while_the_next_version_migrates(place: House, newer: Path) -> None:
    async with place.replica() as old:
        await _ordered(place, old, "before")
        under_way = await old.create("ordered before, finished after")
        await old.until(under_way["id"], lambda video: bool(video["status"] == "in_progress"))
        assert await _migrated(place, newer) == 1
        place.finish()
        assert (await old.video(under_way["id"], wait=30))["status"] == "completed"
        await _ordered(place, old, "after")
    async with place.replica() as restarted:
        await _ordered(place, restarted, "after a restart")
    assert len(place.prompts()) == 4


async def test_what_the_older_version_leaves_goes_on_at_the_newer_one(place: House, newer: Path) -> None:
    async with place.replica() as old:
        video = await old.create("begun by the older")
        await old.until(video["id"], lambda video: bool(video["status"] == "in_progress"))
    await _migrated(place, newer)
    async with place.replica() as new:
        place.finish()
        assert (await new.video(video["id"], wait=30))["status"] == "completed"
    assert place.prompts() == ["begun by the older"]


@pytest.mark.parametrize("runs_from", [None, 99])
async def test_an_older_program_refuses_a_newer_schema_and_says_why(
    place: House, runs_from: int | None
) -> None:
    async with place.replica():
        pass
    connection = await asyncpg.connect(place.url)
    await connection.execute(
        "insert into schema_version (number, name, runs_from) values (99, 'to come', $1)", runs_from
    )
    await connection.close()
    said = rf"schema version 99, this program knows {len(migrations())}\b.*start the newer"
    with pytest.raises(SchemaTooNew, match=said):
        async with running(place.settings()):
            pytest.fail("it came up")


@pytest.mark.parametrize("role", ["api", "engine"])
async def test_a_part_of_a_gateway_needs_a_database_that_is_shared(place: House, role: str) -> None:
    place.url = "sqlite:reelgate.db"
    with pytest.raises(StorageError, match=f"--role {role} needs a database to share"):
        async with running(place.settings(), role):  # type: ignore[arg-type]
            pytest.fail("it came up")
