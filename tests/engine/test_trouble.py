"""A database in trouble, a rule that breaks a promise, a fault in a step: what goes on, and how.

In virtual time, through the real engine and store. Not held here: the database itself (`tests/storage`), real
kills (`tests/kill`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from gateway.core import tasks as rules
from gateway.core.facts import Cancelled, DeadlinePassed, Fact, Polled
from gateway.core.states import Task
from gateway.storage.db import Row, StorageError, Value
from gateway.storage.db import Step as Write
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from providers.spec import Progress, Ref
from tests.engine.life import Life, ScriptedVendor, SwitchedVendor, accepted, done, life, pending
from tests.virtual import run_virtual


class Faulty(SqliteDatabase):
    """A database in memory that a test puts into trouble.

    `fails` is how many of the next writes are not done, `lies` how many are done and reported as failed;
    `unreadable` how many of the next reads fail.
    """

    def __init__(self) -> None:
        super().__init__(IN_MEMORY)
        self.full: str | None = None
        self.fails = self.lies = self.unreadable = 0

    @property
    def trouble(self) -> str | None:
        """What a test says."""
        return self.full

    async def write(
        self, steps: Sequence[Write], committed: Callable[[], None] | None = None, tell: str | None = None
    ) -> list[Row]:
        """As SQLite, unless a test wants otherwise."""
        if self.fails > 0:
            self.fails -= 1
            raise StorageError("made for a test: nothing was written")
        if self.lies > 0:
            self.lies -= 1
            await super().write(steps)
            raise StorageError("made for a test: it was written all the same")
        return await super().write(steps, committed, tell)

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """As SQLite, unless a test wants otherwise."""
        if self.unreadable > 0:
            self.unreadable -= 1
            raise StorageError("made for a test: nothing was read")
        return await super().read(sql, args)


# --- the database is in trouble -----------------------------------------------------------------------

def test_while_the_database_is_short_nothing_is_bought_and_what_is_paid_is_finished() -> None:
    async def main() -> None:
        database, vendor = Faulty(), SwitchedVendor(renders=30)
        async with life({"one": vendor}, database, one="max_in_flight = 1") as one:
            await one.create("paid")
            await one.create("waits")
            await one.until(lambda task: task.state == "rendering", "paid")
            database.full = "the disk is full"
            assert (await one.end("paid")).state == "completed"
            await asyncio.sleep(600)
            assert (await one.states("waits"), len(vendor.sent)) == (["waiting"], 1)
            database.full = None
            over_at = one.now()
            task = await one.until(lambda task: task.submitted_at is not None, "waits")
            assert (task.submitted_at or 0) - over_at <= 1.1

    run_virtual(main())


@pytest.mark.parametrize("fault", ["fails", "lies"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_save_is_tried_until_it_is_stored_and_is_stored_once(fault: str, count: int) -> None:
    async def main() -> None:
        database = Faulty()
        vendor = ScriptedVendor([accepted()], [pending(), pending(progress=50), done()])
        async with life({"one": vendor}, database) as one:
            await one.create()
            for state in ("submitting", "rendering"):
                await one.until(lambda task, state=state: task.state == state)  # type: ignore[misc]
                setattr(database, fault, count)
            task = await one.end()
            assert (task.state, len(vendor.sent)) == ("completed", 1)
            events = await one.events()
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert [event.type for event in events].count("accepted_by_vendor") == 1
            assert one.sample("reelgate_provider_in_flight", provider="one") == 0
            assert (one.engine.tasks, one.fleet.providers["one"].gate.in_flight) == ({}, 0)

    run_virtual(main())


@pytest.mark.parametrize("count", [1, 4])
def test_an_intent_that_could_not_be_stored_is_not_sent(count: int) -> None:
    async def main() -> None:
        database, vendor = Faulty(), ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}, database) as one:
            one.fleet.providers["one"].health.hold = "pause"
            await one.create()
            database.fails = count
            one.fleet.providers["one"].health.resume()
            one.engine.look()
            assert (await one.end()).state == "completed"
            stored = (await one.events())[1]
            assert (stored.type, len(vendor.sent), database.fails) == ("submitting", 1, 0)

    run_virtual(main())


def test_a_request_that_cannot_be_read_is_tried_again_and_costs_no_place() -> None:
    async def main() -> None:
        database, vendor = Faulty(), ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}, database, one="max_in_flight = 1") as one:
            one.fleet.providers["one"].health.hold = "pause"
            await one.create()
            database.unreadable = 1
            one.fleet.providers["one"].health.resume()
            one.engine.look()
            await asyncio.sleep(5)
            assert (await one.end()).state == "completed"
            gate = one.fleet.providers["one"].gate
            assert (gate.in_flight, gate.sending, len(vendor.sent)) == (0, 0, 1)

    run_virtual(main())


def test_the_start_waits_for_a_database_that_cannot_be_read() -> None:
    async def main() -> None:
        database = Faulty()
        await database.migrate()
        one = Life(database, {"one": ScriptedVendor([accepted()], [done()])}, {})
        await one.create(replica="an earlier one")
        database.unreadable = 3
        one.start()
        await asyncio.sleep(30)
        assert (await one.end()).state == "completed"
        await one.engine.stop()

    run_virtual(main())


def test_a_database_that_is_away_for_long_is_asked_once_at_a_time_for_each_video() -> None:
    async def main() -> None:
        database, vendor = Faulty(), SwitchedVendor(renders=30)
        async with life({"one": vendor}, database) as one:
            names = [f"video_{number}" for number in range(20)]
            for name in names:
                await one.create(name)
                await one.until(lambda task: task.state == "rendering", name)
            before = len(asyncio.all_tasks())
            database.fails = database.unreadable = 10**9
            for _ in range(10):
                await asyncio.sleep(90)
                assert len(asyncio.all_tasks()) <= before + 2 * len(names), "one save and one look each"
            database.fails = database.unreadable = 0
            for name in names:
                assert (await one.end(name)).state == "completed"
            await asyncio.sleep(60)
            assert len(asyncio.all_tasks()) <= before, "nobody looks for anything any more"

    run_virtual(main())


# --- somebody else saves ------------------------------------------------------------------------------

def test_a_cancel_that_came_first_wins_and_the_engine_takes_no_offence() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [pending(), done()], seconds=5)
        async with life({"one": vendor}) as one:
            one.fleet.providers["one"].health.hold = "pause"
            await one.create()
            one.fleet.providers["one"].health.resume()
            await one.happens(Cancelled())
            assert (await one.end()).state == "cancelled"
            await asyncio.sleep(60)
            assert (vendor.sent, one.engine.tasks) == ([], {})

    run_virtual(main())


def test_a_paused_process_that_was_taken_over_changes_nothing_any_more() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        vendor = ScriptedVendor([accepted()], [done()], seconds=20)
        async with life({"one": vendor}, database) as zombie:
            await zombie.create()
            await zombie.until(lambda task: task.state == "submitting")
            heir = Life(database, {"one": ScriptedVendor([accepted("v-2")], [done()])}, {})
            heir.engine.replica = "replica-2"
            heir.start()
            taken = await heir.until(lambda task: task.state == "submission_unknown")
            await asyncio.sleep(60)  # meanwhile the answer reaches the first one
            task = await heir.store.task_get("video_1")
            assert task is not None
            assert (task.state, task.vendor_task_id, task.replica) == ("rendering", "v-1", "replica-2"), (
                "what the vendor said is news, not memory: it belongs to whoever follows the task now"
            )
            assert (task.version, zombie.engine.tasks) == (taken.version + 1, {})
            await heir.engine.stop()

    run_virtual(main())


def test_a_video_that_was_deleted_while_it_is_still_looked_up_is_forgotten() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=600)
        async with life({"one": vendor}) as one:
            await one.create(deadline_at=one.now() + 60)
            ended = await one.end()
            assert ended.is_followed
            assert await one.store.video_delete("video_1", "key_1")
            await asyncio.sleep(3_600)
            assert (one.engine.tasks, await one.store.task_get("video_1")) == ({}, None)

    run_virtual(main())


# --- a promise would be broken ------------------------------------------------------------------------

def spoil(monkeypatch: pytest.MonkeyPatch, video_id: str, *kinds: type[Fact]) -> None:
    """Let the rules for these facts drop the vendor's job of one video."""
    table = dict(rules._STEPS)  # noqa: SLF001 - no rule breaks a promise by itself
    for kind in kinds:
        good = table[kind]

        def bad(task: Task, fact: Fact, now: float, good: Callable[..., object] = good) -> object:
            return (replace(task, vendor_task_id=None), "spoiled", {}) if task.id == video_id else good(
                task, fact, now)

        table[kind] = bad  # type: ignore[assignment]
    monkeypatch.setattr(rules, "_STEPS", table)


