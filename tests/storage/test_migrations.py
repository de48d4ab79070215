"""How the schema comes to be: in order, once, whole or not at all, and never backwards.

Not held here: two processes that do so at once (`test_processes.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.core.facts import Candidate
from gateway.core.states import Change, Task
from gateway.storage import sqlite
from gateway.storage.db import Migration, SchemaTooNew, Step, StorageError, migrations, pending
from gateway.storage.rows import Asked, Filters, Video
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from tests.storage.stores import ids

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


# What version 0.1.0 wrote: rows, word for word, so that they stay what they are.
WRITTEN_BY_1 = (
    """insert into videos (id, owner, model, state, status, stage, version, last_seq, replica, priority,
        candidates, ruled_out, provider, offering, vendor_task_id, ref, raw_status, raw_status_at, progress,
        attempts, resubmits, estimate_seconds, created_at, deadline_at, submitted_at, started_at, unknown_at,
        completed_at, result_url, result_expires_at, error_code, error_message, charged, charged_before,
        cost_amount, cost_currency)
    values ('video_1', 'key_1', 'kling-v3', 'rendering', 'in_progress', 'rendering', 3, 4, 'dead', 0,
        '[["one","t2v"]]', '[]', 'one', 't2v', 'v-1', '{"id":"v-1"}', 'RUN', 2.5, 40,
        1, 0, null, 1.0, 9.0, 2.0, 2.0, null,
        null, null, null, null, null, 'yes', 'no',
        '0.42', 'USD'),
    ('video_2', 'key_1', 'kling-v3', 'failed', 'failed', null, 2, 2, 'dead', 0,
        '[]', '[]', null, null, null, null, null, null, 0,
        0, 0, null, 2.0, 9.0, null, null, null,
        3.0, null, null, 'queue_timeout', 'No place.', 'no', 'no',
        null, null)""",
    """insert into video_requests values ('video_1', '{"prompt":"a fox"}', '{"team":"x"}'),
        ('video_2', '{"prompt":"a hen"}', '{}')""",
    "insert into video_inputs values ('video_1', 'image', 'data:image/png;base64,AAAA')",
    "insert into video_labels values ('key_1', 'team', 'x', 'video_1')",
)
RENDERING = Task(
    id="video_1", owner="key_1", model="kling-v3", state="rendering", stage="rendering", version=3,
    last_seq=4, replica="dead", candidates=(Candidate("one", "t2v"),), provider="one", offering="t2v",
    vendor_task_id="v-1", ref={"id": "v-1"}, raw_status="RUN", raw_status_at=2.5, progress=40, attempts=1,
    created_at=1.0, deadline_at=9.0, submitted_at=2.0, started_at=2.0, charged="yes", cost_amount="0.42",
    cost_currency="USD",
)


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


async def test_what_the_first_schema_holds_is_taken_along(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = migrations()
    monkeypatch.setattr(sqlite, "migrations", lambda: everything[:1])
    assert await database.migrate() == 1
    await database.write([Step(sql, ()) for sql in WRITTEN_BY_1])
    monkeypatch.setattr(sqlite, "migrations", lambda: everything)
    assert await database.migrate() == len(everything) - 1
    store = Store(database)
    assert await store.video_get("video_1", "key_1") == Video(RENDERING, '{"prompt":"a fox"}', {"team": "x"})
    assert await store.asked_get("video_1") == Asked(
        request='{"prompt":"a fox"}', inputs={"image": "data:image/png;base64,AAAA"}, metadata={"team": "x"},
        pins=(),
    )
    ended = await store.task_get("video_2")
    assert ended is not None
    assert (ended.state, ended.reruns, ended.late_until) == ("failed", 0, None)
    assert await ids(store, Filters(metadata={"team": "x"})) == ["video_1"]
    assert await store.tasks_claim("mine", 10)
    (mine,) = await store.tasks_owned("mine", (0.0, ""), 10)  # not the one that has ended
    saved = await store.task_save(Change(mine, msgspec.structs.replace(mine, late_until=5.0), ()))
    assert await store.task_get("video_1") == saved


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
