"""While nobody knows whether a submission was accepted: the vendor's memory, the policy, the time.

In virtual time, through the real engine and store. Not held here: an operator's verbs (`tests/api`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

import pytest

from gateway.core.facts import Abandoned, Adopted, Fact, ResubmitAllowed
from gateway.core.states import Task
from gateway.storage.store import Store
from providers.spec import Offering, Progress, Ref, Submitted, VendorError, VideoRequest
from tests.engine.life import Life, Outcome, ScriptedVendor, SwitchedVendor, accepted, done, life, pending
from tests.virtual import run_virtual

LOST = VendorError("broken", "unknown", "connection reset")
AWAY = VendorError("unavailable", "unknown", "HTTP 503", status=503)
MISSING = VendorError("not_found", "unknown", "no such task", status=404)
Found: TypeAlias = Submitted | VendorError | None


class Finder(ScriptedVendor):
    """A vendor that keeps references of ours. `found` is its script of answers to the look-up."""

    def __init__(self, submits: Sequence[Outcome], found: Sequence[Found]) -> None:
        super().__init__(submits, [done()])
        self.found = list(found)
        self.references: list[str] = []
        self.looked_up: list[tuple[float, str]] = []

    async def submit_as(self, request: VideoRequest, offering: Offering, reference: str) -> Submitted:
        """As `submit`."""
        self.references.append(reference)
        return await self.submit(request, offering)

    async def find_submission(self, reference: str) -> Submitted | None:
        """The next line of the script."""
        self.looked_up.append((asyncio.get_running_loop().time(), reference))
        await asyncio.sleep(0.01)
        answer = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(answer, VendorError):
            raise answer
        return answer


async def kinds(one: Life) -> list[str]:
    return [event.type for event in await one.events()]


# --- the vendor's memory ------------------------------------------------------------------------------

def test_a_vendor_that_keeps_our_reference_is_asked_and_the_job_is_adopted() -> None:
    async def main() -> None:
        vendor = Finder([LOST], [None, AWAY, None, accepted("v-7")])
        async with life({"one": vendor}) as one:
            await one.create()
            task = await one.end()
            assert (task.state, task.vendor_task_id, task.charged) == ("completed", "v-7", "yes")
            assert (len(vendor.sent), task.attempts) == (1, 1)
            assert vendor.references == ["video_1-1"]
            assert {reference for _, reference in vendor.looked_up} == {"video_1-1"}
            adopted = next(event for event in await one.events() if event.type == "adopted")
            assert adopted.detail["by"] == "the vendor, asked by our reference"
            assert "next_poll" in await kinds(one)

    run_virtual(main())


def test_each_sending_has_a_reference_of_its_own() -> None:
    async def main() -> None:
        not_sent = VendorError("not_sent", "not_sent", "refused")
        vendor = Finder([not_sent, not_sent, accepted()], [None])
        async with life({"one": vendor}) as one:
            await one.create()
            assert (await one.end()).state == "completed"
            assert vendor.references == ["video_1-1", "video_1-2", "video_1-3"]
            assert vendor.looked_up == []

    run_virtual(main())


@pytest.mark.parametrize(("policy", "sent"), [("resubmit", 2), ("fail", 1)])
def test_a_policy_waits_for_what_the_vendor_can_say(policy: str, sent: int) -> None:
    async def main() -> None:
        vendor = Finder([LOST], [None])
        async with life({"one": vendor}, one=f'on_unknown = "{policy}"') as one:
            await one.create()
            held = await one.until(lambda task: task.state == "submission_unknown")
            acted = await one.until(lambda task: task.state != "submission_unknown")
            assert held.unknown_at is not None
            assert 120 <= one.now() - held.unknown_at <= 181, "at the first look-up after two minutes"
            assert len(vendor.looked_up) >= 4
            assert acted.state == ("waiting" if policy == "resubmit" else "failed")
            task = await one.end()
            assert (task.error_code, len(vendor.sent)) == ("submission_unknown", sent)

    run_virtual(main())


def test_what_the_vendor_finds_within_that_time_is_not_bought_twice() -> None:
    async def main() -> None:
        vendor = Finder([LOST], [*[None] * 5, accepted("v-7")])
        async with life({"one": vendor}, one='on_unknown = "resubmit"') as one:
            await one.create()
            task = await one.end()
            assert (task.state, task.resubmits, len(vendor.sent)) == ("completed", 0, 1)

    run_virtual(main())


def test_a_look_up_that_finds_nothing_ends_by_its_time_and_grows_seldom() -> None:
    async def main() -> None:
        vendor = Finder([LOST], [None])
        async with life({"one": vendor}, one='unknown_timeout = "15m"') as one:
            await one.create()
            task = await one.end()
            assert task.error_code == "submission_unknown"
            assert task.completed_at is not None
            assert task.unknown_at is not None
            assert 900 <= task.completed_at - task.unknown_at < 901
            assert 15 <= len(vendor.looked_up) <= 120

    run_virtual(main())


def test_the_vendors_hint_between_two_look_ups_is_honoured() -> None:
    async def main() -> None:
        busy = VendorError("rate_limited", "unknown", "later", status=429, retry_after_seconds=70)
        vendor = Finder([LOST], [busy, accepted("v-7")])
        async with life({"one": vendor}) as one:
            await one.create()
            assert (await one.end()).state == "completed"
            first, second = (time for time, _ in vendor.looked_up)
            assert 70 <= second - first <= 71.1

    run_virtual(main())


def test_the_job_of_another_video_is_not_adopted() -> None:
    async def main() -> None:
        vendor = Finder([accepted("v-1"), LOST], [accepted("v-1"), accepted("v-1"), accepted("v-2")])
        vendor.polls = [pending()]
        async with life({"one": vendor}) as one:
            await one.create("video_1")
            await one.until(lambda task: task.state == "rendering", "video_1")
            await one.create("video_2")
            task = await one.until(lambda task: task.state == "rendering", "video_2")
            assert task.vendor_task_id == "v-2"
            assert len(vendor.looked_up) == 3

    run_virtual(main())


# --- on a shared database -----------------------------------------------------------------------------

async def unknown_since_now(one: Life) -> Task:
    return await one.create(
        state="submission_unknown", stage="submission_unknown", provider="one", attempts=1,
        offering="kling-v3.0-pro-t2v", charged="unknown", unknown_at=one.now(),
    )


@pytest.mark.parametrize(
    ("policy", "timeout", "is_shared", "seconds"),
    [("resubmit", "15m", True, 10), ("fail", "15m", True, 10), ("resubmit", "4s", True, 4),
     ("fail", "4s", True, 4), ("hold", "15m", True, 900), ("resubmit", "15m", False, 0),
     ("fail", "15m", False, 0)],
)
def test_where_there_are_replicas_a_policy_leaves_time_for_an_answer(
    policy: str, timeout: str, is_shared: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        lines = f'on_unknown = "{policy}"\nunknown_timeout = "{timeout}"'
        async with life({"one": ScriptedVendor([accepted()], [done()])}, one=lines) as one:
            monkeypatch.setattr(Store, "is_shared", is_shared)
            created = await unknown_since_now(one)
            acted = await one.until(lambda task: task.state != "submission_unknown")
            assert seconds <= one.now() - created.created_at < seconds + 0.1
            assert acted.state == ("waiting" if policy == "resubmit" else "failed")

    run_virtual(main())


def test_an_answer_that_an_owner_still_tells_is_not_bought_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted("v-2")], [done()])
        async with life({"one": vendor}, one='on_unknown = "resubmit"') as one:
            monkeypatch.setattr(Store, "is_shared", True)
            await unknown_since_now(one)
            await asyncio.sleep(9.5)
            await one.happens(Adopted(accepted("v-1"), "its owner until now"))
            task = await one.end()
            assert (task.state, task.vendor_task_id, vendor.sent) == ("completed", "v-1", [])

    run_virtual(main())


# --- an operator meanwhile ----------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("fact", "state", "sent"),
    [(Adopted(accepted("v-9"), "me"), "completed", 1), (Abandoned("me"), "failed", 1),
     (ResubmitAllowed("me"), "completed", 2)],
)
def test_an_operators_decision_is_carried_out(fact: Fact, state: str, sent: int) -> None:
    async def main() -> None:
        vendor = ScriptedVendor([LOST, accepted("v-2")], [done()])
        async with life({"one": vendor}) as one:
            await one.create()
            await one.until(lambda task: task.state == "submission_unknown")
            await asyncio.sleep(60)
            assert one.fleet.unknown["one"] == 1
            await one.happens(fact)
            task = await one.end()
            assert (task.state, len(vendor.sent)) == (state, sent)
            assert one.sample("reelgate_submission_unknown", provider="one") == 0
            assert one.fleet.unknown["one"] == 0
            assert one.fleet.providers["one"].gate.in_flight == 0

    run_virtual(main())


def test_who_follows_nothing_any_more_counts_no_unknown() -> None:
    async def main() -> None:
        async with life({"one": ScriptedVendor([LOST], [done()])}, one='on_unknown = "hold"') as one:
            await one.create()
            await one.until(lambda task: task.state == "submission_unknown")
            assert one.fleet.unknown["one"] == 1
            one.engine.rename("replica-2")
            assert one.fleet.unknown["one"] == 0

    run_virtual(main())


def test_a_second_unknown_is_not_bought_a_third_time_by_the_policy() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([LOST], [done()])
        async with life({"one": vendor}, one='on_unknown = "resubmit"\nunknown_timeout = "20m"') as one:
            await one.create()
            task = await one.end()
            assert (len(vendor.sent), task.resubmits, task.charged) == (2, 1, "unknown")

    run_virtual(main())


# --- the time -----------------------------------------------------------------------------------------

def test_the_deadline_comes_before_unknown_timeout() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([LOST], [done()])
        async with life({"one": vendor}, one='unknown_timeout = "2h"') as one:
            created = await one.create()
            task = await one.end()
            assert (task.error_code, task.charged) == ("deadline_exceeded", "unknown")
            assert task.completed_at is not None
            assert created.deadline_at <= task.completed_at < created.deadline_at + 1

    run_virtual(main())


def test_an_id_that_was_forgotten_is_asked_for_and_comes_back() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [*[MISSING] * 14, done()])
        async with life({"one": vendor}, one='on_unknown = "resubmit"') as one:
            await one.create()
            await one.until(lambda task: task.state == "submission_unknown")
            task = await one.end()
            assert (task.state, len(vendor.sent)) == ("completed", 1)

    run_virtual(main())


def test_a_provider_that_is_gone_leaves_an_unknown_task_to_its_time() -> None:
    async def main() -> None:
        async with life() as one:
            await one.create(
                state="submission_unknown", stage="submission_unknown", provider="three", offering="x",
                charged="unknown", unknown_at=one.now(),
            )
            task = await one.end()
            assert (task.error_code, task.charged) == ("submission_unknown", "unknown")
            assert task.completed_at is not None
            assert 900 <= task.completed_at - task.created_at < 901

    run_virtual(main())


@pytest.mark.parametrize(
    ("answer", "charged", "noted"),
    [(accepted("v-1"), "yes", "accepted_after_end"), (LOST, "unknown", None),
     (VendorError("capacity", "rejected", "full", status=503), "no", "refused_after_end"),
     (VendorError("not_sent", "not_sent", "refused"), "no", "refused_after_end")],
)
def test_a_deadline_while_the_answer_is_out_ends_the_task_on_time(
    answer: Outcome, charged: str, noted: str | None
) -> None:
    async def main() -> None:
        vendor = ScriptedVendor([answer], [done()], seconds=50)
        async with life({"one": vendor}) as one:
            await one.create(deadline_at=one.now() + 20)
            task = await one.end()
            assert (task.error_code, task.charged) == ("deadline_exceeded", "unknown")
            assert task.completed_at is not None
            assert 20 <= task.completed_at - task.created_at < 20.1
            assert one.fleet.providers["one"].gate.in_flight == 0
            await asyncio.sleep(40)
            after = await one.store.task_get("video_1")
            assert after is not None
            assert (after.state, after.error_code, after.charged) == ("failed", "deadline_exceeded", charged)
            assert (noted is None) or noted in await kinds(one)
            assert one.fleet.providers["one"].gate.sending == 0

    run_virtual(main())


def test_an_answer_beyond_submit_timeout_is_unknown() -> None:
    async def main() -> None:
        vendor = SwitchedVendor()
        vendor.seconds = 100
        async with life({"one": vendor}, one='submit_timeout = "30s"') as one:
            await one.create()
            task = await one.until(lambda task: task.state == "submission_unknown")
            assert task.unknown_at is not None
            assert 30 <= task.unknown_at - (task.submitted_at or 0) < 31
            lost = (await one.events())[-1]
            assert (lost.detail["kind"], lost.detail["message"]) == (
                "timeout", "no answer within submit_timeout")

    run_virtual(main())


class Amnesic(ScriptedVendor):
    """Forgets its jobs from their second poll on."""

    async def poll(self, ref: Ref) -> Progress:
        """Rendering once, and then nothing known."""
        self.asked += 1
        if self.asked == 1:
            return pending()
        raise MISSING


class Busy(ScriptedVendor):
    """Forgets its job, and then asks to be left alone for a quarter of an hour."""

    async def poll(self, ref: Ref) -> Progress:
        """Nothing known until the grace time is over, then later."""
        self.asked += 1
        if asyncio.get_running_loop().time() < 200:
            raise MISSING
        raise VendorError("rate_limited", "unknown", "later", status=429, retry_after_seconds=900)


def test_unknown_timeout_does_not_wait_for_the_vendors_hint() -> None:
    async def main() -> None:
        vendor = Busy([accepted()], [])
        async with life({"one": vendor}, one='unknown_timeout = "10m"') as one:
            await one.create()
            held = await one.until(lambda task: task.state == "submission_unknown")
            task = await one.end()
            assert held.unknown_at is not None
            assert task.completed_at is not None
            assert (task.error_code, task.charged) == ("submission_unknown", "yes")
            assert 600 <= task.completed_at - held.unknown_at < 601

    run_virtual(main())


def test_a_forgotten_job_fails_as_paid_and_is_still_looked_up() -> None:
    async def main() -> None:
        vendor = Amnesic([accepted()], [])
        async with life({"one": vendor}, one='unknown_timeout = "5m"') as one:
            await one.create()
            task = await one.end()
            assert (task.error_code, task.charged) == ("submission_unknown", "yes")
            assert task.late_until == (task.completed_at or 0) + 86_400
            asked = vendor.asked
            await asyncio.sleep(1_000)
            assert vendor.asked > asked

    run_virtual(main())
