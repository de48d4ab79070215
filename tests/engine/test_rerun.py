"""Whether a render that its vendor failed is bought once more elsewhere: the policy and its limits.

In virtual time, through the real engine and store. Not held here: a caller's own rerun (`tests/api`).
"""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from msgspec.structs import replace

from gateway.core.facts import Candidate
from providers.spec import Adapter, Failed, Offering, Progress, Ref, Submitted, VideoRequest
from tests.engine.life import Life, ScriptedVendor, accepted, done, life
from tests.virtual import VirtualLoop, run_virtual

PRICE = 'prices = {{ "kling-v3.0-pro-t2v" = {{ per_request = "{}", currency = "{}" }} }}'
PRO, STD = "kling-v3.0-pro-t2v", "kling-v3.0-std-t2v"
ONCE = "rerun_failed = 1"


def failing(job: str, code: Literal["vendor_failed", "content_policy"] = "vendor_failed") -> ScriptedVendor:
    return ScriptedVendor([accepted(job)], [Failed(raw_status="FAILED", code=code, message="no luck")])


def price(amount: str, currency: str = "USD") -> str:
    return PRICE.format(amount, currency)


class Slugs(ScriptedVendor):
    """Remembers what it was asked to render with."""

    slugs: tuple[str, ...] = ()

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        """As the script says."""
        self.slugs = (*self.slugs, offering.slug)
        return await super().submit(request, offering)


async def kinds(one: Life) -> list[str]:
    return [event.type for event in await one.events() if event.type != "next_poll"]


def test_a_failed_render_is_bought_elsewhere_and_each_attempt_is_on_the_timeline() -> None:
    async def main() -> None:
        first, second = failing("v-1"), ScriptedVendor([accepted("w-1")], [done()])
        vendors: dict[str, Adapter] = {"one": first, "two": second}
        async with life(vendors, routing=ONCE, one=price("0.5"), two=price("0.7")) as one:
            await one.create(providers=("one", "two"))
            task = await one.end()
            assert (task.state, task.provider, task.reruns, task.attempts) == ("completed", "two", 1, 2)
            assert (task.charged, task.cost_amount) == ("yes", "1.20")
            assert (len(first.sent), len(second.sent)) == (1, 1)
            assert await kinds(one) == [
                "accepted", "submitting", "accepted_by_vendor", "rerun_allowed", "submitting",
                "accepted_by_vendor", "completed",
            ]
            allowed = next(event for event in await one.events() if event.type == "rerun_allowed")
            assert allowed.detail["by"] == "the policy rerun_failed = 1"
            assert (allowed.detail["message"], allowed.provider) == ("no luck", "one")

    run_virtual(main())


@pytest.mark.parametrize("routing", ["", "rerun_failed = 0"])
def test_without_the_policy_a_failed_render_fails(routing: str) -> None:
    async def main() -> None:
        second = ScriptedVendor([accepted("w-1")], [done()])
        async with life({"one": failing("v-1"), "two": second}, routing=routing) as one:
            await one.create(providers=("one", "two"))
            assert (await one.end()).error_code == "vendor_failed"
            assert second.sent == []

    run_virtual(main())


def test_no_more_often_than_the_policy_says_and_nowhere_twice() -> None:
    async def main() -> None:
        first, second = failing("v-1"), failing("w-1")
        async with life({"one": first, "two": second}, routing="rerun_failed = 5") as one:
            await one.create(providers=("one", "two"))
            task = await one.end()
            assert (task.error_code, task.reruns, task.attempts) == ("vendor_failed", 1, 2)
            assert (len(first.sent), len(second.sent)) == (1, 1)

    run_virtual(main())


def test_the_limit_of_attempts_holds_where_there_are_more_candidates() -> None:
    async def main() -> None:
        async with life({"one": failing("v-1"), "two": failing("w-1")}, routing=ONCE) as one:
            await one.create(providers=("one", "two"), reruns=1)
            task = await one.end()
            assert (task.error_code, task.attempts) == ("vendor_failed", 1)

    run_virtual(main())


def test_a_refused_content_is_not_shopped_around() -> None:
    async def main() -> None:
        second = ScriptedVendor([accepted("w-1")], [done()])
        vendors = {"one": failing("v-1", "content_policy"), "two": second}
        async with life(dict(vendors), routing="rerun_failed = 5") as one:
            await one.create(providers=("one", "two"))
            assert (await one.end()).error_code == "content_policy"
            assert second.sent == []

    run_virtual(main())


