"""How a provider that was down is found to be back, free of charge: who is asked, and what is an answer.

In virtual time, through the real engine and store. Not held here: what opens a breaker (`test_outages`), the
breakers' own rules (`tests/core`).
"""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway.engine.provider import NO_JOB
from providers.spec import Progress, Ref, VendorError
from tests.engine.life import AskableVendor, Life, life
from tests.virtual import run_virtual

LOST = VendorError("broken", "unknown", "connection reset")
AWAY = VendorError("unavailable", "unknown", "HTTP 500", status=500)
IN_ITS_WORDS = VendorError("unavailable", "unknown", "HTTP 500", status=500, reason="GET_RESULT_FAILED")
FORBIDDEN = VendorError("auth", "unknown", "not your task", status=401)
AT_ONCE = 'on_unknown = "fail"'
SELDOM = 'poll_min = "1h"\npoll_max = "1h"'


class Stumbling(AskableVendor):
    """Whose polls of the jobs in `sick` end so, whatever else is well. `asked_for` are all jobs asked for."""

    def __init__(self, renders: float = 10.0) -> None:
        super().__init__(renders=renders)
        self.sick: dict[str, Exception] = {}
        self.asked_for: list[str] = []

    async def poll(self, ref: Ref) -> Progress:
        """As always, but of those."""
        self.asked_for.append(ref["id"])
        if ref["id"] in self.sick:
            await asyncio.sleep(0.01)
            raise self.sick[ref["id"]]
        return await super().poll(ref)


async def rendering(one: Life, count: int, seconds: float = 3_600) -> list[str]:
    """The ids of so many new jobs, in order, of tasks with so many seconds to live."""
    jobs: list[str] = []
    for number in range(count):
        await one.create(f"video_{number}", deadline_at=one.now() + seconds)
        task = await one.until(lambda task: task.state == "rendering", f"video_{number}")
        jobs.append(task.vendor_task_id or "")
    return jobs


async def lost(one: Life, vendor: AskableVendor, count: int = 5) -> None:
    """So many submits without an answer, one after the other."""
    vendor.refuses = LOST
    for number in range(count):
        await one.create(f"lost_{number}")
        await one.until(lambda task: task.attempts == 1 and task.state != "submitting", f"lost_{number}")
    assert one.state() == "open"
    vendor.refuses = None


# --- who is asked -------------------------------------------------------------------------------------

def test_a_vendor_that_lost_its_latest_job_is_found_to_be_back_all_the_same() -> None:
    async def main() -> None:
        vendor = Stumbling(renders=100)
        async with life({"one": vendor}) as one:
            jobs = await rendering(one, 8)
            vendor.sick, vendor.denies = {jobs[-1]: AWAY}, AWAY
            await asyncio.sleep(60)
            assert one.state() == "open"
            vendor.denies = None
            back_at = one.now()
            await one.create("later")
            assert (await one.end("later")).state == "completed"
            assert one.now() - back_at < 300
            assert await one.states(*(f"video_{number}" for number in range(7))) == ["completed"] * 7

    run_virtual(main())


def test_of_a_vendor_whose_only_open_job_is_sick_one_that_cannot_exist_is_asked_for() -> None:
    async def main() -> None:
        vendor = Stumbling(renders=10**9)
        async with life({"one": vendor}) as one:
            (job,) = await rendering(one, 1)
            vendor.sick = {job: AWAY}
            await lost(one, vendor)
            await one.create("later")
            await one.until(lambda task: task.state == "rendering", "later", seconds=120)
            assert NO_JOB in vendor.asked_for

    run_virtual(main())


def test_while_polls_fail_those_of_paid_tasks_have_each_turn() -> None:
    async def main() -> None:
        vendor = Stumbling(renders=10**9)
        async with life({"one": vendor}) as one:
            jobs = await rendering(one, 60)
            vendor.denies = AWAY
            await asyncio.sleep(60)
            assert one.state() == "open"
            vendor.asked_for.clear()
            await asyncio.sleep(1_200)
            assert 40 <= len(vendor.asked_for) <= 81
            assert NO_JOB not in vendor.asked_for
            assert len(set(vendor.asked_for)) >= 15, "one after the other, not the latest alone"
            assert set(vendor.asked_for) <= set(jobs)

    run_virtual(main())


# --- what counts as an answer -------------------------------------------------------------------------

