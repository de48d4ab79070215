"""The right to act as an owner: held for as long as nobody can have declared this process dead.

Not held here: beating, and being declared dead (`tests/engine`, `tests/replicas`).
"""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.lease import LEASE_SECONDS, SPARE_SECONDS, Lease

pytestmark = pytest.mark.anyio

SURE_SECONDS = LEASE_SECONDS - SPARE_SECONDS


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_on_a_database_of_its_own_a_process_holds_it_for_ever(clock: Clock) -> None:
    lease = Lease(clock)
    await lease.held()
    clock.seconds += 1e9
    assert lease.is_held


async def test_nobody_holds_it_before_a_beat_was_answered(clock: Clock) -> None:
    lease = Lease(clock, is_shared=True)
    assert not lease.is_held
    begun = lease.begun()
    assert not lease.is_held, "sent is not noted"
    lease.confirmed(begun)
    assert lease.is_held


@pytest.mark.parametrize(
    ("seconds", "is_held"),
    [(0.0, True), (SURE_SECONDS - 0.001, True), (SURE_SECONDS, False), (LEASE_SECONDS, False), (1e9, False)],
)
async def test_it_ends_a_little_before_others_may_think_so(
    clock: Clock, seconds: float, *, is_held: bool
) -> None:
    lease = Lease(clock, is_shared=True)
    lease.confirmed(lease.begun())
    clock.seconds += seconds
    assert lease.is_held is is_held


@pytest.mark.parametrize(("late", "is_held"), [(1.0, True), (SURE_SECONDS, False), (60.0, False)])
async def test_it_counts_from_when_the_beat_was_sent(clock: Clock, late: float, *, is_held: bool) -> None:
    lease = Lease(clock, is_shared=True)
    begun = lease.begun()
    clock.seconds += late  # the answer is so long in coming, or the process stood still
    lease.confirmed(begun)
    assert lease.is_held is is_held


async def test_an_answer_to_an_older_beat_shortens_nothing(clock: Clock) -> None:
    lease = Lease(clock, is_shared=True)
    older = lease.begun()
    clock.seconds += 3
    lease.confirmed(lease.begun())
    lease.confirmed(older)
    clock.seconds += SURE_SECONDS - 0.001
    assert lease.is_held


async def test_who_was_declared_dead_holds_nothing_until_the_next_beat_is_answered(clock: Clock) -> None:
    lease = Lease(clock, is_shared=True)
    lease.confirmed(lease.begun())
    lease.lost()
    assert not lease.is_held
    lease.confirmed(lease.begun())
    assert lease.is_held


async def test_who_waits_for_it_goes_on_when_it_is_held_and_not_before(clock: Clock) -> None:
    lease = Lease(clock, is_shared=True)
    waiting = [asyncio.ensure_future(lease.held()) for _ in range(3)]
    stale = lease.begun()
    clock.seconds += LEASE_SECONDS
    lease.confirmed(stale)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiting), "that answer came too late"
    lease.confirmed(lease.begun())
    async with asyncio.timeout(20):
        await asyncio.gather(*waiting)


# --- what is sent by it -------------------------------------------------------------------------------

def may_send(lease: Lease) -> bool:
    return lease.may_send


async def test_what_was_begun_before_it_was_lost_is_not_sent_by_what_came_after(clock: Clock) -> None:
    lease = Lease(clock, is_shared=True)
    lease.confirmed(lease.begun())
    may_send = [lease.may_send]
    for happens in (lease.sends, lease.lost, lambda: lease.confirmed(lease.begun()), lease.sends):
        happens()
        may_send.append(lease.may_send)
    assert may_send == [False, True, False, False, True]


async def test_it_may_run_out_and_be_renewed_while_something_is_sent(clock: Clock) -> None:
    lease = Lease(clock, is_shared=True)
    lease.confirmed(lease.begun())
    lease.sends()
    clock.seconds += LEASE_SECONDS
    may_send = [lease.may_send]
    lease.confirmed(lease.begun())
    assert [*may_send, lease.may_send] == [False, True], "nobody declared it dead meanwhile"


async def test_each_task_sends_by_the_right_of_its_own_time(clock: Clock) -> None:
    lease, go = Lease(clock, is_shared=True), asyncio.Event()

    async def sends() -> bool:
        lease.sends()
        await go.wait()
        return await asyncio.create_task(told())  # what it calls inherits that

    async def told() -> bool:
        return lease.may_send

    lease.confirmed(lease.begun())
    before = asyncio.create_task(sends())
    await asyncio.sleep(0)
    lease.lost()
    lease.confirmed(lease.begun())
    after = asyncio.create_task(sends())
    await asyncio.sleep(0)
    go.set()
    assert (await before, await after) == (False, True)
