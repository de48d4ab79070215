"""How much a page of a list takes: the same with many videos as with few, by every filter.

Counted in steps of SQLite's machine and in rows that PostgreSQL touches, not in time. Not held here: what a
list shows (`test_lists.py`).
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.storage import lists
from gateway.storage.db import Database, Row, Value
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.rows import Filters, NewVideo, Page
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.sqlite_file import in_its_words
from gateway.storage.store import Store
from tests.core.made import NOW, make_task
from tests.storage.stores import Admin, new

pytestmark = pytest.mark.anyio

FEW: Final = 300
MANY: Final = 2_400
SELDOM: Final = 5  # videos that have a seldom value, the oldest: the last that a walk through all would meet
PAGE: Final = 20
NEAR: Final = 1_000  # rows that a page may touch: it would be MANY and more on the way through all
ONE_FILTER: Final = {
    "none": Filters(),
    "common status": Filters(status="completed"),
    "seldom status": Filters(status="failed"),
    "status of none": Filters(status="cancelled"),
    "common stage": Filters(stage="linked"),
    "stage of none": Filters(stage="rendering"),
    "common model": Filters(model="kling-v3"),
    "seldom model": Filters(model="kling-v2"),
    "model of none": Filters(model="kling-v1"),
    "common provider": Filters(provider="one"),
    "seldom provider": Filters(provider="two"),
    "provider of none": Filters(provider="three"),
    "common label": Filters(metadata={"team": "x"}),
    "seldom label": Filters(metadata={"team": "y"}),
    "label of none": Filters(metadata={"team": "z"}),
    "label of nobody": Filters(metadata={"nobody": "x"}),
    "times": Filters(created_after=NOW + 100, created_before=NOW + 200),
    "label and times": Filters(metadata={"team": "x"}, created_after=NOW + 100, created_before=NOW + 200),
}
SEVERAL: Final = {
    "common label, common status": Filters(metadata={"team": "x"}, status="completed"),
    "common label, seldom status": Filters(metadata={"team": "x"}, status="failed"),
    "common label, status of none": Filters(metadata={"team": "x"}, status="cancelled"),
    "seldom label, common status": Filters(metadata={"team": "y"}, status="completed"),
    "seldom label, common model, times": Filters(
        metadata={"team": "y"}, model="kling-v3", created_before=NOW + 200
    ),
    "common status, seldom model": Filters(status="completed", model="kling-v2"),
    "seldom status, common model": Filters(status="failed", model="kling-v3"),
    "common model, seldom provider": Filters(model="kling-v3", provider="two"),
    "seldom model, common provider": Filters(model="kling-v2", provider="one"),
    "stage of none, common rest": Filters(
        stage="rendering", status="completed", model="kling-v3", provider="one"
    ),
    "seldom provider, common stage": Filters(provider="two", stage="linked"),
    "two labels, one of none": Filters(metadata={"team": "x", "nobody": "x"}, provider="one"),
}


def _videos(count: int) -> Iterator[NewVideo]:
    for number in range(count):
        is_seldom = number < SELDOM
        task = make_task(
            f"v{number:05}", state="failed" if is_seldom else "completed",
            stage=None if is_seldom else "linked", model="kling-v2" if is_seldom else "kling-v3",
            provider="two" if is_seldom else "one", created_at=NOW + number,
        )
        yield new(task, {"team": "y" if is_seldom else "x"})


async def _filled(database: Database, count: int) -> None:
    await database.migrate()
    store = Store(database)
    made = list(_videos(count))
    for start in range(0, count, 1_000):
        await asyncio.gather(*map(store.video_add, made[start : start + 1_000]))


class _Noted:
    """A database that notes what it is asked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.asked: list[tuple[str, Sequence[Value]]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """Read, and note it."""
        self.asked.append((sql, args))
        return await self._database.read(sql, args)


async def _asked(database: Database, filters: Filters) -> list[tuple[str, Sequence[Value]]]:
    noted = _Noted(database)
    await Store(noted).video_list("key_1", filters, Page(limit=PAGE))  # type: ignore[arg-type]
    return noted.asked


def _steps(path: Path, asked: Sequence[tuple[str, Sequence[Value]]]) -> int:
    """How many instructions of its machine SQLite runs for these reads."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(step, 1)
        for sql, args in asked:
            connection.execute(in_its_words(sql), args).fetchall()
    return steps


async def test_a_page_takes_as_many_steps_on_sqlite_however_many_videos_there_are(tmp_path: Path) -> None:
    took: dict[int, dict[str, int]] = {}
    for count in (FEW, MANY):
        path = tmp_path / f"{count}.db"
        database = SqliteDatabase(path)
        await _filled(database, count)
        took[count] = {
            name: _steps(path, await _asked(database, filters))
            for name, filters in (ONE_FILTER | SEVERAL).items()
        }
        await database.close()
    assert took[MANY] == took[FEW]


async def test_a_page_touches_few_rows_on_postgres_however_many_videos_there_are(
    url: str, admin: Admin
) -> None:
    database = PostgresDatabase(url)
    await _filled(database, MANY)
    await admin.execute("vacuum analyze")
    touched = {}
    for name, filters in (ONE_FILTER | SEVERAL).items():
        touched[name] = 0
        for sql, args in await _asked(database, filters):
            told = await admin.fetchval(f"explain (analyze, format json) {sql}", *args)
            touched[name] += _rows(json.loads(told)[0]["Plan"])
    await database.close()
    assert {name: rows for name, rows in touched.items() if rows >= NEAR} == {}


def _rows(plan: dict[str, Any]) -> int:
    """How many rows the nodes of a plan gave or passed over."""
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return int(own * plan["Actual Loops"]) + sum(map(_rows, plan.get("Plans", ())))


@pytest.mark.parametrize(
    ("reached", "newest_first", "oldest_first"),
    [((5.0, 3.0, 4.0), 1, 0), ((3.0, 4.0, 5.0), 0, 2), ((None, 3.0, 9.0), 0, 0), ((9.0, 1.0, None), 2, 2)],
)
def test_the_filter_leads_whose_next_videos_reach_farthest(
    reached: Row, newest_first: int, oldest_first: int
) -> None:
    filters = Filters(status="completed", provider="one", metadata={"team": "x"})
    leaders = lists.equals(filters)
    assert lists.leader(filters, Page(limit=1), reached) == leaders[newest_first]
    assert lists.leader(filters, Page(limit=1, newest_first=False), reached) == leaders[oldest_first]
