"""Copying a whole database, between all kinds of them: nothing is lost, altered or mistaken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from gateway.core.render_times import TimesRow
from gateway.core.states import Task
from gateway.storage import checking
from gateway.storage.copying import NOT_COPIED, TABLES, copy
from gateway.storage.db import Database, Row, Step, StorageError
from gateway.storage.rows import Hold, Idempotency, KeyRow
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from tests.blank import blank
from tests.core.made import NOW, make_task
from tests.storage.stores import DATABASES, add, ended, new, opened

pytestmark = pytest.mark.anyio
# A value of each type of a column, whatever it is called. The text is the id of a video that is stored.
ANY: Final = {"text": "images", "bigint": 1, "double precision": NOW + 0.1}
# Numbers of a database's own; a position in a stream of another is refused.
COLUMNS_NOT_COPIED = (("events", "written"),)
PAIRS = [("sqlite-file", "postgres"), ("postgres", "sqlite-file"), ("sqlite-file", "sqlite-file")]


def quiet(table: str, rows: int) -> None:
    """Nobody watches."""


async def fill(database: Database, videos: int) -> None:
    """A bit of everything."""
    store = Store(database)
    await store.keys.add(KeyRow(id="key_1", name="a", role="caller", digest="d", hint="1234", created_at=NOW))
    await store.hold_put(Hold(provider="one", action="pause", by="key_1", at=NOW))
    await store.replicas.render_times_add([TimesRow("one", "o", 5, 1, 3, 2.0)])
    images = make_task("images", key_id="key_1", reserved_amount="0.42", reserved_currency="USD")
    await store.video_add(
        new(images, {"a": "1", "ü": "€"}, {"image": "data:image/png;base64,AAAA"}),
        Idempotency("k", "print", "images"),
    )
    await store.ledger.roll_up()
    done = {"result_url": "https://files.example/v.mp4", "completed_at": NOW, "key_id": "key_1"}
    await add(store, ended("ended", **done))
    for number in range(videos):
        await add(store, make_task(f"video_{number:05}", created_at=NOW + number / 7))


async def fill_the_rest(database: Database) -> None:
    """One row in each table that is copied and still empty, made of what the schema says of its columns."""
    schema = blank()
    for table in TABLES:
        if await database.read(f"select 1 from {table.name} limit 1"):  # noqa: S608
            continue
        ((made,),) = await schema.read("select sql from sqlite_master where name = $1", (table.name,))
        words = dict(re.findall(r"check \((\w+) in \('(\w+)'", str(made)))
        columns = await schema.read(f"select name, type from pragma_table_info('{table.name}')")  # noqa: S608
        names = ", ".join(str(name) for name, _ in columns)
        holes = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        values = tuple(words.get(str(name), ANY[str(kind).lower()]) for name, kind in columns)
        sql = f"insert into {table.name} ({names}) values ({holes})"  # noqa: S608
        await database.write((Step(sql, values),))
    await schema.close()


async def everything(database: Database) -> dict[str, list[Row]]:
    """All rows of all tables that are copied, in order."""
    found = {}
    for table in TABLES:
        names, key = ", ".join(table.columns), ", ".join(table.key)
        sql = f"select {names} from {table.name} order by {key}"  # noqa: S608
        found[table.name] = await database.read(sql)
    return found


@pytest.mark.parametrize(("source", "target"), PAIRS, ids="-".join)
async def test_a_copy_is_the_same(source: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with opened(source, tmp_path / "a") as old, opened(target, tmp_path) as made:
        await fill(old, 1_203)
        await fill_the_rest(old)
        async with old.snapshot() as read:
            await copy(read, made, quiet)
        before, after = await everything(old), await everything(made)
        assert {name: len(rows) for name, rows in after.items()} == {
            name: len(rows) for name, rows in before.items()
        }
        assert all(sorted(before[name], key=str) == sorted(after[name], key=str) for name in before)
        assert min(map(len, after.values())) > 0, "a table was compared empty"
        taken = await Store(made).tasks_claim("mine", "", 10_000)
        assert len(taken) == 1_204
        assert await checking.check(made) == []


@pytest.mark.parametrize("kind", ["sqlite-file", "postgres"])
async def test_a_snapshot_does_not_see_what_is_written_meanwhile(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as database:
        await fill(database, 3)
        async with database.snapshot() as read:
            before = await read("select count(*) from videos", ())
            await add(Store(database), make_task("later"))
            assert await read("select count(*) from videos", ()) == before
        assert await database.read("select count(*) from videos") == [(int(before[0][0] or 0) + 1,)]


async def test_nothing_is_copied_over_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with opened("sqlite-file", tmp_path / "a") as old, opened("sqlite-file", tmp_path) as made:
        await fill(old, 1)
        await add(Store(made), make_task("mine"))
        async with old.snapshot() as read:
            with pytest.raises(StorageError, match="not empty: it has rows in videos"):
                await copy(read, made, quiet)


async def test_every_table_and_column_is_copied_or_named_as_left_out(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "reelgate.db")
    await database.migrate()
    tables = await database.read("select name from sqlite_master where type = 'table'")
    names = {str(name) for (name,) in tables}
    assert names == {*(table.name for table in TABLES), *NOT_COPIED}
    for table in TABLES:
        columns = await database.read(f"select name from pragma_table_info('{table.name}')")  # noqa: S608
        left_out = {column for of, column in COLUMNS_NOT_COPIED if of == table.name}
        assert {str(name) for (name,) in columns} == {*table.columns, *left_out}, table.name
    await database.close()


# --- checking -----------------------------------------------------------------------------------------

BROKEN = {
    "a video without its request": "delete from video_requests",
    "a timeline that does not end with the video's last event": "update videos set last_seq = 9",
    "a gap in a timeline": "update events set seq = 2",
    "an event of no video": "delete from videos",
    "a secret of no key": "insert into key_digests values ('d9', 'video_1', 'hint', 1, null)",
    "a ledger in which a key has other unfinished videos than are stored":
        "insert into usage_days values ('o', 'd', 'video_1', '', '', '', 0, 0, 1, 0, 0, 0)",
    "a ledger with less than nothing put aside or settled":
        "insert into usage_days values ('o', 'd', 'video_1', '', '', '', -1, 1, 0, 0, 0, 0)",
    "a day or month of which a key has spent other money than its videos say":
        "insert into spent_periods values ('o', 'd', '', 'video_1', 1)",
    "a label that is not its video's": "update video_labels set created_at = 1",
    "an upload without its bytes, or bytes of no upload":
        "insert into upload_contents values ('video_1', 'data:')",
    "a webhook of no endpoint":
        """insert into webhook_messages (id, event, owner, video_id, endpoint, target, url, type, at, content,
            state, step, tries, next_at)
        values ('video_1', '', '', '', 'we_9', 'we_9', '', '', 1, '', 'pending', 0, 0, 1)""",
    "a try of no webhook":
        "insert into webhook_tries (message_id, number, video_id, at, ms) values ('video_1', 1, '', 1, 1)",
    "a video that ended without a time, or has one and did not end": "update videos set completed_at = 1",
    "a job being rendered without the vendor's id": "update videos set state = 'rendering', charged = 'yes'",
    "a video that may have been bought and says otherwise": "update videos set state = 'submission_unknown'",
    "a stored video of whose file nothing is known": "update videos set stage = 'stored'",
    "a file that is there without an end, or the reverse": "update videos set file_until = 1",
    "a file to be stored of a video that has not ended": "update videos set unstored_since = 1",
    "a video that waits to be stored and says otherwise":
        "update videos set state = 'completed', stage = 'storing', completed_at = 1, result_url = 'x'",
    "a completed video without a link": "update videos set state = 'completed', completed_at = 1",
}


@pytest.mark.parametrize("rule", checking.RULES)
@pytest.mark.parametrize("kind", DATABASES)
async def test_each_rule_finds_who_breaks_it(kind: str, rule: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as database:
        task: Task = make_task("video_1")
        await add(Store(database), task, team="x")
        assert (await database.flaws(), await checking.check(database)) == ([], [])
        await database.write([Step(BROKEN[rule], ())])
        assert any(said.startswith(f"{rule}: video_1") for said in await checking.check(database))
