"""How a provider is: what opens and closes its breakers, pauses, orders, and which state goes before which.

Not held here: the calls that find it out (`tests/engine`), limits and rates (`test_admission`).
"""

from __future__ import annotations

import random
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import Gate, Rate
from gateway.core.health import (
    DOWN,
    OPEN_AFTER,
    PROBE_SECONDS,
    REFUSES_US,
    RETRIES_PER_SECOND,
    RETRIES_SPARE,
    RETRY_SHARE,
    TRIAL_SECONDS,
    Breaker,
    Budget,
    Health,
    ProviderState,
)
from providers.spec import ErrorKind
from tests.core.made import NOW

CHANCE = random.Random(1)


def opened(at: float = NOW, times: int = 1) -> Breaker:
    """A breaker that has opened so often, the last time at `at`, without an answer of its own in between."""
    breaker = Breaker()
    for number in range(OPEN_AFTER):
        breaker.failed(f"video_{number}", at, CHANCE)
    for _ in range(times - 1):
        assert breaker.probed(breaker.closes_at)
        breaker.failed("video_0", at, CHANCE)
    return breaker


def refused(times: int = 1) -> Health:
    """A provider that refused us so often, each time after the pause before was over."""
    health, now = Health(), NOW
    for _ in range(times):
        health.refused(now, CHANCE)
        now = health.refused_until
    return health


# --- a breaker ----------------------------------------------------------------------------------------

def test_failures_of_five_different_tasks_in_a_row_open_it() -> None:
    breaker = Breaker()
    for number in range(5):
        assert not breaker.is_open
        breaker.failed(f"video_{number}", NOW, CHANCE)
    assert breaker.is_open


def test_one_sick_task_never_opens_it() -> None:
    breaker = Breaker()
    for number in range(1_000):
        breaker.failed("video_1", NOW + number, CHANCE)
    assert not breaker.is_open
    for number in range(3):
        breaker.failed(f"another_{number}", NOW, CHANCE)
    assert not breaker.is_open
    breaker.failed("a fifth", NOW, CHANCE)
    assert breaker.is_open


def test_an_answer_in_between_makes_it_no_row() -> None:
    breaker = Breaker()
    for number in range(40):
        if number % 4 == 0:
            breaker.answered()
        breaker.failed(f"video_{number}", NOW, CHANCE)
    assert not breaker.is_open


@pytest.mark.parametrize(("times", "seconds"), [(1, 10), (2, 20), (3, 40), (4, 80), (6, 300), (60, 300)])
def test_a_breaker_on_trial_reopens_at_the_first_failure_for_twice_as_long(times: int, seconds: int) -> None:
    pauses = [opened(times=times).closes_at - NOW for _ in range(200)]
    assert 0.8 * seconds <= min(pauses) < 0.85 * seconds
    assert 1.15 * seconds < max(pauses) <= 1.2 * seconds


def test_after_an_answer_of_its_own_kind_nothing_counts_that_was_before_it() -> None:
    breaker = opened(times=4)
    breaker.answered()
    assert (breaker.is_open, breaker.openings) == (False, 0)
    for number in range(4):
        breaker.failed(f"video_{number}", NOW, CHANCE)
    assert not breaker.is_open
    breaker.failed("video_4", NOW, CHANCE)
    assert breaker.closes_at <= NOW + 12


def test_an_answer_of_another_kind_closes_it_when_its_time_is_over_and_not_before() -> None:
    breaker = opened()
    assert not breaker.probed(breaker.closes_at - 0.001)
    assert breaker.is_open
    assert breaker.probed(breaker.closes_at)
    assert (breaker.is_open, breaker.failing) == (False, set())
    assert not breaker.probed(breaker.closes_at + 1), "there was nothing to close"


def test_failures_of_calls_that_were_under_way_do_not_keep_it_open_for_longer() -> None:
    breaker = opened()
    closes_at = breaker.closes_at
    for number in range(100):
        breaker.failed(f"late_{number}", NOW + 5, CHANCE)
    assert (breaker.closes_at, breaker.openings) == (closes_at, 1)


