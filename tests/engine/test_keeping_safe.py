"""What must never be stored, and what storing survives: wrong files, full disks, deaths, changes of mind.

In virtual time, through the real engine and store. Not held here: outages and dying links (`test_keeping`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.core.states import Task
from gateway.storage.files import FileStoreError
from providers.spec import Progress, Ref, Succeeded
from tests.blank import blank
from tests.engine.hosting import (
    FileVendor,
    Host,
    Shelf,
    away,
    is_over,
    kept,
    nothing_is_left_over,
    play,
    stored,
    video,
)
from tests.engine.life import Life, SwitchedVendor, life
from tests.virtual import run_virtual

HOUR, DAY = 3_600.0, 86_400.0


# --- what is no video ---------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><body>Not found</body></html>" + b" " * 200


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        ({"Content-Type": "text/html"}, PAGE),
        ({"Content-Type": "video/mp4"}, PAGE),
        ({"Content-Type": "application/json"}, b'{"error": "gone"}'),
        ({"Content-Type": "video/mp4"}, b'{"error": "gone"}'),
        ({"Content-Type": "video/mp4"}, video()[:5000]),
        ({"Content-Type": "video/mp4"}, video() + b"more"),
        ({"Content-Type": "video/mp4"}, video()[24:]),
        ({"Content-Type": "video/mp4", "Content-Length": "20000"}, video()),
        ({"Content-Type": "video/mp4", "Content-Length": "0"}, b""),
    ],
    ids=["page", "page as video", "json", "json as video", "cut", "tail", "no ftyp", "short", "empty"],
)
@pytest.mark.parametrize("is_for_ever", [False, True])
def test_what_is_no_whole_video_is_never_stored(
    headers: dict[str, str], data: bytes, *, is_for_ever: bool
) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        def wrong(request: httpx.Request) -> httpx.Response | None:
            return host.answer(200, dict(headers), data) if is_for_ever or len(host.asked) < 5 else None

        host.fault = wrong
        await one.create()
        task = await one.until(is_over)
        assert task.stage == ("lost" if is_for_ever else "stored")
        assert len(shelf.files) == (0 if is_for_ever else 1)

    play(story, repeats=True)


def test_a_link_that_outlives_its_time_is_not_given_up_for_one_bad_try() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(26 * HOUR)
        real, broken = vendor.poll, list[str]()

        async def poll(ref: Ref) -> Progress:
            host.dead_at.clear()
            given = vendor.given.get(ref["id"])
            return Succeeded(raw_status="SUCCEED", url=given[0]) if given else await real(ref)

        def breaks_once(request: httpx.Request) -> httpx.Response | None:
            if asyncio.get_running_loop().time() < 26 * HOUR or broken:
                return None
            broken.append(str(request.url))
            return httpx.Response(503)

        host.fault, vendor.poll = breaks_once, poll  # type: ignore[method-assign]
        await one.create()
        await stored(one)
        assert len(broken) == 1

    play(story, repeats=True)


def test_what_can_never_be_stored_is_lost_a_day_after_its_links_end() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        def wrong(request: httpx.Request) -> httpx.Response:
            host.dead_at.clear()  # the link lives on, whatever the vendor has said
            return host.answer(200, {"Content-Type": "video/mp4"}, video() + b"more")

        real = vendor.poll

        async def poll(ref: Ref) -> Progress:
            given = vendor.given.get(ref["id"])
            return Succeeded(raw_status="SUCCEED", url=given[0]) if given else await real(ref)

        host.fault, vendor.poll = wrong, poll  # type: ignore[method-assign]
        await one.create()
        task = await one.until(is_over)
        assert task.stage == "lost"
        assert "the middle of an MP4 box" in str((await one.events())[-1].detail["reason"])
        assert 25 * HOUR <= asyncio.get_running_loop().time() < 27 * HOUR
        assert len(host.asked) < 60, "it is fetched ever more seldom"

    play(story, repeats=True)


def test_a_server_that_drips_comes_to_an_end() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.seconds = 1000.0
        await one.create()
        await one.end()
        await asyncio.sleep(2 * HOUR)
        host.seconds = 0.0
        await stored(one)

    play(story, link_seconds=DAY)


# --- the place for files fails ------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1000, 9000, 10_000, None])
def test_a_full_disk_at_any_byte_leaves_nothing_and_is_tried_again(at: int | None) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        def full(key: str, count: int | None) -> None:
            if count == at and shelf.tries <= 3:
                raise FileStoreError("No space left on device (ENOSPC)")

        shelf.fault = full
        await one.create()
        await stored(one)
        assert (shelf.tries, len(shelf.files)) == (4, 1)
        assert one.sample("reelgate_file_copies_total", result="retried") == 3

    play(story)


def test_what_was_stored_although_the_storage_said_no_is_removed_or_named() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        real = shelf.put

        async def put(key: str, chunks: AsyncIterator[bytes], content_type: str) -> None:
            await real(key, chunks, content_type)
            if shelf.tries < 3:
                raise FileStoreError("the answer was lost")

        shelf.put = put  # type: ignore[method-assign]
        await one.create()
        task = await stored(one)
        assert list(shelf.files) == [task.file_key]

    play(story)


# --- others, crashes, changes of mind -----------------------------------------------------------------


def test_after_a_crash_in_the_middle_the_next_process_stores_it_and_the_rest_goes() -> None:
    async def main() -> None:
        database, host, shelf = blank(), Host(), Shelf()
        host.seconds = 1.0
        vendor = FileVendor(host)
        first = life({"one": vendor}, database, kept(host, shelf))
        one = await first.__aenter__()
        await one.create()
        await one.end()
        await asyncio.sleep(5.0)
        assert shelf.under_way == 1
        await one.crash()
        assert shelf.files == {}
        async with life({"one": vendor}, database, kept(host, shelf)) as two:
            two.engine.rename("replica-2")
            task = await stored(two)
            assert list(shelf.files) == [task.file_key]
            await nothing_is_left_over(two, shelf)
            ((count,),) = await database.read("select count(*) from file_removals")
            assert count == 1, "what the first may have written"
            await asyncio.sleep(2 * DAY)
            ((count,),) = await database.read("select count(*) from file_removals")
            assert (count, list(shelf.files)) == (0, [task.file_key])

    run_virtual(main())


def test_a_crash_between_the_file_and_its_name_leaves_no_file_behind() -> None:
    async def main() -> None:
        database, host, shelf = blank(), Host(), Shelf()
        vendor = FileVendor(host)
        first = life({"one": vendor}, database, kept(host, shelf))
        one = await first.__aenter__()
        written = asyncio.Event()
        real = one.engine.save

        async def save(task: Task, fact: object, *rest: object) -> Task | None:
            if shelf.files:
                written.set()
                await asyncio.Event().wait()
            return await real(task, fact, *rest)  # type: ignore[arg-type]

        one.engine.save = save  # type: ignore[assignment]
        await one.create()
        await written.wait()
        await one.crash()
        (orphan,) = shelf.files
        async with life({"one": vendor}, database, kept(host, shelf)) as two:
            two.engine.rename("replica-2")
            task = await stored(two)
            assert set(shelf.files) == {orphan, task.file_key}
            await asyncio.sleep(2 * DAY)
            assert set(shelf.files) == {task.file_key}

    run_virtual(main())


def test_a_file_whose_removal_has_begun_is_never_named() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        removed, real = list[str](), shelf.put

        async def put(key: str, chunks: AsyncIterator[bytes], content_type: str) -> None:
            await real(key, chunks, content_type)
            if not removed:
                removed.append(key)
                assert await one.store.files.removal_begin(key)
                shelf.files.pop(key)

        shelf.put = put  # type: ignore[method-assign]
        await one.create()
        task = await stored(one)
        assert task.file_key not in removed
        assert list(shelf.files) == [task.file_key]

    play(story)


def test_a_video_deleted_in_the_middle_leaves_no_file() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.seconds = 1.0
        await one.create()
        await one.end()
        await asyncio.sleep(5.0)
        assert await one.store.video_delete("video_1", "key_1")
        await asyncio.sleep(60.0)
        assert (shelf.files, one.engine.tasks) == ({}, {})

    play(story)


def test_what_another_replica_took_over_is_named_by_that_one_only() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.seconds = 1.0
        await one.create()
        await one.end()
        await asyncio.sleep(5.0)
        assert len(await one.store.tasks_claim("replica-2", "replica-1", 10)) == 1
        await asyncio.sleep(60.0)
        assert (shelf.files, one.engine.tasks) == ({}, {})
        task = await one.store.task_get("video_1")
        assert task is not None
        assert (task.stage, task.replica) == ("storing", "replica-2")

    play(story)


def test_without_a_place_for_files_what_waited_for_one_is_linked() -> None:
    async def main() -> None:
        database, host, shelf = blank(), Host(), Shelf()
        shelf.fault = away(DAY)
        vendor = FileVendor(host)
        first = life({"one": vendor}, database, kept(host, shelf))
        one = await first.__aenter__()
        await one.create()
        await one.end()
        await one.crash()
        async with life({"one": vendor}, database) as two:
            two.engine.rename("replica-2")
            task = await two.until(is_over)
            assert (task.stage, two.engine.tasks) == ("linked", {})

    run_virtual(main())


def test_files_off_costs_nothing() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor()}) as one:
            await one.create()
            task = await one.end()
            assert (task.stage, task.unstored_since, one.engine.tasks) == ("linked", None, {})
            assert one.sample("reelgate_files_stored_bytes_total") == 0

    run_virtual(main())
