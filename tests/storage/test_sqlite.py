"""What SQLite is asked to promise: durability, one commit for many writes, and errors that say what happened.

Not held here: the contract of the store (`tests/contract/test_store.py`), what another process does to the
same file (`test_processes.py`), the schema's history (`test_migrations.py`).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.storage import sqlite, sqlite_file
from gateway.storage.db import Duplicate, GuardFailed, Row, Step, StorageBusy, StorageError
from gateway.storage.sqlite import BATCH_MAX, SqliteDatabase
from tests.storage.stores import held_up

pytestmark = pytest.mark.anyio




@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that the connections opened from now on run."""
    statements: list[str] = []

    class Noting(sqlite3.Connection):
        def __init__(self, *args: Any, **named: Any) -> None:  # noqa: ANN401 (as sqlite3 has it)
            super().__init__(*args, **named)
            self.set_trace_callback(statements.append)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **named: connect(*args, **named, factory=Noting))
    return statements


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reelgate.db"


@pytest.fixture
async def database(ran: list[str], path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase(path)
    await opened.write((Step("create table notes (name text primary key, number bigint not null)", ()),))
    yield opened
    await opened.close()


def note(name: str, number: int | None = 1) -> tuple[Step, ...]:
    return (Step("insert into notes values ($1, $2)", (name, number)),)


async def names(database: SqliteDatabase) -> list[str]:
    return [str(row[0]) for row in await database.read("select name from notes order by rowid")]


async def together(path: Path, *writes: Coroutine[Any, Any, list[Row]]) -> Sequence[object]:
    """The outcomes of writes of which all are waiting before the first can be committed."""
    with held_up(path):
        waiting = asyncio.gather(*writes, return_exceptions=True)
        await asyncio.sleep(0)
    return await waiting


# --- durability -------------------------------------------------------------------------------------------

async def test_new_file_is_its_owners_alone(database: SqliteDatabase, path: Path) -> None:
    names = (path.name, f"{path.name}-wal", f"{path.name}-shm")
    found = {kept.name: kept.stat().st_mode & 0o777 for kept in path.parent.glob(f"{path.name}*")}
    assert found == dict.fromkeys(names, 0o600)


async def test_a_commit_is_on_disk_when_it_is_answered(database: SqliteDatabase) -> None:
    writer, reader = database._writer, database._reader  # noqa: SLF001 (there is no public way to ask them)
    for connection in (writer, reader):
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        assert connection.execute("pragma synchronous").fetchone() == (2,)  # FULL


async def test_what_was_answered_is_what_others_read(database: SqliteDatabase, path: Path) -> None:
    await database.write(note("a"))
    other = sqlite3.connect(path)
    assert other.execute("select name from notes").fetchall() == [("a",)]
    other.close()


# --- one commit for many writes ---------------------------------------------------------------------------

async def test_what_waits_is_committed_together(database: SqliteDatabase, path: Path, ran: list[str]) -> None:
    ran.clear()
    outcomes = await together(path, *(database.write(note(f"n{number}")) for number in range(100)))
    assert outcomes == [[]] * 100
    assert await names(database) == [f"n{number}" for number in range(100)]  # in the order of asking
    assert 1 <= ran.count("commit") <= 2  # the first may have begun alone


async def test_a_batch_is_bounded(database: SqliteDatabase, path: Path, ran: list[str]) -> None:
    ran.clear()
    count = 2 * BATCH_MAX + 10
    await together(path, *(database.write(note(f"n{number}")) for number in range(count)))
    assert len(await names(database)) == count
    assert 3 <= ran.count("commit") <= 4


async def test_what_waits_is_counted_until_it_is_committed(
    database: SqliteDatabase, path: Path, ran: list[str]
) -> None:
    ran.clear()
    with held_up(path):
        writing = [asyncio.ensure_future(database.write(note("first")))]
        async with asyncio.timeout(60):
            while "begin immediate" not in ran[1:]:  # noqa: ASYNC110 (the first is held_up's)
                await asyncio.sleep(0)
        assert database.waiting == 1
        writing += [asyncio.ensure_future(database.write(note(f"n{number}"))) for number in range(30)]
        await asyncio.sleep(0)
        assert database.waiting == 31
    await asyncio.gather(*writing)
    assert database.waiting == 0


async def test_a_failure_takes_no_other_along(database: SqliteDatabase, path: Path, ran: list[str]) -> None:
    await database.write(note("taken"))
    ran.clear()
    absent = Step("update notes set number = 2 where name = $1", ("absent",), GuardFailed)
    outcomes = await together(
        path,
        database.write(note("first")),
        database.write((*note("undone-1"), absent)),
        database.write((*note("undone-2"), *note("taken"))),
        database.write((*note("undone-3"), Step("insert into nowhere values (1)", ()))),
        database.write((*note("undone-4"), Step("insert into notes values ($1, $2)", ("one value",)))),
        database.write(note("undone-5", 2**63)),
        database.write(note("undone-\ud800")),
        database.write(note("last")),
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [list, GuardFailed, Duplicate, *[StorageError] * 4, list]
    assert await names(database) == ["taken", "first", "last"]
    assert ran.count("commit") <= 2
    assert str(path) in str(outcomes[3])
    assert "nowhere" in str(outcomes[3])


async def test_a_rule_other_than_uniqueness_is_not_called_a_duplicate(database: SqliteDatabase) -> None:
    with pytest.raises(StorageError, match="NOT NULL") as caught:
        await database.write(note("a", None))
    assert type(caught.value) is StorageError


async def test_no_more_may_wait_than_the_bound(
    database: SqliteDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "QUEUE_MAX", 5)
    outcomes = await together(path, *(database.write(note(f"n{number}")) for number in range(100)))
    refused = [outcome for outcome in outcomes if isinstance(outcome, StorageBusy)]
    assert len(refused) + len(await names(database)) == 100
    assert refused
    await database.write(note("later"))


# --- who stops waiting, and the end -----------------------------------------------------------------------

async def test_a_write_that_was_handed_over_is_committed_though_nobody_waits(
    database: SqliteDatabase, path: Path
) -> None:
    unasked = asyncio.ensure_future(database.write(note("never handed over")))
    unasked.cancel()
    with held_up(path):
        writing = asyncio.ensure_future(database.write(note("handed over")))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing, unasked])
    assert writing.cancelled()
    await database.write(note("next"))
    assert await names(database) == ["handed over", "next"]


