"""A vendor that dies while few videos are there: too few failures to tell it from a sick video; it is asked.

In virtual time, through the real engine and store. Not held here: outages that many videos meet
(`test_outages`), how a vendor is found to be back (`test_probes`).
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from gateway.core.health import DOUBT_SECONDS
from gateway.engine.provider import NO_JOB
from providers.spec import Progress, Ref, VendorError
from tests.engine.life import Life, SwitchedVendor, life
from tests.engine.test_outages import create
from tests.engine.test_probes import AWAY, IN_ITS_WORDS, Stumbling, rendering
from tests.virtual import run_virtual

REFUSED = VendorError("not_sent", "not_sent", "connection refused")
HOUR = 3_600.0
LONG = 10**9


async def open_within(one: Life, seconds: float) -> float:
    """How long it took until nothing was submitted any more; fails after `seconds`."""
    began = one.now()
    while one.state() != "open":
        assert one.now() - began < seconds, one.state()
        await asyncio.sleep(1)
    return one.now() - began


@pytest.mark.parametrize(("count", "limits"), [(1, "max_in_flight = 1"), (4, "max_in_flight = 4"), (2, "")])
def test_a_vendor_that_dies_with_few_videos_is_open_within_a_minute_and_a_half(
    count: int, limits: str
) -> None:
    async def main() -> None:
        vendor = Stumbling(renders=200)
        async with life({"one": vendor}, one=limits) as one:
            await rendering(one, count)
            vendor.denies = vendor.refuses = AWAY
            await open_within(one, 90)
            await one.create("later")
            sent = len(vendor.sent)
            await asyncio.sleep(HOUR / 2)
            assert (len(vendor.sent), one.state()) == (sent, "open")
            assert one.sample("reelgate_provider_state", provider="one", state="open") == 1
            vendor.denies = vendor.refuses = None
            for name in (*(f"video_{number}" for number in range(count)), "later"):
                assert (await one.end(name)).state == "completed"
            assert one.state() == "healthy"

    run_virtual(main())


def test_a_vendor_that_nobody_reaches_is_open_although_one_video_alone_waits_for_it() -> None:
    async def main() -> None:
        vendor = Stumbling()
        vendor.refuses = vendor.denies = REFUSED
        async with life({"one": vendor}) as one:
            await one.create()
            await open_within(one, 90)
            sent = len(vendor.sent)
            await asyncio.sleep(HOUR / 2)
            assert len(vendor.sent) == sent
            vendor.refuses = vendor.denies = None
            assert (await one.end()).state == "completed"

    run_virtual(main())


@pytest.mark.parametrize("limits", ["max_in_flight = 2", ""])
def test_one_sick_video_keeps_nobody_away_and_is_asked_about_seldom(limits: str) -> None:
    async def main() -> None:
        vendor = Stumbling(renders=60)
        async with life({"one": vendor}, one=limits) as one:
            (job,) = await rendering(one, 1)
            vendor.sick = {job: AWAY}
            vendor.asked_for.clear()
            await asyncio.sleep(HOUR / 2)
            assert one.state() == "healthy"
            assert 0 < vendor.asked_for.count(NO_JOB) <= HOUR / 2 / DOUBT_SECONDS
            names = await create(one, 1, 4)
            for name in names:
                assert (await one.end(name)).state == "completed"
            assert one.state() == "healthy"

    run_virtual(main())


def test_while_other_videos_are_answered_nobody_is_asked_beside_them() -> None:
    async def main() -> None:
        vendor = Stumbling(renders=LONG)
        async with life({"one": vendor}, one='poll_max = "5s"') as one:
            sick, _ = await rendering(one, 2)
            vendor.sick = {sick: AWAY}
            vendor.asked_for.clear()
            await asyncio.sleep(HOUR / 4)
            assert (NO_JOB in vendor.asked_for, one.state()) == (False, "healthy")

    run_virtual(main())


def test_what_a_vendor_says_in_its_own_words_of_a_job_it_does_not_know_proves_nothing() -> None:
    async def main() -> None:
        vendor = Stumbling(renders=60)
        async with life({"one": vendor}) as one:
            (job,) = await rendering(one, 1)
            vendor.sick = {job: AWAY, NO_JOB: IN_ITS_WORDS}
            await asyncio.sleep(HOUR / 4)
            assert one.state() == "healthy"
            await one.create("later")
            assert (await one.end("later")).state == "completed"

    run_virtual(main())


def test_a_free_call_that_hangs_is_not_joined_by_another() -> None:
    class Hanging(Stumbling):
        async def poll(self, ref: Ref) -> Progress:
            if ref["id"] == NO_JOB:
                self.asked_for.append(NO_JOB)
                self.asked_at.append(asyncio.get_running_loop().time())
                await asyncio.sleep(20)
                raise KeyError("task")  # a fault of the adapter: no answer
            return await super().poll(ref)

    async def main() -> None:
        vendor = Hanging(renders=LONG)
        async with life({"one": vendor}) as one:
            (job,) = await rendering(one, 1)
            vendor.sick = {job: AWAY}
            vendor.asked_at.clear()
            await asyncio.sleep(HOUR / 6)
            gaps = [later - earlier for earlier, later in pairwise(vendor.asked_at)]
            assert gaps
            assert min(gaps) >= DOUBT_SECONDS - 0.001
            assert one.state() == "healthy"

    run_virtual(main())


def test_of_a_vendor_that_cannot_be_asked_without_a_job_nothing_is_concluded() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=60)
        async with life({"one": vendor}) as one:
            await create(one, 1, 4)
            await asyncio.sleep(5)
            vendor.denies = AWAY
            await asyncio.sleep(HOUR / 4)
            assert one.state() == "healthy"
            await create(one, 5, 5)
            await asyncio.sleep(120)
            assert one.state() == "open", "the fifth counts with those before it"

    run_virtual(main())
