"""One caller's events in the order of their commits: from any position, once each, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.facts import Candidate, SubmitStarted
from gateway.core.positions import Position
from gateway.core.states import Change, Event, Task
from gateway.core.tasks import apply
from gateway.storage import stream
from gateway.storage.db import Database
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from gateway.storage.stream import ForeignPosition
from tests.core.made import NOW, make_task
from tests.storage.stores import DATABASES, Admin, Two, add, ended, opened

pytestmark = pytest.mark.anyio
ONE = Candidate("one", "kling-v3.0-pro-t2v")


def shown(video_id: str, event: Event) -> bytes:
    return f"{video_id} {event.type}".encode()


class Reader:
    """One who reads a caller's events; `got` are all of them so far."""

    def __init__(self, store: Store, position: Position, owner: str = "key_1") -> None:
        self.store, self.position, self.owner = store, position, owner
        self.got: list[str] = []

    async def read(self, most: int = 1_000) -> list[str]:
        """What is new, at most so many; it goes on behind the last of them."""
        new: list[str] = []
        while True:
            batch = await self.store.log.since(self.owner, self.position, shown)
            for row, behind in batch.after(self.position):
                if len(new) == most:
                    self.got += new
                    return new
                new.append(row.data.decode())
                self.position = behind
            if batch.is_whole:
                self.position = batch.end(self.position.log)
                self.got += new
                return new


@pytest.fixture(params=list(DATABASES))
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(str(request.param), tmp_path) as one:
        yield one


async def reader_at(store: Store, owner: str = "key_1") -> Reader:
    return Reader(store, await store.log.here(owner), owner)


async def submit(store: Store, task: Task) -> Task:
    return await store.task_save(apply(task, SubmitStarted(ONE), NOW))


async def test_events_come_in_their_order_and_once(database: Database) -> None:
    store = Store(database)
    await add(store, make_task("before"))
    reader = await reader_at(store)
    assert await reader.read() == []
    first, second = make_task("first"), make_task("second")
    await add(store, first, second)
    assert await reader.read() == ["first accepted", "second accepted"]
    await submit(store, second)
    await submit(store, first)
    assert await reader.read() == ["second submitting", "first submitting"]
    assert await reader.read() == []


async def test_a_caller_reads_its_own_only(database: Database) -> None:
    store = Store(database)
    mine, theirs = await reader_at(store), await reader_at(store, "key_2")
    await add(store, make_task("mine"), make_task("theirs", owner="key_2"))
    assert (await mine.read(), await theirs.read()) == (["mine accepted"], ["theirs accepted"])


async def test_the_events_of_one_save_have_a_position_each(database: Database) -> None:
    store = Store(database)
    reader = await reader_at(store)
    task = make_task("video_1")
    change = apply(task, SubmitStarted(ONE), NOW)
    await add(store, task)
    many = tuple(replace(change.events[0], seq=2 + number) for number in range(5))
    await store.task_save(Change(task, change.task, many))
    got = []
    while new := await reader.read(1):
        got += new
    assert got == ["video_1 accepted"] + ["video_1 submitting"] * 5


async def test_many_are_read_in_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAGE_MAX", 3)
    store = Store(database)
    reader = await reader_at(store)
    tasks = [make_task(f"video_{number:02}") for number in range(20)]
    await asyncio.gather(*(add(store, task) for task in tasks))
    assert sorted(await reader.read()) == [f"{task.id} accepted" for task in tasks]


async def test_what_is_deleted_is_passed_over(database: Database) -> None:
    store = Store(database)
    reader = await reader_at(store)
    await add(store, make_task("a"), ended("b"), ended("c"), make_task("d"))
    assert await reader.read(2) == ["a accepted", "b accepted"]
    for video_id in ("b", "c"):
        assert await store.video_delete(video_id, "key_1")
    assert await reader.read() == ["d accepted"]


