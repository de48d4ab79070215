"""Who may submit now: one gate per provider, with its cap, its rate and its closing times.

Pure; time is passed in. Not held here: how a provider is (`health`), which of them may serve a request
(`routing`), and the order among waiting tasks (`gateway.engine`).
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.core.health import Health, ProviderState, doubled

# A hint of a vendor is honoured between these; a garbled one cannot stop a provider for days.
RETRY_AFTER_SECONDS: Final = (1.0, 900.0)
BACKOFF_BASE_SECONDS: Final = 1.0
WINDOW_SECONDS: Final = 60.1  # a minute as the vendor sees it, with connections of unequal speed
ROOM_MAX: Final = 64  # submits under way at once from which on a provider counts as recovered
BACKOFF_MAX_SECONDS: Final = 60.0
CROWDED_SECONDS: Final = (0.02, 1.0)  # between looks for a place that all replicas share, ever longer


class Rate(msgspec.Struct):
    """At most `per_minute` in any sixty seconds, None for no limit: exact, because vendors count so too."""

    per_minute: int | None
    taken: deque[float] = msgspec.field(default_factory=deque)

    def free_at(self, now: float) -> float:
        """When one more may be taken: `now` when it may already."""
        if self.per_minute is None or len(self.taken) < self.per_minute:
            return now
        return max(now, self.taken[-self.per_minute] + WINDOW_SECONDS)

    def take(self, now: float) -> bool:
        """Take one, if it may be taken now."""
        if self.free_at(now) > now:
            return False
        self._take(now)
        return True

    def remember(self, times: Iterable[float]) -> None:
        """Count what an earlier process took."""
        for at in sorted(times):
            self._take(at)

    def _take(self, at: float) -> None:
        if self.per_minute is not None:
            self.taken.append(at)
            while len(self.taken) > self.per_minute:
                self.taken.popleft()


class Pace(msgspec.Struct):
    """Evenly spaced turns, at most `per_minute` in any sixty seconds; None for no limit.

    A second's worth may be caught up on, so that a late caller loses none. Below one a minute: one in so many
    minutes. `next_at`: when the next turn is, Unix seconds (the generic cell rate algorithm of ITU-T I.371).
    """

    per_minute: float | None
    next_at: float = 0.0

    @property
    def per_second(self) -> float:
        """What it comes to; infinity without a limit."""
        return math.inf if self.per_minute is None else 1.0 / self._every_seconds

    @property
    def _burst(self) -> int:
        return max(1, int((self.per_minute or 0.0) // 60.0))

    @property
    def _every_seconds(self) -> float:
        if self.per_minute is None:
            return 0.0
        whole = max(1, int(self.per_minute)) - self._burst + 1
        return WINDOW_SECONDS / whole / min(1.0, self.per_minute)

    def free_at(self, now: float) -> float:
        """When the next turn may be taken: `now` when it may already."""
        if self.per_minute is None:
            return now
        return max(now, self.next_at - (self._burst - 1) * self._every_seconds)

    def take(self, now: float) -> bool:
        """Take a turn, if there is one now."""
        if self.free_at(now) > now:
            return False
        self.spend(now)
        return True

    def book(self, now: float) -> float:
        """Take the next turn there is; when it may be used."""
        at = self.free_at(now)
        self.spend(at)
        return at

    def spend(self, now: float) -> None:
        """Count a turn that is taken in any case; the ones after it wait for longer."""
        if self.per_minute is not None:
            self.next_at = max(self.next_at, now) + self._every_seconds


class Gate(msgspec.Struct, kw_only=True):
    """The door to one provider. `in_flight` counts the tasks that have, or may have, a job there.

    Among them `entered` counts those whose intent is not stored yet. `sending` counts the submits under way;
    `room` bounds them after a closing: one at first, twice as many after each acceptance. Otherwise all that
    wait would meet a vendor that has just come back, at once.
    """

    max_in_flight: int | None = None
    rate: Rate
    in_flight: int = 0
    sending: int = 0
    entered: int = 0
    room: int | None = None
    health: Health = msgspec.field(default_factory=Health)
    closed_until: float = 0.0
    crowded_until: float = 0.0
    crowds: int = 0
    failures: int = 0

    def free_at(self, now: float) -> float | None:
        """When a submission may leave: `now`, a later time, or None when only a finished task can tell."""
        if self.max_in_flight is not None and self.in_flight >= self.max_in_flight:
            return None
        if self.room is not None and self.sending >= self.room:
            return None
        healthy_at = self.health.free_at(now)
        if healthy_at is None:
            return None
        return max(healthy_at, self.closed_until, self.crowded_until, self.rate.free_at(now))

    def state(self, now: float) -> ProviderState:
        """The provider's state in one word, as metrics and operators see it."""
        return self.health.state(now, is_slow=self.is_slow(now))

    def is_slow(self, now: float) -> bool:
        """Whether submissions are let through slowly, or not yet."""
        return self.closed_until > now or self.room == 1

    def enter(self, now: float) -> bool:
        """Let one submission through, if it may leave now: its place and its rate token are taken."""
        if self.free_at(now) != now or not self.rate.take(now):
            return False
        self.in_flight += 1
        self.entered += 1
        self.sending += 1
        return True

    def started(self) -> None:
        """The intent of one that entered is stored: from now on it is a job like any other."""
        self.entered -= 1
        self.crowds = 0

    def withdraw(self) -> None:
        """Nothing is sent of one that entered."""
        self.entered -= 1
        self.leave()

    def recount(self, jobs: int) -> None:
        """Of the stored tasks so many have, or may have, a job here."""
        self.in_flight = jobs + self.entered

    def answered(self) -> None:
        """A submit that entered is over, whatever came of it."""
        self.sending -= 1

    def leave(self) -> None:
        """A task has no job here any more."""
        self.in_flight = max(0, self.in_flight - 1)

    def succeeded(self) -> None:
        """The provider accepted: there is room for more. After enough of it no failure counts any more."""
        if self.room is not None:
            self.room = None if self.room >= ROOM_MAX else self.room * 2
        if self.room is None:
            self.failures = 0

    def close(self, now: float, retry_after_seconds: float | None, chance: random.Random) -> None:
        """Nothing more for a while: for the vendor's hint, or for a growing, fully jittered time.

        Failures of submits that left together count once: they are one piece of news.
        """
        if now >= self.closed_until:
            self.failures += 1
        until = now + pause_seconds(self.failures, retry_after_seconds, chance)
        self.closed_until = max(self.closed_until, until)
        self.slow()

    def crowded(self, now: float, chance: random.Random) -> None:
        """Other replicas hold all places; whoever looks first at a free one has it, so all draw lots."""
        if now >= self.crowded_until:
            self.crowds += 1
            most = doubled(CROWDED_SECONDS, self.crowds + 1)
            self.crowded_until = now + chance.uniform(CROWDED_SECONDS[0], most)

    def resume(self) -> None:
        """An operator knows that all is well again: nothing is waited for any more."""
        self.health.resume()
        self.closed_until, self.failures, self.room = 0.0, 0, None

    def slow(self) -> None:
        """Begin anew with one submission at a time."""
        self.room = 1


def pause_seconds(failures: int, retry_after_seconds: float | None, chance: random.Random) -> float:
    """How long to leave a provider alone after `failures` in a row: its bounded hint, else full jitter."""
    if retry_after_seconds is not None:
        low, high = RETRY_AFTER_SECONDS
        return min(high, max(low, retry_after_seconds)) + chance.uniform(0, 1)
    most = doubled((BACKOFF_BASE_SECONDS, BACKOFF_MAX_SECONDS), failures - 1)
    return chance.uniform(most / 10, most)
