"""Webhooks as rules: the schedule over three days, what answers mean, and which secrets sign when."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.webhooks import (
    JITTER,
    RETRY_AFTER_MAX_SECONDS,
    SCHEDULE_SECONDS,
    SECRETS_MAX,
    Signer,
    next_try,
    rotated,
    signing,
    verdict,
)
from gateway.values import Secret

HOUR = 3_600.0
# Contract 2.5, word for word.
CONTRACT = (0, 5, 300, 1_800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)


def test_the_schedule_is_the_contracts() -> None:
    assert SCHEDULE_SECONDS == CONTRACT


@given(seed=st.integers())
def test_ten_tries_each_a_pause_after_the_one_before(seed: int) -> None:
    chance, now, pauses = random.Random(seed), 0.0, []
    for step in range(9):
        at = next_try(step, now, None, chance)
        assert at is not None
        pauses.append(at - now)
        now = at
    for pause, meant in zip(pauses, CONTRACT[1:], strict=True):
        assert meant * (1 - JITTER) <= pause <= meant * (1 + JITTER) + 1e-6
    assert next_try(9, now, None, chance) is None


def test_what_failed_together_is_not_tried_together() -> None:
    chance = random.Random(1)
    assert len({next_try(0, 0.0, None, chance) for _ in range(100)}) == 100


@given(asked=st.floats(0, 1e12), step=st.integers(0, 8))
def test_a_receiver_is_not_asked_sooner_than_it_says_within_a_day(asked: float, step: int) -> None:
    at = next_try(step, 0.0, asked, random.Random(1))
    assert at is not None
    assert at >= min(asked, RETRY_AFTER_MAX_SECONDS)
    assert at <= max(CONTRACT[step + 1] * (1 + JITTER), RETRY_AFTER_MAX_SECONDS)


@pytest.mark.parametrize(
    ("status", "meant"),
    [(200, "delivered"), (202, "delivered"), (204, "delivered"), (299, "delivered"), (410, "gone"),
     (None, "later"), (100, "later"), (301, "later"), (302, "later"), (307, "later"), (400, "later"),
     (401, "later"), (404, "later"), (408, "later"), (429, "later"), (500, "later"), (503, "later"),
     (599, "later")],
)
def test_what_an_answer_means(status: int | None, meant: str) -> None:
    assert verdict(status) == meant


def test_a_rotation_overlaps_and_ends() -> None:
    first = (Signer(Secret("a")),)
    second = rotated(first, Secret("b"), 100.0, 50.0)
    assert [one.secret.reveal() for one in signing(second, 149.9)] == ["b", "a"]
    assert [one.secret.reveal() for one in signing(second, 150.0)] == ["b"]
    third = rotated(second, Secret("c"), 120.0, 1_000.0)
    assert [one.secret.reveal() for one in signing(third, 149.0)] == ["c", "b", "a"]
    assert [one.secret.reveal() for one in signing(third, 151.0)] == ["c", "b"]
    assert [one.secret.reveal() for one in rotated(third, Secret("d"), 130.0, 0.0)] == ["d"]


def test_secrets_that_sign_at_once_are_bounded() -> None:
    signers: tuple[Signer, ...] = (Signer(Secret("0")),)
    for number in range(1, 20):
        signers = rotated(signers, Secret(str(number)), 0.0, 1_000.0)
    left = [str(number) for number in range(19, 19 - SECRETS_MAX, -1)]
    assert [one.secret.reveal() for one in signers] == left
