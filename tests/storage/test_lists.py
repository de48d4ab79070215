"""Lists of a caller's videos, the same on every database: filters, and pages that skip and repeat nothing.

Part of the contract of the store; the rest of it is in `tests/contract/test_store.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.states import Task
from gateway.storage.rows import Filters, Page
from gateway.storage.store import Store
from tests.core.made import NOW, make_task
from tests.storage.stores import DATABASES, add, ended, ids, opened

pytestmark = pytest.mark.anyio


@pytest.fixture(params=DATABASES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path) as database:
        yield Store(database)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), ["e", "d", "c", "b", "a"]),
        (Filters(status="in_progress"), ["c", "b"]),
        (Filters(stage="submission_unknown"), ["c"]),
        (Filters(model="kling-v2"), ["d"]),
        (Filters(provider="one"), ["c", "b"]),
        (Filters(created_after=NOW + 3), ["e", "d"]),
        (Filters(created_before=NOW + 1), ["b", "a"]),
        (Filters(created_after=NOW + 1, created_before=NOW + 3), ["d", "c", "b"]),
        (Filters(metadata={"colour": "red"}), ["c", "a"]),
        (Filters(metadata={"colour": "red", "team": "x'); --"}), ["c"]),
        (Filters(metadata={"colour": "r%"}), []),
        (Filters(metadata={"team": "red"}), []),
        (Filters(status="in_progress", provider="one", metadata={"colour": "red"}, created_after=NOW), ["c"]),
        (Filters(status="queued", stage="rendering"), []),
        (Filters(model="{0} or 1=1 --"), []),
    ],
    ids=str,
)
@pytest.mark.parametrize("newest_first", [True, False])
async def test_filters(store: Store, filters: Filters, expected: list[str], newest_first: bool) -> None:
    await add(store, make_task("a"), colour="red")
    await add(store, make_task("b", state="rendering", stage="rendering", provider="one", created_at=NOW + 1))
    await add(store, make_task("c", state="submission_unknown", stage="submission_unknown", provider="one",
                               created_at=NOW + 2), colour="red", team="x'); --")
    await add(store, make_task("d", model="kling-v2", created_at=NOW + 3), colour="blue")
    await add(store, ended("e", provider="two", created_at=NOW + 4))
    await add(store, make_task("f", owner="key_2"), colour="red")
    found = await ids(store, filters, Page(limit=100, newest_first=newest_first))
    assert found == (expected if newest_first else expected[::-1])


async def test_a_page_has_one_more_when_there_is_more(store: Store) -> None:
    await add(store, *(make_task(name, created_at=NOW + place) for place, name in enumerate("abc")))
    assert await ids(store, page=Page(limit=2)) == ["c", "b", "a"]
    assert await ids(store, page=Page(limit=1)) == ["c", "b"]
    assert await ids(store, page=Page(limit=3)) == ["c", "b", "a"]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 4, 100])
async def test_pages_skip_and_repeat_nothing_while_videos_come_and_go(
    store: Store, newest_first: bool, limit: int
) -> None:
    made = [ended(f"v{number:02}", created_at=NOW + number // 5 / 8) for number in range(17)]  # equal times
    await add(store, *reversed(made))
    filters = Filters(status="completed")
    seen: list[Task] = []
    more, page = True, Page(limit=limit, newest_first=newest_first)
    while more:
        found = await store.video_list("key_1", filters, page)
        more = len(found) > limit
        seen += [video.task for video in found[:limit]]
        page = replace(page, after=(seen[-1].created_at, seen[-1].id))
        count = len(seen)
        await add(store, ended(f"v{count:02}x", created_at=NOW + count // 5 / 8))
        await add(store, ended(f"new{count}", created_at=NOW + 9))
        await store.video_delete(seen[-1].id, "key_1")  # the row that the next page begins after
        if len(seen) > 60:
            break  # oldest first, each page brings a newer one
    names = [task.id for task in seen]
    assert len(names) == len(set(names))
    assert seen == sorted(seen, key=lambda task: (task.created_at, task.id), reverse=newest_first)
    assert {task.id for task in made} <= set(names)
