"""Rows by the hundred thousand, straight into a SQLite database: a state that would take hours to come to.

One row is written by the product's own statements; the rest are copies of it, made inside SQLite. Not held
here: PostgreSQL, any measurement.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.facts import Candidate
from gateway.core.states import Task, accepted_event
from gateway.storage.rows import TASK_COLUMNS, NewVideo, asked_values, task_values
from gateway.storage.store import REQUEST_ADD, VIDEO_ADD
from tests.bench.bare import ORDER
from tests.bench.stage import PROVIDER, Gateway

SLUG: Final = "kling-v3.0-std-t2v"  # what takes the order of the bench
SPREAD_SECONDS: Final = 1.0  # between the creation of two rows
_DEADLINE_SECONDS: Final = 86_400.0
_AGE_SECONDS: Final = 100.0  # of a render: about the middle of what Kling takes
# What differs between the copies, in SQL: `n` counts them from 1.
_EACH: Final = {
    "id": "printf('video_%032x', n)",
    "vendor_task_id": "printf('filled%x', n)",
    "ref": """printf('{"task_id":"filled%x"}', n)""",
}
_NEW: Final = """with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < $count)
    insert into {table} ({names}) select {values} from {table}, numbers where {key} = 'video_pattern'"""


def rendering(gateway: Gateway, count: int) -> None:
    """`count` videos that have been rendering for a while, all due to be asked for."""
    now = time.time()
    task = _task("rendering", gateway.owner, now - _AGE_SECONDS)
    _fill(gateway.database, task, count, {})


def finished(gateway: Gateway, count: int) -> None:
    """`count` videos that came to their end, one a second; one of 1,000 failed, one of 256 has a label."""
    began = time.time() - count * SPREAD_SECONDS
    task = _task("completed", gateway.owner, began)
    task = msgspec.structs.replace(task, stage="linked", completed_at=began + 104.0, charged="yes")
    failed = "case when n % 1000 = 7 then 'failed' else 'completed' end"
    each = {"state": failed, "status": failed} | {
        name: f"{getattr(task, name)!r} + n * {SPREAD_SECONDS}"
        for name in ("created_at", "submitted_at", "started_at", "completed_at")
    }
    _fill(gateway.database, task, count, each)
    with closing(sqlite3.connect(gateway.database)) as connection, connection:
        connection.execute(
            """insert into video_labels (owner, name, value, created_at, video_id)
            select owner, 'shelf', 'top', created_at, id from videos where id like '%00'"""
        )


def _task(state: str, owner: str, began: float) -> Task:
    tried = Candidate(PROVIDER, SLUG)
    return Task(
        id="video_pattern", owner=owner, model=ORDER.model,
        state="rendering" if state == "rendering" else "completed", stage="rendering", candidates=(tried,),
        created_at=began, deadline_at=time.time() + _DEADLINE_SECONDS, replica="gone", last_seq=4, version=3,
        provider=PROVIDER, offering=SLUG, vendor_task_id="filled0", ref='{"task_id":null}',
        raw_status="TASK_STATUS_PROCESSING", raw_status_at=began, attempts=1, submitted_at=began,
        started_at=began, charged="yes",
    )


def _fill(database: Path, task: Task, count: int, each: dict[str, str]) -> None:
    new = NewVideo(
        task=task, request=msgspec.json.encode(ORDER).decode(), metadata={}, inputs={},
        events=(accepted_event(task),),
    )
    asked = asked_values(new)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("pragma synchronous = off")
        connection.execute("begin")
        connection.execute(VIDEO_ADD, _named(task_values(task)))
        connection.execute(REQUEST_ADD, _named(asked))
        named = {"count": count}
        for table, names, key in (
            ("videos", TASK_COLUMNS, "id"), ("video_requests", _columns(connection), "video_id"),
        ):
            found = _EACH | {"video_id": _EACH["id"]} | each
            values = ", ".join(found.get(name, name) for name in names)
            sql = _NEW.format(table=table, names=", ".join(names), values=values, key=key)
            connection.execute(sql, named)
            connection.execute(f"delete from {table} where {key} = 'video_pattern'")  # noqa: S608 (fixed)
        connection.execute("commit")
        connection.execute("pragma wal_checkpoint(truncate)")


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [str(row[1]) for row in connection.execute("pragma table_info(video_requests)")]


def _named(values: tuple[str | int | float | None, ...]) -> dict[str, str | int | float | None]:
    return {str(number): value for number, value in enumerate(values, 1)}
