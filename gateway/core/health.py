"""How a provider is: its breakers, one for each kind of call, its pauses, and what an operator said. Pure.

A breaker is closed again by free calls only, never by a paid one. Not held here: the calls themselves
(`gateway.engine`), limits and rates (`admission`).

    draining   an operator said so, or the configuration has it no more or retires it: takes nothing new
    paused     an operator said so, or it refuses us (key, credit): nothing is submitted
    open       its calls fail: nothing is submitted until a free call is answered
    degraded   asked to wait, or just back: submissions are let through slowly
    healthy    none of it

Polls of paid tasks go on in every state.
"""

from __future__ import annotations

import math
import random
from typing import Final, Literal, TypeAlias

import msgspec

from providers.spec import ErrorKind

ProviderState: TypeAlias = Literal["healthy", "degraded", "open", "paused", "draining"]
HoldAction: TypeAlias = Literal["pause", "drain"]

# What a failed call says of the provider. Any other complete answer shows that somebody is there.
DOWN: Final[frozenset[ErrorKind]] = frozenset({"not_sent", "timeout", "broken", "unavailable", "junk"})
REFUSES_US: Final[frozenset[ErrorKind]] = frozenset({"auth", "insufficient_credit"})  # whatever we ask for
# Of a poll of a job of ours: somebody is there, but what was bought cannot be asked for. One job may be odd;
# where all are refused so, no more is to be bought. Of a job that cannot exist it is an answer like another.
REFUSES_POLLS: Final[frozenset[ErrorKind]] = frozenset({"permission", "invalid_request", "unsupported"})

OPEN_AFTER: Final = 5  # tasks in a row whose call failed
OPEN_SECONDS: Final = (10.0, 300.0)  # before a free call may close it: the first time, and at most
DOUBT_SECONDS: Final = 30.0  # failures of fewer tasks, without an answer, until a free call looks further
PROBE_SECONDS: Final = 15.0  # between two free calls to a provider that does not answer
TRIAL_SECONDS: Final = 300.0  # after that an error in the vendor's own words shows that somebody is there
REFUSED_POLLS: Final = 2  # tasks whose polls are refused, from which on it is about us
REFUSED_SECONDS: Final = (30.0, 900.0)  # how long a refused key or an empty account is left alone
RETRY_SHARE: Final = 0.1  # of all polls may be early repetitions of failed ones
RETRIES_PER_SECOND: Final = 0.5  # beside that share: of so few polls it would hardly be any, nor do harm
RETRIES_SPARE: Final = 10.0  # of them may be saved up


def doubled(bounds: tuple[float, float], times: int) -> float:
    """The first of `bounds` doubled so many times, at most the second."""
    first, most = bounds
    return min(most, first * 2.0 ** min(times, 10))


class Breaker(msgspec.Struct):
    """One kind of call to one provider. `failing` are the tasks whose calls failed since one was answered.

    `since` (Unix seconds) they do so without anybody having answered; infinite: somebody has, all the same.
    """

    failing: set[str] = msgspec.field(default_factory=set)
    since: float = 0.0
    is_open: bool = False
    openings: int = 0
    opened_at: float = 0.0
    closes_at: float = 0.0

    def failed(self, task_id: str, now: float, chance: random.Random) -> None:
        """A call failed. One that was just closed again opens at the first failure."""
        self.since = min(self.since, now) if self.failing else now
        self.failing.add(task_id)
        if not self.is_open and (len(self.failing) >= OPEN_AFTER or self.openings):
            self.open(now, chance)

    def open(self, now: float, chance: random.Random) -> None:
        """Nobody is there."""
        self.is_open, self.opened_at = True, now
        self.closes_at = now + doubled(OPEN_SECONDS, self.openings) * chance.uniform(0.8, 1.2)
        self.openings += 1

    def answered(self) -> None:
        """A call of this very kind was answered: all is well, and nothing that was before it counts."""
        self.failing.clear()
        self.openings = 0
        self.is_open = False

    def probed(self, now: float) -> bool:
        """A call of another kind was answered; whether that closes the breaker, on trial."""
        if not self.is_open or now < self.closes_at:
            return False
        self.is_open = False
        self.failing.clear()
        return True


class Budget(msgspec.Struct):
    """What may be repeated early: a share of all calls, so that repetitions cannot multiply an outage.

    And a few a second, however little is called. `taken_at`: when one was last asked for (Unix seconds).
    """

    saved: float = RETRIES_SPARE
    taken_at: float = 0.0

    def earn(self) -> None:
        """A regular call was made."""
        self._save(RETRY_SHARE)

    def _save(self, more: float) -> None:
        self.saved = min(RETRIES_SPARE, self.saved + more)

    def take(self, now: float) -> bool:
        """Take one repetition, if there is one."""
        self._save(RETRIES_PER_SECOND * max(0.0, now - self.taken_at))
        self.taken_at = now
        if self.saved < 1.0:
            return False
        self.saved -= 1.0
        return True


