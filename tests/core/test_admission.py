"""The gate of one provider: its cap, its rate, its closing times, how long it is left alone; and a pace.

Not held here: the order among waiting tasks (`tests/engine`).
"""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import WINDOW_SECONDS, Gate, Pace, Rate, pause_seconds
from tests.core.made import NOW


def gate(max_in_flight: int | None = None, per_minute: int | None = None) -> Gate:
    return Gate(max_in_flight=max_in_flight, rate=Rate(per_minute))


# --- the cap ------------------------------------------------------------------------------------------

def test_the_cap_lets_so_many_in_and_one_more_when_one_leaves() -> None:
    door = gate(max_in_flight=2)
    assert [door.enter(NOW) for _ in range(3)] == [True, True, False]
    assert door.free_at(NOW) is None  # only a finished task can tell
    door.leave()
    assert door.free_at(NOW) == NOW
    assert [door.enter(NOW), door.enter(NOW)] == [True, False]


def test_without_a_cap_there_is_always_a_place() -> None:
    door = gate()
    assert all(door.enter(NOW) for _ in range(1000))
    assert door.in_flight == 1000


def test_leaving_an_empty_place_makes_none() -> None:
    door = gate(max_in_flight=1)
    door.leave()
    assert [door.enter(NOW), door.enter(NOW)] == [True, False]


def test_a_refused_entry_costs_neither_a_place_nor_a_share_of_the_rate() -> None:
    door = gate(max_in_flight=1, per_minute=2)
    assert [door.enter(NOW) for _ in range(5)] == [True, False, False, False, False]
    door.leave()
    assert [door.enter(NOW), door.in_flight] == [True, 1]


# --- what is counted ----------------------------------------------------------------------------------

def test_what_has_entered_is_counted_beside_the_stored_jobs_until_its_intent_is_stored() -> None:
    door = gate(max_in_flight=5)
    assert all(door.enter(NOW) for _ in range(3))
    door.recount(2)
    assert (door.in_flight, door.free_at(NOW)) == (5, None)
    door.started()
    door.recount(2)
    assert door.in_flight == 4, "the one that started is among the stored jobs"
    door.answered()
    door.recount(2)
    assert door.in_flight == 4, "its answer makes no place free"


def test_who_withdraws_leaves_no_trace() -> None:
    door = gate(max_in_flight=2)
    assert all(door.enter(NOW) for _ in range(2))
    door.withdraw()
    assert (door.in_flight, door.free_at(NOW)) == (1, NOW)
    door.recount(0)
    assert door.in_flight == 1, "the other one has still entered"
    door.withdraw()
    door.recount(0)
    assert door.in_flight == 0


# --- the rate -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("per_minute", [1, 2, 60, 600])
def test_a_minutes_worth_may_leave_at_once_and_no_more_for_a_minute(per_minute: int) -> None:
    rate = Rate(per_minute)
    assert [rate.take(NOW) for _ in range(per_minute + 1)] == [*[True] * per_minute, False]
    assert rate.free_at(NOW + 59) == NOW + WINDOW_SECONDS
    assert [rate.take(NOW + 60), rate.take(NOW + WINDOW_SECONDS)] == [False, True]


@given(st.integers(1, 20), st.lists(st.floats(0, 40), max_size=60))
def test_no_sixty_seconds_hold_more_than_the_rate(per_minute: int, gaps: list[float]) -> None:
    rate, now = Rate(per_minute), 0.0
    taken: list[float] = []
    for gap in gaps:
        now += gap
        while rate.take(now):
            taken.append(now)
    for earlier, later in zip(taken, taken[per_minute:], strict=False):
        assert later >= earlier + 60


@given(st.integers(1, 20), st.lists(st.integers(0, 40), min_size=1, max_size=20))
def test_when_it_says_that_one_may_be_taken_it_may(per_minute: int, gaps: list[int]) -> None:
    rate, now = Rate(per_minute), NOW
    for gap in gaps:
        now += gap
        while rate.take(now):
            continue
        free_at = rate.free_at(now)
        assert free_at > now
        assert not rate.take((now + free_at) / 2)
        assert rate.take(free_at)
        now = free_at


