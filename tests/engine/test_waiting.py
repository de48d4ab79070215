"""Tasks that wait: for how long, what is told of their place, and what a stop or a change leaves of them.

In virtual time, through the real engine and store. Not held here: the line by itself (`test_line`).
"""

from __future__ import annotations

import asyncio

import pytest

from providers.spec import Failed
from tests.engine.life import ScriptedVendor, SwitchedVendor, accepted, done, life
from tests.virtual import run_virtual


def test_who_waits_too_long_while_its_provider_is_held_fails_free_of_charge() -> None:
    async def main() -> None:
        vendor = SwitchedVendor()
        async with life({"one": vendor}, one='max_queue_age = "5m"') as one:
            one.fleet.providers["one"].health.hold = "pause"
            await one.create()
            task = await one.end()
            assert (task.error_code, task.charged, vendor.sent) == ("queue_timeout", "no", [])
            assert task.completed_at is not None
            assert 300 <= task.completed_at - task.created_at < 301

    run_virtual(main())


def test_a_second_candidate_that_is_held_for_ever_ends_by_the_deadline() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor()}, one='max_queue_age = "5m"') as one:
            for provider in one.fleet.providers.values():
                provider.health.hold = "pause"
            await one.create(providers=("one", "two"))
            assert (await one.end()).error_code == "deadline_exceeded"

    run_virtual(main())


def test_a_place_in_the_queue_is_told_with_the_time_it_may_start() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor(renders=10_000)}, one="requests_per_minute = 1") as one:
            for number in range(4):
                await one.create(f"video_{number}")
            await one.until(lambda task: task.state == "rendering", "video_0")
            places = [one.engine.queue_place(one.engine.tasks[f"video_{number}"]) for number in range(4)]
            assert places[0] is None
            assert [place[0] for place in places if place] == [1, 2, 3]
            first = places[1]
            assert first is not None
            task = await one.until(lambda task: task.submitted_at is not None, "video_1")
            assert task.submitted_at == pytest.approx(first[1], abs=0.1)

    run_virtual(main())


def test_how_long_until_something_may_have_changed() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor(renders=10_000)}, one='poll_max = "10m"') as one:
            waiting = await one.create()
            assert one.engine.seconds_to_next(waiting) == 1
            task = await one.until(lambda task: task.state == "rendering")
            await asyncio.sleep(1_000)
            assert 1 < one.engine.seconds_to_next(task) <= 60
            one.engine.watches.pop("video_1")
            assert one.engine.seconds_to_next(task) == 1

    run_virtual(main())


def test_a_stop_saves_the_answer_that_is_out_and_begins_nothing_new() -> None:
    async def main() -> None:
        vendor = SwitchedVendor()
        vendor.seconds = 15
        async with life({"one": vendor}, one="max_in_flight = 1") as one:
            await one.create("sent")
            await one.create("waits")
            await one.until(lambda task: task.state == "submitting", "sent")
            await one.engine.stop()
            assert await one.states("sent", "waits") == ["rendering", "waiting"]
            assert len(vendor.sent) == 1

    run_virtual(main())


def test_a_failed_render_of_a_slug_that_is_known_no_more_is_of_unknown_price() -> None:
    async def main() -> None:
        failed = Failed(raw_status="FAILED", code="vendor_failed", message="no")
        vendor = ScriptedVendor([accepted()], [failed])
        async with life({"one": vendor}, one='failed_is_charged = "no"') as one:
            await one.create()
            await one.until(lambda task: task.state == "rendering")
            one.fleet.providers["one"].known.clear()
            assert (await one.end()).charged == "unknown"

    run_virtual(main())


def test_a_task_that_nobody_offers_any_more_waits_for_its_deadline() -> None:
    async def main() -> None:
        async with life({"one": ScriptedVendor([accepted()], [done()])}) as one:
            one.fleet.providers["one"].known.clear()
            await one.create()
            assert (await one.end()).error_code == "deadline_exceeded"

    run_virtual(main())
