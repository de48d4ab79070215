"""Lists of a caller's videos, the same on every database: filters, and pages that skip and repeat nothing.

Part of the contract of the store; the rest of it is in `tests/contract/test_store.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from gateway.core.states import Task
from gateway.storage import lists
from gateway.storage.rows import Filters, Page
from gateway.storage.store import Store
from tests.core.made import NOW, make_task
from tests.storage.stores import DATABASES, add, ended, ids, new, opened

pytestmark = pytest.mark.anyio

# What a filter may ask for: what most videos have, few, or none.
VALUES: Final = {
    "status": ("completed", "failed", "cancelled"), "model": ("kling-v3", "kling-v2"),
    "provider": ("one", "two"), "team": ("x", "y"), "shelf": ("top", "none"),
}


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


def _mixed() -> Iterator[tuple[Task, dict[str, str]]]:
    """Videos with the VALUES in many combinations, several of one time."""
    for number in range(90):
        state = "failed" if number % 7 == 0 else "completed"
        task = make_task(
            f"v{number * 31 % 90:02}", state=state, stage=None if state == "failed" else "linked",
            model="kling-v2" if number % 11 == 0 else "kling-v3", provider="two" if number % 2 else "one",
            created_at=NOW + number // 4,
        )
        yield task, {"team": "y" if number % 13 == 0 else "x"} | ({"shelf": "top"} if number % 5 == 0 else {})


def _fits(task: Task, labels: dict[str, str], asked: dict[str, str]) -> bool:
    columns = {"status": task.status, "model": task.model, "provider": task.provider}
    return all((columns | labels).get(name) == value for name, value in asked.items())


@pytest.mark.parametrize("reach_rows", [1, 3, 256])
async def test_filters_together_find_what_has_them_all_whichever_leads(
    store: Store, monkeypatch: pytest.MonkeyPatch, reach_rows: int
) -> None:
    monkeypatch.setattr(lists, "REACH_ROWS", reach_rows)
    mixed = list(_mixed())
    for task, labels in mixed:
        await store.video_add(new(task, labels))
    tried = 0
    for names in itertools.chain(*(itertools.combinations(VALUES, count) for count in (1, 2, 5))):
        for values in itertools.product(*(VALUES[name] for name in names)):
            asked = dict(zip(names, values, strict=True))
            labels = {name: asked[name] for name in ("team", "shelf") if name in asked}
            columns = {name: value for name, value in asked.items() if name not in labels}
            filters = replace(Filters(metadata=labels), **columns)
            newest_first = tried % 2 == 0
            own = sorted((task.created_at, task.id) for task, has in mixed if _fits(task, has, asked))
            ordered = own[::-1] if newest_first else own
            page = Page(limit=4, newest_first=newest_first)
            assert await ids(store, filters, page) == [name for _, name in ordered[:5]], asked
            if len(ordered) > 2:
                rest = replace(page, after=ordered[1])
                assert await ids(store, filters, rest) == [name for _, name in ordered[2:7]], asked
            tried += 1


async def test_a_label_may_be_as_long_as_any(store: Store) -> None:
    chars = [chr(0x10000 + number * 7919 % 0xF0000) for number in range(600)]  # four bytes each
    name, value = "".join(chars[:64]), "".join(chars[64:576])
    await store.video_add(new(make_task("a"), {name: value, "empty": ""}))
    assert await ids(store, Filters(metadata={name: value, "empty": ""})) == ["a"]
