"""When to ask a vendor again: pure schedules with their reasons.

Not held here: how long renders take (`render_times`), asking, and who may ask first where a vendor's budget
is short (`gateway.engine.turns`).
"""

from __future__ import annotations

import random
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.core.admission import pause_seconds
from gateway.core.render_times import NOTHING_LEARNED, RenderTimes

# What decided when the next poll is:
#   prior        nothing is known of such renders: a steady interval, longer for a very old one
#   learned      how long such renders took so far
#   eta          the vendor's own guess, where it is sooner
#   poll_min, poll_max    the provider's bounds
#   budget       the vendor's budget of polls, or of early repetitions, is short: everybody waits longer
#   load         more polls of that vendor are due than this process makes: everybody waits longer
#   retry_after, backoff  the last poll failed: the vendor's hint, or a growing pause
Why: TypeAlias = Literal[
    "prior", "learned", "eta", "poll_min", "poll_max", "budget", "load", "retry_after", "backoff"
]
Scarce: TypeAlias = Literal["budget", "load"]

JITTER: Final = 0.1
# Nothing known: the first pause is shorter, for what fails fails early. Costs half a poll of some twenty.
EARLY_SHARE: Final = 0.5
# How long "no such task" is waited out before it is believed, and how long "done" without a link.
GRACE_SECONDS: Final = 120.0
OUTPUT_GRACE_SECONDS: Final = 60.0
LATE_LOOK_SECONDS: Final = (60.0, 3_600.0)  # between two questions for the job of a task that has ended
LATE_SHARE_OF_AGE: Final = 0.2


class Bounds(msgspec.Struct, frozen=True):
    """A provider's `poll_min` and `poll_max`; `stretch`, from 1, is how far what is `scarce` spaces polls."""

    min_seconds: float
    max_seconds: float
    stretch: float = 1.0
    scarce: Scarce = "budget"


class PollPlan(msgspec.Struct, frozen=True):
    """The next poll: when, and why then. `wished_seconds` is the pause before it was stretched."""

    at: float
    why: Why
    wished_seconds: float | None = None


def next_poll(
    now: float, accepted_at: float, bounds: Bounds, chance: random.Random, *,
    times: RenderTimes = NOTHING_LEARNED, eta_seconds: float | None = None,
) -> PollPlan:
    """The poll after one that found the task unfinished: by how long such renders take, and its age.

    Or the vendor's guess, if that is sooner. Bounds hold whatever is known.
    """
    age = max(0.0, now - accepted_at)
    low, high, stretch = bounds.min_seconds, bounds.max_seconds, bounds.stretch
    pause = times.until(age, stretch)
    why: Why = bounds.scarce if stretch > 1.0 else "learned" if times.total else "prior"
    if eta_seconds is not None and 0 < eta_seconds * stretch < pause:
        pause, why = eta_seconds * stretch, "eta"
    if pause <= low:
        pause, why = low, "poll_min"
    elif pause >= high:
        pause, why = high, "poll_max"
    wished = pause / stretch
    if why == "prior" and age < low:
        pause *= EARLY_SHARE  # which is no wish for the long run
    pause *= chance.uniform(1 - JITTER, 1 + JITTER)
    return PollPlan(now + min(max(pause, low), high), why, wished)


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
