"""What links that die, and a vendor's word that it has no other, do to a file: bounded asking, no hasty loss.

In virtual time, through the real engine and store. Not held here: outages of the store (`test_keeping`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from gateway.engine.keeping import DENIED_SECONDS
from providers.spec import Failed, Pending, Progress, Ref, VendorError
from tests.blank import blank
from tests.engine.hosting import (
    DAY,
    HOUR,
    FileVendor,
    Host,
    Shelf,
    away,
    is_over,
    kept,
    kinds,
    play,
    stored,
)
from tests.engine.life import Answer, Life, life
from tests.virtual import run_virtual

FORGOTTEN = VendorError("not_found", "unknown", "no such task", status=404)
FAILED = Failed(raw_status="FAILED", code="vendor_failed", message="the render broke")


def dead(status: int = 404, until: float = float("inf")) -> httpx.Response | None:
    """What every link answers until that virtual time."""
    return httpx.Response(status) if asyncio.get_running_loop().time() < until else None


# --- every poll names another link --------------------------------------------------------------------

@pytest.mark.parametrize("link_seconds", [HOUR, 0.0], ids=["an hour", "dead at once"])
def test_links_that_are_all_dead_are_asked_for_ever_more_seldom_and_end_after_a_day(
    link_seconds: float,
) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.fault = lambda request: dead()
        await one.create()
        done = await one.end()
        assert done.completed_at is not None
        polls = len(vendor.asked_at)
        await asyncio.sleep(HOUR)
        assert 5 <= len(vendor.asked_at) - polls <= 9
        assert (await kinds(one)).count("link_renewed") <= 9, "each is a commit"
        assert len(host.asked) <= 10
        assert one.sample("reelgate_file_copies_total", result="retried") >= 4
        task = await one.until(is_over)
        assert (task.state, task.stage) == ("completed", "lost")
        last = (await one.events())[-1]
        assert DAY <= last.at - done.completed_at < DAY + 2 * HOUR
        assert "the vendor's link is dead (HTTP 40" in str(last.detail["reason"])
        assert len(vendor.asked_at) - polls < 40

    play(story, link_seconds)


def test_it_is_never_asked_for_more_often_than_its_provider_allows() -> None:
    async def main() -> None:
        host, shelf = Host(), Shelf()
        vendor = FileVendor(host)
        host.fault = lambda request: dead()
        bounds = 'poll_min = "50m"\npoll_max = "50m"'
        async with life({"one": vendor}, keeping=kept(host, shelf), one=bounds) as one:
            await one.create(deadline_at=one.now() + DAY)
            await one.end()
            polls = len(vendor.asked_at)
            await asyncio.sleep(3 * HOUR)
            assert len(vendor.asked_at) - polls <= 2 + 3

    run_virtual(main())


@pytest.mark.parametrize("link_seconds", [HOUR, 0.0], ids=["an hour", "said to be over at once"])
def test_a_link_that_was_renewed_once_and_works_is_stored_at_once(link_seconds: float) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        real = vendor.poll

        async def poll(ref: Ref) -> Progress:
            progress = await real(ref)
            for url in vendor.given.get(ref["id"], [])[1:]:
                host.dead_at.pop(url, None)  # it lives on, whatever was said of it
            return progress

        vendor.poll = poll  # type: ignore[method-assign]
        host.fault = lambda request: dead() if "/0.mp4" in str(request.url) else None
        await one.create()
        done = await one.end()
        task = await stored(one)
        assert task.file is not None
        assert task.file.stored_at - (done.completed_at or 0) < 1
        assert (await kinds(one)).count("link_renewed") == 1

    play(story, link_seconds)


@pytest.mark.parametrize("status", [200, 503], ids=["no video", "unreachable"])
def test_links_that_bring_nothing_end_although_each_is_renewed_at_its_end(status: int) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.fault = lambda request: host.answer(status, {"Content-Type": "text/html"}, b"<html>" * 20)
        await one.create()
        task = await one.until(is_over, seconds=3 * DAY)
        assert task.stage == "lost"
        assert "link_renewed" in await kinds(one)
        assert DAY <= asyncio.get_running_loop().time() < DAY + 3 * HOUR

    play(story)


def test_another_process_takes_no_further_day() -> None:
    async def main() -> None:
        database, host, shelf = blank(), Host(), Shelf()
        host.fault = lambda request: dead()
        vendor = FileVendor(host)
        first = life({"one": vendor}, database, kept(host, shelf))
        one = await first.__aenter__()
        await one.create()
        await one.end()
        await asyncio.sleep(20 * HOUR)
        await one.crash()
        async with life({"one": vendor}, database, kept(host, shelf)) as two:
            two.engine.rename("replica-2")
            task = await two.until(is_over)
            assert task.stage == "lost"
            assert DAY <= asyncio.get_running_loop().time() < DAY + 2 * HOUR

    run_virtual(main())


def test_links_that_die_after_a_day_without_a_store_are_not_given_up_within_the_hour() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(26 * HOUR)
        host.fault = lambda request: dead(until=26.5 * HOUR)
        await one.create()
        await stored(one)
        assert len(host.asked) < 60

    play(story)


# --- the vendor says that it has none -----------------------------------------------------------------

def answering(vendor: FileVendor, *parts: Sequence[Answer]) -> list[float]:
    """Let the next polls of a vendor end so, one after the other, and then as always. When it was asked."""
    real, asked, answers = vendor.poll, list[float](), [answer for part in parts for answer in part]

    async def poll(ref: Ref) -> Progress:
        asked.append(asyncio.get_running_loop().time())
        answer = answers.pop(0) if answers else None
        if isinstance(answer, VendorError):
            raise answer
        return await real(ref) if answer is None else answer

    vendor.poll = poll  # type: ignore[method-assign]
    return asked


@pytest.mark.parametrize("denial", [FORGOTTEN, FAILED], ids=["not found", "failed"])
@pytest.mark.parametrize("times", [1, 10])
def test_a_paid_file_is_not_lost_by_an_odd_answer(denial: Answer, times: int) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(2 * HOUR)
        await one.create()
        await one.end()
        answering(vendor, [denial] * times)
        await stored(one)

    play(story)


@pytest.mark.parametrize(
    "other", [Pending(raw_status="RUNNING"), VendorError("timeout", "unknown", "no answer")],
    ids=["pending", "timeout"],
)
def test_a_denial_is_believed_when_it_has_gone_on_unbroken_for_an_hour(other: Answer) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(10 * HOUR)
        await one.create()
        await one.end()
        asked = answering(vendor, [FORGOTTEN] * 20, [other], [FAILED, FORGOTTEN] * 500)
        task = await one.until(is_over)
        assert (task.stage, len(asked) > 30) == ("lost", True)
        waited = asyncio.get_running_loop().time() - asked[21]
        assert DENIED_SECONDS <= waited < DENIED_SECONDS + 120
        assert "no other" in str((await one.events())[-1].detail["reason"])

    play(story)


def test_a_denial_before_the_links_end_leaves_the_link_its_time() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        host.fault = lambda request: dead(until=3 * HOUR)
        await one.create()
        await one.end()
        answering(vendor, [FORGOTTEN] * 10_000)
        await stored(one)
        assert asyncio.get_running_loop().time() < 3 * HOUR + 120

    play(story, link_seconds=DAY)