class Health(msgspec.Struct, kw_only=True):
    """The health of one provider. `refused_until`: it refuses us, and is left alone until then.

    `refused_polls` are the tasks whose polls it refused since one was answered. `probed_at`: when a free call
    for no task was last made.
    """

    submits: Breaker = msgspec.field(default_factory=Breaker)
    polls: Breaker = msgspec.field(default_factory=Breaker)
    retries: Budget = msgspec.field(default_factory=Budget)
    hold: HoldAction | None = None
    is_removed: bool = False
    is_retired: bool = False
    refusals: int = 0
    refused_until: float = 0.0
    refused_polls: set[str] = msgspec.field(default_factory=set)
    asked_at: float = 0.0
    probed_at: float = 0.0
    last_error: str | None = None

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing new."""
        return self.is_removed or self.is_retired or self.hold == "drain"

    @property
    def why(self) -> str:
        """What keeps submissions away, for the log and operators; empty when nothing does."""
        return self.said_why or self.met_why

    @property
    def said_why(self) -> str:
        """What of the configuration or an operator keeps submissions away; empty when neither does."""
        if self.is_removed:
            return "removed from the configuration"
        if self.is_retired:
            return "retired by the configuration"
        return "" if self.hold is None else f"an operator said {self.hold}"

    @property
    def met_why(self) -> str:
        """What of that which calls have met keeps submissions away; empty when nothing does."""
        return (self.last_error or "") if self.refusals or self.is_open or self.is_denied else ""

    @property
    def is_denied(self) -> bool:
        """Whether its polls refuse us. One task alone may be that task's own trouble."""
        return len(self.refused_polls) >= REFUSED_POLLS

    @property
    def refuses_us(self) -> bool:
        """Whether it refuses our key or our account: nothing has been accepted since it did."""
        return self.refusals > 0 or self.is_denied

    @property
    def is_open(self) -> bool:
        """Whether a breaker is open: what cannot be asked for is not bought either."""
        return self.submits.is_open or self.polls.is_open

    @property
    def is_away(self) -> bool:
        """Whether it does not answer, or only refuses us, whichever task asks."""
        return self.is_open or self.is_denied

    def state(self, now: float, *, is_slow: bool) -> ProviderState:
        """The state in one word; `is_slow`: the gate lets submissions through slowly, or not yet."""
        return self.said or self.met(now, is_slow=is_slow)

    @property
    def said(self) -> ProviderState | None:
        """The state that the configuration or an operator puts it in, whatever calls meet; None: neither."""
        if self.is_draining:
            return "draining"
        return None if self.hold is None else "paused"

    def met(self, now: float, *, is_slow: bool) -> ProviderState:
        """The state as far as calls have met it; `is_slow` as above."""
        if self.refused_until > now or self.is_denied:
            return "paused"
        if self.is_open:
            return "open"
        return "degraded" if is_slow or self.refusals else "healthy"

    def free_at(self, now: float) -> float | None:
        """When a submission may leave, as far as health goes; None when only news can tell."""
        if self.is_draining or self.hold is not None or self.is_open or self.is_denied:
            return None
        return max(now, self.refused_until)

    def refused(self, now: float, chance: random.Random) -> None:
        """The provider refuses us, not a request: its key or its account. Left alone for a growing time."""
        if now >= self.refused_until:
            self.refused_until = now + doubled(REFUSED_SECONDS, self.refusals) * chance.uniform(0.9, 1.1)
            self.refusals += 1

    def accepted(self) -> None:
        """A submission was accepted: key and account are fine."""
        self.submits.answered()
        self.forgive()

    def poll_at(self, now: float, chance: random.Random) -> float:
        """When a poll may be made: now, or later while polls fail, so that one at a time finds out."""
        if not self.polls.is_open or now >= self.asked_at + PROBE_SECONDS:
            return now
        return self.asked_at + PROBE_SECONDS * chance.uniform(1.0, 2.0)

    def probe_at(self) -> float:
        """When a free call should find out whether the provider is back; infinity when nobody has to.

        While polls fail, those of paid tasks have the first turn. Where only few tasks fail, nobody else is
        there to tell a sick one from a provider that is away.
        """
        if not self.is_away:
            doubts = [breaker.since for breaker in (self.submits, self.polls) if breaker.failing]
            return max(min(doubts, default=float("inf")), self.probed_at) + DOUBT_SECONDS
        if self.polls.is_open and math.isinf(self.polls.since):
            return self.asked_at + TRIAL_SECONDS  # only a poll of a job of ours tells more
        return self.asked_at + PROBE_SECONDS * (2.0 if self.polls.is_open else 1.0)

    def has_trial(self, now: float) -> bool:
        """Whether it has been asked in vain for so long that its errors count as answers."""
        opened_at = [breaker.opened_at for breaker in (self.submits, self.polls) if breaker.is_open]
        return any(now - at >= TRIAL_SECONDS for at in opened_at)

    def probing(self, now: float) -> None:
        """A free call for no task is about to be made."""
        self.asked_at = self.probed_at = now

    def missed(self, now: float, chance: random.Random) -> None:
        """It did not answer that either. With what failed before, that is no task's own trouble."""
        if not self.is_open and (self.submits.failing or self.polls.failing):
            self.polls.since = now
            self.polls.open(now, chance)

    def asked(self, now: float) -> bool:
        """A poll was answered; whether that ended an outage, or a pause that refused polls began."""
        self.submits.since = now  # somebody is there
        was_away = self.polls.is_open or self.is_denied
        self.refused_polls.clear()
        self.polls.answered()
        return self.submits.probed(now) or was_away

    def poll_refused(self, task_id: str) -> None:
        """A poll met a refusal of our key or account."""
        self.refused_polls.add(task_id)

    def job_refused(self, task_id: str, now: float, chance: random.Random) -> None:
        """A poll of a task met one of REFUSES_POLLS."""
        self.polls.failed(task_id, now, chance)
        self.submits.since, self.polls.since = now, math.inf  # somebody is there

    def forgive(self) -> None:
        """Key or account were mended."""
        self.refusals, self.refused_until = 0, 0.0

    def resume(self) -> None:
        """An operator knows that all is well again."""
        self.submits, self.polls, self.hold = Breaker(), Breaker(), None
        self.refused_polls.clear()
        self.forgive()
