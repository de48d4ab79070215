"""Few tasks whose calls fail: when a free call is to find out who is sick, and what follows from it.

Not held here: the other rules of breakers (`test_health`), the calls themselves (`tests/engine/test_few.py`).
"""

from __future__ import annotations

import random

import pytest

from gateway.core.health import DOUBT_SECONDS, PROBE_SECONDS, Breaker, Health
from tests.core.made import NOW

CHANCE = random.Random(1)
NEVER = float("inf")


def failing(kind: str, count: int = 1, at: float = NOW) -> Health:
    """A provider whose calls of that kind failed for so many tasks, a second apart."""
    health = Health()
    breaker: Breaker = getattr(health, kind)
    for number in range(count):
        breaker.failed(f"video_{number}", at + number, CHANCE)
    return health


@pytest.mark.parametrize("kind", ["submits", "polls"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_free_call_is_due_half_a_minute_after_the_first_failure(kind: str, count: int) -> None:
    health = failing(kind, count)
    assert health.probe_at() == NOW + DOUBT_SECONDS == NOW + 30
    health.probing(NOW + 31)
    assert health.probe_at() == NOW + 61, "and then every half a minute"


def test_an_answered_poll_ends_the_doubt_of_polls_and_puts_off_that_of_submits() -> None:
    polls, submits = failing("polls"), failing("submits")
    for health in (polls, submits):
        assert not health.asked(NOW + 20), "no outage was known of"
    assert (polls.probe_at(), submits.probe_at()) == (NEVER, NOW + 50)
    submits.accepted()
    assert submits.probe_at() == NEVER


@pytest.mark.parametrize("kind", ["submits", "polls"])
def test_who_does_not_answer_a_call_for_no_task_is_away(kind: str) -> None:
    health = failing(kind)
    health.probing(NOW + 30)
    health.missed(NOW + 31, CHANCE)
    assert (health.is_open, health.free_at(NOW + 1e9)) == (True, None)
    assert health.probe_at() == NOW + 30 + 2 * PROBE_SECONDS, "from then on as any that is away"
    assert health.asked(NOW + 60), "an answer ends it at once"
    assert health.free_at(NOW + 60) == NOW + 60


def test_where_somebody_was_answered_meanwhile_it_proves_nothing() -> None:
    health = failing("polls")
    health.probing(NOW + 30)
    health.asked(NOW + 30)
    health.missed(NOW + 31, CHANCE)
    assert not health.is_open


def test_what_was_open_already_is_not_opened_for_longer() -> None:
    health = failing("polls", 5)
    closes_at = health.polls.closes_at
    health.missed(NOW + 20, CHANCE)
    assert (health.polls.closes_at, health.polls.openings) == (closes_at, 1)