# --- the two breakers of a provider -------------------------------------------------------------------

def test_a_free_answer_closes_the_breaker_of_polls_at_once_and_that_of_submits_after_its_time() -> None:
    health = Health(submits=opened(), polls=opened())
    assert health.asked(NOW + 1), "the outage of polls is over"
    assert (health.polls.is_open, health.submits.is_open, health.is_open) == (False, True, True)
    assert not health.asked(NOW + 2), "nothing new"
    assert health.free_at(NOW + 2) is None
    assert health.asked(health.submits.closes_at)
    assert not health.is_open
    assert health.free_at(NOW + 20) == NOW + 20


def test_answers_while_all_is_well_end_no_outage() -> None:
    assert not Health().asked(NOW)


@pytest.mark.parametrize("health", [Health(submits=opened()), Health(polls=opened())])
def test_what_cannot_be_asked_for_is_not_bought_either(health: Health) -> None:
    assert health.free_at(NOW + 1e9) is None, "time alone closes no breaker"
    assert health.state(NOW + 1e9, is_slow=False) == "open"


def test_while_polls_fail_one_at_a_time_finds_out() -> None:
    health = Health(asked_at=NOW)
    assert health.poll_at(NOW + 1, CHANCE) == NOW + 1
    health.polls = opened()
    turns = [health.poll_at(NOW + 1, CHANCE) for _ in range(200)]
    assert NOW + PROBE_SECONDS <= min(turns) < max(turns) <= NOW + 2 * PROBE_SECONDS
    assert health.poll_at(NOW + PROBE_SECONDS, CHANCE) == NOW + PROBE_SECONDS


def test_a_free_call_is_due_only_while_a_breaker_is_open() -> None:
    health = Health(asked_at=NOW)
    assert health.probe_at() == float("inf")
    health.submits = opened()
    assert health.probe_at() == NOW + 15
    health.polls = opened()
    assert health.probe_at() == NOW + 30
    health.submits = Breaker()
    assert health.probe_at() == NOW + 30, "any poll of a paid task comes before it"
    turns = [health.poll_at(NOW + 1, CHANCE) for _ in range(200)]
    assert max(turns) <= health.probe_at()


@pytest.mark.parametrize(
    ("submits_at", "polls_at", "is_on_trial"),
    [(None, None, False), (0, None, True), (None, 0, True), (1, 1, False), (0, 1, True), (1, 0, True)],
)
def test_its_errors_count_as_answers_after_five_minutes_in_vain(
    submits_at: float | None, polls_at: float | None, is_on_trial: bool
) -> None:
    submits, polls = (Breaker() if at is None else opened(NOW + at) for at in (submits_at, polls_at))
    assert Health(submits=submits, polls=polls).has_trial(NOW + TRIAL_SECONDS) is is_on_trial
    assert TRIAL_SECONDS == 300


def test_the_five_minutes_begin_anew_with_each_opening() -> None:
    again = opened(NOW, times=1)
    assert again.probed(NOW + 200)
    again.failed("video_1", NOW + 200, CHANCE)
    health = Health(submits=again)
    assert [health.has_trial(NOW + at) for at in (300, 499, 500)] == [False, False, True]


# --- refusals of us -----------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("times", "seconds"), [(1, 30), (2, 60), (3, 120), (4, 240), (5, 480), (6, 900), (7, 900), (100, 900)]
)
def test_a_refused_key_is_left_alone_for_a_time_that_doubles_to_a_quarter_of_an_hour(
    times: int, seconds: int
) -> None:
    health = refused(times - 1)
    now = max(NOW, health.refused_until)
    health.refused(now, CHANCE)
    assert 0.9 * seconds <= health.refused_until - now <= 1.1 * seconds
    assert health.refusals == times
    assert health.free_at(now) == health.refused_until


