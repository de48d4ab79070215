"""The places of a page's videos in the line: those that each would be given alone, from one statement."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.states import Task
from gateway.storage.places import PLACES_MAX
from gateway.storage.store import Store
from tests.core.made import NOW, make_task
from tests.storage.stores import DATABASES, add, ended, opened

pytestmark = pytest.mark.anyio


@pytest.fixture(params=DATABASES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path) as database:
        yield Store(database)


def _before(task: Task, line: list[Task]) -> int:
    return sum((-other.priority, other.created_at) < (-task.priority, task.created_at) for other in line)


@pytest.mark.parametrize("levels", [1, 4])
async def test_each_has_the_place_that_it_has_alone(store: Store, levels: int) -> None:
    chance = random.Random(levels)
    line = [
        make_task(f"v{number:03}", owner=f"key_{number % 3}", priority=chance.randrange(levels) - levels // 2,
                  created_at=NOW + number // 3)
        for number in range(150)
    ]
    await add(store, *line, ended("over", created_at=NOW - 9), make_task("sent", state="submitting"))
    for count in (0, 1, 2, 37, PLACES_MAX):
        some = chance.sample(line, count)
        alone = [await store.waiting_before(task) for task in some]
        assert await store.waiting_before_each(some) == alone == [_before(task, line) for task in some]


async def test_one_that_waits_no_more_has_the_place_it_would_have(store: Store) -> None:
    await add(store, make_task("a"), make_task("c", created_at=NOW + 2))
    gone = make_task("gone", created_at=NOW + 1)
    assert await store.waiting_before_each([gone, make_task("c", created_at=NOW + 2), gone]) == [1, 1, 1]


async def test_more_than_a_page_is_refused(store: Store) -> None:
    many = [make_task(f"v{number}", created_at=NOW + number) for number in range(PLACES_MAX + 1)]
    with pytest.raises(ValueError, match="more than 100"):
        await store.waiting_before_each(many)
