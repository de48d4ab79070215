"""A database that fails: at every statement of every write, for a while or for good, and what is kept then.

Held here: faults put into the connections, and files broken on purpose. Not held here: a disk that really is
full (`test_full_disk.py`), what is refused under pressure (`tests/contract/test_store.py`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TypeAlias

import pytest

from gateway.core.facts import SubmitStarted
from gateway.core.states import Task
from gateway.core.tasks import apply
from gateway.storage import reserve, sqlite, sqlite_file
from gateway.storage.db import Step, StorageError, StorageShort
from gateway.storage.rows import Hold, Idempotency, KeyRow
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from gateway.storage.store import Store
from tests.core.made import NOW, ONE, make_task
from tests.storage.faults import Plan, broken_disk, full, locked, no_memory, planned
from tests.storage.stores import add, content, ended, failure_of, held_up, new

pytestmark = pytest.mark.anyio

RESERVE_BYTES = 65536
TASK = make_task(replica="dead")
HOLD = Hold(provider="one", action="pause", by="key_1", at=NOW)
OTHER = Hold(provider="two", action="drain", by="key_1", at=NOW)
KEY = KeyRow(id="key_1", name="team", role="caller", digest="d", hint="wxyz", created_at=NOW)
# Every write of the store, on the database that `filled` makes.
WRITES: dict[str, Callable[[Store], Awaitable[object]]] = {
    "video_add": lambda store: store.video_add(
        new(make_task("new"), {"a": "1", "b": "2"}, {"image": "data:"}), Idempotency("k", "print", "new")
    ),
    "task_save": lambda store: store.task_save(apply(TASK, SubmitStarted(ONE), NOW)),
    "tasks_claim": lambda store: store.tasks_claim("mine", "dead", 10),
    "video_delete": lambda store: store.video_delete("old", "key_1"),
    "hold_put": lambda store: store.hold_put(OTHER),
    "hold_delete": lambda store: store.hold_delete("one"),
    "key_add": lambda store: store.keys.add(KEY),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reserve that is made quickly, and no commit beside those that are asked for."""
    monkeypatch.setattr(reserve, "RESERVE_BYTES", RESERVE_BYTES)
    monkeypatch.setattr(sqlite, "TRY_SECONDS", 60.0)


@pytest.fixture(params=["on the loop", "beside it"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the statements, and how patient it is with locks."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_MS", 1)
    if request.param == "beside it":
        monkeypatch.setattr(sqlite, "LOOP_MAX_CHARS", -1)


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    return planned(monkeypatch)


@pytest.fixture
async def filled(tmp_path: Path) -> Path:
    """A closed database with something for every write to act on."""
    path = tmp_path / "filled.db"
    database = SqliteDatabase(path)
    await database.migrate()
    store = Store(database)
    await add(store, TASK, ended("old"), a="1")
    await store.hold_put(HOLD)
    await database.close()
    return path


Opened: TypeAlias = tuple[SqliteDatabase, Store, Path]


@asynccontextmanager
async def copied(filled: Path, *, exclusive: bool = False) -> AsyncIterator[Opened]:
    """A copy of `filled`, opened."""
    path = filled.with_name("copy.db")
    for left in path.parent.glob("copy.db*"):
        left.unlink()
    shutil.copy(filled, path)
    database = SqliteDatabase(path, exclusive=exclusive)
    yield database, Store(database), path
    await database.close()


def heard(store: Store) -> list[Task]:
    """What the listeners of the store are told from now on."""
    told: list[Task] = []
    store.listen(lambda task, events: told.append(task))
    return told


# --- every statement of every write ------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("error", "is_done_first"),
    [
        *((error, False) for error in (full, broken_disk, locked, no_memory)),
        *((error, True) for error in (broken_disk, no_memory)),  # the others mean that it was not done
    ],
)
@pytest.mark.usefixtures("where")
@pytest.mark.parametrize("name", WRITES)
async def test_a_write_that_fails_anywhere_changes_all_or_nothing_and_says_so(
    filled: Path, plan: Plan, name: str, error: Callable[[], Exception], is_done_first: bool
) -> None:
    before = content(filled)
    for number in count(1):
        async with copied(filled) as (database, store, path):
            told = heard(store)
            plan.arm(number, error(), is_done_first=is_done_first)
            failure = await failure_of(WRITES[name](store))
            plan.disarm()
            if failure is None:
                assert content(path) != before
                if plan.failed and error is locked:
                    continue  # undone and run anew: a lock is waited for
                assert plan.failed == []
                assert number > 3  # begin, at least one statement, commit
                return
            assert str(error()) in str(failure)
            is_committed = plan.failed == ["commit"] and is_done_first
            assert (content(path) == before) is not is_committed
            assert told == []
            with pytest.raises(StorageShort, match=str(error())):
                await store.video_add(new(make_task("refused")))
            await store.hold_put(OTHER)  # the thread lives, and no transaction was left open
            assert database.trouble is None
            await store.video_add(new(make_task("taken")))


