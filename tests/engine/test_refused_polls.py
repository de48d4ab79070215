"""Polls that a vendor answers by refusing them: what is bought where nothing bought can be asked for.

In virtual time, through the real engine and store. Not held here: polls that nobody answers, and a refused
key (`test_outages`), who else is asked (`test_probes`).
"""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from gateway.core.health import DOUBT_SECONDS, OPEN_AFTER, PROBE_SECONDS, REFUSES_POLLS, Health
from gateway.engine.provider import NO_JOB
from providers.spec import ErrorKind, Progress, Ref, VendorError
from tests.engine.life import AskableVendor, Life, SwitchedVendor, life
from tests.virtual import run_virtual

FORBIDDEN = VendorError("permission", "unknown", "no", status=403)
IN_ITS_WORDS = VendorError("permission", "unknown", "no", status=403, reason="NOT_ALLOWED")
LOST = VendorError("broken", "unknown", "connection reset")
AWAY = VendorError("unavailable", "unknown", "HTTP 503", status=503)
SELDOM = 'poll_min = "1h"\npoll_max = "1h"'


class OneOdd(AskableVendor):
    """Refuses the polls of the jobs in `odd`, and ends those of a made-up one with `made_up`."""

    def __init__(self, renders: float = 10.0, error: VendorError = FORBIDDEN) -> None:
        super().__init__(renders=renders)
        self.error, self.made_up = error, AWAY
        self.odd: set[str] = set()
        self.asked_for: list[str] = []

    async def poll(self, ref: Ref) -> Progress:
        """As always, but of those."""
        self.asked_for.append(ref["id"])
        if ref["id"] in self.odd:
            raise self.error
        if ref["id"] == NO_JOB:
            raise self.made_up
        return await super().poll(ref)


async def rendering(one: Life, count: int = OPEN_AFTER, seconds: float = 3_600) -> list[str]:
    """So many videos that a vendor has, with so many seconds to live."""
    names = [f"video_{number}" for number in range(1, count + 1)]
    for name in names:
        await one.create(name, deadline_at=one.now() + seconds)
        await one.until(lambda task: task.state == "rendering", name)
    return names


async def lost(one: Life, vendor: SwitchedVendor) -> None:
    """As many submits without an answer as close a provider."""
    vendor.refuses = LOST
    for number in range(OPEN_AFTER):
        await one.create(f"lost_{number}")
        await one.until(lambda task: task.attempts == 1 and task.state != "submitting", f"lost_{number}")
    assert one.state() == "open"
    vendor.refuses = None


@pytest.mark.parametrize("kind", sorted(REFUSES_POLLS))
@pytest.mark.parametrize("reason", [None, "NOT_ALLOWED"])
def test_where_the_polls_of_all_tasks_are_refused_no_more_is_bought_until_one_is_answered(
    kind: ErrorKind, reason: str | None
) -> None:
    async def main() -> None:
        vendor = AskableVendor(renders=1_500)
        async with life({"one": vendor}) as one:
            names = await rendering(one)
            vendor.denies = VendorError(kind, "unknown", "no", status=403, reason=reason)
            await asyncio.sleep(100)
            health = one.fleet.providers["one"].health
            assert (one.state(), health.last_error, health.why) == ("open", kind, kind)
            await one.create("later")
            asked = len(vendor.asked_at)
            await asyncio.sleep(1_400)
            assert (one.state(), len(vendor.sent)) == ("open", OPEN_AFTER), "whatever a made-up job is told"
            assert len(vendor.asked_at) - asked > 20, "what is paid is asked for all the same"
            vendor.denies = None
            for name in (*names, "later"):
                assert (await one.end(name)).state == "completed"
            assert one.state() == "healthy"

    run_virtual(main())


def test_tasks_whose_polls_are_refused_end_by_their_deadline_and_then_few_are_bought_on_trial() -> None:
    async def main() -> None:
        vendor = AskableVendor(renders=10**9)
        async with life({"one": vendor}) as one:
            names = await rendering(one)
            vendor.denies = FORBIDDEN
            for name in names:
                task = await one.end(name)
                assert (task.state, task.error_code, task.charged) == ("failed", "deadline_exceeded", "yes")
            assert one.state() == "open"
            await one.create("later")
            await one.until(lambda task: task.state == "rendering", "later", seconds=1_000)

    run_virtual(main())


def test_few_tasks_whose_polls_are_refused_one_after_the_other_close_a_provider_too() -> None:
    async def main() -> None:
        vendor = AskableVendor(renders=10**9)
        vendor.denies = FORBIDDEN
        async with life({"one": vendor}, one="max_in_flight = 1") as one:
            names = [f"video_{number}" for number in range(OPEN_AFTER)]
            for name in names:
                await one.create(name, deadline_at=one.now() + 300)
                assert (await one.end(name)).error_code == "deadline_exceeded"
            assert one.state() == "open", "though a job that cannot exist could be asked for in between"

    run_virtual(main())


def test_a_task_whose_polls_are_refused_closes_no_provider_to_others() -> None:
    async def main() -> None:
        vendor = OneOdd(renders=60)
        async with life({"one": vendor}) as one:
            (odd,) = await rendering(one, 1)
            vendor.odd = {(await one.until(lambda task: True, odd)).vendor_task_id or ""}
            for number in range(3 * OPEN_AFTER):
                await one.create(f"well_{number}")
                assert (await one.end(f"well_{number}")).state == "completed"
                assert one.state() == "healthy"

    run_virtual(main())


# --- free calls that find out whether a provider is back ----------------------------------------------

@pytest.mark.parametrize("error", [FORBIDDEN, IN_ITS_WORDS], ids=["bare", "in its words"])
@pytest.mark.parametrize("has_made_up", [True, False])
def test_a_refusal_of_a_job_of_ours_is_no_answer_and_that_of_one_that_cannot_exist_is(
    error: VendorError, *, has_made_up: bool
) -> None:
    async def main() -> None:
        vendor = OneOdd(renders=10**9, error=error)
        async with life({"one": vendor}, one=SELDOM) as one:
            (name,) = await rendering(one, 1, seconds=7_200)
            await lost(one, vendor)
            job = (await one.until(lambda task: True, name)).vendor_task_id or ""
            vendor.odd, vendor.asked_for = {job}, []
            vendor.made_up = error if has_made_up else AWAY
            await one.create("later")
            await asyncio.sleep(600)
            assert one.fleet.providers["one"].health.last_error
            assert {job, NO_JOB} <= set(vendor.asked_for)
            assert await one.states("later") == ["rendering" if has_made_up else "waiting"]

    run_virtual(main())


def test_of_a_vendor_that_can_be_asked_for_jobs_of_ours_only_a_refusal_is_an_answer() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=10**9)
        async with life({"one": vendor}, one=SELDOM) as one:
            await rendering(one, 1, seconds=7_200)
            await lost(one, vendor)
            vendor.denies = FORBIDDEN
            await one.create("later")
            await one.until(lambda task: task.state == "rendering", "later", seconds=120)

    run_virtual(main())


def test_who_refused_a_poll_once_and_is_away_later_is_looked_for_as_soon_as_another() -> None:
    now, chance = 1_000.0, random.Random(1)
    health = Health()
    health.job_refused("video_1", now, chance)
    assert health.probe_at() == math.inf, "somebody is there"
    health.asked(now)
    health.submits.failed("video_2", now, chance)
    health.probing(now + DOUBT_SECONDS)
    health.missed(now + DOUBT_SECONDS, chance)
    assert health.probe_at() == now + DOUBT_SECONDS + 2 * PROBE_SECONDS
