"""When a vendor is asked again: the bounds hold whatever is known, and the reason is told.

Not held here: what is learned of render times (`test_render_times`), a vendor's budget (`tests/engine`).
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pacing import (
    EARLY_SHARE,
    JITTER,
    Bounds,
    PollPlan,
    next_look,
    next_poll,
    no_sooner,
    poll_again,
)
from gateway.core.render_times import PRIOR_SECONDS, PRIOR_STEADY_SECONDS, RenderTimes
from tests.core.made import NOW

BOUNDS = Bounds(2, 30)
STEADY = (PRIOR_SECONDS, "prior")


class Even(random.Random):
    """Draws the middle of everything."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def delay(age: float, eta_seconds: float | None = None, bounds: Bounds = BOUNDS) -> tuple[float, str]:
    """The pause and its reason without jitter, where nothing is known."""
    plan = next_poll(NOW + age, NOW, bounds, Even(), eta_seconds=eta_seconds)
    return round(plan.at - NOW - age, 2), plan.why


@pytest.mark.parametrize("age", [BOUNDS.min_seconds, 5, 20, 100, 0.9 * PRIOR_STEADY_SECONDS])
def test_where_nothing_is_known_the_pause_is_steady(age: float) -> None:
    assert delay(age) == STEADY


@pytest.mark.parametrize("age", [0, 1, BOUNDS.min_seconds - 0.1])
def test_where_nothing_is_known_the_first_pause_is_shorter(age: float) -> None:
    assert delay(age) == (EARLY_SHARE * PRIOR_SECONDS, "prior")
    assert delay(age, None, Bounds(4, 30)) == (4, "prior"), "but never below poll_min"
    assert delay(age, None, Bounds(7, 30)) == (7, "poll_min")


def test_the_first_polls_of_a_render_of_which_nothing_is_known() -> None:
    asked = [0.0]
    for _ in range(4):
        asked.append(round(asked[-1] + delay(asked[-1])[0], 2))
    first = EARLY_SHARE * PRIOR_SECONDS
    assert asked == [0, *(first + number * PRIOR_SECONDS for number in range(4))]


def test_where_something_is_known_nobody_looks_early() -> None:
    times = RenderTimes()
    for _ in range(20):
        times.add(100.0)
    plan = next_poll(NOW, NOW, BOUNDS, Even(), times=times)
    assert (plan.why, plan.at > NOW + PRIOR_SECONDS) == ("learned", True)


def test_an_old_render_is_asked_for_ever_less_up_to_poll_max() -> None:
    for age in (1.5 * PRIOR_STEADY_SECONDS, 2 * PRIOR_STEADY_SECONDS, 5 * PRIOR_STEADY_SECONDS):
        assert delay(age)[0] == pytest.approx(age * PRIOR_SECONDS / PRIOR_STEADY_SECONDS, rel=0.05)
    assert delay(7_200) == delay(1e6) == (30, "poll_max")


@pytest.mark.parametrize(
    ("eta_seconds", "expected"),
    [(PRIOR_SECONDS - 1, (PRIOR_SECONDS - 1, "eta")), (PRIOR_SECONDS + 0.1, STEADY), (500, STEADY),
     (0, STEADY), (-9, STEADY), (0.5, (2, "poll_min")), (float("nan"), STEADY), (float("inf"), STEADY)],
)
def test_the_vendors_guess_counts_if_it_is_sooner(eta_seconds: float, expected: tuple[float, str]) -> None:
    assert delay(100, eta_seconds) == expected


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [(Bounds(20, 30), (20, "poll_min")), (Bounds(2, 4), (4, "poll_max")), (Bounds(60, 60), (60, "poll_min"))],
)
def test_the_bounds_win(bounds: Bounds, expected: tuple[float, str]) -> None:
    assert delay(100, None, bounds) == expected


def test_a_clock_that_went_back_makes_a_young_render() -> None:
    assert delay(-3600) == delay(0)


# --- where a budget is short --------------------------------------------------------------------------

def test_a_short_budget_stretches_every_pause_and_remembers_what_was_wished() -> None:
    plan = next_poll(NOW + 100, NOW, Bounds(2, 75, 5.0), Even())
    assert (round(plan.at - NOW - 100, 2), plan.why) == (5 * PRIOR_SECONDS, "budget")
    assert round(plan.wished_seconds or 0, 2) == PRIOR_SECONDS
    assert delay(100, 4, Bounds(2, 75, 5.0)) == (20, "eta"), "the vendor's guess too"
    assert delay(100, None, Bounds(2, 20, 5.0)) == (20, "poll_max")
    assert delay(1, None, Bounds(2, 75, 5.0)) == (5 * PRIOR_SECONDS, "budget"), "and nobody looks early"


def test_a_stretched_pause_ends_where_so_many_polls_would_have_been() -> None:
    times = RenderTimes()
    for _ in range(100):
        times.add(100.0)
    alone = next_poll(NOW + 85, NOW, Bounds(0.01, 900), Even(), times=times)
    short = next_poll(NOW + 85, NOW, Bounds(0.01, 900, 4.0), Even(), times=times)
    assert (alone.why, short.why) == ("learned", "budget")
    assert alone.at < short.at < NOW + 85 + 3 * (alone.at - NOW - 85), "polls stand close around the end"


# --- always -------------------------------------------------------------------------------------------

_ends = st.floats(0.01, 3600)
_bounds = st.tuples(_ends, _ends, st.floats(1, 100)).map(
    lambda drawn: Bounds(min(drawn[:2]), max(drawn[:2]), drawn[2])
)
_seeds = st.integers(0, 2**31)
_seen = st.lists(st.floats(0, 1e6), max_size=60)


@given(st.floats(-1e6, 1e6), _bounds, _seeds, st.none() | st.floats(), _seen)
def test_no_poll_is_sooner_than_poll_min_or_later_than_poll_max(
    age: float, bounds: Bounds, seed: int, eta_seconds: float | None, seen: list[float]
) -> None:
    times = RenderTimes()
    for seconds in seen:
        times.add(seconds)
    plan = next_poll(age, 0.0, bounds, random.Random(seed), times=times, eta_seconds=eta_seconds)
    assert bounds.min_seconds - 1e-6 <= plan.at - age <= bounds.max_seconds + 1e-6
    assert (plan.wished_seconds or 0) * bounds.stretch <= bounds.max_seconds * 1.000001


def test_the_jitter_is_a_tenth_to_both_sides() -> None:
    chance = random.Random(5)
    delays = [next_poll(NOW + 100, NOW, BOUNDS, chance).at - NOW - 100 for _ in range(500)]
    least, most = PRIOR_SECONDS * (1 - JITTER), PRIOR_SECONDS * (1 + JITTER)
    assert least * 0.999 <= min(delays) < least * 1.01
    assert most * 0.99 < max(delays) <= most * 1.001


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
