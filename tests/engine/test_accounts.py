"""No more videos at vendors than a key and its team may have: the rest waits, others pass, and all goes.

The vendor counts what it has at once. Not held here: that replicas agree on it (`tests/replicas`), what a
caller is told (`tests/replicas/test_limits.py`), the line by itself (`test_line_files`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import pytest

from gateway.core.facts import Cancelled
from gateway.core.grants import Grant, Limits
from gateway.core.states import Task
from gateway.engine.accounts import KNOWN_SECONDS
from gateway.engine.entering import at_once
from gateway.storage.rows import KeyRow
from providers.spec import Offering, Progress, Ref, Submitted, Succeeded, VideoRequest
from tests.blank import blank
from tests.engine.life import REQUEST, Life, SwitchedVendor, configured, life
from tests.engine.test_unknown import LOST
from tests.virtual import run_virtual

RED: Final = "[teams.red]\nmax_in_flight = {}"


class CountingVendor(SwitchedVendor):
    """One that renders for ten seconds, and notes how many it has at once."""

    def __init__(self) -> None:
        super().__init__(renders=10.0)
        self.here: set[str] = set()
        self.most = 0

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        """It has the job from the first byte of the request."""
        name = f"job {len(self.sent)}"
        self.here.add(name)
        self.most = max(self.most, len(self.here))
        try:
            submitted = await super().submit(request, offering)
        except BaseException:
            self.here.discard(name)
            raise
        self.here.discard(name)
        self.here.add(submitted.vendor_task_id)
        return submitted

    async def poll(self, ref: Ref) -> Progress:
        """A job that is done is gone."""
        progress = await super().poll(ref)
        if isinstance(progress, Succeeded):
            self.here.discard(ref["id"])
        return progress


async def add_key(one: Life, key_id: str, team: str | None = None, **limits: int) -> None:
    """A stored key with these limits."""
    grant = Grant(limits=msgspec.convert(limits, Limits))
    await one.store.keys.add(KeyRow(
        id=key_id, name=key_id, role="caller", digest=f"digest of {key_id}", hint="", created_at=0.0,
        team=team, grant=grant,
    ))


async def create(one: Life, count: int, key_id: str, team: str | None = None, first: int = 0) -> list[str]:
    """So many that wait, of this key."""
    names = [f"{key_id} {number}" for number in range(first, first + count)]
    for name in names:
        await one.create(name, key_id=key_id, owner=key_id if team is None else f"team:{team}")
    return names


def at_vendors(one: Life, key_id: str) -> int:
    """How many of a key's videos have a job, or may have."""
    return sum(task.is_in_flight and task.key_id == key_id for task in one.engine.tasks.values())


async def all_end(one: Life, names: Sequence[str]) -> None:
    for name in names:
        assert (await one.end(name)).state == "completed"


# --- lives ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("is_learned", [True, False], ids=["known", "asked for"])
def test_a_key_has_no_more_at_vendors_than_it_may_and_others_pass(is_learned: bool) -> None:
    async def main() -> None:
        vendor, other = CountingVendor(), CountingVendor()
        async with life({"one": vendor, "two": other}) as one:
            await add_key(one, "key_a", max_in_flight=2)
            if is_learned:
                one.engine.accounts.learn("key_a", Limits(max_in_flight=2))
            mine = await create(one, 7, "key_a")
            theirs = await create(one, 3, "key_b")
            await all_end(one, theirs)
            assert at_vendors(one, "key_a") <= 2
            await all_end(one, mine)
            assert vendor.most == 5  # all of the one, and two of the other
            assert len(vendor.sent) == 10
            went = [await one.store.task_get(name) for name in mine]
            starts = sorted(task.submitted_at or 0 for task in went if task is not None)
            assert all(later - earlier >= 9 for earlier, later in zip(starts, starts[2:], strict=False))

    run_virtual(main())


def test_a_team_is_counted_together_and_its_keys_by_themselves() -> None:
    async def main() -> None:
        vendor = CountingVendor()
        async with life({"one": vendor}, two=RED.format(3)) as one:
            await add_key(one, "key_a", "red", max_in_flight=1)
            await add_key(one, "key_b", "red")
            mine = await create(one, 4, "key_a", "red")
            theirs = await create(one, 6, "key_b", "red")
            most: Counter[str] = Counter()

            def note(task: Task, _: object) -> None:
                for key_id in ("key_a", "key_b"):
                    most[key_id] = max(most[key_id], at_vendors(one, key_id))

            one.store.listen(note)
            await all_end(one, [*mine, *theirs])
            assert vendor.most == 3
            assert most["key_a"] == 1
            assert most["key_b"] in (2, 3)

    run_virtual(main())


def test_after_a_restart_and_for_a_revoked_key_it_is_the_same() -> None:
    async def main() -> None:
        database, vendor = blank(), CountingVendor()
        async with life({"one": vendor}, database) as first:
            await add_key(first, "key_a", max_in_flight=2)
            names = await create(first, 6, "key_a")
            await first.until(lambda task: task.state == "rendering", names[1])
            assert await first.store.keys.revoke("key_a", first.now())
            await first.crash()
            second = Life(database, {"one": vendor}, {})
            second.engine.replica = "replica-2"
            second.start()
            await all_end(second, names)
            assert (vendor.most, len(vendor.sent)) == (2, 6)
            await second.engine.stop()

    run_virtual(main())