@pytest.mark.parametrize("error", [full, broken_disk, locked, no_memory])
@pytest.mark.usefixtures("where")
@pytest.mark.parametrize("name", WRITES)
async def test_when_everything_fails_from_some_statement_on_nothing_is_changed_and_all_goes_on_later(
    filled: Path, plan: Plan, name: str, error: Callable[[], Exception]
) -> None:
    before = content(filled)
    for number in count(1):
        async with copied(filled) as (database, store, path):
            plan.arm(number, error(), for_good=True)
            failure = await failure_of(WRITES[name](store))
            plan.disarm()
            if failure is None:
                assert number > 3
                return
            assert content(path) == before
            await store.hold_put(HOLD)  # as it is already: only the trouble ends
            assert database.trouble is None
            await WRITES[name](store)
            assert content(path) != before


@pytest.mark.usefixtures("where")
@pytest.mark.parametrize("name", WRITES)
async def test_on_a_full_disk_a_write_goes_on_in_the_reserve(
    filled: Path, plan: Plan, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in count(1):
        async with copied(filled, exclusive=True) as (_, store, path):
            with monkeypatch.context() as patch:
                patch.setattr(reserve, "room_bytes", lambda folder: 2 * RESERVE_BYTES - 1)
                plan.arm(number, full())
                await WRITES[name](store)
                plan.disarm()
                assert content(path) != content(filled)
                if not plan.failed:
                    assert number > 3
                    return
                assert not reserve_of(path).exists()
                with pytest.raises(StorageShort, match=f"full: {2 * RESERVE_BYTES - 1} bytes are free"):
                    await store.video_add(new(make_task("refused")))
            await store.hold_put(HOLD)
            assert not store.is_short
            assert reserve_of(path).stat().st_size == RESERVE_BYTES


# --- a full disk, and the reserve ---------------------------------------------------------------------------

def reserve_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-reserve")


async def test_the_reserve_is_real_and_stays_over_restarts(filled: Path) -> None:
    held = reserve_of(filled)
    await SqliteDatabase(filled).close()
    assert not held.exists()  # who only writes beside needs none
    await SqliteDatabase(filled, exclusive=True).close()
    first = held.stat()
    assert first.st_blocks * 512 >= RESERVE_BYTES
    await SqliteDatabase(filled, exclusive=True).close()
    assert held.stat() == first


async def test_with_too_little_room_at_the_start_only_paid_work_goes_on(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "RESERVE_BYTES", 2**60)
    async with copied(filled, exclusive=True) as (database, store, path):
        assert "disk is full" in str(database.trouble)
        await store.task_save(apply(TASK, SubmitStarted(ONE), NOW))
        with pytest.raises(StorageShort, match="disk is full"):
            await store.video_add(new(make_task("refused")))
        monkeypatch.setattr(reserve, "RESERVE_BYTES", RESERVE_BYTES)
        await store.hold_put(HOLD)
        assert reserve_of(path).exists()
        await store.video_add(new(make_task("taken")))


async def test_room_that_is_taken_by_another_meanwhile(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(handle: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", taken)
    async with copied(filled, exclusive=True) as (database, _, path):
        assert f"cannot hold {RESERVE_BYTES} bytes in {reserve_of(path)}" in str(database.trouble)
        assert not reserve_of(path).exists()


@pytest.mark.parametrize(("room", "is_held"), [(RESERVE_BYTES, True), (RESERVE_BYTES - 1, False)])
async def test_an_error_of_the_disk_is_a_full_disk_only_where_there_is_no_room(
    filled: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, room: int, is_held: bool
) -> None:
    async with copied(filled, exclusive=True) as (_, store, path):
        monkeypatch.setattr(reserve, "room_bytes", lambda folder: room)
        plan.arm(3, broken_disk())
        if is_held:
            with pytest.raises(StorageError, match="disk I/O error"):
                await store.hold_put(OTHER)
        else:
            await store.hold_put(OTHER)
        plan.disarm()
        assert store.is_short
        assert reserve_of(path).exists() is is_held


async def test_a_reserve_that_somebody_removed(filled: Path, plan: Plan) -> None:
    async with copied(filled, exclusive=True) as (_, store, path):
        reserve_of(path).unlink()
        plan.arm(3, full())
        with pytest.raises(StorageError, match="disk is full"):
            await store.hold_put(OTHER)
        plan.disarm()
        await store.hold_put(OTHER)
        assert reserve_of(path).stat().st_size == RESERVE_BYTES


@pytest.mark.parametrize("exclusive", [True, False])
async def test_on_a_full_disk_the_log_gives_room_too(filled: Path, plan: Plan, exclusive: bool) -> None:
    async with copied(filled, exclusive=exclusive) as (database, store, path):
        log = path.with_name(f"{path.name}-wal")
        await database.write((Step("insert into video_inputs values ('old', 'image', $1)", ("x" * 10**6,)),))
        assert log.stat().st_size > 10**6
        plan.arm(3, full())
        await store.hold_put(OTHER)
        plan.disarm()
        assert plan.failed
        assert log.stat().st_size < 10**5
        assert await store.holds() == [HOLD, OTHER]


async def test_a_reserve_that_cannot_be_let_go(
    filled: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    async with copied(filled, exclusive=True) as (_, store, _path):
        monkeypatch.setattr(reserve, "let_go", refused)
        plan.arm(3, full())
        with pytest.raises(StorageError, match="disk is full"):
            await store.hold_put(OTHER)
        plan.disarm()
        with pytest.raises(StorageShort, match=r"disk is full; .*not permitted"):
            await store.video_add(new(make_task("refused")))
        await store.hold_put(OTHER)
        assert not store.is_short


@pytest.mark.parametrize(
    ("room", "outcome"), [(0, StorageShort), (2 * RESERVE_BYTES, StorageError)], ids=["full", "room-again"]
)
async def test_what_does_not_fit_takes_nothing_else_along(
    filled: Path, monkeypatch: pytest.MonkeyPatch, room: int, outcome: type[StorageError]
) -> None:
    async with copied(filled, exclusive=True) as (database, store, path):
        monkeypatch.setattr(reserve, "room_bytes", lambda folder: room)
        writer = database._writer  # noqa: SLF001 (the limit belongs to a connection)
        (pages,) = writer.execute("pragma page_count").fetchone()
        writer.execute(f"pragma max_page_count = {pages + 1}")
        large = Step("insert into video_inputs values ('video_1', 'image', $1)", ("x" * 100_000,))
        with held_up(path):
            waiting = asyncio.gather(
                store.hold_put(OTHER), database.write((large,)), store.hold_delete("one"),
                return_exceptions=True,
            )
            await asyncio.sleep(0)
        assert [type(result) for result in await waiting] == [type(None), outcome, type(None)]
        assert await store.holds() == [OTHER]
        assert store.is_short is (room == 0)


# --- the end of a trouble -----------------------------------------------------------------------------------

async def test_the_database_finds_out_by_itself_that_it_is_well_again(
    filled: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "TRY_SECONDS", 0.002)
    async with copied(filled) as (database, store, path):
        plan.arm(1, broken_disk(), for_good=True)
        with pytest.raises(StorageError):
            await store.hold_put(OTHER)
        async with asyncio.timeout(60):
            await asyncio.to_thread(plan.fails_thrice.wait)
            assert store.is_short
            before = path.with_name(f"{path.name}-wal").stat().st_size
            plan.disarm()
            while database.trouble is not None:  # noqa: ASYNC110 (nobody is told)
                await asyncio.sleep(0.002)
        assert path.with_name(f"{path.name}-wal").stat().st_size > before  # it was tried with a real write
        assert await database.read("pragma user_version") == [(0,)]


async def test_a_database_in_trouble_can_be_closed(filled: Path, plan: Plan) -> None:
    async with copied(filled) as (database, store, _):
        plan.arm(1, broken_disk())
        with pytest.raises(StorageError):
            await store.hold_put(OTHER)
        async with asyncio.timeout(60):
            await database.close()
        with pytest.raises(StorageError, match="closed"):
            await store.hold_put(OTHER)


async def test_a_database_in_memory_fails_and_goes_on_too(plan: Plan) -> None:
    database = SqliteDatabase(IN_MEMORY)
    await database.migrate()
    store = Store(database)
    plan.arm(2, broken_disk())
    with pytest.raises(StorageError, match="disk I/O error"):
        await store.hold_put(HOLD)
    plan.disarm()
    assert (store.is_short, await store.holds()) == (True, [])
    await store.hold_put(HOLD)
    assert (store.is_short, await store.holds()) == (False, [HOLD])
    await database.close()


async def test_broken_pages_fail_what_needs_them_and_end_all_new_spending(filled: Path) -> None:
    async with copied(filled) as (database, _, path):
        pages = await database.read("select rootpage from sqlite_master where tbl_name = 'events'")
        (size,) = (await database.read("pragma page_size"))[0]
    content_of = bytearray(path.read_bytes())
    for (page,) in pages:
        start = (int(page or 0) - 1) * int(size or 0)
        content_of[start : start + int(size or 0)] = b"\xff" * int(size or 0)
    path.write_bytes(content_of)
    database = SqliteDatabase(path)
    store = Store(database)
    change = apply(TASK, SubmitStarted(ONE), NOW)
    with held_up(path):
        waiting = asyncio.gather(
            store.hold_put(OTHER), store.task_save(change), store.hold_delete("one"), return_exceptions=True
        )
        await asyncio.sleep(0)
    outcomes = await waiting
    assert [type(outcome) for outcome in outcomes] == [type(None), StorageError, type(None)]
    assert "malformed" in str(outcomes[1])
    assert await store.task_get("video_1") == TASK
    with pytest.raises(StorageError, match="malformed"):
        await store.events_get("video_1", "key_1")
    await store.hold_put(HOLD)
    assert await store.holds() == [HOLD, OTHER]
    with pytest.raises(StorageShort, match="is broken, restore a backup"):  # though commits succeed
        await store.video_add(new(make_task("refused")))
    await database.close()
