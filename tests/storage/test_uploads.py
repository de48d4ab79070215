"""The rows of uploads, the same on every database; and the sweep of those whose time is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.engine.expiry import BATCH_PAUSE_SECONDS, SWEEP_SECONDS, sweep_uploads
from gateway.storage import checking
from gateway.storage.db import Database, Duplicate, Step, StorageError
from gateway.storage.store import Store
from gateway.storage.uploads import CONTENT_DELETE, SWEPT_MAX, UploadRow, Uploads
from tests.core.made import NOW, make_task
from tests.storage.stores import DATABASES, new, opened

pytestmark = pytest.mark.anyio
ROW = UploadRow(
    id="file_1", owner="key_1", filename="ä.png", purpose="vision", content_type="image/png", bytes=3,
    sha256="ab", created_at=NOW, expires_at=NOW + 10,
)
CONTENT = "data:image/png;base64,AAAA"


@pytest.fixture(params=DATABASES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(request.param, tmp_path) as one:
        yield one


@pytest.fixture
def uploads(database: Database) -> Uploads:
    return Store(database).uploads


async def test_what_was_added_is_there_for_its_owner_and_for_its_time(uploads: Uploads) -> None:
    await uploads.add(ROW, CONTENT)
    assert await uploads.get("file_1", "key_1", NOW) == ROW
    assert await uploads.content("file_1", "key_1", NOW + 9) == CONTENT
    others = (("file_1", "key_2", NOW), ("file_2", "key_1", NOW), ("file_1", "key_1", NOW + 10))
    for name, owner, now in others:
        assert await uploads.get(name, owner, now) is None
        assert await uploads.content(name, owner, now) is None
    with pytest.raises(Duplicate):
        await uploads.add(replace(ROW, owner="key_2"), CONTENT)


async def test_sizes_are_those_of_one_caller_and_of_now(uploads: Uploads) -> None:
    assert await uploads.sizes("key_1", NOW) == (0, 0)
    await uploads.add(ROW, CONTENT)
    await uploads.add(replace(ROW, id="file_2", bytes=7_000_000_000, expires_at=NOW + 20), CONTENT)
    await uploads.add(replace(ROW, id="file_3", owner="key_2"), CONTENT)
    assert await uploads.sizes("key_1", NOW) == (2, 7_000_000_003)
    assert await uploads.sizes("key_1", NOW + 10) == (1, 7_000_000_000)


async def test_what_is_deleted_is_gone_with_its_bytes(uploads: Uploads, database: Database) -> None:
    await uploads.add(ROW, CONTENT)
    assert not await uploads.delete("file_1", "key_2")
    assert await uploads.content("file_1", "key_1", NOW) == CONTENT
    assert await uploads.delete("file_1", "key_1")
    assert not await uploads.delete("file_1", "key_1")
    assert await database.read("select count(*) from upload_contents") == [(0,)]


async def test_an_image_of_a_video_is_found_by_its_field(database: Database) -> None:
    store = Store(database)
    await store.video_add(new(make_task("video_1"), {}, {"end_image": CONTENT}))
    assert await store.uploads.input("video_1", "end_image") == CONTENT
    assert await store.uploads.input("video_1", "image") is None


async def test_the_check_finds_halves(uploads: Uploads, database: Database) -> None:
    await uploads.add(ROW, CONTENT)
    assert await checking.check(database) == []
    await database.write([Step(CONTENT_DELETE, ("file_1",))])
    assert any("file_1" in problem for problem in await checking.check(database))


async def test_the_sweep_takes_all_whose_time_is_over_in_batches_and_goes_on(uploads: Uploads) -> None:
    for number in range(SWEPT_MAX + 3):
        await uploads.add(replace(ROW, id=f"old_{number}"), CONTENT)
    await uploads.add(replace(ROW, id="young", expires_at=NOW + 20), CONTENT)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await sweep_uploads(uploads, lambda: NOW + 10, unexpected, pause)
    assert pauses == [BATCH_PAUSE_SECONDS, SWEEP_SECONDS, SWEEP_SECONDS]
    assert await uploads.sizes("key_1", NOW) == (1, 3)


async def test_a_sweep_that_fails_is_told_and_tried_again(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[StorageError] = []

    async def fail(now: float) -> int:
        raise StorageError("away")

    async def pause(seconds: float) -> None:
        if len(told) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(uploads, "sweep", fail)
    with pytest.raises(asyncio.CancelledError):
        await sweep_uploads(uploads, lambda: NOW, told.append, pause)
    assert [str(error) for error in told] == ["away", "away"]


def unexpected(error: StorageError) -> None:
    raise error
