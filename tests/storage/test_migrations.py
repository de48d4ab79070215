"""How the schema comes to be: in order, once, whole or not at all, and never backwards.

Not held here: two processes that do so at once (`test_processes.py`, `test_postgres.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from gateway.core.facts import Candidate
from gateway.core.states import Change, Task
from gateway.storage.db import (
    Database,
    Migration,
    SchemaTooNew,
    Step,
    StorageError,
    migrations,
    pending,
)
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.postgres_batch import MARKS
from gateway.storage.rows import Asked, Filters, Page, Video
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from tests import postgres
from tests.storage.stores import ids

pytestmark = pytest.mark.anyio

Known: TypeAlias = Callable[..., Path]

FIRST = "create table a (x bigint);\n"
SECOND = """-- a; b
create table b (x text default ';');
insert into a values (1);
"""
BROKEN = """create table c (x bigint);
insert into a values (2);
insert into no values (1);
"""
THIRD = "alter table schema_version add column runs_from bigint;\n"


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
        ('video_2', '{"prompt":"a hen"}', '{"team":"x"}')""",
    "insert into video_inputs values ('video_1', 'image', 'data:image/png;base64,AAAA')",
    """insert into video_labels
        values ('key_1', 'team', 'x', 'video_1'), ('key_1', 'team', 'x', 'video_2')""",
)
RENDERING = Task(
    id="video_1", owner="key_1", model="kling-v3", state="rendering", stage="rendering", version=3,
    last_seq=4, replica="dead", candidates=(Candidate("one", "t2v"),), provider="one", offering="t2v",
    vendor_task_id="v-1", ref='{"id":null}', raw_status="RUN", raw_status_at=2.5, progress=40, attempts=1,
    created_at=1.0, deadline_at=9.0, submitted_at=2.0, started_at=2.0, charged="yes", cost_amount="0.42",
    cost_currency="USD",
)


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database, without any schema."""
    if request.param == "sqlite":
        opened: Database = SqliteDatabase(tmp_path / "reelgate.db")
        yield opened
        await opened.close()
        return
    async with postgres.database(is_empty=True) as url:
        opened = PostgresDatabase(url)
        yield opened
        await opened.close()


@pytest.fixture
def known(tmp_path: Path) -> Known:
    """A folder with these migrations, in order."""

    def write(*texts: str) -> Path:
        folder = tmp_path / "migrations"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for number, text in enumerate(texts, 1):
            (folder / f"{number:04}_step.sql").write_text(text)
        return folder

    return write


async def tables(database: Database) -> list[str]:
    """The tables of the schema; the driver's own are not part of it."""
    sql = "select name from sqlite_master where type = 'table'"
    if database.is_shared:
        sql = "select tablename::text from pg_tables where schemaname = 'public'"
    return sorted(str(name) for (name,) in await database.read(sql) if name != MARKS)


async def test_the_real_ones_run_once(database: Database) -> None:
    assert await database.migrate() == len(migrations())
    before = await tables(database)
    assert await database.migrate() == 0
    assert await tables(database) == before
    applied = await database.read("select number, name from schema_version order by number")
    assert applied == [(migration.number, migration.name) for migration in migrations()]


async def test_only_what_is_missing_is_run(database: Database, known: Known) -> None:
    assert await database.migrate(known(FIRST)) == 1
    assert await database.migrate(known(FIRST, SECOND)) == 1
    assert await tables(database) == ["a", "b", "schema_version"]
    assert await database.read("select x from a") == [(1,)]


async def test_one_that_fails_leaves_nothing_behind(database: Database, known: Known) -> None:
    for _ in range(2):
        with pytest.raises(StorageError, match=r"cannot migrate .*: (no such table: no|UndefinedTableError)"):
            await database.migrate(known(FIRST, SECOND, BROKEN))
        assert await tables(database) == ["a", "b", "schema_version"]
        assert await database.read("select x from a") == [(1,)]
        assert await database.read("select max(number) from schema_version") == [(2,)]
    await database.write((Step("insert into a values (7)", ()),))  # no transaction was left open
    assert await database.migrate(known(FIRST, SECOND, THIRD + "create table c (x bigint)")) == 1


async def test_a_last_statement_needs_no_semicolon(database: Database, known: Known) -> None:
    await database.migrate(known(FIRST, "insert into a values (1);\ninsert into a values (2)"))
    assert await database.read("select x from a") == [(1,), (2,)]


async def test_a_newer_schema_is_refused_and_not_touched(database: Database, known: Known) -> None:
    await database.migrate(known(FIRST, SECOND, THIRD))
    before = await tables(database)
    for texts in ((FIRST,), (FIRST, SECOND)):
        with pytest.raises(SchemaTooNew, match=rf"has schema version 3, this program knows {len(texts)}"):
            await database.migrate(known(*texts))
    assert await tables(database) == before
    assert await database.read("select count(*), max(number) from schema_version") == [(3, 3)]


async def test_a_newer_schema_that_only_adds_is_shared_with_the_program_before(
    database: Database, known: Known
) -> None:
    adds = "-- runs-from: 2\n" + THIRD
    assert await database.migrate(known(FIRST, SECOND, adds)) == 3
    assert await database.migrate(known(FIRST, SECOND)) == 0
    with pytest.raises(SchemaTooNew, match="at least 2 is needed"):
        await database.migrate(known(FIRST))
    assert await database.migrate(known(FIRST, SECOND, adds, "create table c (x bigint)")) == 1
    with pytest.raises(SchemaTooNew, match="at least 4 is needed"):  # the fourth does not say that it may
        await database.migrate(known(FIRST, SECOND, adds))


async def test_what_the_first_schema_holds_is_taken_along(database: Database, known: Known) -> None:
    everything = [migration.sql for migration in migrations()]
    assert await database.migrate(known(everything[0])) == 1
    await database.write([Step(sql, ()) for sql in WRITTEN_BY_1])
    assert await database.migrate(known(*everything)) == len(everything) - 1
    store = Store(database)
    assert await store.video_get("video_1", "key_1") == Video(RENDERING, '{"prompt":"a fox"}', {"team": "x"})
    assert await store.asked_get("video_1") == Asked(
        request='{"prompt":"a fox"}', inputs={"image": "data:image/png;base64,AAAA"}, metadata={"team": "x"},
        pins=(),
    )
    ended = await store.task_get("video_2")
    assert ended is not None
    assert (ended.state, ended.reruns, ended.late_until) == ("failed", 0, None)
    labelled = Filters(metadata={"team": "x"})
    assert await ids(store, labelled) == ["video_2", "video_1"]
    assert await ids(store, labelled, Page(limit=1, after=(2.0, "video_2"))) == ["video_1"]
    (mine,) = await store.tasks_claim("mine", "dead", 10)  # not the one that has ended
    saved = await store.task_save(Change(mine, msgspec.structs.replace(mine, late_until=5.0), ()))
    assert await store.task_get("video_1") == saved


def test_pending() -> None:
    both = [Migration(1, "0001_first", FIRST, 1), Migration(2, "0002_second", SECOND, 2)]
    assert list(pending(0, 0, both)) == both
    assert list(pending(1, 0, both)) == both[1:]
    assert list(pending(2, 0, both)) == []
    assert list(pending(3, 2, both)) == []
    with pytest.raises(SchemaTooNew):
        pending(3, 3, both)


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
