"""Whose tasks are whose: what a replica finds of its own, and takes over from one that is dead.

Part of the contract of the store, the same on every database; the rest of it is in
`tests/contract/test_store.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.facts import Candidate, Cause, Rejected, SubmitStarted
from gateway.core.states import STATUS_OF, Change, Task
from gateway.core.tasks import apply
from gateway.storage.db import Database, GuardFailed
from gateway.storage.store import SUBMITTED_SINCE, TASKS_CLAIM, TASKS_OWNED, Store
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


async def owned(store: Store, replica: str, limit: int) -> list[list[Task]]:
    """All batches of `replica`'s tasks."""
    batches: list[list[Task]] = []
    after = (0.0, "")
    while batch := await store.tasks_owned(replica, after, limit):
        batches.append(batch)
        after = (batch[-1].created_at, batch[-1].id)
    return batches


async def test_a_replica_takes_over_in_batches_what_is_unfinished(store: Store) -> None:
    states, replicas = list(STATUS_OF), (None, "dead", "mine")
    made = [
        make_task(f"v{n:02}", state=states[n % 7], created_at=NOW - n // 4, replica=replicas[n % 3])
        for n in range(42)
    ]
    await add(store, *made)
    unfinished = sorted(
        (task for task in made if not task.is_terminal), key=lambda task: (task.created_at, task.id)
    )
    mine = [task for task in unfinished if task.replica == "mine"]
    assert list(chain(*await owned(store, "mine", 5))) == mine
    assert [await store.tasks_claim("mine", 5) for _ in range(5)] == [True, True, True, True, False]
    batches = await owned(store, "mine", 5)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 4]
    assert list(chain(*batches)) == [
        task if task.replica == "mine" else replace(task, replica="mine", version=2) for task in unfinished
    ]
    assert await owned(store, "dead", 5) == []


async def test_what_has_ended_is_taken_over_while_it_may_still_bring_something(store: Store) -> None:
    late = [
        make_task(f"late_{n}", state=state, replica=replica, late_until=NOW + 9, created_at=NOW + n)
        for n, (state, replica) in enumerate([("failed", "dead"), ("cancelled", "mine"), ("failed", None)])
    ]
    await add(store, *late, ended("over", replica="dead"), make_task("begun", replica="dead"))
    assert await owned(store, "mine", 5) == [[late[1]]]
    assert await store.tasks_claim("mine", 5)
    assert not await store.tasks_claim("mine", 5)
    (batch,) = await owned(store, "mine", 5)
    assert [task.id for task in batch] == ["begun", "late_0", "late_1", "late_2"]
    await store.task_save(Change(batch[1], replace(batch[1], late_until=None), ()))
    left = await owned(store, "mine", 2)
    assert [[task.id for task in some] for some in left] == [["begun", "late_1"], ["late_2"]]


async def test_the_oldest_are_taken_over_first(store: Store) -> None:
    states = ("waiting", "rendering") * 3  # whatever their states
    for n, state in enumerate(states):
        await add(store, make_task(f"v{n}", state=state, created_at=NOW - n, replica="dead"))
    await store.tasks_claim("mine", 2)
    assert [[task.id for task in batch] for batch in await owned(store, "mine", 9)] == [["v5", "v4"]]


async def test_a_replica_that_lost_a_task_cannot_save_it(store: Store) -> None:
    task = make_task(replica="slow")
    await add(store, task)
    await store.tasks_claim("quick", 10)
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


async def test_history_does_not_slow_down_the_look_at_the_last_minute(database: Database) -> None:
    plan = [str(row[3]) for row in await database.read(f"explain query plan {SUBMITTED_SINCE}", (NOW,))]
    assert any("events_of_submissions" in line for line in plan), plan
    assert not [line for line in plan if line.startswith("SCAN") or "TEMP B-TREE" in line]


@pytest.mark.parametrize(
    ("statement", "args"), [(TASKS_CLAIM, ("mine", 5)), (TASKS_OWNED, ("mine", 0.0, "", 5))]
)
async def test_history_slows_nobody_down(
    database: Database, statement: str, args: tuple[str | int | float, ...]
) -> None:
    plan = [str(row[3]) for row in await database.read(f"explain query plan {statement}", args)]
    assert any("videos_followed" in line for line in plan), plan
    assert not [line for line in plan if line == "SCAN videos" or "TEMP B-TREE" in line]