def test_refusals_of_calls_that_left_together_count_once() -> None:
    health = refused()
    until = health.refused_until
    for number in range(50):
        health.refused(NOW + number / 10, CHANCE)
    assert (health.refused_until, health.refusals) == (until, 1)


def test_only_an_acceptance_ends_what_a_refusal_began() -> None:
    health = refused(3)
    assert health.state(health.refused_until, is_slow=False) == "degraded"
    health.asked(health.refused_until)
    assert health.refusals == 3, "a poll proves nothing of the account"
    health.accepted()
    assert (health.refusals, health.free_at(NOW), health.why) == (0, NOW, "")
    assert health.state(NOW, is_slow=False) == "healthy"


def test_refused_polls_of_one_task_are_its_own_trouble() -> None:
    health = Health()
    for _ in range(100):
        health.poll_refused("video_1")
    assert (health.is_denied, health.free_at(NOW), health.probe_at()) == (False, NOW, float("inf"))
    assert not health.asked(NOW + 100), "nothing had begun"
    health.poll_refused("video_2")
    assert not health.is_denied, "an answer was between them"
    health.poll_refused("video_1")
    assert (health.is_denied, health.state(NOW + 102, is_slow=False)) == (True, "paused")
    assert (health.free_at(NOW + 10_000), health.probe_at()) == (None, health.asked_at + 15)


def test_an_answered_poll_ends_a_pause_that_polls_began() -> None:
    health = Health()
    for number in range(3):
        health.poll_refused(f"video_{number}")
    assert health.state(NOW, is_slow=False) == "paused"
    assert health.asked(NOW + 1)
    assert (health.refusals, health.free_at(NOW + 1)) == (0, NOW + 1)
    assert not health.asked(NOW + 2), "it ended once"


def test_an_answered_poll_does_not_end_a_pause_that_a_submit_began() -> None:
    health = Health()
    health.refused(NOW, CHANCE)
    for number in range(3):
        health.poll_refused(f"video_{number}")
    health.asked(NOW + 1)
    assert (health.refusals, health.state(NOW + 1, is_slow=False)) == (1, "paused")
    assert health.free_at(NOW + 1) == health.refused_until


def test_an_acceptance_closes_the_breaker_of_submits() -> None:
    health = Health(submits=opened(times=3), polls=opened())
    health.accepted()
    assert (health.submits.is_open, health.submits.openings, health.polls.is_open) == (False, 0, True)


# --- states and orders --------------------------------------------------------------------------------

_CASES: dict[str, tuple[Health, bool, ProviderState]] = {
    "nothing": (Health(), False, "healthy"),
    "slow": (Health(), True, "degraded"),
    "refused once, and over": (Health(refusals=1), False, "degraded"),
    "open": (Health(submits=opened()), False, "open"),
    "open and slow": (Health(polls=opened()), True, "open"),
    "refused": (refused(), False, "paused"),
    "refused and open": (Health(refused_until=NOW + 9, refusals=1, submits=opened()), True, "paused"),
    "pause": (Health(hold="pause"), False, "paused"),
    "pause and open": (Health(hold="pause", submits=opened()), True, "paused"),
    "drain": (Health(hold="drain"), False, "draining"),
    "drain, refused, open": (
        Health(hold="drain", refused_until=NOW + 9, refusals=1, polls=opened()), True, "draining"),
    "removed": (Health(is_removed=True), False, "draining"),
    "removed and paused": (Health(is_removed=True, hold="pause"), True, "draining"),
}


@pytest.mark.parametrize("case", _CASES)
def test_the_state_is_the_gravest_that_holds(case: str) -> None:
    health, is_slow, state = _CASES[case]
    assert health.state(NOW, is_slow=is_slow) == state
    is_let_through = health.free_at(NOW) == NOW
    assert is_let_through is (state in ("healthy", "degraded"))


def test_the_cases_have_every_state() -> None:
    assert {state for *_, state in _CASES.values()} == set(typing.get_args(ProviderState))


