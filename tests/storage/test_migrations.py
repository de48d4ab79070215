"""How the schema comes to be: in order, once, whole or not at all, and never backwards.

Not held here: two processes that do so at once (`test_processes.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.storage import sqlite
from gateway.storage.db import Migration, SchemaTooNew, Step, StorageError, migrations, pending
from gateway.storage.sqlite import SqliteDatabase

pytestmark = pytest.mark.anyio

FIRST = Migration(1, "0001_first", "create table a (x bigint);\n")
SECOND = Migration(2, "0002_second", """-- a; b
create table b (x text default ';');
insert into a values (1);
""")
BROKEN = Migration(3, "0003_broken", """create table c (x bigint);
insert into a values (2);
insert into no values (1);
""")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reelgate.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase(path)
    yield opened
    await opened.close()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[Migration]:
    """The migrations that the program knows."""
    some = [FIRST]
    monkeypatch.setattr(sqlite, "migrations", lambda: some)
    return some


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def tables(database: SqliteDatabase) -> list[str]:
    rows = await database.read("select name from sqlite_master where type = 'table' order by name")
    return [str(row[0]) for row in rows]


async def test_the_real_ones_run_once(database: SqliteDatabase) -> None:
    assert await database.migrate() == len(migrations())
    before = await tables(database)
    assert await database.migrate() == 0
    assert await tables(database) == before
    applied = await database.read("select number, name from schema_version order by number")
    assert applied == [(migration.number, migration.name) for migration in migrations()]


async def test_only_what_is_missing_is_run(database: SqliteDatabase, known: list[Migration]) -> None:
    assert await database.migrate() == 1
    known.append(SECOND)
    assert await database.migrate() == 1
    assert await tables(database) == ["a", "b", "schema_version"]
    assert await database.read("select x from a") == [(1,)]


async def test_one_that_fails_leaves_nothing_behind(database: SqliteDatabase, known: list[Migration]) -> None:
    known += [SECOND, BROKEN]
    for _ in range(2):
        with pytest.raises(StorageError, match=r"cannot migrate .*reelgate\.db: no such table: no"):
            await database.migrate()
        assert await tables(database) == ["a", "b", "schema_version"]
        assert await database.read("select x from a") == [(1,)]
        assert await database.read("select max(number) from schema_version") == [(2,)]
    await database.write((Step("insert into a values (7)", ()),))  # no transaction was left open
    known[2] = Migration(3, "0003_mended", "create table c (x bigint)")
    assert await database.migrate() == 1


async def test_a_last_statement_needs_no_semicolon(database: SqliteDatabase, known: list[Migration]) -> None:
    known.append(Migration(2, "0002_open", "insert into a values (1);\ninsert into a values (2)"))
    await database.migrate()
    assert await database.read("select x from a") == [(1,), (2,)]


async def test_a_newer_schema_is_refused_and_not_touched(
    database: SqliteDatabase, path: Path, known: list[Migration]
) -> None:
    known.append(SECOND)
    await database.migrate()
    await database.close()
    before = digest(path)
    known.pop()
    older = SqliteDatabase(path)
    with pytest.raises(SchemaTooNew, match="has schema version 2, this program knows 1: start the newer"):
        await older.migrate()
    await older.close()
    assert digest(path) == before


def test_pending() -> None:
    assert list(pending(0, [FIRST, SECOND])) == [FIRST, SECOND]
    assert list(pending(1, [FIRST, SECOND])) == [SECOND]
    assert list(pending(2, [FIRST, SECOND])) == []
    with pytest.raises(SchemaTooNew):
        pending(3, [FIRST, SECOND])


@pytest.mark.parametrize(
    ("names", "is_fine"),
    [([], True), (["0001_a", "0002_b"], True), (["0001_a", "0003_b"], False), (["0002_a"], False),
     (["0001_a", "0001_b"], False)],
)
def test_migrations_are_numbered_without_gaps(tmp_path: Path, names: list[str], is_fine: bool) -> None:
    for name in names:
        (tmp_path / f"{name}.sql").write_text("select 1;")
    if is_fine:
        assert [migration.name for migration in migrations(tmp_path)] == names
    else:
        with pytest.raises(ValueError, match="not numbered"):
            migrations(tmp_path)
