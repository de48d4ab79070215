"""What an ended task still brings: who is asked, how often, for how long; and that its end stays as it was.

In virtual time, through the real engine and store. Not held here: what is kept (`tests/core`).
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from gateway.core.facts import Cancelled, LateEnded
from gateway.core.states import Task
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from providers.spec import Failed, Progress, Ref, VendorError
from tests.engine.life import START, Life, ScriptedVendor, SwitchedVendor, accepted, done, life, pending
from tests.virtual import run_virtual

AWAY = VendorError("unavailable", "unknown", "HTTP 503", status=503)
MISSING = VendorError("not_found", "unknown", "no such task", status=404)
LINK = "https://files.example/v.mp4"
HOUR, DAY = 3_600.0, 86_400.0


def is_late(task: Task) -> bool:
    return task.late_url is not None


# --- how it comes to it -------------------------------------------------------------------------------

def test_what_comes_after_the_deadline_is_kept_and_the_status_stays() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=2 * HOUR)
        async with life({"one": vendor}) as one:
            await one.create()
            ended = await one.end()
            assert (ended.error_code, ended.charged, ended.late_url) == ("deadline_exceeded", "yes", None)
            task = await one.until(is_late)
            assert (task.state, task.completed_at) == (ended.state, ended.completed_at)
            assert (task.late_url, task.result_url, task.late_until) == (LINK, None, None)
            assert task.late_at is not None
            assert task.late_expires_at is not None
            assert 2 * HOUR <= task.late_at - START < 2.5 * HOUR
            assert task.late_expires_at > task.late_at
            assert (await one.events())[-1].type == "late_output"
            assert one.engine.tasks == {}, "nobody follows it any more"
            assert len(vendor.sent) == 1

    run_virtual(main())


class Amnesic(SwitchedVendor):
    """Denies its jobs for the first hour."""

    async def poll(self, ref: Ref) -> Progress:
        """Nothing is known, and then a video."""
        self.asked_at.append(asyncio.get_running_loop().time())
        if self.asked_at[-1] < HOUR:
            raise MISSING
        return done()


def test_what_comes_after_unknown_timeout_is_kept() -> None:
    async def main() -> None:
        async with life({"one": Amnesic()}, one='unknown_timeout = "5m"') as one:
            await one.create()
            ended = await one.end()
            assert (ended.error_code, ended.charged) == ("submission_unknown", "yes")
            task = await one.until(is_late)
            assert (task.state, task.error_code, task.late_url) == ("failed", "submission_unknown", LINK)

    run_virtual(main())


def test_what_comes_after_a_detach_is_kept() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor(renders=600)}) as one:
            await one.create()
            await one.until(lambda task: task.state == "rendering")
            await one.happens(Cancelled(detach=True))
            task = await one.until(is_late)
            assert (task.state, task.error_code, task.late_url) == ("cancelled", "cancelled", LINK)
            assert task.late_at is not None
            assert 600 <= task.late_at - START < 900

    run_virtual(main())


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_what_was_accepted_after_the_end_is_looked_up_too(is_cancelled: bool) -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=300)
        vendor.seconds = 50
        async with life({"one": vendor}) as one:
            await one.create(deadline_at=one.now() + (HOUR if is_cancelled else 20))
            if is_cancelled:
                await one.until(lambda task: task.state == "submitting")
                await one.happens(Cancelled(detach=True))
            ended = await one.end()
            assert (ended.charged, ended.vendor_task_id) == ("unknown", None)
            task = await one.until(is_late)
            assert (task.state, task.charged) == ("cancelled" if is_cancelled else "failed", "yes")
            kinds = [event.type for event in await one.events()]
            assert kinds[-2:] == ["accepted_after_end", "late_output"]

    run_virtual(main())


def test_done_without_a_link_ever_is_looked_up_for_a_link() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [*[done(None)] * 45, done()])
        async with life({"one": vendor}, one='poll_min = "2s"\npoll_max = "2s"') as one:
            await one.create()
            assert (await one.end()).error_code == "no_output"
            assert (await one.until(is_late)).late_url == LINK

    run_virtual(main())


def test_a_late_failure_ends_the_looking_and_says_what_it_cost() -> None:
    async def main() -> None:
        failed = Failed(raw_status="FAILED", code="vendor_failed", message="no")
        vendor = ScriptedVendor([accepted()], [pending(), failed])
        async with life({"one": vendor}, one='failed_is_charged = "no"') as one:
            await one.create(deadline_at=one.now() + 3)
            assert (await one.end()).charged == "yes"
            task = await one.until(lambda task: task.late_until is None)
            assert (task.state, task.error_code, task.charged) == ("failed", "deadline_exceeded", "no")
            assert one.engine.tasks == {}

    run_virtual(main())


# --- how often, and for how long ----------------------------------------------------------------------

def test_it_is_asked_ever_more_seldom_and_for_a_day() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=10 * DAY)
        async with life({"one": vendor}) as one:
            await one.create()
            ended = await one.end()
            assert ended.completed_at is not None
            task = await one.until(lambda task: task.late_until is None, seconds=3 * DAY)
            end = ended.completed_at - START
            asked = [at - end for at in vendor.asked_at if at > end]
            assert 30 <= len(asked) <= 60
            for earlier, later in pairwise([0.0, *asked]):
                pause = min(3_600.0, max(60.0, 0.2 * earlier))
                assert 0.9 * pause - 0.1 <= later - earlier <= 1.1 * pause + 0.1
            assert DAY - 4_000 <= asked[-1] <= DAY
            assert (await one.events())[-1].type == "late_ended"
            assert (task.state, one.engine.tasks, one.engine.watches) == ("failed", {}, {})
            assert DAY <= one.now() - ended.completed_at < DAY + 1

    run_virtual(main())


def test_an_ended_task_is_no_unfinished_one() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor(renders=10 * DAY)}) as one:
            await one.create()
            await asyncio.sleep(600)
            assert one.engine.oldest_unfinished_seconds() == 600
            await one.end()
            await asyncio.sleep(600)
            assert one.engine.oldest_unfinished_seconds() == 0
            assert one.fleet.providers["one"].gate.in_flight == 0
            assert one.sample("reelgate_provider_in_flight", provider="one") == 0

    run_virtual(main())


def test_a_vendor_that_does_not_answer_is_asked_again_and_its_provider_is_not_judged() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=2 * HOUR)
        async with life({"one": vendor}) as one:
            await one.create()
            await one.end()
            vendor.denies = AWAY
            asked = len(vendor.asked_at)
            await asyncio.sleep(2 * HOUR)
            assert len(vendor.asked_at) - asked >= 5
            assert one.state() == "healthy"
            assert one.fleet.providers["one"].health.last_error == "unavailable"
            vendor.denies = None
            assert (await one.until(is_late)).late_url == LINK

    run_virtual(main())


def test_it_takes_its_share_of_the_budget_of_polls_and_no_more() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=10 * DAY)
        async with life({"one": vendor}, one="polls_per_minute = 1") as one:
            for number in range(20):
                await one.create(f"video_{number}", deadline_at=one.now() + 30)
            await asyncio.sleep(HOUR)
            assert all(later - earlier >= 59.99 for earlier, later in pairwise(vendor.asked_at))
            assert len(vendor.asked_at) > 20

    run_virtual(main())


def test_while_its_provider_is_not_configured_it_waits_for_it() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=2 * HOUR)
        async with life({"one": vendor}) as one:
            await one.create()
            await one.end()
            gone = one.fleet.providers.pop("one")
            asked = len(vendor.asked_at)
            await asyncio.sleep(3 * HOUR)
            assert len(vendor.asked_at) == asked
            one.fleet.providers["one"] = gone
            assert (await one.until(is_late)).late_url == LINK

    run_virtual(main())


class Hanging(SwitchedVendor):
    """Whose polls take so many seconds. `most` were under way at once."""

    hangs = 0.0
    asking = most = 0

    async def poll(self, ref: Ref) -> Progress:
        """Late."""
        self.asking += 1
        self.most = max(self.most, self.asking)
        await asyncio.sleep(self.hangs)
        self.asking -= 1
        return await super().poll(ref)


def test_a_vendor_that_hangs_is_asked_for_ten_ended_tasks_at_a_time() -> None:
    async def main() -> None:
        hanging, quick = Hanging(renders=10 * DAY), SwitchedVendor(renders=20)
        async with life({"one": hanging, "two": quick}) as one:
            for number in range(150):
                await one.create(f"video_{number}", deadline_at=one.now() + 60)
            for number in range(150):
                await one.end(f"video_{number}")
            hanging.most, hanging.hangs = 0, 50.0
            await one.create("quick", providers=("two",), deadline_at=one.now() + 60)
            assert (await one.end("quick")).state == "completed"
            await asyncio.sleep(3_600)
            assert hanging.most == 10
            assert len(one.engine.tasks) == 150, "they are asked for later"

    run_virtual(main())


class Named(SwitchedVendor):
    """Remembers which job it was asked for."""

    asked_for: tuple[str, ...] = ()

    async def poll(self, ref: Ref) -> Progress:
        """As always."""
        self.asked_for = (*self.asked_for, ref["id"])
        return await super().poll(ref)


def test_while_polls_fail_no_ended_task_is_asked_for() -> None:
    async def main() -> None:
        vendor = Named(renders=10 * DAY)
        async with life({"one": vendor}) as one:
            await one.create("ended", deadline_at=one.now() + 60)
            job = (await one.end("ended")).vendor_task_id
            for number in range(10):
                await one.create(f"video_{number}", deadline_at=one.now() + DAY)
                await one.until(lambda task: task.state == "rendering", f"video_{number}")
            vendor.denies = AWAY
            await asyncio.sleep(120)
            assert one.state() == "open"
            vendor.asked_for = ()
            await asyncio.sleep(2 * HOUR)
            assert len(vendor.asked_for) > 100
            assert job not in vendor.asked_for
            vendor.denies = None
            await asyncio.sleep(2 * HOUR)
            assert job in vendor.asked_for

    run_virtual(main())


def test_a_fault_of_the_adapter_ends_the_looking() -> None:
    async def main() -> None:
        class Other(ScriptedVendor):
            """Cannot read the reference."""

            async def poll(self, ref: Ref) -> Progress:
                self.asked += 1
                raise KeyError("task")

        other = Other([accepted()], [done()])
        async with life({"one": SwitchedVendor(renders=10 * DAY)}) as one:
            await one.create(deadline_at=one.now() + 60)
            ended = await one.end()
            one.fleet.providers["one"].adapter = other
            task = await one.until(lambda task: task.late_until is None, seconds=600)
            assert (task.error_code, task.late_url, task.charged) == (ended.error_code, None, ended.charged)
            assert ((await one.events())[-1].type, other.asked) == ("late_ended", 1)
            assert one.fleet.providers["one"].asking == 0

    run_virtual(main())


# --- over a restart -----------------------------------------------------------------------------------

def test_a_restart_keeps_looking_for_the_rest_of_the_day() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        vendor = SwitchedVendor(renders=3 * HOUR)
        async with life({"one": vendor}, database) as first:
            await first.create()
            ended = await first.end()
            await first.crash()
        second = Life(database, {"one": vendor}, {})
        second.engine.replica = "replica-2"
        second.start()
        task = await second.until(is_late)
        assert (task.state, task.replica, task.completed_at) == ("failed", "replica-2", ended.completed_at)
        assert len(vendor.sent) == 1
        await second.engine.stop()

    run_virtual(main())


def test_a_restart_after_the_day_ends_it() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        vendor = SwitchedVendor(renders=10 * DAY)
        async with life({"one": vendor}, database) as first:
            await first.create()
            await first.end()
            await first.crash()
        await asyncio.sleep(2 * DAY)
        asked = len(vendor.asked_at)
        second = Life(database, {"one": vendor}, {})
        second.engine.replica = "replica-2"
        second.start()
        await second.until(lambda task: task.late_until is None)
        assert len(vendor.asked_at) == asked
        assert (await second.events())[-1].type == "late_ended"
        await second.engine.stop()

    run_virtual(main())


def test_who_looks_and_who_ends_the_looking_do_not_disturb_each_other() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [pending()])
        async with life({"one": vendor}) as one:
            await one.create(deadline_at=one.now() + 3)
            await one.end()
            await one.happens(LateEnded())
            asked = vendor.asked
            await asyncio.sleep(HOUR)
            assert (vendor.asked, one.engine.tasks) == (asked, {})

    run_virtual(main())