def test_a_rate_without_a_limit_never_ends_and_remembers_nothing() -> None:
    rate = Rate(None)
    assert all(rate.take(NOW) for _ in range(1000))
    assert (rate.free_at(NOW), len(rate.taken)) == (NOW, 0)


def test_a_rate_remembers_no_more_than_it_needs() -> None:
    rate = Rate(3)
    assert all(rate.take(NOW + 30 * number) for number in range(100))
    assert len(rate.taken) == 3


# --- closing ------------------------------------------------------------------------------------------

def test_a_closed_gate_opens_by_itself() -> None:
    door = gate()
    door.close(NOW, 30, random.Random(1))
    free_at = door.free_at(NOW)
    assert free_at is not None
    assert NOW + 30 <= free_at <= NOW + 31
    assert door.state(NOW) == "degraded"
    assert [door.enter(NOW), door.enter(free_at)] == [False, True]
    door.answered()
    door.succeeded()
    assert door.state(free_at) == "healthy"


def test_after_a_closing_there_is_room_for_one_and_twice_as_many_after_each_acceptance() -> None:
    door, chance = gate(), random.Random(1)
    for number in range(5):
        door.close(NOW + 100 * number, None, chance)
    assert door.failures == 5
    now, rooms = NOW + 1_000, []
    while door.room is not None:
        rooms.append(next(count for count in range(1_000) if not door.enter(now)))
        assert door.failures == 5
        for _ in range(rooms[-1]):
            door.answered()
        door.succeeded()
    assert rooms == [1, 2, 4, 8, 16, 32, 64]
    assert door.failures == 0


def test_a_hint_stays_in_force_after_a_success() -> None:
    door = gate()
    door.close(NOW + 500, 30, random.Random(1))
    door.succeeded()
    assert (door.state(NOW + 529), door.enter(NOW + 529)) == ("degraded", False)


def test_failures_of_submits_that_left_together_count_once() -> None:
    door, chance = gate(), random.Random(1)
    door.close(NOW, 5, chance)
    for _ in range(50):
        door.close(NOW + 1, None, chance)
    assert door.failures == 1


def test_a_later_and_shorter_closing_does_not_shorten_the_first() -> None:
    door = gate()
    door.close(NOW, 300, random.Random(1))
    door.close(NOW + 1, 2, random.Random(1))
    assert door.closed_until >= NOW + 300


def test_resume_waits_for_nothing_any_more() -> None:
    door = gate()
    for number in range(6):
        door.close(NOW + 1_000 * number, 900, random.Random(1))
    door.health.hold = "pause"
    door.health.refused(NOW + 5_000, random.Random(1))
    door.resume()
    assert (door.free_at(NOW), door.state(NOW)) == (NOW, "healthy")
    assert all(door.enter(NOW) for _ in range(10)), "all who wait, at once"
    door.close(NOW, None, random.Random(1))
    assert door.closed_until <= NOW + 1, "the time begins anew"


def test_a_draining_gate_lets_nobody_in() -> None:
    door = gate()
    door.health.hold = "drain"
    assert (door.free_at(NOW), door.enter(NOW), door.state(NOW)) == (None, False, "draining")


def test_a_gate_is_free_when_both_its_closing_and_its_rate_are_over() -> None:
    door = gate(per_minute=1)
    assert door.enter(NOW)
    door.answered()
    door.close(NOW, 2, random.Random(1))
    assert door.free_at(NOW) == NOW + WINDOW_SECONDS
    door.close(NOW, 120, random.Random(1))
    assert door.free_at(NOW) == door.closed_until >= NOW + 120


@given(st.floats(allow_nan=False), st.integers(0, 2**31), st.integers(1, 10_000))
def test_a_hint_is_honoured_from_a_second_to_fifteen_minutes(hint: float, seed: int, failures: int) -> None:
    pause = pause_seconds(failures, hint, random.Random(seed))
    assert 1 <= pause <= 901
    if 1 <= hint <= 900:
        assert hint <= pause <= hint + 1  # not before the vendor's time, nor all at once


@pytest.mark.parametrize(
    ("failures", "most"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (1000, 60)]
)
def test_without_a_hint_the_pause_doubles_to_a_minute_fully_jittered(failures: int, most: float) -> None:
    chance = random.Random(3)
    pauses = [pause_seconds(failures, None, chance) for _ in range(400)]
    assert most / 10 <= min(pauses) < most * 0.15
    assert most * 0.95 < max(pauses) <= most