def test_a_task_whose_step_would_break_a_promise_is_parked_until_its_deadline(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=60)
        async with life({"one": vendor}) as one:
            for name in ("sick", "well"):
                await one.create(name)
                await one.until(lambda task: task.state == "rendering", name)
            spoil(monkeypatch, "sick", Polled)
            assert (await one.end("well")).state == "completed"
            assert await one.states("sick") == ["rendering"]
            assert one.sample("reelgate_invariant_violations_total") == 1
            asked = len(vendor.asked_at)
            await asyncio.sleep(1_000)
            assert len(vendor.asked_at) == asked, "nothing happens to it any more"
            await one.create("later")
            assert (await one.end("later")).state == "completed"
            task = await one.end("sick")
            assert (task.error_code, task.charged) == ("deadline_exceeded", "yes")
            assert task.vendor_task_id is not None
            assert task.completed_at is not None
            assert task.deadline_at <= task.completed_at < task.deadline_at + 1
            assert one.sample("reelgate_invariant_violations_total") == 1

    run_virtual(main())


def test_a_task_that_cannot_even_end_is_left_alone_and_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor(renders=10)}, one="max_in_flight = 1") as one:
            await one.create("sick")
            await one.until(lambda task: task.state == "rendering", "sick")
            spoil(monkeypatch, "sick", Polled, DeadlinePassed)
            await asyncio.sleep(4_000)
            assert (one.engine.tasks, one.fleet.providers["one"].gate.in_flight) == ({}, 0)
            assert one.sample("reelgate_invariant_violations_total") == 2
            assert await one.states("sick") == ["rendering"]
            await one.create("well")
            assert (await one.end("well")).state == "completed"

    run_virtual(main())


