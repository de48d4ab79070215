"""What the database knows of files: on every database the same, and never a file that nobody knows of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.facts import FileExpired, Polled, Stored
from gateway.core.states import Task
from gateway.core.tasks import apply
from gateway.storage.db import Database
from gateway.storage.file_rows import FileGone
from gateway.storage.rows import Idempotency
from gateway.storage.signing_keys import signing_key
from gateway.storage.store import _FOLLOWED, Store
from providers.spec import Succeeded
from tests.core.made import FILE, NOW, RENDERING, life, make_task
from tests.storage.stores import DATABASES, Two, add, ended, new, opened

GOT = Succeeded(raw_status="SUCCEED", url="https://files.example/v.mp4")
DONE = Polled(GOT, 600, "unknown", is_kept=True)
KEY = "60/video_1-0.mp4"


@pytest.fixture(params=DATABASES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def storing(store: Store, video_id: str = "video_1", **fields: object) -> Task:
    """A video whose file is to be stored, and is written down."""
    task = life(*RENDERING, DONE)
    changed = {"id": video_id, "vendor_task_id": video_id, "replica": "r", **fields}
    task = type(task)(**{name: getattr(task, name) for name in task.__struct_fields__} | changed)
    await add(store, task)
    await store.files.intend(KEY, NOW + 100)
    return task


async def stored(store: Store, task: Task) -> Task:
    return await store.task_save(apply(task, Stored(FILE, KEY), NOW + 60))


@pytest.mark.anyio
async def test_a_stored_file_is_named_by_its_video_and_no_longer_to_be_removed(store: Store) -> None:
    task = await storing(store)
    assert await store.files.removals(NOW + 100, 10) == [KEY]
    assert await store.files.removals(NOW + 99, 10) == []
    after = await stored(store, task)
    assert (after.file, after.file_key, after.stage) == (FILE, KEY, "stored")
    assert await store.task_get("video_1") == after
    video = await store.video_get("video_1", "key_1")
    assert video is not None
    assert video.task == after
    assert await store.files.removals(NOW + 1e9, 10) == []


@pytest.mark.anyio
async def test_what_is_being_removed_is_never_named(store: Store) -> None:
    task = await storing(store)
    assert await store.files.removal_begin(KEY)
    with pytest.raises(FileGone):
        await stored(store, task)
    assert await store.task_get("video_1") == task, "nothing of it was saved"
    await store.files.removal_end(KEY)
    with pytest.raises(FileGone):
        await stored(store, task)


@pytest.mark.anyio
async def test_what_is_named_is_never_removed(store: Store) -> None:
    await stored(store, await storing(store))
    assert not await store.files.removal_begin(KEY)


@pytest.mark.anyio
async def test_a_removal_is_put_off_but_never_brought_back(store: Store) -> None:
    task = await storing(store)
    await store.files.postpone(KEY, NOW + 500)
    assert await store.files.removals(NOW + 499, 10) == []
    assert await store.files.removals(NOW + 500, 10) == [KEY]
    await stored(store, task)
    await store.files.postpone(KEY, NOW + 500)
    assert await store.files.removals(1e12, 10) == [], "a video names it"


@pytest.mark.anyio
async def test_what_expires_is_to_be_removed_with_the_same_commit(store: Store) -> None:
    task = await stored(store, await storing(store))
    assert await store.files.expired(FILE.expires_at - 1, 10) == []
    assert await store.files.expired(FILE.expires_at, 10) == ["video_1"]
    await store.task_save(apply(task, FileExpired(), FILE.expires_at))
    assert await store.files.removals(0.0, 10) == [KEY]
    assert await store.files.expired(1e12, 10) == []
    assert await store.files.removal_begin(KEY)
    await store.files.removal_end(KEY)
    assert await store.files.removals(1e12, 10) == []


@pytest.mark.anyio
async def test_what_is_deleted_is_to_be_removed_with_the_same_commit(store: Store) -> None:
    await stored(store, await storing(store))
    assert not await store.video_delete("video_1", "another")
    assert await store.files.removals(1e12, 10) == []
    assert await store.video_delete("video_1", "key_1")
    assert await store.files.removals(0.0, 10) == [KEY]


@pytest.mark.anyio
async def test_a_video_with_a_file_to_store_is_taken_over(store: Store) -> None:
    task = await storing(store)
    await add(store, ended("stored", replica="r", vendor_task_id=None))
    assert await store.versions("r", "", 10) == [("video_1", task.version)]
    (taken,) = await store.tasks_claim("other", "r", 10)
    assert (taken.id, taken.replica, taken.unstored_since) == ("video_1", "other", task.unstored_since)
    assert await store.owners_unlisted() == ["other"]


@pytest.mark.anyio
async def test_records_that_are_too_old_are_found_and_those_with_hope_are_not(store: Store) -> None:
    for video_id, at, fields in (
        ("old", 10.0, {}), ("older", 5.0, {}), ("young", 100.0, {}), ("late", 1.0, {"late_until": 1e12}),
        ("unstored", 1.0, {"unstored_since": 1.0}),
    ):
        await add(store, ended(video_id, completed_at=at, **fields))
    await add(store, make_task("waiting", created_at=1.0))
    found = await store.files.outdated(50.0, 10)
    assert found == [("older", "key_1", "completed"), ("old", "key_1", "completed")]
    assert await store.files.outdated(50.0, 1) == found[:1]


@pytest.mark.anyio
async def test_idempotency_keys_go_with_their_videos_but_not_on_the_first_day(store: Store) -> None:
    for number, (name, created_at) in enumerate(
        (("gone", 1.0), ("living", 1.0), ("young", 100.0), ("gone too", 2.0))
    ):
        task = ended(f"video_{number}", created_at=created_at)
        await store.video_add(new(task), Idempotency(name, "print", task.id))
        if name != "living":
            await store.video_delete(task.id, "key_1")
    after: tuple[str, str] | None = ("", "")
    rounds = 0
    while after is not None:
        after = await store.files.keys_drop(after, 50.0, 2)
        rounds += 1
    assert rounds == 3
    names = ("gone", "living", "young", "gone too")
    left = [name for name in names if await store.idempotency_get("key_1", name)]
    assert left == ["living", "young"]


@pytest.mark.anyio
async def test_a_chore_is_done_by_one_at_a_time(store: Store) -> None:
    taken = [await store.files.chore_take("sweep", at, 60.0) for at in (1000.0, 1001.0, 1059.0, 1060.0)]
    assert taken == [True, False, False, True]
    assert await store.files.chore_take("another", 1060.0, 60.0)


@pytest.mark.anyio
async def test_the_key_for_links_is_made_once(database: Database) -> None:
    keys = await asyncio.gather(*(signing_key(database, NOW) for _ in range(10)))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert await signing_key(database, NOW + 1) == keys[0]


@pytest.mark.anyio
async def test_of_many_replicas_one_takes_the_chore_and_all_have_one_key(two: Two) -> None:
    stores = [Store(database) for database in two]
    taken = await asyncio.gather(*(
        store.files.chore_take("sweep", 1000.0, 60.0) for store in stores for _ in range(10)
    ))
    assert sum(taken) == 1
    assert len(set(await asyncio.gather(*(signing_key(database, NOW) for database in two)))) == 1


@pytest.mark.anyio
async def test_what_an_older_program_asks_for_still_goes_by_the_index(two: Two) -> None:
    before = _FOLLOWED.replace("or unstored_since is not null", "").strip()
    assert before != _FOLLOWED
    for followed in (_FOLLOWED, before):
        async with two[0].snapshot() as read:
            await read("set local enable_seqscan = off", ())
            sql = f"select id from videos where {followed} and replica = 'r'"  # noqa: S608
            plan = await read(f"explain {sql}", ())
        assert "videos_by_replica" in str(plan), plan
