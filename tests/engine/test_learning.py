"""What the engine learns of render times by its polls, and what it does with it.

In virtual time, through the real engine and store. Not held here: the histogram (`tests/core`), where it is
stored (`tests/contract`).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from msgspec.structs import replace

from gateway.core.facts import Candidate
from gateway.core.render_times import PRIOR_SECONDS, Kind
from gateway.engine.provider import Fleet
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from tests.core.made import NOW, make_task
from tests.engine.life import Life, SwitchedVendor, accepted, life
from tests.engine.test_unknown import LOST, Finder
from tests.virtual import run_virtual

PRO = "kling-v3.0-pro-t2v"
UNKNOWN = Kind(None, None)  # what the harness stores of a video


def test_what_polls_show_decides_when_the_next_ones_are() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=100.0)
        async with life({"one": vendor}) as one:
            asked: list[int] = []
            for number in range(25):
                before = len(vendor.asked_at)
                await one.create(f"video_{number}")
                await one.end(f"video_{number}")
                asked.append(len(vendor.asked_at) - before)
            assert one.fleet.learned.times(Candidate("one", PRO), UNKNOWN).total == 25
            median = one.fleet.learned.seconds(Candidate("one", PRO), UNKNOWN)
            assert median == pytest.approx(100, rel=0.08)
            assert 100 / PRIOR_SECONDS <= asked[0] <= 100 / PRIOR_SECONDS + 2, "steadily, and one early"
            assert asked[-1] < asked[0]
            assert vendor.asked_at[-1] - vendor.asked_at[-2] < 5, "and close together around the end"
            whys = [event.detail["why"] for number in (0, 24) for event in await one.events(f"video_{number}")
                    if event.type == "next_poll"]
            assert (whys[0], whys[-1]) == ("prior", "learned")

    run_virtual(main())


def test_kinds_of_videos_are_learned_apart() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor(renders=50.0)}) as one:
            await one.create("short", duration=5, audio=True)
            await one.create("long", duration=10, audio=False)
            for name in ("short", "long"):
                await one.end(name)
            assert Counter(Kind(row.duration, bool(row.audio)) for row in one.fleet.learned.unsaved()) == {
                Kind(5, True): 1, Kind(10, False): 1,
            }

    run_virtual(main())


@pytest.mark.parametrize(
    ("began_after", "polled_after", "found_after", "is_learned"),
    [(1, 90, 100, True), (1, None, 10, True), (300, 390, 400, False), (None, 90, 100, False)],
)
def test_of_a_render_that_began_nobody_knows_when_nothing_is_learned(
    began_after: float | None, polled_after: float | None, found_after: float, *, is_learned: bool
) -> None:
    fleet = Fleet(random.Random(1))
    task = make_task(state="rendering", provider="one", offering=PRO, submitted_at=NOW)
    task = replace(task, started_at=None if began_after is None else NOW + began_after)
    fleet.learn(task, None if polled_after is None else NOW + polled_after, NOW + found_after)
    assert bool(fleet.learned.unsaved()) is is_learned


def test_of_what_an_earlier_process_left_only_what_was_asked_for_twice_is_learned() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        await database.migrate()
        vendor = SwitchedVendor(renders=30.0)
        one = Life(database, {"one": vendor}, {})
        for age in (45.0, 10.0):
            job, began_at = f"v-{age:g}", one.now() - age
            vendor.jobs[job] = -age
            await one.create(
                job, state="rendering", stage="rendering", provider="one", offering=PRO, vendor_task_id=job,
                ref='{"id":null}',
                charged="yes", submitted_at=began_at, started_at=began_at, replica="other",
            )
        one.start()
        assert [(await one.end(job)).state for job in vendor.jobs] == ["completed"] * 2
        assert sum(row.count for row in one.fleet.learned.unsaved()) == 1
        await one.engine.stop()

    run_virtual(main())


def test_looking_up_what_nobody_knows_uses_the_budget_of_polls() -> None:
    async def main() -> None:
        vendor = Finder([LOST], [None])
        async with life({"one": vendor}, one="polls_per_minute = 2") as one:
            for number in range(5):
                await one.create(f"video_{number}")
            await asyncio.sleep(800)
            times = [at for at, _ in vendor.looked_up]
            assert len(times) >= 20
            assert all(later - earlier >= 60 for earlier, later in zip(times, times[2:], strict=False))
            assert len({reference for _, reference in vendor.looked_up}) == 5

    run_virtual(main())


def test_a_task_in_line_ends_at_its_deadline_and_gives_its_place_away() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=10_000.0)
        async with life({"one": vendor}, one="polls_per_minute = 1") as one:
            for number in range(20):
                vendor.submits = [accepted(f"v-{number}")]
                await one.create(f"video_{number}", deadline_at=one.now() + 300)
            for number in range(20):
                ended = await one.end(f"video_{number}")
                assert ended.error_code == "deadline_exceeded"
                assert ended.completed_at is not None
                assert ended.completed_at - ended.created_at < 301
            assert len(vendor.asked_at) <= 6
            assert one.fleet.providers["one"].polls.free_at(one.now(), one.chance) == float("inf")

    run_virtual(main())


def test_a_caller_is_told_to_come_back_when_its_turn_may_be() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor(renders=10_000.0)}, one="polls_per_minute = 6") as one:
            for number in range(30):
                await one.create(f"video_{number}")
            await asyncio.sleep(30)
            waits = [one.engine.seconds_to_next(task) for task in one.engine.tasks.values()]
            assert all(1.0 <= wait <= 60.0 for wait in waits)
            assert max(waits) == 60.0, "thirty at six a minute"

    run_virtual(main())