def test_nobody_knows_of_a_submission_and_it_keeps_its_place() -> None:
    async def main() -> None:
        vendor = CountingVendor()
        async with life({"one": vendor}, one='on_unknown = "hold"\nunknown_timeout = "5m"') as one:
            await add_key(one, "key_a", max_in_flight=1)
            one.engine.accounts.learn("key_a", Limits(max_in_flight=1))
            vendor.refuses = LOST
            first, second = await create(one, 2, "key_a")
            await one.until(lambda task: task.state == "submission_unknown", first)
            vendor.refuses = None
            began = one.now()
            await one.end(second)
            assert one.now() - began >= 299

    run_virtual(main())


def test_a_place_comes_free_by_every_end() -> None:
    async def main() -> None:
        vendor = CountingVendor()
        async with life({"one": vendor}) as one:
            await add_key(one, "key_a", max_in_flight=1)
            names = await create(one, 4, "key_a")
            await one.until(lambda task: task.state == "rendering", names[0])
            await one.happens(Cancelled(detach=True), names[0])  # let go
            await one.until(lambda task: task.state == "rendering", names[1])
            await one.happens(Cancelled(detach=False), names[2])  # while it waits
            await one.end(names[3])
            assert at_vendors(one, "key_a") == 0
            assert not one.engine.accounts.is_full("key_a", one.now())

    run_virtual(main())


def test_a_new_one_goes_straight_only_while_there_is_room() -> None:
    async def main() -> None:
        vendor = CountingVendor()
        async with life({"one": vendor}) as one:
            await asyncio.sleep(1)
            await add_key(one, "key_a", max_in_flight=2)
            one.engine.accounts.learn("key_a", Limits(max_in_flight=2))
            states = [(await one.order(f"video_{n}", key_id="key_a", owner="key_a")).state for n in range(4)]
            assert states == ["submitting", "submitting", "waiting", "waiting"]
            other = await one.order("other", key_id="key_b", owner="key_b")
            assert other.state == "submitting", "those that wait for their account are passed"
            await all_end(one, [f"video_{n}" for n in range(4)])
            assert vendor.most == 3

    run_virtual(main())


def test_one_that_was_not_stored_gives_its_place_back() -> None:
    async def main() -> None:
        async with life() as one:
            await asyncio.sleep(1)
            one.engine.accounts.learn("key_a", Limits(max_in_flight=1))
            task = one.new(key_id="key_a", owner="key_a")
            assert at_once(one.engine, task, REQUEST) is not None
            assert one.engine.accounts.is_full("key_a", one.now())
            one.engine.give_back(task.id)
            assert not one.engine.accounts.is_full("key_a", one.now())

    run_virtual(main())


def test_a_reload_lets_more_of_a_team_go_and_then_fewer() -> None:
    async def main() -> None:
        vendor = CountingVendor()
        async with life({"one": vendor}, two=RED.format(1)) as one:
            names = await create(one, 9, "key_a", "red")
            await one.until(lambda task: task.state == "rendering", names[0])
            _reload(one, RED.format(3))
            await one.until(lambda task: task.state == "rendering", names[2])
            assert at_vendors(one, "key_a") == 3
            _reload(one, RED.format(1))
            await all_end(one, names[:3])
            vendor.most = 0
            await all_end(one, names)
            assert vendor.most == 1

    run_virtual(main())


def test_a_limit_where_there_was_none_counts_what_is_there() -> None:
    async def main() -> None:
        vendor = CountingVendor()
        async with life({"one": vendor}, two="") as one:
            names = await create(one, 3, "key_a", "red")
            await one.until(lambda task: task.state == "rendering", names[2])
            _reload(one, RED.format(2))
            more = await create(one, 3, "key_a", "red", first=3)
            await asyncio.sleep(5)
            assert at_vendors(one, "key_a") == 3
            await all_end(one, [*names, *more])
            assert len(vendor.sent) == 6

    run_virtual(main())


def _reload(one: Life, teams: str) -> None:
    one.settings = configured(two=teams)
    one.fleet.use(one.settings, list(one.fleet.providers.values()))
    one.engine.recount()


# --- what is known of limits ----------------------------------------------------------------------------

def test_a_keys_limits_are_asked_for_again_after_a_while() -> None:
    async def main() -> None:
        async with life() as one:
            accounts = one.engine.accounts
            assert not await accounts.look_up("key_a")
            await add_key(one, "key_a", max_in_flight=3)
            assert not await accounts.look_up("key_a"), "it is believed to have none for a while"
            await asyncio.sleep(KNOWN_SECONDS)
            assert await accounts.look_up("key_a")
            task = one.new(key_id="key_a", owner="team:red")
            assert accounts.capped(task) == ("key_a",)
            team, key = await accounts.held_to(task)
            assert (team.id, key.id, key.limits.max_in_flight) == ("team:red", "key_a", 3)

    run_virtual(main())