async def test_a_position_of_another_database_is_refused(database: Database, tmp_path: Path) -> None:
    async with opened("sqlite-file", tmp_path / "other") as other:
        foreign = await Store(other).log.here("key_1")
        with pytest.raises(ForeignPosition):
            await Store(database).log.since("key_1", foreign, shown)


async def test_how_far_videos_are(database: Database) -> None:
    store = Store(database)
    await add(store, make_task("a", last_seq=1), ended("b", last_seq=7))
    far = await store.log.how_far(["a", "b", "gone"])
    assert {name: (one.last_seq, one.state, one.stage) for name, one in far.items()} == {
        "a": (1, "waiting", "waiting"), "b": (7, "completed", "linked"),
    }


# --- SQLite -------------------------------------------------------------------------------------------


async def test_numbers_grow_over_a_restart_though_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reelgate.db"
    first = SqliteDatabase(path)
    await first.migrate()
    reader = await reader_at(Store(first))
    await add(Store(first), make_task("a"))
    await reader.read()
    await first.close()
    monkeypatch.setattr("gateway.storage.sqlite_file.time.time_ns", lambda: 5_000)
    second = SqliteDatabase(path)
    await second.migrate()
    reader.store = Store(second)
    await add(reader.store, make_task("b"), make_task("c", owner="key_0"))
    assert await reader.read() == ["b accepted"]
    await second.close()


# --- PostgreSQL ---------------------------------------------------------------------------------------


async def test_what_commits_late_is_not_missed_and_nothing_comes_twice(two: Two, admin: Admin) -> None:
    """A transaction that began before others and commits after them: numbers and commits differ in order."""
    store = Store(two[0])
    reader = await reader_at(store)
    began = admin.transaction()
    await began.start()
    await admin.execute(stream_insert("late"))
    await add(Store(two[1]), make_task("early"))
    assert await reader.read() == ["early accepted"]
    assert len(reader.position.open) == 1, "the position does not know that somebody still writes"
    await add(store, make_task("later"))
    assert await reader.read(1) == ["later accepted"]
    await began.commit()
    assert await reader.read() == ["late noted"]
    assert await reader.read() == []
    assert not reader.position.open


async def test_a_long_transaction_of_others_holds_nothing_up(two: Two, admin: Admin) -> None:
    store = Store(two[0])
    began = admin.transaction()
    await began.start()
    await admin.execute("create table chores_of_others (id bigint)")
    reader = await reader_at(store)
    for number in range(5):
        await add(store, make_task(f"video_{number}"))
        assert await reader.read() == [f"video_{number} accepted"]
    await began.rollback()
    assert await reader.read() == []


async def test_what_a_replica_of_the_version_before_writes_is_read(two: Two, admin: Admin) -> None:
    store = Store(two[0])
    await add(store, make_task("video_1"))
    reader = await reader_at(store)
    await admin.execute(stream_insert("video_1", owner=False))
    assert await reader.read() == ["video_1 noted"]
    assert await reader.read() == []


async def test_a_position_of_a_time_that_was_undone_is_refused(two: Two) -> None:
    here = await Store(two[0]).log.here("key_1")
    future = Position(here.log, here.upto + 1_000_000)
    with pytest.raises(ForeignPosition):
        await Store(two[0]).log.since("key_1", future, shown)


def stream_insert(video_id: str, *, owner: bool = True) -> str:
    """An event as another transaction writes it; without an owner as the version before did."""
    names = "video_id, seq, at, type, status, detail" + (", owner" if owner else "")
    values = f"'{video_id}', 99, 1.0, 'noted', 'queued', '{{}}'" + (", 'key_1'" if owner else "")
    return f"insert into events ({names}) values ({values})"  # noqa: S608


async def test_a_callers_events_are_found_by_their_index(tmp_path: Path) -> None:
    async with opened("sqlite-file", tmp_path) as database:
        plan = await database.read(f"explain query plan {stream.SINCE}", ("key_1", 1, 1, ",", 10))
        scans = [str(row[3]) for row in plan if "events" in str(row[3]) or " e " in str(row[3])]
        assert scans
        assert all("events_by_owner" in line for line in scans), plan
