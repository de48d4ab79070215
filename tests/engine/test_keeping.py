"""Finished videos are copied out of their vendors' hands, whatever fails on the way: all stored, or reported.

In virtual time, through the real engine and store. Not held here: a disk or a bucket as the place for files
(`tests/storage`), callers (`tests/api`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from gateway.core.facts import Cancelled
from gateway.engine.copies import COPIES_MAX
from providers.spec import Pending, Progress, Ref, Succeeded, Unrecognised, VendorError
from tests.engine.hosting import (
    FileVendor,
    Host,
    Shelf,
    away,
    is_over,
    kinds,
    play,
    stored,
    video,
)
from tests.engine.life import Life

HOUR, DAY = 3_600.0, 86_400.0


# --- all is well --------------------------------------------------------------------------------------


def test_a_finished_video_is_stored_at_once_and_followed_no_longer() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        await one.create()
        done = await one.end()
        assert (done.stage, done.is_followed) == ("storing", True)
        task = await stored(one)
        assert task.file is not None
        assert task.file.stored_at - (done.completed_at or 0) < 1.0
        assert task.file.expires_at == task.file.stored_at + 30 * DAY
        assert list(shelf.files) == [task.file_key]
        assert one.engine.tasks == {}
        assert one.sample("reelgate_files_stored_bytes_total") == 10_000
        assert one.sample("reelgate_file_copies_total", result="stored") == 1
        assert (await kinds(one))[-2:] == ["completed", "stored"]
        assert host.sent == 10_000

    play(story)


def test_few_are_copied_at_once() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.seconds = 10.0
        names = [f"video_{number:02}" for number in range(30)]
        for name in names:
            await one.create(name)
        for name in names:
            await stored(one, name)
        assert shelf.most_under_way == COPIES_MAX

    play(story)


def test_the_links_end_is_what_orders_the_line() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        names = [f"video_{number:02}" for number in range(40)]
        for number, name in enumerate(names):
            task = one.new(name, result_expires_at=1000.0 - number, unstored_since=0.0)
            one.engine.copies.line_up(task)
        one.engine.copies.leave(names[-1])
        turns = [one.engine.copies.next() for _ in range(COPIES_MAX + 1)]
        assert turns == [*reversed(names[-1 - COPIES_MAX : -1]), None]
        one.engine.copies.ended(names[-2])
        assert one.engine.copies.next() == names[-2 - COPIES_MAX]

    play(story)


def test_a_late_video_is_stored_too() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        await one.create()
        await one.until(lambda task: task.state == "rendering")
        await one.happens(Cancelled(detach=True))
        await one.until(lambda task: task.late_at is not None)
        task = await one.until(is_over)
        assert (task.state, task.stage) == ("cancelled", None)
        assert list(shelf.files) == [task.file_key]

    play(story)


# --- outages ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_through_a_storage_outage_of_12_hours_all_are_stored_although_their_links_die() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(12 * HOUR)
        names = [f"video_{number}" for number in range(20)]
        for name in names:
            await one.create(name)
        for name in names:
            await one.end(name)
        await asyncio.sleep(6 * HOUR)
        age = one.engine.now() - min(task.unstored_since or 0 for task in one.engine.tasks.values())
        assert age > 5 * HOUR
        for name in names:
            task = await stored(one, name)
            assert task.file is not None
            assert task.file.stored_at - one.engine.now() < HOUR
            assert "link_renewed" in await kinds(one, name)
        assert len(shelf.files) == 20
        assert one.sample("reelgate_file_copies_total", result="lost") == 0
        assert shelf.tries < 20 * 12 * 60 * 3, "it did not hammer"
        assert host.sent == 20 * 10_000, "nothing was fetched that could not be put anywhere"

    play(story)


def test_what_no_vendor_links_to_any_more_is_reported_as_lost() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(12 * HOUR)
        await one.create()
        task = await one.until(is_over)
        assert (task.state, task.stage, task.file_key) == ("completed", "lost", None)
        (last,) = (await one.events())[-1:]
        assert (last.type, last.status) == ("lost", "completed")
        assert "403" in str(last.detail["reason"])
        assert one.sample("reelgate_file_copies_total", result="lost") == 1
        assert 12 * HOUR <= asyncio.get_running_loop().time() < 13 * HOUR, "not before it was tried"
        assert one.engine.tasks == {}

    play(story, repeats=True)


def test_a_vendor_that_forgot_the_job_ends_the_hope() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(3 * HOUR)
        await one.create()
        await one.end()
        vendor.jobs.clear()
        task = await one.until(is_over)
        assert task.stage == "lost"
        assert 2 * HOUR <= asyncio.get_running_loop().time() < 2.1 * HOUR, "an hour after its link's end"

    play(story)


@pytest.mark.parametrize(
    "odd",
    [
        Pending(raw_status="RUNNING"), Unrecognised(raw_status="ARCHIVING"),
        Succeeded(raw_status="SUCCEED", url=None),
    ],
    ids=lambda odd: type(odd).__name__,
)
def test_an_odd_answer_ends_no_hope(odd: Progress) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(2 * HOUR)
        await one.create()
        await one.end()
        real, asked = vendor.poll, list[float]()

        async def poll(ref: Ref) -> Progress:
            asked.append(one.engine.now())
            return odd if one.engine.now() < asked[0] + HOUR else await real(ref)

        vendor.poll = poll  # type: ignore[method-assign]
        await stored(one)
        assert len(asked) > 2

    play(story)


def test_odd_answers_alone_end_it_after_a_day() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(10 * DAY)
        await one.create()
        await one.end()

        async def poll(ref: Ref) -> Progress:
            return Pending(raw_status="RUNNING")

        vendor.poll = poll  # type: ignore[method-assign]
        task = await one.until(is_over)
        assert task.stage == "lost"
        assert DAY <= asyncio.get_running_loop().time() < DAY + 3 * HOUR

    play(story)


def test_a_fault_of_the_adapter_is_reported_and_the_hope_ends_after_a_day() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(10 * DAY)
        await one.create()
        await one.end()

        async def poll(ref: Ref) -> Progress:
            raise KeyError("id")  # as of the reference of another adapter

        vendor.poll = poll  # type: ignore[method-assign]
        task = await one.until(is_over)
        assert task.stage == "lost"
        assert DAY <= asyncio.get_running_loop().time() < DAY + 3 * HOUR

    play(story)


def test_while_the_vendor_is_away_as_well_there_is_hope_for_a_day() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(2 * HOUR)
        await one.create()
        await one.create("video_2")
        await one.end()
        await one.end("video_2")
        vendor.denies = VendorError("unavailable", "unknown", "HTTP 503", status=503)
        await asyncio.sleep(20 * HOUR)
        assert {task.stage for task in one.engine.tasks.values()} == {"storing"}
        await one.store.video_delete("video_2", "key_1")
        vendor.denies = None
        await stored(one)

    play(story)


def test_a_link_that_dies_in_the_middle_is_renewed() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        def cut(request: httpx.Request) -> httpx.Response | None:
            if not host.bodies:
                host.dead_at[str(request.url)] = 0.0
                return host.served(request, stops_at=4000)
            return None

        host.fault = cut
        await one.create()
        await stored(one)
        assert "link_renewed" in await kinds(one)
        assert len({url for url, _ in host.asked}) == 2

    play(story)


# --- going on -----------------------------------------------------------------------------------------


def breaking(host: Host, *, times: int) -> Callable[[httpx.Request], httpx.Response | None]:
    """The first answers break off after 3000 bytes."""

    def fault(request: httpx.Request) -> httpx.Response | None:
        return host.served(request, stops_at=3000) if len(host.bodies) < times else None

    return fault


@pytest.mark.parametrize("times", [1, 3])
def test_it_goes_on_where_it_broke_off(times: int) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.fault = breaking(host, times=times)
        await one.create()
        await stored(one)
        assert host.sent == 10_000, "nothing was fetched twice"
        resumed = [f"bytes={3000 * number}-" for number in range(1, times + 1)]
        assert [asked for _, asked in host.asked] == [None, *resumed]
        assert shelf.tries == 1

    play(story)


def test_from_the_start_where_nothing_tells_that_it_is_the_same_file() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.has_tags = False
        host.fault = breaking(host, times=1)
        await one.create()
        await stored(one)
        assert [asked for _, asked in host.asked] == [None, None]
        assert shelf.tries == 2

    play(story)


def test_a_server_without_ranges_is_skipped_along() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.has_ranges = False
        host.fault = breaking(host, times=1)
        await one.create()
        await stored(one)
        assert (host.sent, shelf.tries) == (13_000, 1)

    play(story)


def test_two_files_are_never_put_together() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        def changed(request: httpx.Request) -> httpx.Response | None:
            if host.bodies:
                return None
            answer = host.served(request, stops_at=3000)
            host.files[str(request.url)] = video(mark=b"z")
            return answer

        host.fault = changed
        await one.create()
        task = await stored(one)
        assert shelf.files[task.file_key or ""] == video(mark=b"z")

    play(story)


def test_a_server_that_always_breaks_off_is_not_followed_for_ever() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.fault = lambda request: host.served(request, stops_at=0)
        await one.create()
        task = await one.until(is_over)
        assert (task.stage, shelf.files) == ("lost", {})

    play(story, repeats=True)
