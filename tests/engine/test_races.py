"""What happens between two moments of a step: a cancel, a process that stood still, a vendor that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from gateway.core.facts import (
    Accepted,
    Adopted,
    Cancelled,
    Cause,
    Fact,
    ResubmitAllowed,
    SubmitStarted,
    SubmitUnknown,
)
from gateway.core.states import Event, Task
from gateway.core.tasks import apply
from gateway.engine.takeover import take_over
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from gateway.storage.store import Store
from providers.spec import Failed, Offering, Progress, Ref, Submitted, VendorError, VideoRequest
from tests.engine.life import Life, Outcome, ScriptedVendor, accepted, done, life, pending
from tests.virtual import VirtualLoop, run_virtual

REFUSED = VendorError("invalid_request", "rejected", "no", status=400)


class Hanging(ScriptedVendor):
    """Answers a poll after a quarter of a minute."""

    async def poll(self, ref: Ref) -> Progress:
        """Late."""
        await asyncio.sleep(15)
        return await super().poll(ref)


@pytest.mark.parametrize("turns", range(6))
def test_a_cancel_at_any_turn_of_an_admission_gives_its_place_back(turns: int) -> None:
    async def main() -> None:
        async with life(one="max_in_flight = 1\n") as one:
            await asyncio.sleep(1)
            await one.create()
            for _ in range(turns):
                await asyncio.sleep(0)
            task = await one.store.task_get("video_1")
            assert task is not None
            if task.state == "waiting":
                await one.store.task_save(apply(task, Cancelled(), one.now()))
            await one.end()
            await asyncio.sleep(1)
            gate = one.fleet.providers["one"].gate
            assert (gate.in_flight, gate.sending) == (0, 0)

    run_virtual(main())


def test_what_stood_still_until_its_deadline_is_not_bought_any_more() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        vendor = ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}) as one:

            def stand_still(task: Task, events: tuple[Event, ...]) -> None:
                if task.state == "submitting":
                    loop.skew += 3_601

            one.store.listen(stand_still)
            await one.create()
            task = await one.end()
            await asyncio.sleep(10)
            after = await one.store.task_get("video_1")
            assert (task.error_code, vendor.sent) == ("deadline_exceeded", [])
            assert after is not None
            assert (after.charged, one.fleet.providers["one"].gate.in_flight) == ("no", 0)

    run_virtual(main())


def test_a_deadline_does_not_wait_for_a_poll_that_hangs() -> None:
    async def main() -> None:
        async with life({"one": Hanging([accepted()], [pending()])}) as one:
            await one.create(deadline_at=one.now() + 5)
            task = await one.end()
            assert (task.error_code, task.charged) == ("deadline_exceeded", "yes")
            assert task.completed_at is not None
            assert task.completed_at - task.deadline_at < 0.1

    run_virtual(main())


def test_a_deadline_does_not_wait_for_a_submit_that_hangs() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [done()], seconds=50.0)
        async with life({"one": vendor}) as one:
            await one.create(deadline_at=one.now() + 5)
            task = await one.end()
            assert (task.error_code, task.charged) == ("deadline_exceeded", "unknown")
            assert task.completed_at is not None
            assert task.completed_at - task.deadline_at < 0.1
            await asyncio.sleep(50)
            bought = await one.store.task_get("video_1")
            assert bought is not None
            assert (bought.state, bought.charged, bought.vendor_task_id) == ("failed", "yes", "v-1")
            late = await one.until(lambda task: task.late_url is not None)
            assert (late.state, late.late_url) == ("failed", "https://files.example/v.mp4")

    run_virtual(main())


# --- another process took the task over meanwhile -----------------------------------------------------

LOST = SubmitUnknown(Cause("broken", "the gateway ended while it was sending this"))
TAKEN_OVER: dict[str, tuple[Fact, ...]] = {
    "just now": (), "and knows nothing": (LOST,), "and its caller has gone": (LOST, Cancelled(detach=True)),
    "and an operator has had it sent once more": (LOST, ResubmitAllowed("an operator")),
}


@pytest.mark.parametrize(
    ("became", "outcome", "state", "charged", "event"),
    [
        ("just now", accepted(), "rendering", "yes", "accepted_by_vendor"),
        ("just now", REFUSED, "failed", "no", "failed"),
        ("and knows nothing", accepted(), "rendering", "yes", "adopted"),
        ("and knows nothing", REFUSED, "submission_unknown", "unknown", "submission_unknown"),
        ("and its caller has gone", accepted(), "cancelled", "yes", "accepted_after_end"),
        ("and its caller has gone", REFUSED, "cancelled", "no", "refused_after_end"),
        ("and an operator has had it sent once more", accepted(), "waiting", "yes", "other_job"),
        ("and an operator has had it sent once more", REFUSED, "waiting", "unknown", "resubmit_allowed"),
    ],
)
def test_an_answer_that_comes_after_another_process_took_over_is_kept(
    became: str, outcome: Outcome, state: str, charged: str, event: str
) -> None:
    async def main() -> None:
        database, vendor = SqliteDatabase(IN_MEMORY), ScriptedVendor([outcome], [done()], seconds=20)
        async with life({"one": vendor}, database, one="max_in_flight = 1") as zombie:
            await asyncio.sleep(1)
            await zombie.order()
            heir = Store(database)  # whose doings the first process does not hear of
            (taken,) = await heir.tasks_claim("replica-2", "replica-1", 10)
            for fact in TAKEN_OVER[became]:
                taken = await heir.task_save(apply(taken, fact, zombie.now()))
            await asyncio.sleep(60)
            task, events = await heir.task_get("video_1"), await zombie.events()
            assert task is not None
            assert (task.state, task.charged, task.replica) == (state, charged, "replica-2")
            assert [one.seq for one in events] == list(range(1, len(events) + 1))
            told = [one.type for one in events if one.type != "next_poll"]
            assert (told[-1], len(vendor.sent)) == (event, 1)
            gate = zombie.fleet.providers["one"].gate
            assert (zombie.engine.tasks, gate.in_flight, gate.sending) == ({}, 0, 0)

    run_virtual(main())


async def _taken_back(one: Life, happened: Sequence[tuple[str, Fact]]) -> None:
    """A process is taken for dead, comes back under another name, and claims its own tasks again."""
    await asyncio.sleep(1)
    one.engine.rename("replica-2")
    await take_over(one.engine, "replica-1")
    for video_id, fact in happened:
        await one.happens(fact, video_id)


@pytest.mark.parametrize("ending", [done(), Failed(raw_status="FAILED", code="vendor_failed", message="no")])
def test_the_answer_to_a_sending_tells_nothing_more_of_a_job_that_was_found_and_has_ended(
    ending: Progress,
) -> None:
    async def main() -> None:
        gone = VendorError("not_found", "unknown", "no such task", status=404)
        vendor = ScriptedVendor([accepted()], [ending, gone], seconds=50)
        async with life({"one": vendor}, one='failed_is_charged = "no"') as one:
            await asyncio.sleep(1)
            await one.order()
            await _taken_back(one, [("video_1", Adopted(accepted(), "an operator"))])
            ended = await one.end()
            await asyncio.sleep(200_000)
            assert await one.store.task_get("video_1") == ended
            assert len(vendor.sent) == 1

    run_virtual(main())


class Counting(ScriptedVendor):
    """Gives its jobs numbers, late."""

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        """A minute later."""
        self.sent.append(request)
        number = len(self.sent)
        await asyncio.sleep(50)
        return accepted(f"v-{number}")


def test_jobs_that_an_operator_mixed_up_break_no_promise_when_the_answers_come() -> None:
    async def main() -> None:
        async with life({"one": Counting([], [done()])}) as one:
            await asyncio.sleep(1)
            await one.order("video_1")
            await one.order("video_2")
            await _taken_back(one, [
                (f"video_{number}", Adopted(accepted(f"v-{3 - number}"), "an operator")) for number in (1, 2)
            ])
            await asyncio.sleep(100)
            assert one.sample("reelgate_invariant_violations_total") == 0
            for video_id in ("video_1", "video_2"):
                assert "other_job" not in [event.type for event in await one.events(video_id)]

    run_virtual(main())


def test_a_job_of_another_vendor_with_the_same_id_is_another_job() -> None:
    async def main() -> None:
        database, vendor = SqliteDatabase(IN_MEMORY), ScriptedVendor([accepted("1001")], [done()], seconds=20)
        async with life({"one": vendor}, database) as one:
            await asyncio.sleep(1)
            await one.order(providers=("one", "two"))
            heir = Store(database)
            (task,) = await heir.tasks_claim("replica-2", "replica-1", 10)
            elsewhere = SubmitStarted(replace(task.tried, provider="two"))
            for fact in (LOST, ResubmitAllowed("an operator"), elsewhere, Accepted(accepted("1001"))):
                task = await heir.task_save(apply(task, fact, one.now()))
            await asyncio.sleep(60)
            told = [(event.provider, event.detail["vendor_task_id"]) for event in await one.events()
                    if event.type == "other_job"]
            assert told == [("one", "1001")]

    run_virtual(main())
