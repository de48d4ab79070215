"""When a vendor is asked again: the bounds hold whatever is known, and the reason is told.

Not held here: a vendor's budget of polls (`test_admission`), what the polls say (`tests/engine`).
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pacing import Bounds, PollPlan, next_look, next_poll, no_sooner, poll_again
from tests.core.made import NOW

BOUNDS = Bounds(2, 30)


class Even(random.Random):
    """Draws the middle of everything."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def delay(age: float, eta_seconds: float | None = None) -> tuple[float, str]:
    """The pause and its reason without jitter."""
    plan = next_poll(NOW + age, NOW, BOUNDS, Even(), eta_seconds=eta_seconds)
    return round(plan.at - NOW - age, 3), plan.why


@pytest.mark.parametrize(
    ("age", "expected"),
    [(0, (2, "first")), (5, (2, "schedule")), (20, (3, "schedule")), (100, (15, "schedule")),
     (1e6, (30, "schedule"))],
)
def test_the_pause_is_a_share_of_the_age_of_the_render(age: float, expected: tuple[float, str]) -> None:
    assert delay(age) == expected


@pytest.mark.parametrize(
    ("eta_seconds", "expected"),
    [(5, (5, "eta")), (15, (15, "schedule")), (500, (15, "schedule")), (0, (15, "schedule")),
     (-9, (15, "schedule")), (0.5, (2, "schedule")), (float("nan"), (15, "schedule")),
     (float("inf"), (15, "schedule"))],
)
def test_the_vendors_guess_counts_if_it_is_sooner(eta_seconds: float, expected: tuple[float, str]) -> None:
    assert delay(100, eta_seconds) == expected


def test_a_clock_that_went_back_makes_a_young_render() -> None:
    assert delay(-3600) == (2, "first")


_ends = st.floats(0.01, 3600)
_bounds = st.tuples(_ends, _ends).map(lambda pair: Bounds(min(pair), max(pair)))
_seeds = st.integers(0, 2**31)


@given(st.floats(-1e6, 1e6), _bounds, _seeds, st.none() | st.floats())
def test_no_poll_is_sooner_than_poll_min_or_later_than_poll_max(
    age: float, bounds: Bounds, seed: int, eta_seconds: float | None
) -> None:
    plan = next_poll(age, 0.0, bounds, random.Random(seed), eta_seconds=eta_seconds)
    slack = 1e-6
    assert bounds.min_seconds * 0.9 - slack <= plan.at - age <= bounds.max_seconds * 1.1 + slack


def test_the_jitter_is_a_tenth_to_both_sides() -> None:
    chance = random.Random(5)
    delays = [next_poll(NOW + 100, NOW, BOUNDS, chance).at - NOW - 100 for _ in range(500)]
    assert 13.5 <= min(delays) < 13.6
    assert 16.4 < max(delays) <= 16.5


@given(_bounds, _seeds, st.integers(1, 1000), st.none() | st.floats(allow_nan=False))
def test_after_a_failure_the_pause_is_bounded_and_never_below_poll_min(
    bounds: Bounds, seed: int, failures: int, hint: float | None
) -> None:
    plan = poll_again(0.0, failures, hint, bounds, random.Random(seed))
    assert bounds.min_seconds <= plan.at <= max(bounds.min_seconds, 60 if hint is None else 901)
    assert plan.why == ("backoff" if hint is None else "retry_after")


def test_a_vendors_hint_may_be_longer_than_poll_max() -> None:
    assert poll_again(NOW, 1, 120, BOUNDS, Even()) == PollPlan(NOW + 120.5, "retry_after")


def test_the_pause_grows_with_the_failures() -> None:
    delays = [poll_again(NOW, failures, None, BOUNDS, Even()).at - NOW for failures in range(1, 9)]
    assert delays == sorted(delays)
    assert [delays[0], round(delays[-1], 3)] == [2, 33]


# --- without the right to repeat early ----------------------------------------------------------------

@pytest.mark.parametrize(
    ("planned", "expected"),
    [(PollPlan(NOW + 2, "backoff"), PollPlan(NOW + 30, "budget")),
     (PollPlan(NOW + 29.9, "retry_after"), PollPlan(NOW + 30, "budget")),
     (PollPlan(NOW + 30, "backoff"), PollPlan(NOW + 30, "backoff")),
     (PollPlan(NOW + 500, "retry_after"), PollPlan(NOW + 500, "retry_after"))],
)
def test_without_a_budget_nothing_is_repeated_sooner_than_a_regular_poll(
    planned: PollPlan, expected: PollPlan
) -> None:
    assert no_sooner(planned, NOW, BOUNDS, Even()) == expected


def test_those_without_a_budget_do_not_come_back_together() -> None:
    chance = random.Random(5)
    pauses = [no_sooner(PollPlan(NOW, "backoff"), NOW, BOUNDS, chance).at - NOW for _ in range(500)]
    assert 27 <= min(pauses) < 27.2
    assert 32.8 < max(pauses) <= 33


# --- after the end ------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("age", "pause"),
    [(0, 60), (-500, 60), (300, 60), (1_000, 200), (10_000, 2_000), (18_000, 3_600), (86_000, 3_600)],
)
def test_an_ended_tasks_job_is_asked_for_ever_more_seldom(age: float, pause: float) -> None:
    assert next_look(NOW + age, NOW, Even()) == pytest.approx(NOW + age + pause, abs=0.01)


def test_ended_tasks_are_not_looked_up_together() -> None:
    chance = random.Random(5)
    pauses = [next_look(NOW, NOW, chance) - NOW for _ in range(500)]
    assert 54 <= min(pauses) < 54.3
    assert 65.7 < max(pauses) <= 66


def test_a_day_of_looking_is_some_fifty_questions() -> None:
    chance, now, questions = random.Random(5), NOW, 0
    while now < NOW + 86_400:
        now, questions = next_look(now, NOW, chance), questions + 1
    assert 30 <= questions <= 60