@pytest.mark.parametrize(
    ("health", "why"),
    [
        (Health(last_error="timeout"), ""),  # it failed once: nothing is kept away for that
        (Health(last_error="timeout", submits=opened()), "timeout"),
        (Health(submits=opened()), ""),
        (Health(last_error="auth", refusals=1, refused_until=NOW + 9), "auth"),
        (Health(last_error="auth", refusals=1, hold="pause"), "an operator said pause"),
        (Health(hold="drain"), "an operator said drain"),
        (Health(hold="drain", is_removed=True), "removed from the configuration"),
    ],
)
def test_why_submissions_are_kept_away(health: Health, why: str) -> None:
    assert health.why == why


@pytest.mark.parametrize(
    ("health", "is_draining"),
    [(Health(), False), (Health(hold="pause"), False), (Health(hold="drain"), True),
     (Health(is_removed=True), True)],
)
def test_who_takes_nothing_new(health: Health, is_draining: bool) -> None:
    assert health.is_draining is is_draining


def test_resume_forgets_all_that_keeps_submissions_away() -> None:
    health = Health(
        hold="pause", submits=opened(times=3), polls=opened(times=2), refusals=4, refused_until=NOW + 900,
        refused_polls={"video_1"},
    )
    health.resume()
    health.poll_refused("video_2")
    assert not health.is_denied, "that of another task before it does not count any more"
    assert (health.free_at(NOW), health.state(NOW, is_slow=False)) == (NOW, "healthy")
    health.refused(NOW, CHANCE)
    assert health.refused_until <= NOW + 33, "the time begins anew"
    health.submits.failed("video_1", NOW, CHANCE)
    assert not health.submits.is_open, "and the breaker is not on trial"


def test_resume_does_not_bring_back_what_the_configuration_has_no_more() -> None:
    health = Health(is_removed=True, hold="drain")
    health.resume()
    assert (health.state(NOW, is_slow=False), health.free_at(NOW)) == ("draining", None)


def test_a_gate_that_lets_one_at_a_time_through_is_degraded() -> None:
    gate = Gate(rate=Rate(None))
    assert gate.state(NOW) == "healthy"
    gate.slow()
    assert gate.state(NOW) == "degraded"
    gate.succeeded()
    assert (gate.room, gate.state(NOW)) == (2, "healthy")


def test_no_kind_both_refuses_us_and_is_down() -> None:
    assert not DOWN & REFUSES_US
    assert set(typing.get_args(ErrorKind)) >= DOWN | REFUSES_US


# --- the budget of repetitions ------------------------------------------------------------------------

@given(st.lists(st.one_of(st.none(), st.floats(-5, 30)), max_size=400))
def test_repetitions_are_a_tenth_of_the_calls_and_one_in_two_seconds_beyond_what_was_saved_up(
    takes: list[float | None],
) -> None:
    """None is a call; a number is a wish to repeat one, so many seconds after the wish before it."""
    budget, calls, taken, now, seconds = Budget(), 0, 0, NOW, 0.0
    for pause in takes:
        if pause is None:
            budget.earn()
            calls += 1
        else:
            now, seconds = now + pause, seconds + max(0.0, pause)
            taken += budget.take(now)
        assert taken <= RETRIES_SPARE + RETRY_SHARE * calls + RETRIES_PER_SECOND * seconds + 1e-6
        assert 0 <= budget.saved <= RETRIES_SPARE


def test_in_a_long_outage_hardly_more_than_every_eleventh_poll_is_a_repetition() -> None:
    budget, repeated = Budget(), 0
    for number in range(10_000):  # fifty a second
        budget.earn()
        repeated += budget.take(NOW + number / 50)
    assert repeated == pytest.approx(1_000 + RETRIES_PER_SECOND * 200 + RETRIES_SPARE, abs=1)


def test_a_quiet_time_saves_up_no_more_than_ten() -> None:
    budget = Budget()
    for _ in range(1_000):
        budget.earn()
    assert [budget.take(NOW) for _ in range(11)] == [*[True] * 10, False]
    assert [budget.take(NOW + 3_600) for _ in range(11)] == [*[True] * 10, False]
