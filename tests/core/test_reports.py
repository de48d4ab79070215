"""What several processes tell of a provider, made one: the worst state, every open circuit, and the sums."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.admission import Gate, Rate
from gateway.core.health import OPEN_AFTER, HoldAction, ProviderState
from gateway.core.reports import Report, reported, together
from tests.core.made import NOW

CHANCE = random.Random(1)
WORSE: list[ProviderState] = ["healthy", "degraded", "open", "paused"]  # what calls can meet
REPORTS = st.builds(
    Report, state=st.sampled_from(WORSE), why=st.sampled_from([None, "auth", "timeout"]),
    submits_open=st.booleans(), polls_open=st.booleans(), refuses_us=st.booleans(),
    last_error=st.sampled_from([None, "auth", "timeout"]), in_flight=st.integers(0, 9),
    waiting=st.integers(0, 9), unknown=st.integers(0, 9),
)


def _gate() -> Gate:
    return Gate(rate=Rate(None))


def _reported(gate: Gate) -> Report:
    return reported(gate, NOW, 0, 0)


def test_one_alone_is_told_as_it_is() -> None:
    own = Report(state="open", why="timeout", polls_open=True, last_error="timeout", in_flight=3, waiting=2)
    assert together(own, []) == own


@pytest.mark.parametrize("better", range(len(WORSE) - 1))
def test_the_worst_state_wins_with_its_reason_whoever_tells_it(better: int) -> None:
    well, ill = WORSE[better], WORSE[better + 1]
    one = Report(state=well, why="of the better", last_error="of the better")
    other = Report(state=ill, why="of the worse", last_error="of the worse")
    for found in (together(one, [other]), together(other, [one])):
        assert (found.state, found.why, found.last_error) == (ill, "of the worse", "of the worse")


def test_of_equals_the_own_word_counts() -> None:
    found = together(Report(state="open", why="own"), [Report(state="open", why="another's")])
    assert found.why == "own"


def test_the_last_error_is_anybodys_where_the_worst_met_none() -> None:
    slow, well = Report(state="degraded"), Report(last_error="broken")
    assert together(slow, [well]) == Report(state="degraded", last_error="broken")


@given(REPORTS, st.lists(REPORTS, max_size=4))
def test_nothing_that_anybody_tells_is_lost(own: Report, others: list[Report]) -> None:
    found, every = together(own, others), [own, *others]
    assert WORSE.index(found.state) == max(WORSE.index(one.state) for one in every)
    assert found.why in {one.why for one in every if one.state == found.state}
    assert found.submits_open == any(one.submits_open for one in every)
    assert found.polls_open == any(one.polls_open for one in every)
    assert found.refuses_us == any(one.refuses_us for one in every)
    for count in ("in_flight", "waiting", "unknown"):
        assert getattr(found, count) == sum(getattr(one, count) for one in every)


def test_after_a_resume_only_the_counts_are_left() -> None:
    ill = Report(
        state="paused", why="auth", submits_open=True, polls_open=True, refuses_us=True, last_error="auth",
        in_flight=3, waiting=2, unknown=1,
    )
    assert ill.resumed() == Report(in_flight=3, waiting=2, unknown=1)


def test_what_calls_have_met_is_told_state_by_state() -> None:
    assert _reported(_gate()) == Report()
    slow = _gate()
    slow.slow()
    assert _reported(slow).state == "degraded"
    away = _gate()
    away.health.last_error = "timeout"
    for number in range(OPEN_AFTER):
        away.health.polls.failed(f"video_{number}", NOW, CHANCE)
    assert _reported(away) == Report(state="open", why="timeout", polls_open=True, last_error="timeout")
    refused = _gate()
    refused.health.last_error = "auth"
    refused.health.refused(NOW, CHANCE)
    assert _reported(refused) == Report(state="paused", why="auth", refuses_us=True, last_error="auth")


@pytest.mark.parametrize("order", ["pause", "drain"])
def test_what_an_operator_says_is_not_told_as_met(order: HoldAction) -> None:
    """All know it by themselves: once it is lifted nobody tells of it for a moment longer."""
    gate = _gate()
    gate.health.hold, gate.in_flight = order, 4
    assert _reported(gate) == Report(in_flight=4)
    assert gate.state(NOW) == {"pause": "paused", "drain": "draining"}[order]
    gate.health.last_error = "auth"
    gate.health.refused(NOW, CHANCE)
    assert replace(_reported(gate), in_flight=0).why == "auth"
    assert gate.health.why == f"an operator said {order}"
