"""A vendor that is down, refuses us, or is held by an operator: what is bought, what waits, what follows.

In virtual time, through the real engine and store. Not held here: the breakers' own rules (`tests/core`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import pytest

from gateway.storage.rows import Hold
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from providers.spec import ErrorKind, VendorError
from tests.engine.life import AskableVendor, Life, ScriptedVendor, SwitchedVendor, accepted, done, life
from tests.virtual import run_virtual

LOST = VendorError("broken", "unknown", "connection reset")
AWAY = VendorError("unavailable", "unknown", "HTTP 503", status=503)
EMPTY = VendorError("insufficient_credit", "rejected", "no money", status=402)
WRONG_KEY = VendorError("auth", "rejected", "no such key", status=401)


async def create(one: Life, first: int, last: int) -> list[str]:
    """The videos `first` to `last`, by number."""
    names = [f"video_{number}" for number in range(first, last + 1)]
    for name in names:
        await one.create(name)
    return names


async def one_by_one(one: Life, count: int) -> None:
    """So many videos, each after the one before was sent."""
    for number in range(count):
        await one.create(f"lost_{number}")
        await one.until(lambda task: task.attempts == 1 and task.state != "submitting", f"lost_{number}")


# --- submits fail -------------------------------------------------------------------------------------

def test_after_five_unknowns_nothing_is_bought_until_a_free_call_is_answered() -> None:
    async def main() -> None:
        vendor = AskableVendor(LOST)
        vendor.denies = AWAY
        async with life({"one": vendor}) as one:
            await one_by_one(one, 5)
            assert one.state() == "open"
            names = await create(one, 1, 8)
            await asyncio.sleep(600)
            assert len(vendor.sent) == 5
            assert await one.states(*names) == ["waiting"] * 8
            assert 30 <= len(vendor.asked_at) <= 42, "asked every fifteen seconds, free of charge"
            assert one.sample("reelgate_provider_state", provider="one", state="open") == 1
            vendor.refuses, vendor.denies = None, None
            for name in names:
                assert (await one.end(name)).state == "completed"
            assert one.state() == "healthy"

    run_virtual(main())


def test_four_unknowns_and_an_acceptance_between_them_open_nothing() -> None:
    async def main() -> None:
        vendor = AskableVendor(LOST)
        async with life({"one": vendor}) as one:
            await one_by_one(one, 4)
            vendor.refuses = None
            await one.create("fine")
            await one.until(lambda task: task.state == "rendering", "fine")
            vendor.refuses = LOST
            for number in range(4):
                await one.create(f"again_{number}")
                await one.until(lambda task: task.state == "submission_unknown", f"again_{number}")
            assert one.state() == "healthy"
            assert len(vendor.sent) == 9

    run_virtual(main())


@pytest.mark.parametrize("count", [1, 40])
def test_who_comes_back_is_met_by_one_and_by_twice_as_many_after_each_acceptance(count: int) -> None:
    async def main() -> None:
        vendor = AskableVendor(LOST, renders=10_000)
        vendor.denies = AWAY
        async with life({"one": vendor}) as one:
            await one_by_one(one, 5)
            names = await create(one, 1, count)
            await asyncio.sleep(60)
            vendor.room.clear()
            vendor.refuses, vendor.denies, vendor.seconds = None, None, 2.0
            for name in names:
                await one.until(lambda task: task.state == "rendering", name)
            assert vendor.room[0] == (1, 0)
            assert all(under_way <= 2**jobs for under_way, jobs in vendor.room)
            assert max(under_way for under_way, _ in vendor.room) >= min(count, 8)

    run_virtual(main())


def test_a_trial_that_fails_costs_one_submit_and_a_longer_wait() -> None:
    async def main() -> None:
        vendor = AskableVendor(LOST)
        async with life({"one": vendor}) as one:
            await one_by_one(one, 5)  # it answers free calls all the time, and loses every paid one
            await create(one, 1, 30)
            await asyncio.sleep(3_600)
            trials = vendor.sent_at[5:]
            gaps = [later - earlier for earlier, later in pairwise(trials)]
            assert 8 <= len(trials) <= 20, "an hour of it costs few videos"
            assert all(gap >= 15 for gap in gaps), gaps
            assert all(gap >= 240 for gap in gaps[5:]), gaps

    run_virtual(main())


def test_a_job_of_its_own_is_what_a_vendor_is_asked_for() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=10_000)
        async with life({"one": vendor}, one='poll_min = "50m"\npoll_max = "50m"') as one:
            await one.create("first")
            await one.until(lambda task: task.state == "rendering", "first")
            vendor.refuses = LOST
            await one_by_one(one, 5)
            assert one.state() == "open"
            await asyncio.sleep(40)
            assert len(vendor.asked_at) in (2, 3)
            assert one.state() == "degraded", "somebody is there"

    run_virtual(main())


def test_of_a_vendor_that_cannot_be_asked_time_must_tell() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(LOST)
        async with life({"one": vendor}) as one:
            await one_by_one(one, 5)
            assert one.state() == "open"
            await asyncio.sleep(40)
            assert (one.state(), vendor.asked_at) == ("degraded", [])

    run_virtual(main())


def test_no_byte_left_us_opens_the_breaker_too_and_takes_the_tasks_elsewhere() -> None:
    async def main() -> None:
        away = AskableVendor(VendorError("not_sent", "not_sent", "connection refused"))
        away.denies = VendorError("not_sent", "unknown", "connection refused")
        async with life({"one": away, "two": SwitchedVendor()}, two="requests_per_minute = 6") as one:
            for number in range(20):
                await one.create(f"video_{number}", providers=("one", "two"))
            for number in range(20):
                task = await one.end(f"video_{number}")
                assert (task.state, task.provider) == ("completed", "two")
            assert one.state() == "open"
            assert len(away.sent) < 40

    run_virtual(main())


def test_a_request_that_makes_one_task_fail_does_not_close_the_provider_to_others() -> None:
    async def main() -> None:
        vendor = AskableVendor(VendorError("not_sent", "not_sent", "the proxy refuses this very body"))
        async with life({"one": vendor}, one="max_in_flight = 1") as one:
            await one.create("sick")
            await asyncio.sleep(900)
            assert len(vendor.sent) > 10
            assert one.state() == "degraded"

    run_virtual(main())


# --- polls fail ---------------------------------------------------------------------------------------

def test_an_outage_of_polls_is_found_out_by_one_at_a_time_and_loses_nothing() -> None:
    async def main() -> None:
        vendor = AskableVendor(renders=300)
        async with life({"one": vendor}) as one:
            names = await create(one, 1, 60)
            for name in names:
                await one.until(lambda task: task.state == "rendering", name)
            vendor.denies = AWAY
            await asyncio.sleep(60)
            assert one.state() == "open"
            await one.create("later")
            before, sent = len(vendor.asked_at), len(vendor.sent)
            await asyncio.sleep(900)
            assert len(vendor.asked_at) - before <= 900 / 15 + 3
            assert len(vendor.sent) == sent, "what cannot be asked for is not bought"
            vendor.denies = None
            for name in (*names, "later"):
                assert (await one.end(name)).state == "completed"
            assert one.sample("reelgate_polls_total", provider="one", outcome="succeeded") == 61

    run_virtual(main())


def test_repetitions_are_kept_to_a_budget() -> None:
    async def main() -> None:
        crowded = VendorError("rate_limited", "unknown", "too many", status=429)  # which opens no breaker
        vendor = AskableVendor(renders=10_000)
        async with life({"one": vendor}, one='poll_min = "30s"\npoll_max = "30s"') as one:
            names = await create(one, 1, 50)
            for name in names:
                await one.until(lambda task: task.state == "rendering", name)
            asked = len(vendor.asked_at)
            vendor.denies = crowded
            await asyncio.sleep(1_500)
            assert one.state() == "healthy"
            regular = 50 * 1_500 / 30
            assert len(vendor.asked_at) - asked <= 1.1 * regular + 10

    run_virtual(main())


@pytest.mark.parametrize("kind", ["not_found", "content_policy", "rate_limited"])
def test_a_poll_that_is_not_served_is_an_answer(kind: ErrorKind) -> None:
    async def main() -> None:
        vendor = AskableVendor(renders=100_000)
        async with life({"one": vendor}) as one:
            names = await create(one, 1, 8)
            for name in names:
                await one.until(lambda task: task.state == "rendering", name)
            vendor.denies = VendorError(kind, "unknown", "no", status=404)
            await asyncio.sleep(100)
            assert one.state() == "healthy"
            assert one.fleet.providers["one"].health.last_error == kind

    run_virtual(main())


def test_a_key_that_polls_of_two_tasks_find_refused_keeps_submissions_away_until_one_is_answered() -> None:
    async def main() -> None:
        vendor = AskableVendor(renders=900)
        async with life({"one": vendor}) as one:
            names = await create(one, 1, 2)
            for name in names:
                await one.until(lambda task: task.state == "rendering", name)
            vendor.denies = VendorError("auth", "unknown", "no such key", status=401)
            await asyncio.sleep(15)
            assert one.state() == "paused"
            await one.create("later")
            await asyncio.sleep(5)
            assert len(vendor.sent) == 2
            vendor.refuses = WRONG_KEY
            await asyncio.sleep(2_000)
            assert await one.states("later") == ["waiting"], "nobody fails of what is known already"
            vendor.denies = vendor.refuses = None
            mended_at = one.now()
            assert len(vendor.sent) == 2
            task = await one.until(lambda task: task.submitted_at is not None, "later")
            assert (task.submitted_at or 0) - mended_at <= 40, "the next answered poll says that all is well"
            assert [(await one.end(name)).state for name in (*names, "later")] == ["completed"] * 3

    run_virtual(main())


# --- it refuses us ------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("refusal", "code"), [(WRONG_KEY, "vendor_auth"), (EMPTY, "insufficient_credit")], ids=["key", "credit"]
)
@pytest.mark.parametrize("together", [True, False])
def test_one_task_learns_that_a_provider_refuses_us_and_the_others_wait(
    refusal: VendorError, code: str, together: bool
) -> None:
    async def main() -> None:
        vendor = AskableVendor(refusal)
        async with life({"one": vendor}, one="" if together else "max_in_flight = 1") as one:
            names = await create(one, 1, 6)
            await asyncio.sleep(20)
            assert sorted(await one.states(*names)) == ["failed", *["waiting"] * 5]
            failed = await one.store.task_get(names[0])
            assert failed is not None
            assert (failed.error_code, failed.charged) == (code, "no")
            assert (one.state(), one.fleet.providers["one"].health.why) == ("paused", refusal.kind)
            assert one.sample("reelgate_provider_state", provider="one", state="paused") == 1
            sent = len(vendor.sent)
            await asyncio.sleep(1_500)
            assert 3 <= len(vendor.sent) - sent <= 6, "tried one at a time, and ever more seldom"
            assert (await one.states(*names)).count("waiting") == 5, "nobody fails of what is known already"
            vendor.refuses = None
            for name in names[1:]:
                assert (await one.end(name)).state == "completed"
            assert one.state() == "healthy"

    run_virtual(main())


@pytest.mark.parametrize(
    ("kind", "code"), [("permission", "vendor_auth"), ("unsupported", "vendor_rejected")]
)
def test_what_a_provider_refuses_of_one_task_is_not_laid_to_its_refusal_of_us(
    kind: ErrorKind, code: str
) -> None:
    async def main() -> None:
        vendor = AskableVendor(WRONG_KEY)
        async with life({"one": vendor}) as one:
            await one.create("first")
            assert (await one.end("first")).error_code == "vendor_auth"
            vendor.refuses = VendorError(kind, "rejected", "not for you", status=403)  # the key is fine
            names = await create(one, 1, 2)
            await asyncio.sleep(120)
            assert (await one.states(*names), len(vendor.sent)) == (["failed"] * 2, 3)
            for name in names:
                task = await one.end(name)
                assert (task.error_code, task.charged) == (code, "no")
                assert task.ruled_out == task.candidates

    run_virtual(main())


def test_a_refused_key_does_not_hold_those_who_can_go_elsewhere() -> None:
    async def main() -> None:
        first, second = AskableVendor(WRONG_KEY), SwitchedVendor(renders=1)
        async with life({"one": first, "two": second}) as one:
            for number in range(5):
                await one.create(f"video_{number}", providers=("one", "two"))
                assert (await one.end(f"video_{number}")).state == "completed"
            assert (len(first.sent), len(second.sent)) == (1, 5)

    run_virtual(main())


# --- an operator's orders -----------------------------------------------------------------------------

@pytest.mark.parametrize(("action", "state"), [("pause", "paused"), ("drain", "draining")])
def test_held_by_an_operator_nothing_is_bought_and_what_is_paid_goes_on(
    action: Literal["pause", "drain"], state: str
) -> None:
    async def main() -> None:
        vendor = SwitchedVendor()
        async with life({"one": vendor}) as one:
            await one.create("paid")
            await one.until(lambda task: task.state == "rendering", "paid")
            health = one.fleet.providers["one"].health
            health.hold = action
            one.engine.look()
            names = await create(one, 1, 3)
            assert (await one.end("paid")).state == "completed"
            await asyncio.sleep(600)
            assert await one.states(*names) == ["waiting"] * 3
            assert (one.state(), health.why) == (state, f"an operator said {action}")
            assert one.sample("reelgate_provider_state", provider="one", state=state) == 1
            health.resume()
            one.engine.look()
            for name in names:
                assert (await one.end(name)).state == "completed"

    run_virtual(main())


def test_an_operators_order_outlives_the_process() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        await database.migrate()
        vendor = SwitchedVendor()
        one = Life(database, {"one": vendor, "two": ScriptedVendor([accepted("w-1")], [done()])}, {})
        await one.store.hold_put(Hold(provider="one", action="drain", by="me", at=one.now()))
        await one.store.hold_put(Hold(provider="removed since", action="pause", by="me", at=one.now()))
        one.start()
        await one.create("held")
        await one.create("free", providers=("two",))
        assert (await one.end("free")).state == "completed"
        await asyncio.sleep(600)
        assert (one.state(), vendor.sent) == ("draining", [])
        await one.engine.stop()

    run_virtual(main())


async def submitted_at(one: Life, names: Sequence[str]) -> list[float]:
    tasks = [await one.store.task_get(name) for name in names]
    return [task.submitted_at or 0.0 for task in tasks if task is not None]


def test_priority_holds_also_after_an_outage() -> None:
    async def main() -> None:
        vendor = AskableVendor(renders=1)
        async with life({"one": vendor}, one="max_in_flight = 1") as one:
            one.fleet.providers["one"].health.hold = "pause"
            names = [f"video_{number}" for number in range(10)]
            for number, name in enumerate(names):
                await one.create(name, priority=number)
            one.fleet.providers["one"].health.resume()
            one.engine.look()
            for name in names:
                await one.end(name)
            times = await submitted_at(one, names)
            assert times == sorted(times, reverse=True)

    run_virtual(main())
