"""Whole lives of tasks, in virtual time, through the real engine and store: what is true in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.core.facts import Cancelled
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from providers.spec import (
    ErrorKind,
    Failed,
    Offering,
    Progress,
    Ref,
    Submitted,
    Unrecognised,
    VendorError,
    VideoRequest,
)
from tests.engine.life import Life, Outcome, ScriptedVendor, accepted, done, life, pending
from tests.virtual import run_virtual


def refused(kind: ErrorKind, retry_after_seconds: float | None = None) -> VendorError:
    message = f"says {kind}"
    return VendorError(kind, "rejected", message, status=400, retry_after_seconds=retry_after_seconds)


NOT_SENT = VendorError("not_sent", "not_sent", "connection refused")
LOST = VendorError("broken", "unknown", "connection reset")


def test_a_video_is_submitted_once_followed_and_completed() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [pending(), pending(progress=60), done()])
        async with life({"one": vendor}) as one:
            await one.create()
            task = await one.end()
            assert (task.state, task.stage) == ("completed", "linked")
            assert (task.progress, task.charged) == (100, "yes")
            assert (task.provider, task.offering, task.vendor_task_id) == ("one", "kling-v3.0-pro-t2v", "v-1")
            assert task.result_url == "https://files.example/v.mp4"
            assert len(vendor.sent) == 1
            types = [event.type for event in await one.events()]
            assert types == [
                "accepted", "submitting", "accepted_by_vendor", "next_poll", "vendor_status",
                "vendor_status", "next_poll", "completed",
            ]
            assert one.sample("reelgate_submissions_total", provider="one", result="accepted") == 1
            assert one.sample("reelgate_provider_in_flight", provider="one") == 0

    run_virtual(main())


@pytest.mark.parametrize(
    ("outcomes", "code", "charged", "sent"),
    [
        ([refused("invalid_request")], "vendor_rejected", "no", 1),
        ([refused("content_policy")], "content_policy", "no", 1),
        ([refused("auth")], "vendor_auth", "no", 1),
        ([refused("permission")], "vendor_auth", "no", 1),
        ([refused("insufficient_credit")], "insufficient_credit", "no", 1),
        ([refused("unsupported")], "vendor_rejected", "no", 1),
        ([LOST], "submission_unknown", "unknown", 1),
        ([RuntimeError("a fault in the adapter")], "submission_unknown", "unknown", 1),
    ],
)
def test_what_a_refusal_or_a_lost_answer_ends_in(
    outcomes: list[Outcome], code: str, charged: str, sent: int
) -> None:
    async def main() -> None:
        vendor = ScriptedVendor(outcomes, [done()])
        async with life({"one": vendor}) as one:
            await one.create()
            task = await one.end()
            assert (task.state, task.stage, task.error_code, task.charged) == ("failed", None, code, charged)
            assert len(vendor.sent) == sent

    run_virtual(main())


@pytest.mark.parametrize("first", [NOT_SENT, refused("rate_limited", 3), refused("capacity")])
def test_proof_that_nothing_was_accepted_allows_another_try(first: VendorError) -> None:
    async def main() -> None:
        vendor = ScriptedVendor([first, first, accepted()], [done()])
        async with life({"one": vendor}) as one:
            await one.create()
            task = await one.end()
            assert (task.state, task.attempts, len(vendor.sent)) == ("completed", 3, 3)

    run_virtual(main())


@pytest.mark.parametrize(
    "kind", ["auth", "permission", "insufficient_credit", "unsupported", "rate_limited", "capacity"]
)
def test_a_refusal_that_another_vendor_may_not_share_goes_on_to_the_next_candidate(kind: ErrorKind) -> None:
    async def main() -> None:
        first, second = ScriptedVendor([refused(kind, 900)], [done()]), ScriptedVendor([accepted()], [done()])
        async with life({"one": first, "two": second}) as one:
            await one.create(providers=("one", "two"))
            task = await one.end()
            assert (task.state, task.provider) == ("completed", "two")
            assert (len(first.sent), len(second.sent)) == (1, 1)

    run_virtual(main())


@pytest.mark.parametrize("outcome", [refused("content_policy"), refused("invalid_request"), LOST])
def test_a_refused_prompt_and_a_lost_answer_are_not_taken_elsewhere(outcome: VendorError) -> None:
    async def main() -> None:
        first, second = ScriptedVendor([outcome], [done()]), ScriptedVendor([accepted()], [done()])
        async with life({"one": first, "two": second}) as one:
            await one.create(providers=("one", "two"))
            assert (await one.end()).state == "failed"
            assert second.sent == []

    run_virtual(main())


def test_an_unknown_submission_is_held_and_then_failed_without_being_sent_again() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([LOST], [done()])
        async with life({"one": vendor}, one='unknown_timeout = "10m"') as one:
            await one.create()
            held = await one.until(lambda task: task.state == "submission_unknown")
            assert (held.status, held.charged) == ("in_progress", "unknown")
            assert one.sample("reelgate_submission_unknown", provider="one") == 1
            task = await one.end()
            assert task.completed_at is not None
            assert held.unknown_at is not None
            assert 600 <= task.completed_at - held.unknown_at < 601
            assert len(vendor.sent) == 1

    run_virtual(main())


def test_the_policy_resubmit_buys_once_more_and_records_it() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([LOST, LOST], [done()])
        async with life({"one": vendor}, one='on_unknown = "resubmit"') as one:
            await one.create()
            task = await one.end()
            assert (task.error_code, len(vendor.sent)) == ("submission_unknown", 2)
            assert [event.type for event in await one.events()].count("resubmit_allowed") == 1

    run_virtual(main())


def test_the_policy_fail_fails_at_once() -> None:
    async def main() -> None:
        async with life({"one": ScriptedVendor([LOST], [done()])}, one='on_unknown = "fail"') as one:
            await one.create()
            task = await one.end()
            assert (task.error_code, task.completed_at) == ("submission_unknown", task.unknown_at)

    run_virtual(main())


def test_outages_never_fail_a_task() -> None:
    async def main() -> None:
        away = [VendorError("unavailable", "unknown", "HTTP 503", status=503)] * 40
        vendor = ScriptedVendor([accepted()], [*away, NOT_SENT, done()])
        async with life({"one": vendor}) as one:
            await one.create()
            assert (await one.end()).state == "completed"
            assert one.sample("reelgate_polls_total", provider="one", outcome="error") == 41

    run_virtual(main())


def test_an_unrecognised_status_is_followed_and_counted_until_the_deadline() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [Unrecognised(raw_status="TASK_STATUS_PAUSED")])
        async with life({"one": vendor}) as one:
            created = await one.create()
            task = await one.end()
            assert (task.error_code, task.charged) == ("deadline_exceeded", "yes")
            assert task.raw_status == "TASK_STATUS_PAUSED"
            assert task.completed_at is not None
            assert created.deadline_at <= task.completed_at < created.deadline_at + 1
            assert one.sample("reelgate_unrecognised_status_total", provider="one") == vendor.asked > 10

    run_virtual(main())


def test_done_without_a_link_is_asked_again_and_then_believed() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [done(None)])
        async with life({"one": vendor}) as one:
            await one.create()
            task = await one.end()
            assert (task.error_code, task.charged) == ("no_output", "yes")
            assert vendor.asked > 3

    run_virtual(main())


def test_done_without_a_link_and_then_with_one_is_completed() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [done(None), done(None), done()])
        async with life({"one": vendor}) as one:
            await one.create()
            assert (await one.end()).state == "completed"

    run_virtual(main())


@pytest.mark.parametrize(("denials", "state"), [(5, "completed"), (100_000, "failed")])
def test_a_vendor_that_denies_its_id_is_given_time(denials: int, state: str) -> None:
    async def main() -> None:
        missing = VendorError("not_found", "unknown", "no such task", status=404)
        last = done() if denials == 5 else missing
        vendor = ScriptedVendor([accepted()], [*[missing] * min(denials, 5), last])
        async with life({"one": vendor}) as one:
            await one.create()
            task = await one.end()
            assert (task.state, task.charged) == (state, "yes")
            assert state == "completed" or "no longer knows" in str(task.error_message)
            assert len(vendor.sent) == 1

    run_virtual(main())


def test_a_failed_render_says_what_is_known_of_its_price() -> None:
    async def main() -> None:
        answer = Failed(raw_status="FAILED", code="vendor_failed", message="no luck")
        vendor = ScriptedVendor([accepted()], [answer])
        async with life({"one": vendor}, one='failed_is_charged = "no"') as one:
            await one.create()
            task = await one.end()
            assert (task.error_code, task.error_message, task.charged) == ("vendor_failed", "no luck", "no")
            assert task.cost_amount is None

    run_virtual(main())


def test_two_videos_with_one_vendor_id_are_never_merged() -> None:
    async def main() -> None:
        async with life({"one": ScriptedVendor([accepted("same")], [pending()])}) as one:
            await one.create("video_1")
            await one.until(lambda task: task.state == "rendering", "video_1")
            await one.create("video_2")
            second = await one.until(lambda task: task.state == "submission_unknown", "video_2")
            assert second.vendor_task_id is None
            assert (await one.until(lambda task: True, "video_1")).state == "rendering"

    run_virtual(main())


def test_max_in_flight_is_never_exceeded_and_everything_is_done_in_order() -> None:
    async def main() -> None:
        class Counting(ScriptedVendor):
            number = 0
            now = 0
            most = 0

            async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
                self.number += 1
                self.now += 1
                self.most = max(self.most, self.now)
                answer = accepted(f"v-{self.number}")
                await asyncio.sleep(1)
                return answer

            async def poll(self, ref: Ref) -> Progress:
                self.now -= 1
                return done()

        vendor = Counting([accepted()], [done()])
        async with life({"one": vendor}, one="max_in_flight = 2") as one:
            for number in range(8):
                await one.create(f"video_{number}", priority=number)
            place = one.engine.queue_place(one.engine.tasks["video_0"])
            assert place is not None
            assert place[0] == 8
            for number in range(8):
                assert (await one.end(f"video_{number}")).state == "completed"
            assert vendor.most == 2
            starts = [(await one.until(lambda task: True, f"video_{n}")).submitted_at or 0 for n in range(8)]
            assert starts == sorted(starts, reverse=True)

    run_virtual(main())


def test_a_queue_timeout_is_free() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([NOT_SENT], [done()])
        async with life({"one": vendor}, one='max_queue_age = "5m"') as one:
            await one.create()
            task = await one.end()
            assert (task.error_code, task.charged) == ("queue_timeout", "no")
            assert task.completed_at is not None
            assert 300 <= task.completed_at - task.created_at < 400

    run_virtual(main())


def test_requests_per_minute_holds_in_any_sixty_seconds() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted(f"v-{number}") for number in range(9)], [pending()])
        async with life({"one": vendor}, one="requests_per_minute = 3") as one:
            for number in range(7):
                await one.create(f"video_{number}")
            tasks = [
                await one.until(lambda task: task.submitted_at is not None, f"video_{number}")
                for number in range(7)
            ]
            times = sorted(task.submitted_at or 0.0 for task in tasks)
            assert times[2] - times[0] < 1
            assert all(times[index + 3] - times[index] >= 60 for index in range(4)), times

    run_virtual(main())


def test_what_arrives_after_a_detach_is_noted_and_the_status_stays() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [done()], seconds=5)
        async with life({"one": vendor}) as one:
            await one.create()
            await one.until(lambda task: task.state == "submitting")
            await one.happens(Cancelled(detach=True))
            assert (await one.end()).charged == "unknown"
            task = await one.until(lambda task: task.vendor_task_id is not None)
            assert (task.state, task.charged) == ("cancelled", "yes")
            assert one.sample("reelgate_provider_in_flight", provider="one") == 0
            assert one.fleet.providers["one"].gate.in_flight == 0

    run_virtual(main())


@pytest.mark.parametrize(
    ("state", "after"),
    [("waiting", "completed"), ("submitting", "submission_unknown"), ("rendering", "completed")],
)
def test_a_restart_goes_on_with_every_task(state: str, after: str) -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        slow: Sequence[Outcome] = [NOT_SENT] if state == "waiting" else [accepted()]
        vendor = ScriptedVendor(slow, [pending()], seconds=50)
        async with life({"one": vendor}, database) as first:
            await first.create()
            await first.until(lambda task: task.state == state and task.attempts > 0)
            await first.crash()
            second_vendor = ScriptedVendor([accepted("v-2")], [done()])
            second = Life(database, {"one": second_vendor}, {})
            second.engine.replica = "replica-2"
            second.start()
            task = await second.until(lambda task: task.state == after)
            if after == "submission_unknown":
                lost = (await second.events())[-1]
                assert lost.detail["kind"] == "broken"  # as gateway/README.md has it
            assert len(vendor.sent) + len(second_vendor.sent) == (2 if state == "waiting" else 1)
            assert task.replica == "replica-2"
            await second.engine.stop()

    run_virtual(main())