_acts = st.sampled_from(("enter", "leave", "close", "succeeded"))


@given(
    st.lists(st.tuples(_acts, st.floats(0, 30)), max_size=60), st.integers(1, 4), st.integers(1, 120),
)
def test_free_now_is_what_lets_one_in_and_the_cap_holds(
    acts: list[tuple[str, float]], cap: int, per_minute: int
) -> None:
    door, now, chance = gate(cap, per_minute), NOW, random.Random(1)
    for act, gap in acts:
        now += gap
        if act == "enter":
            is_free = door.free_at(now) == now
            assert door.enter(now) is is_free
        elif act == "close":
            door.close(now, None, chance)
        else:
            getattr(door, act)()
        assert 0 <= door.in_flight <= cap


def test_what_an_earlier_process_took_still_counts() -> None:
    rate = Rate(3)
    rate.remember([NOW - 10, NOW - 200, NOW - 20, NOW - 30])
    assert rate.free_at(NOW) == NOW - 30 + WINDOW_SECONDS


# --- the pace -----------------------------------------------------------------------------------------

def taken_in_turn(pace: Pace, since: float, count: int) -> list[float]:
    """When so many turns are taken by somebody who always wants one."""
    now, taken = since, []
    for _ in range(count):
        now = pace.free_at(now)
        assert pace.take(now)
        taken.append(now)
    return taken


@pytest.mark.parametrize("per_minute", [1, 2, 7, 59, 60, 61, 600, 6_000])
def test_a_pace_is_even_and_uses_what_it_may(per_minute: int) -> None:
    taken = taken_in_turn(Pace(per_minute), NOW, 3 * per_minute)
    burst = max(1, per_minute // 60)
    assert taken[burst - 1] - NOW < 0.001, "a second's worth may go at once"
    gaps = [later - earlier for earlier, later in zip(taken[burst:], taken[burst + 1:], strict=False)]
    assert max(gaps, default=1) <= 1.01 * min(gaps, default=1)
    assert (taken[-1] - NOW) / 60 <= 3.1, "a fiftieth and the margin of a minute are lost"


@given(st.integers(1, 200), st.lists(st.floats(0, 90), max_size=40))
def test_no_sixty_seconds_hold_more_than_the_pace(per_minute: int, gaps: list[float]) -> None:
    pace, now = Pace(per_minute), NOW
    taken: list[float] = []
    for gap in gaps:
        now += gap
        while pace.free_at(now) == now:
            assert pace.take(now)
            taken.append(now)
        assert not pace.take(now)
    for earlier, later in zip(taken, taken[per_minute:], strict=False):
        assert later >= earlier + 60


def test_a_pace_that_is_used_late_catches_up_by_a_second_at_most() -> None:
    pace = Pace(600)
    assert all(pace.take(NOW + number / 10) for number in range(5))
    assert sum(pace.take(NOW + 3_600) for _ in range(100)) == 10


def test_without_a_limit_there_is_always_a_turn() -> None:
    pace = Pace(None)
    assert all(pace.take(NOW) for _ in range(1_000))
    assert (pace.free_at(NOW), pace.book(NOW), pace.per_second) == (NOW, NOW, math.inf)


def test_less_than_one_a_minute_is_one_in_so_many_minutes() -> None:
    taken = taken_in_turn(Pace(0.25), NOW, 4)
    assert [round((at - NOW) / 60) for at in taken] == [0, 4, 8, 12]


def test_a_booked_turn_is_the_next_one_and_one_that_is_spent_makes_others_wait() -> None:
    pace = Pace(60)
    assert [round(pace.book(NOW) - NOW, 2) for _ in range(3)] == [0, 1, 2]
    pace.spend(NOW)
    assert round(pace.free_at(NOW) - NOW, 2) == 4.01
    assert not pace.take(NOW + 3)


def test_a_pace_follows_a_reload() -> None:
    pace = Pace(60)
    taken_in_turn(pace, NOW, 5)
    pace.per_minute = 6_000
    assert pace.take(NOW + 5)
    pace.per_minute = None
    assert pace.take(NOW)
