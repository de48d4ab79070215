"""The gate of one provider: its cap, its rate, its closing times, and how long it is left alone.

Not held here: the order among waiting tasks (`tests/engine`).
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import Bucket, Gate, pause_seconds
from tests.core.made import NOW


def gate(max_in_flight: int | None = None, per_minute: int | None = None) -> Gate:
    return Gate(max_in_flight=max_in_flight, rate=Bucket(per_minute))


# --- the cap ----------------------------------------------------------------------------------------------------------

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


def test_a_refused_entry_costs_neither_a_place_nor_a_token() -> None:
    door = gate(max_in_flight=1, per_minute=12)
    assert [door.enter(NOW) for _ in range(5)] == [True, False, False, False, False]
    door.leave()
    assert [door.enter(NOW), door.in_flight] == [True, 1]  # a burst of two was left with one


# --- the rate ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("per_minute", "burst"), [(1, 1), (6, 1), (12, 2), (60, 10), (600, 100)])
def test_a_burst_is_a_sixth_of_a_minute_and_at_least_one(per_minute: int, burst: int) -> None:
    bucket = Bucket(per_minute)
    assert [bucket.take(NOW) for _ in range(burst + 1)] == [*[True] * burst, False]
    assert bucket.free_at(NOW) == pytest.approx(NOW + 60 / per_minute)


def test_rest_fills_a_bucket_no_further_than_its_burst() -> None:
    bucket = Bucket(12)
    bucket.take(NOW)
    assert [bucket.take(NOW + 1e6) for _ in range(3)] == [True, True, False]


def test_a_clock_that_goes_back_gives_no_tokens_and_stops_nothing() -> None:
    bucket = Bucket(60)
    while bucket.take(NOW):
        pass
    assert not bucket.take(NOW - 3600)
    assert bucket.take(NOW - 3600 + 1)


@given(st.integers(1, 600), st.lists(st.floats(0, 20), max_size=60))
def test_never_more_than_the_burst_and_the_rate_allow(per_minute: int, gaps: list[float]) -> None:
    bucket, now, taken = Bucket(per_minute), 0.0, 0
    for gap in gaps:
        now += gap
        while bucket.take(now):
            taken += 1
    assert taken <= max(1.0, per_minute / 6) + now * per_minute / 60 + 1e-6


@given(st.integers(1, 600), st.integers(1, 5))
def test_when_it_says_a_token_is_there_it_is(per_minute: int, rounds: int) -> None:
    bucket, now = Bucket(per_minute), 0.0
    for _ in range(rounds):
        while bucket.take(now):
            pass
        free_at = bucket.free_at(now)
        assert free_at > now
        assert not Bucket(per_minute, bucket.tokens, bucket.filled_at).take((now + free_at) / 2)
        now = free_at + 1e-6  # beyond the rounding of the division
        assert bucket.free_at(now) == now


def test_a_bucket_without_a_limit_is_never_empty() -> None:
    bucket = Bucket(None)
    assert all(bucket.take(NOW) for _ in range(1000))
    assert bucket.free_at(NOW) == NOW


# --- closing ----------------------------------------------------------------------------------------------------------

def test_a_closed_gate_opens_by_itself() -> None:
    door = gate()
    door.close(NOW, "rate_limited", 30, random.Random(1))
    free_at = door.free_at(NOW)
    assert free_at is not None
    assert (NOW + 30 <= free_at <= NOW + 31, door.closed_why, door.state(NOW)) == (True, "rate_limited", "degraded")
    assert [door.enter(NOW), door.enter(free_at)] == [False, True]
    assert door.state(free_at) == "healthy"


def test_a_success_opens_it_and_forgets_the_failures() -> None:
    door, chance = gate(), random.Random(1)
    for _ in range(5):
        door.close(NOW, "capacity", None, chance)
    assert door.failures == 5
    door.succeeded()
    assert (door.failures, door.closed_why, door.free_at(NOW), door.state(NOW)) == (0, None, NOW, "healthy")


def test_a_draining_gate_lets_nobody_in() -> None:
    door = gate()
    door.draining = True
    assert (door.free_at(NOW), door.enter(NOW), door.state(NOW)) == (None, False, "draining")


def test_a_gate_is_free_when_both_its_closing_and_its_rate_are_over() -> None:
    door = gate(per_minute=6)
    assert door.enter(NOW)
    door.close(NOW, "capacity", 2, random.Random(1))
    assert door.free_at(NOW) == pytest.approx(NOW + 10)
    door.close(NOW, "capacity", 60, random.Random(1))
    assert door.free_at(NOW) == door.closed_until > NOW + 59


@given(st.floats(), st.integers(0, 2**31), st.integers(1, 10_000))
def test_a_hint_is_honoured_between_a_second_and_a_quarter_of_an_hour(hint: float, seed: int, failures: int) -> None:
    pause = pause_seconds(failures, hint, random.Random(seed))
    assert 1 <= pause <= 901
    if 1 <= hint <= 900:
        assert hint <= pause <= hint + 1  # never before the vendor's time; a second of jitter spreads the callers


@pytest.mark.parametrize(
    ("failures", "most"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (1000, 60)]
)
def test_without_a_hint_the_pause_doubles_to_a_minute_fully_jittered(failures: int, most: float) -> None:
    chance = random.Random(3)
    pauses = [pause_seconds(failures, None, chance) for _ in range(400)]
    assert most / 10 <= min(pauses) < most * 0.15
    assert most * 0.95 < max(pauses) <= most


@given(
    st.lists(st.tuples(st.sampled_from(("enter", "leave", "close", "succeeded")), st.floats(0, 30)), max_size=60),
    st.integers(1, 4), st.integers(1, 120),
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
            door.close(now, "capacity", None, chance)
        else:
            getattr(door, act)()
        assert 0 <= door.in_flight <= cap
