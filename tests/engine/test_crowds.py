"""Many tasks at once, in virtual time: nobody starves, no vendor is overrun, nothing piles up."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from gateway.core.facts import Cancelled
from gateway.engine.loop import POLLS_MAX
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from providers.spec import Offering, Pending, Progress, Ref, Submitted, VendorError, VideoRequest
from tests.engine.life import START, Life, ScriptedVendor, accepted, done, life, pending
from tests.virtual import run_virtual


async def rendering(one: Life, number: int, provider: str = "one") -> str:
    """A task that an earlier process has left at a vendor."""
    video_id, job = f"video_{provider}_{number:04}", f"{provider}-{number}"
    await one.create(
        video_id, state="rendering", stage="rendering", provider=provider, offering="kling-v3.0-pro-t2v",
        vendor_task_id=job, ref='{"id":null}',
        charged="yes", started_at=one.now(), replica="an earlier one",
    )
    return video_id


class Asked(ScriptedVendor):
    """A vendor that remembers who was asked for, and never finishes."""

    def __init__(self) -> None:
        super().__init__([accepted()], [pending()])
        self.times: dict[str, list[float]] = {}

    async def poll(self, ref: Ref) -> Progress:
        """Still rendering."""
        self.times.setdefault(ref["id"], []).append(asyncio.get_running_loop().time())
        return Pending(raw_status="PROCESSING")


def test_a_full_house_of_steps_that_end_together_does_not_put_the_engine_to_sleep() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        await database.migrate()
        one = Life(database, {"two": ScriptedVendor([accepted()], [done()])}, {})
        del one.fleet.providers["one"]  # its tasks' steps end without asking anybody
        for number in range(POLLS_MAX + 10):
            await rendering(one, number)
        healthy = await rendering(one, 0, "two")
        one.start()
        task = await one.end(healthy)
        assert (task.state, one.now() - START < 60) == ("completed", True)
        await one.engine.stop()

    run_virtual(main())


def test_who_ended_while_it_was_asked_for_wishes_for_no_poll_any_more() -> None:
    class Slow(ScriptedVendor):
        async def poll(self, ref: Ref) -> Progress:
            """Still rendering, it says after ten seconds."""
            self.asked += 1
            await asyncio.sleep(10)
            return pending()

    async def main() -> None:
        vendor = Slow([accepted()], [])
        async with life({"one": vendor}, one="polls_per_minute = 6") as one:
            await one.create()
            await asyncio.sleep(8)
            assert vendor.asked == 1
            polls = one.fleet.providers["one"].polls
            assert polls.stretch(one.now()) == pytest.approx(2.0, rel=0.1)
            await one.happens(Cancelled(detach=True))
            await asyncio.sleep(20)
            assert polls.stretch(one.now()) == 1.0

    run_virtual(main())


@pytest.mark.parametrize(("tasks", "per_minute"), [(200, 60), (100, 10)])
def test_a_budget_of_polls_is_kept_and_shared(tasks: int, per_minute: int) -> None:
    async def main() -> None:
        vendor = Asked()
        async with life({"one": vendor}, one=f"polls_per_minute = {per_minute}") as one:
            for number in range(tasks):
                await one.create(f"video_{number}", state="waiting")
                vendor.submits = [accepted(f"v-{number}")]
                await one.until(lambda task: task.state == "rendering", f"video_{number}")
            await asyncio.sleep(3_000)
            assert len(vendor.times) == tasks, "some were never asked for"
            counts = [len(times) for times in vendor.times.values()]
            assert min(counts) >= 0.5 * max(counts)
            until, longest = asyncio.get_running_loop().time(), 2 * 60 * tasks / per_minute
            for times in vendor.times.values():
                assert all(later - earlier <= longest for earlier, later in pairwise([*times, until]))
            asked = sorted(time for times in vendor.times.values() for time in times)
            assert all(asked[at + per_minute] - asked[at] >= 59.99 for at in range(len(asked) - per_minute))

    run_virtual(main())


class Late(ScriptedVendor):
    """A vendor that takes two seconds to say that it still renders."""

    async def poll(self, ref: Ref) -> Progress:
        """Still rendering."""
        await asyncio.sleep(2)
        self.asked += 1
        return pending()


def test_a_crowd_of_polls_does_not_try_all_the_time() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        await database.migrate()
        vendor = Late([accepted()], [pending()])
        one = Life(database, {"one": vendor}, {})
        for number in range(800):
            await rendering(one, number)
        tries = 0
        due_at = one.engine.due_at

        def counted(task_id: str, at: float) -> None:
            nonlocal tries
            tries += 1
            due_at(task_id, at)

        one.start()
        await asyncio.sleep(20)
        one.engine.due_at = counted  # type: ignore[method-assign]
        asked = vendor.asked
        await asyncio.sleep(20)
        assert vendor.asked - asked >= 500, "near the hundred that may be under way at once"
        assert tries <= 10 * (vendor.asked - asked)
        await one.engine.stop()

    run_virtual(main())


class Small(ScriptedVendor):
    """A vendor that renders five at once, for two minutes each, and has no place for more."""

    def __init__(self) -> None:
        super().__init__([accepted()], [pending()])
        self.jobs: dict[str, float] = {}
        self.tries = 0

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        """A job, or no place."""
        self.tries += 1
        job = f"v-{self.tries}"
        await asyncio.sleep(0.2)
        if len(self.jobs) >= 5:
            raise VendorError("rate_limited", "rejected", "no place")
        self.jobs[job] = asyncio.get_running_loop().time()
        return accepted(job)

    async def poll(self, ref: Ref) -> Progress:
        """Finished after two minutes."""
        if asyncio.get_running_loop().time() - self.jobs[ref["id"]] < 120:
            return pending()
        del self.jobs[ref["id"]]
        return done()


def test_a_vendor_without_a_place_is_not_overrun_by_all_who_wait() -> None:
    async def main() -> None:
        vendor = Small()
        async with life({"one": vendor}) as one:
            for number in range(300):
                await one.create(f"video_{number}")
            await asyncio.sleep(600)
            assert vendor.tries < 300 + 600
            counts = await one.store.counts()
            assert counts["completed"] >= 15

    run_virtual(main())


def test_a_vendor_that_is_away_is_tried_one_by_one() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([VendorError("not_sent", "not_sent", "refused")], [done()])
        async with life({"one": vendor}) as one:
            for number in range(100):
                await one.create(f"video_{number}")
            await asyncio.sleep(600)
            assert len(vendor.sent) < 100 + 60

    run_virtual(main())


def test_timers_of_ended_tasks_are_swept_out() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}) as one:
            for number in range(1_500):
                vendor.submits = [accepted(f"v-{number}")]
                await one.create(f"video_{number}")
                await one.end(f"video_{number}")
            assert one.engine.watches == {}
            assert len(one.engine.timers) < 100

    run_virtual(main())


def test_what_is_sent_again_stays_in_progress() -> None:
    async def main() -> None:
        lost = VendorError("broken", "unknown", "connection reset")
        vendor = ScriptedVendor([lost, VendorError("not_sent", "not_sent", "refused"), accepted()], [done()])
        async with life({"one": vendor}, one='on_unknown = "resubmit"') as one:
            await one.create()
            assert (await one.end()).state == "completed"
            order = ("queued", "in_progress", "completed")
            statuses = [order.index(event.status) for event in await one.events()]
            assert statuses == sorted(statuses)

    run_virtual(main())


def test_a_provider_that_comes_back_by_a_reload_knows_its_jobs() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        await database.migrate()
        one = Life(database, {"one": Asked()}, {"one": "max_in_flight = 3"})
        kept = one.fleet.providers.pop("one")
        for number in range(3):
            await rendering(one, number)
        one.start()
        await asyncio.sleep(1)
        one.fleet.providers["one"] = kept
        one.engine.recount()
        assert (kept.gate.in_flight, kept.gate.free_at(one.now())) == (3, None)
        await one.engine.stop()

    run_virtual(main())