async def test_a_loop_that_ended_before_its_answer_harms_nobody(database: SqliteDatabase, path: Path) -> None:
    async def leave() -> None:
        unanswered.append(asyncio.ensure_future(database.write(note("unanswered"))))
        await asyncio.sleep(0)

    unanswered: list[asyncio.Future[list[Row]]] = []
    with held_up(path):
        await asyncio.to_thread(asyncio.run, leave())
    async with asyncio.timeout(60):
        await database.write(note("next"))
    assert await names(database) == ["unanswered", "next"]


async def test_closing_finishes_what_was_handed_over(path: Path, database: SqliteDatabase) -> None:
    with held_up(path):
        writing = [asyncio.ensure_future(database.write(note(f"n{number}"))) for number in range(20)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(database.close())
        await asyncio.sleep(0)
        late = asyncio.ensure_future(database.write(note("late")))
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await closing
        await asyncio.gather(*writing)
        with pytest.raises(StorageError, match="closed"):
            await late
    again = SqliteDatabase(path)
    assert len(await names(again)) == 20
    await again.close()


async def test_a_closed_database_may_be_closed_again(database: SqliteDatabase) -> None:
    await database.close()
    await database.close()
    with pytest.raises(StorageError, match="closed"):
        await database.write(note("late"))


# --- a disk that fails ------------------------------------------------------------------------------------

async def test_a_full_disk_is_told_and_what_fits_is_stored(database: SqliteDatabase) -> None:
    await database.write(note("before"))
    writer = database._writer  # noqa: SLF001 (the limit belongs to a connection)
    (pages,) = writer.execute("pragma page_count").fetchone()
    writer.execute(f"pragma max_page_count = {pages + 1}")
    with pytest.raises(StorageError, match=r"reelgate\.db.*full"):
        await database.write(note("x" * 50_000))
    assert await names(database) == ["before"]
    await database.write(note("small"))
    writer.execute("pragma max_page_count = 1000000")
    await database.write(note("y" * 50_000))
    assert [name[:6] for name in await names(database)] == ["before", "small", "yyyyyy"]


async def test_a_lock_that_is_never_let_go_is_told(
    database: SqliteDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_MS", 1)  # five seconds are long in a test
    with held_up(path), pytest.raises(StorageError, match=r"reelgate\.db.*locked"):
        await database.write(note("a"))
    await database.write(note("b"))
    assert await names(database) == ["b"]


def test_two_that_open_a_new_file_at_once_both_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("create table begun (x)")  # as it is before the first has changed the file to WAL
    other.execute("begin immediate")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        other.rollback()

    monkeypatch.setattr(time, "sleep", pause)
    connection = sqlite_file.connect(path)  # in whole, the second connection would wait for itself
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    assert len(pauses) == 1
    connection.close()
    other.close()


def test_a_new_file_that_another_never_lets_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_MS", 0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin exclusive")
    with pytest.raises(StorageError, match=r"cannot open .*reelgate\.db.*locked"):
        SqliteDatabase(path)
    other.close()


async def test_a_question_that_makes_no_sense_names_the_file(database: SqliteDatabase, path: Path) -> None:
    with pytest.raises(StorageError, match=r"reelgate\.db.*nowhere"):
        await database.read("select * from nowhere")
    for value in (2**63, "\ud800"):
        with pytest.raises(StorageError, match=r"reelgate\.db"):
            await database.read("select $1", (value,))


# --- files that cannot be used ----------------------------------------------------------------------------

async def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "reelgate.db"
    database = SqliteDatabase(path)
    await database.close()
    assert path.exists()


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_file_that_is_no_database(path: Path, exclusive: bool) -> None:
    path.write_bytes(b"no database at all\n" * 500)
    for _ in range(2):  # the second time is no different: the lock was let go
        with pytest.raises(StorageError, match=r"cannot open .*reelgate\.db.*not a database") as caught:
            SqliteDatabase(path, exclusive=exclusive)
        assert not isinstance(caught.value, StorageBusy)
    assert path.read_bytes() == b"no database at all\n" * 500


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"cannot open {tmp_path}"):
        SqliteDatabase(tmp_path)


