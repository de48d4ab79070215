"""Whose tasks are whose: what a replica finds of its own, and takes over from one that is dead.

Part of the contract of the store, the same on every database; the rest of it is in
`tests/contract/test_store.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.facts import Candidate, Cause, Rejected, SubmitStarted
from gateway.core.states import STATUS_OF, UNOWNED, Change, Task
from gateway.core.tasks import apply
from gateway.storage.db import Database, GuardFailed
from gateway.storage.store import SUBMITTED_SINCE, TASKS_CLAIM, VERSIONS, Store
from tests.core.made import NOW, ONE, make_task
from tests.storage.stores import DATABASES, add, ended, opened

pytestmark = pytest.mark.anyio


@pytest.fixture(params=DATABASES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(request.param, tmp_path) as one:
        yield one


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def claimed(store: Store, replica: str, owner: str, limit: int) -> list[list[Task]]:
    """All that `owner` left, batch by batch."""
    batches: list[list[Task]] = []
    while batch := await store.tasks_claim(replica, owner, limit):
        batches.append(batch)
    return batches


async def test_a_replica_takes_over_in_batches_what_is_unfinished(store: Store) -> None:
    states, replicas = list(STATUS_OF), (UNOWNED, "dead", "mine")
    made = [
        make_task(f"v{n:02}", state=states[n % 7], created_at=NOW - n // 4, replica=replicas[n % 3])
        for n in range(63)
    ]
    await add(store, *made)
    unfinished = sorted(
        (task for task in made if not task.is_terminal), key=lambda task: (task.created_at, task.id)
    )
    for owner in (UNOWNED, "dead"):
        left = [replace(task, replica="mine", version=2) for task in unfinished if task.replica == owner]
        batches = await claimed(store, "mine", owner, 5)
        assert list(chain(*batches)) == left
        assert [len(batch) for batch in batches] == [5, 5, 2]
        assert [await store.task_get(task.id) for task in left] == left
    mine = [(task.id, 1 if task.replica == "mine" else 2) for task in unfinished]
    assert await store.versions("mine", "", 100) == sorted(mine)
    assert await store.versions("mine", "v40", 3) == [pair for pair in sorted(mine) if pair[0] > "v40"][:3]
    assert await store.versions("dead", "", 100) == []


async def test_what_has_ended_is_taken_over_while_it_may_still_bring_something(store: Store) -> None:
    late = [
        make_task(f"late_{n}", state=state, replica="dead", late_until=NOW + 9, created_at=NOW + n)
        for n, state in enumerate(["failed", "cancelled"])
    ]
    await add(store, *late, ended("over", replica="dead"), make_task("begun", replica="dead"))
    batch = await store.tasks_claim("mine", "dead", 5)
    assert [task.id for task in batch] == ["begun", "late_0", "late_1"]
    await store.task_save(Change(batch[1], replace(batch[1], late_until=None), ()))
    assert await store.versions("mine", "", 5) == [("begun", 2), ("late_1", 2)]


async def test_two_that_take_over_at_once_share(store: Store) -> None:
    await add(store, *(make_task(f"v{n:02}", replica="dead", created_at=NOW + n) for n in range(20)))
    taken = await asyncio.gather(*(store.tasks_claim(f"new_{n}", "dead", 5) for n in range(4)))
    assert sorted(task.id for batch in taken for task in batch) == [f"v{n:02}" for n in range(20)]
    assert [{task.replica for task in batch} for batch in taken] == [{f"new_{n}"} for n in range(4)]


async def test_the_oldest_are_taken_over_first(store: Store) -> None:
    states = ("waiting", "rendering") * 3  # whatever their states
    for n, state in enumerate(states):
        await add(store, make_task(f"v{n}", state=state, created_at=NOW - n, replica="dead"))
    assert [task.id for task in await store.tasks_claim("mine", "dead", 2)] == ["v5", "v4"]


async def test_a_replica_that_lost_a_task_cannot_save_it(store: Store) -> None:
    task = make_task(replica="slow")
    await add(store, task)
    await store.tasks_claim("quick", "slow", 10)
    with pytest.raises(GuardFailed):
        await store.task_save(apply(task, SubmitStarted(ONE), NOW))
    assert await store.task_get("video_1") == replace(task, replica="quick", version=2)


async def test_what_was_sent_since_a_moment_is_told_also_of_what_came_back(store: Store) -> None:
    await add(store, make_task("never sent"))
    for seconds, provider in enumerate(("one", "removed", "one", "two")):
        await add(store, make_task(f"video_{seconds}"))
        task = await store.task_get(f"video_{seconds}")
        assert task is not None
        sent = apply(task, SubmitStarted(Candidate(provider, "slug")), NOW + seconds)
        task = await store.task_save(sent)
        if seconds == 1:  # refused for now: it waits again, and its vendor has counted it
            await store.task_save(apply(task, Rejected(Cause("capacity", "full")), NOW + seconds))
    since = [("one", NOW), ("removed", NOW + 1), ("one", NOW + 2), ("two", NOW + 3)]
    assert await store.submitted_since(NOW) == since
    assert await store.submitted_since(NOW + 1.5) == since[2:]
    assert await store.submitted_since(NOW + 4) == []


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    """For how it goes about a statement; PostgreSQL is asked in `test_postgres_server.py`."""
    async with opened("sqlite-file", tmp_path) as one:
        yield one


async def plan(sqlite: Database, statement: str, *args: str | float) -> list[str]:
    return [str(row[3]) for row in await sqlite.read(f"explain query plan {statement}", args)]


async def test_history_does_not_slow_down_the_look_at_the_last_minute(sqlite: Database) -> None:
    lines = await plan(sqlite, SUBMITTED_SINCE, NOW)
    assert any("events_of_submissions" in line for line in lines), lines
    assert not [line for line in lines if line.startswith("SCAN") or "TEMP B-TREE" in line]


@pytest.mark.parametrize(
    ("statement", "args"), [(TASKS_CLAIM, ("mine", "dead", 5)), (VERSIONS, ("mine", "", 5))]
)
async def test_history_slows_nobody_down(
    sqlite: Database, statement: str, args: tuple[str | int | float, ...]
) -> None:
    lines = await plan(sqlite, statement, *args)
    assert any("videos_by_replica" in line for line in lines), lines
    assert not [line for line in lines if line == "SCAN videos"]