def test_a_parked_task_that_has_ended_is_looked_up_for_what_its_job_brings(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=7_200)
        async with life({"one": vendor}) as one:
            await one.create("sick")
            await one.until(lambda task: task.state == "rendering", "sick")
            vendor.jobs = dict.fromkeys(vendor.jobs, -7_199.0)  # its video is there in a second
            spoil(monkeypatch, "sick", Polled)
            await one.until(lambda task: task.is_terminal, "sick")
            asked = len(vendor.asked_at)
            task = await one.until(lambda task: task.late_until is None, "sick", seconds=600)
            assert (task.error_code, task.late_url) == ("deadline_exceeded", "https://files.example/v.mp4")
            assert len(vendor.asked_at) - asked == 1

    run_virtual(main())


def test_a_parked_task_that_waits_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}) as one:
            await one.create(charged="unknown")  # a row that no rule makes
            task = await one.end()
            assert (task.error_code, vendor.sent) == ("deadline_exceeded", [])
            assert one.sample("reelgate_invariant_violations_total") == 1
            assert one.fleet.providers["one"].gate.in_flight == 0

    run_virtual(main())


# --- a fault in a step --------------------------------------------------------------------------------

class Broken(SwitchedVendor):
    """Its adapter has a fault: so many of its polls end in what is no VendorError."""

    faults = 3
    fault: Exception = ZeroDivisionError()

    async def poll(self, ref: Ref) -> Progress:
        """A fault, and then how far it is."""
        if self.faults:
            self.faults -= 1
            raise self.fault
        return await super().poll(ref)


@pytest.mark.parametrize("fault", [ZeroDivisionError(), TimeoutError()], ids=["fault", "timeout"])
def test_a_fault_in_one_tasks_step_is_tried_again_and_ends_nobody_elses(fault: Exception) -> None:
    async def main() -> None:
        vendor = Broken(renders=20)
        vendor.fault = fault
        async with life({"one": vendor}) as one:
            await one.create("video_1")
            await one.create("video_2")
            for name in ("video_1", "video_2"):
                assert (await one.end(name)).state == "completed"

    run_virtual(main())