def test_a_file_where_the_folder_should_be(path: Path) -> None:
    path.write_text("")
    with pytest.raises(StorageError, match=r"cannot open .*reelgate\.db"):
        SqliteDatabase(path / "below.db")


async def filled(path: Path) -> None:
    database = SqliteDatabase(path)
    await database.migrate()
    await database.close()


def overwrite(path: Path, start: int, end: int, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[start:end] = bytes([byte]) * (min(end, len(content)) - start)
    path.write_bytes(content)


async def test_a_database_that_may_only_be_read(path: Path) -> None:
    await filled(path)
    overwrite(path, 18, 19, 3)  # a file format that no SQLite writes: permissions would not stop root
    database = SqliteDatabase(path)
    with pytest.raises(StorageError, match=r"reelgate\.db.*readonly"):
        await database.write((Step("insert into chores (name, at) values ('a', 1)", ()),))
    assert "readonly" in str(database.trouble)
    assert await database.read("select * from keys") == []
    await database.close()


async def test_a_database_whose_schema_is_broken(path: Path) -> None:
    await filled(path)
    overwrite(path, 4096, 2**30, 0xFF)
    with pytest.raises(StorageError, match=r"cannot open .*reelgate\.db.*malformed"):
        SqliteDatabase(path, exclusive=True)