def test_an_adapters_fault_in_a_probe_is_logged_and_no_answer() -> None:
    async def main() -> None:
        vendor = Stumbling()
        vendor.sick = {NO_JOB: KeyError("task")}
        async with life({"one": vendor}, one=AT_ONCE) as one:
            with capture_logs() as lines:
                await lost(one, vendor)
                await asyncio.sleep(100)
            faults = [line for line in lines if line["event"] == "step_failed"]
            assert {line["error"] for line in faults} == {"KeyError"}
            assert 5 <= len(faults) <= 8, "each of them"
            assert one.state() == "open"
            vendor.sick = {}
            await one.create("later")
            assert (await one.end("later")).state == "completed"

    run_virtual(main())


@pytest.mark.parametrize(("error", "is_taken_back"), [(IN_ITS_WORDS, True), (AWAY, False)])
def test_after_five_minutes_an_error_in_the_vendors_own_words_is_an_answer(
    error: VendorError, is_taken_back: bool
) -> None:
    async def main() -> None:
        vendor = Stumbling()
        vendor.sick = {NO_JOB: error}  # for every job that it does not know
        async with life({"one": vendor}, one=AT_ONCE) as one:
            await lost(one, vendor)
            await one.create("later")
            await asyncio.sleep(280)
            assert (len(vendor.sent), one.state()) == (5, "open")
            await asyncio.sleep(60)
            assert await one.states("later") == ["completed" if is_taken_back else "waiting"]
            await asyncio.sleep(1_000)
            assert len(vendor.sent) == 5 + is_taken_back

    run_virtual(main())


def test_what_an_ended_task_is_told_is_an_answer_too() -> None:
    async def main() -> None:
        vendor = Stumbling(renders=10**9)
        async with life({"one": vendor}, one=AT_ONCE) as one:
            _, latest = await rendering(one, 2, seconds=60)
            vendor.sick = {latest: AWAY, NO_JOB: AWAY}
            for number in range(2):
                assert (await one.end(f"video_{number}")).state == "failed"
            await lost(one, vendor)
            await one.create("later")
            await one.until(lambda task: task.state == "rendering", "later", seconds=200)

    run_virtual(main())


def test_who_asks_us_to_come_later_has_answered() -> None:
    async def main() -> None:
        vendor = Stumbling()
        vendor.sick = {NO_JOB: VendorError("rate_limited", "unknown", "too many", status=429)}
        async with life({"one": vendor}, one=AT_ONCE) as one:
            await lost(one, vendor)
            await one.create("later")
            await one.until(lambda task: task.state == "completed", "later", seconds=120)

    run_virtual(main())


def test_that_a_job_which_cannot_exist_is_not_there_is_no_reason_to_keep_submissions_away() -> None:
    async def main() -> None:
        vendor = Stumbling()
        vendor.sick = {NO_JOB: VendorError("not_found", "unknown", "no such task", status=404)}
        async with life({"one": vendor}, one=AT_ONCE) as one:
            await lost(one, vendor)
            await asyncio.sleep(1)
            assert (NO_JOB in vendor.asked_for, one.state()) == (True, "open")
            assert one.fleet.providers["one"].health.why == "broken"

    run_virtual(main())


def test_a_key_that_polls_of_one_task_find_refused_keeps_nobody_away() -> None:
    async def main() -> None:
        vendor = Stumbling(renders=60)
        async with life({"one": vendor}) as one:
            (job,) = await rendering(one, 1)
            vendor.sick = {job: FORBIDDEN}  # such as a job of the account before
            await asyncio.sleep(1_200)
            assert one.fleet.providers["one"].health.refusals == 0
            for number in range(1, 11):
                await one.create(f"video_{number}")
                asked_at = one.now()
                await one.until(lambda task: task.state == "rendering", f"video_{number}")
                assert one.now() - asked_at < 1
            for number in range(1, 11):
                assert (await one.end(f"video_{number}")).state == "completed"

    run_virtual(main())


# --- what is heard of a job ---------------------------------------------------------------------------

def test_what_the_vendor_says_of_a_job_when_it_is_found_to_be_back_is_not_forgotten() -> None:
    async def main() -> None:
        vendor = AskableVendor(renders=10)
        async with life({"one": vendor}, one=SELDOM) as one:
            await rendering(one, 1, seconds=3_000)
            await asyncio.sleep(20)
            await lost(one, vendor)
            assert (await one.end("video_0")).state == "completed", "its own poll is due after its deadline"

    run_virtual(main())
