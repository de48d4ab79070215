"""What each process on a database tells of a provider, and what is so of it when all are heard. Pure.

Breakers and pauses are each process's own: one that makes no calls meets nothing. Not told: what an operator
or the configuration says, which all of them know. Not held here: what calls do to a provider (`health`,
`admission`), how a report travels (`gateway.storage.replicas`). Nothing is decided by what is told here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.core.admission import Gate
from gateway.core.health import ProviderState

_WORSE: Final[dict[ProviderState, int]] = {
    "healthy": 0, "degraded": 1, "open": 2, "paused": 3, "draining": 4,
}


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the calls of one process, or of all, have met at a provider, and how much of it they have.

    `why` is what keeps submissions away, null when nothing does. `in_flight` are the jobs that it has or may
    have, `waiting` the videos that could go there, `unknown` those that it may or may not have accepted.
    """

    state: ProviderState = "healthy"
    why: str | None = None
    submits_open: bool = False
    polls_open: bool = False
    refuses_us: bool = False
    last_error: str | None = None
    in_flight: int = 0
    waiting: int = 0
    unknown: int = 0

    def resumed(self) -> Report:
        """As it is once an operator has said that all is well again: only the counts are left."""
        return Report(in_flight=self.in_flight, waiting=self.waiting, unknown=self.unknown)


def reported(gate: Gate, now: float, waiting: int, unknown: int) -> Report:
    """What this process's calls have met there."""
    health = gate.health
    return Report(
        state=health.met(now, is_slow=gate.is_slow(now)), why=health.met_why or None,
        submits_open=health.submits.is_open, polls_open=health.polls.is_open,
        refuses_us=health.refuses_us, last_error=health.last_error,
        in_flight=gate.in_flight, waiting=waiting, unknown=unknown,
    )


def together(own: Report, others: Iterable[Report]) -> Report:
    """What is so over all of them: the worst state with its reason, every open circuit, and the sums."""
    every = sorted((own, *others), key=lambda one: _WORSE[one.state], reverse=True)
    return replace(
        every[0],
        submits_open=any(one.submits_open for one in every), polls_open=any(one.polls_open for one in every),
        refuses_us=any(one.refuses_us for one in every),
        last_error=next((one.last_error for one in every if one.last_error is not None), None),
        in_flight=sum(one.in_flight for one in every), waiting=sum(one.waiting for one in every),
        unknown=sum(one.unknown for one in every),
    )
