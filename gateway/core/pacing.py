"""When to ask a vendor again: pure schedules with their reasons.

Not held here: asking, or the vendor's budget.
"""

from __future__ import annotations

import random
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.core.admission import pause_seconds

Why: TypeAlias = Literal["first", "schedule", "eta", "retry_after", "backoff", "budget"]

# The time to the next poll is this share of the render's age: a finished video is found within that share.
SHARE_OF_AGE: Final = 0.15
JITTER: Final = 0.1
# How long "no such task" is waited out before it is believed, and how long "done" without a link.
GRACE_SECONDS: Final = 120.0
OUTPUT_GRACE_SECONDS: Final = 60.0
LATE_LOOK_SECONDS: Final = (60.0, 3_600.0)  # between two questions for the job of a task that has ended
LATE_SHARE_OF_AGE: Final = 0.2


class Bounds(msgspec.Struct, frozen=True):
    """A provider's `poll_min` and `poll_max`."""

    min_seconds: float
    max_seconds: float


class PollPlan(msgspec.Struct, frozen=True):
    """The next poll: when, and why then."""

    at: float
    why: Why


def next_poll(
    now: float, accepted_at: float, bounds: Bounds, chance: random.Random, *, eta_seconds: float | None = None
) -> PollPlan:
    """The poll after one that found the task unfinished: by its age, or the vendor's guess if sooner."""
    age = max(0.0, now - accepted_at)
    why: Why = "schedule"
    delay = age * SHARE_OF_AGE
    if eta_seconds is not None and 0 < eta_seconds < delay:
        delay, why = eta_seconds, "eta"
    if delay < bounds.min_seconds:
        delay, why = bounds.min_seconds, ("first" if age == 0 else "schedule")
    delay *= chance.uniform(1 - JITTER, 1 + JITTER)
    return PollPlan(now + min(max(delay, bounds.min_seconds), bounds.max_seconds), why)


def poll_again(
    now: float, failures: int, retry_after_seconds: float | None, bounds: Bounds, chance: random.Random
) -> PollPlan:
    """The poll after one that could not be asked: the vendor's hint, else a growing pause."""
    why: Why = "backoff" if retry_after_seconds is None else "retry_after"
    return PollPlan(now + max(bounds.min_seconds, pause_seconds(failures, retry_after_seconds, chance)), why)


def no_sooner(plan: PollPlan, now: float, bounds: Bounds, chance: random.Random) -> PollPlan:
    """`plan` without the right to repeat early: no sooner than a regular poll of a long render."""
    at = now + bounds.max_seconds * chance.uniform(1 - JITTER, 1 + JITTER)
    return plan if plan.at >= at else PollPlan(at, "budget")


def next_look(now: float, ended_at: float, chance: random.Random) -> float:
    """When to ask again for the job of a task that has ended: seldom, and ever more so."""
    low, high = LATE_LOOK_SECONDS
    pause = min(high, max(low, LATE_SHARE_OF_AGE * (now - ended_at)))
    return now + pause * chance.uniform(1 - JITTER, 1 + JITTER)
