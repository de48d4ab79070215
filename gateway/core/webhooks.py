"""Webhooks as rules: what is told, what an answer means, when it is tried again. Pure; time is passed in.

Standard Webhooks 1.0 says what is signed and that 410 ends it; the schedule and the events are the contract's
(2.5). Not held here: sending (`gateway.engine.webhooks`), what is stored (`gateway.storage.webhooks`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from gateway.values import Secret

WebhookType: TypeAlias = Literal[
    "video.completed", "video.failed", "video.cancelled", "video.submission_unknown", "video.late_output"
]
MessageState: TypeAlias = Literal["pending", "delivered", "failed", "disabled"]
Verdict: TypeAlias = Literal["delivered", "gone", "later"]

TYPES: Final[tuple[WebhookType, ...]] = get_args(WebhookType)
TEST_TYPE: Final = "webhook.test"  # asked for by the caller; tells nothing of a video
# The event of a timeline that each tells.
PUBLISHED: Final[Mapping[str, WebhookType]] = {kind.removeprefix("video."): kind for kind in TYPES}

# Before each try: at once, then so long after the one before. Ten tries, some 76 hours.
SCHEDULE_SECONDS: Final = (
    0.0, 5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0,
)
JITTER: Final = 0.1  # of a pause, either way: what failed together is not tried together
RETRY_AFTER_MAX_SECONDS: Final = 86_400.0
OVERLAP_SECONDS: Final = 86_400.0  # how long an old secret signs beside a new one, unless said otherwise
SECRETS_MAX: Final = 5  # that sign at once


class Signer(msgspec.Struct, frozen=True, array_like=True):
    """A secret (`whsec_...`), and until when it signs, Unix seconds; None: until it is rotated away."""

    secret: Secret
    until: float | None = None


def verdict(status: int | None) -> Verdict:
    """What an answer's status means; None: no answer came. Whatever is no success is tried again."""
    if status is None:
        return "later"
    if 200 <= status < 300:
        return "delivered"
    return "gone" if status == 410 else "later"


def next_try(step: int, now: float, retry_after_seconds: float | None, chance: random.Random) -> float | None:
    """When to try again after the schedule's `step` (0 the first) has failed; None: that was the last.

    A receiver that says when is not asked sooner, but within a day.
    """
    if step + 1 >= len(SCHEDULE_SECONDS):
        return None
    pause = SCHEDULE_SECONDS[step + 1] * chance.uniform(1 - JITTER, 1 + JITTER)
    asked = min(retry_after_seconds or 0.0, RETRY_AFTER_MAX_SECONDS)
    return now + max(pause, asked)


def rotated(
    signers: tuple[Signer, ...], secret: Secret, now: float, overlap_seconds: float
) -> tuple[Signer, ...]:
    """The signers with a new secret first; those of before sign on for at most `overlap_seconds`."""
    ends_at = now + overlap_seconds
    before = (
        Signer(one.secret, ends_at if one.until is None else min(one.until, ends_at))
        for one in signing(signers, now)
    )
    kept = tuple(one for one in before if overlap_seconds > 0)
    return (Signer(secret), *kept)[:SECRETS_MAX]


def signing(signers: tuple[Signer, ...], now: float) -> tuple[Signer, ...]:
    """Those that sign now."""
    return tuple(one for one in signers if one.until is None or now < one.until)