@pytest.mark.parametrize("away", ["draining", "removed", "another provider", "no offering"])
def test_where_nothing_new_is_taken_nothing_is_bought_again(away: str) -> None:
    async def main() -> None:
        second = ScriptedVendor([accepted("w-1")], [done()])
        async with life({"one": failing("v-1"), "two": second}, routing=ONCE) as one:
            unknown = {"another provider": Candidate("three", PRO), "no offering": Candidate("two", "no")}
            other = unknown.get(away, Candidate("two", PRO))
            if away == "draining":
                one.fleet.hold("two", "drain")
            elif away == "removed":
                settings = one.fleet.settings
                kept = replace(settings, providers={"one": settings.providers["one"]})
                one.fleet.use(kept, [one.fleet.providers["one"]])
            await one.create(candidates=(Candidate("one", PRO), other))
            task = await one.end()
            assert task.completed_at is not None
            assert (task.error_code, task.reruns, second.sent) == ("vendor_failed", 0, [])
            assert task.completed_at - task.created_at < 60, "its end does not wait for the deadline"

    run_virtual(main())


def test_who_drains_is_passed_over_for_one_that_takes_it() -> None:
    async def main() -> None:
        second = Slugs([accepted("w-1")], [done()])
        async with life({"one": failing("v-1"), "two": second}, routing=ONCE) as one:
            gone = Candidate("two", "no-such-slug")
            await one.create(candidates=(Candidate("one", PRO), gone, Candidate("two", PRO)))
            task = await one.end()
            assert (task.state, task.provider, second.slugs) == ("completed", "two", (PRO,))
            assert gone in task.ruled_out

    run_virtual(main())


@pytest.mark.parametrize(
    ("limit", "one_", "two_", "state"),
    [
        ("1.20", price("0.5"), price("0.7"), "completed"),
        ("1.19", price("0.5"), price("0.7"), "failed"),
        ("1.19", price("0.5") + '\nfailed_is_charged = "no"', price("0.7"), "completed"),
        ("0.69", price("0.5") + '\nfailed_is_charged = "no"', price("0.7"), "failed"),
        ("9", price("0.5"), "", "failed"),
        ("9", "", price("0.7"), "failed"),
        ("9", price("0.5", "EUR"), price("0.7"), "failed"),
        ("9", price("0.5", "EUR") + '\nfailed_is_charged = "no"', price("0.7"), "completed"),
    ],
)
def test_the_limit_of_money_holds_for_all_sendings_together(
    limit: str, one_: str, two_: str, state: str
) -> None:
    async def main() -> None:
        vendors = {"one": failing("v-1"), "two": ScriptedVendor([accepted("w-1")], [done()])}
        routing = f'{ONCE}\nrerun_cost_limit = "{limit}"'
        async with life(dict(vendors), routing=routing, one=one_, two=two_) as one:
            await one.create(providers=("one", "two"))
            assert (await one.end()).state == state

    run_virtual(main())


def test_what_the_limit_rules_out_is_not_sent_to_although_it_stands_first() -> None:
    async def main() -> None:
        second = Slugs([accepted("w-1")], [done()])
        both = f"""prices = {{ "{PRO}" = {{ per_request = "5" }}, "{STD}" = {{ per_request = "0.3" }} }}"""
        async with life(
            {"one": failing("v-1"), "two": second}, routing=f'{ONCE}\nrerun_cost_limit = "1"',
            one=price("0.4"), two=both,
        ) as one:
            candidates = (Candidate("one", PRO), Candidate("two", PRO), Candidate("two", STD))
            await one.create(candidates=candidates)
            task = await one.end()
            assert (task.state, task.offering, task.cost_amount) == ("completed", STD, "0.70")
            assert second.slugs == (STD,)
            assert task.ruled_out == candidates[:2]

    run_virtual(main())


class AtOnce(ScriptedVendor):
    """Says that it failed, in the moment `answers_at` of virtual time."""

    answers_at = 0.0

    async def poll(self, ref: Ref) -> Progress:
        """It failed."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.skew = max(loop.skew, self.answers_at)
        return Failed(raw_status="FAILED", code="vendor_failed", message="no luck")


def test_in_the_moment_of_the_deadline_nothing_is_bought_again() -> None:
    async def main() -> None:
        first = AtOnce([accepted("v-1")], failing("v-1").polls)
        first.answers_at = 100.0
        second = ScriptedVendor([accepted("w-1")], [done()])
        async with life({"one": first, "two": second}, routing=ONCE) as one:
            await one.create(providers=("one", "two"), deadline_at=one.now() + 100)
            task = await one.end()
            assert (task.error_code, task.reruns, second.sent) == ("vendor_failed", 0, [])

    run_virtual(main())


def test_a_rendered_task_that_waits_again_stays_in_progress() -> None:
    async def main() -> None:
        async with life({"one": failing("v-1"), "two": failing("w-1")}, routing=ONCE) as one:
            one.fleet.providers["two"].health.hold = "pause"
            await one.create(providers=("one", "two"))
            task = await one.until(lambda task: task.reruns == 1)
            assert (task.state, task.status) == ("waiting", "in_progress")
            assert one.engine.queue_place(task) == (1, None)

    run_virtual(main())
