"""One owner at a time: who asked the vendors for what, laid beside what was done to the replicas.

Held here: one function per promise that replicas make together, each pure. A process is known to the vendors
by the port that only it asks at. Times are Unix seconds of one machine. Not held here: what a single gateway
promises (`history`), how any of this is collected (`crew`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.sandbox.renders import Entry
from tests.campaigns.vendor import Ask

STEP_SECONDS: Final = 1.5  # a poll that was under way when somebody else took over may still arrive
WINDOW_SECONDS: Final = 60.0
BUSY_SECONDS: Final = 1.0  # between an intent's commit and its arrival, on a machine with other things to do
TAKEOVER_SECONDS: Final = 10.0
# What ends a job's place at its provider, though the vendor may go on with it.
_RELEASES: Final = frozenset({"completed", "failed", "cancelled", "resubmit_allowed", "rerun_allowed"})


class Still(msgspec.Struct, frozen=True):
    """A process was stopped, and went on."""

    port: int
    began: float
    ended: float


class Burial(msgspec.Struct, frozen=True):
    """The database says since when a name is dead that a process had: declared so by others, or given up."""

    port: int
    at: float

    def found_still(self, stills: Iterable[Still]) -> bool:
        """Whether the process stood still at that moment."""
        return any(one.port == self.port and one.began <= self.at <= one.ended for one in stills)


class Death(msgspec.Struct, frozen=True):
    """A process was killed. `beat_at`: its last beat; `is_clear`: others could take over meanwhile."""

    port: int
    at: float
    beat_at: float
    is_clear: bool


class Claim(msgspec.Struct, frozen=True):
    """A process said that it took over what another had left."""

    port: int
    at: float


class Limit(msgspec.Struct, frozen=True):
    """What the configuration allows at a vendor, over all replicas; None: anything."""

    vendor: str
    max_in_flight: int | None
    per_minute: int | None


class Sightings(msgspec.Struct, frozen=True, kw_only=True):
    """All there is to see. `timelines` are by prompt."""

    asks: Sequence[Ask]
    ledger: Sequence[Entry]
    timelines: Mapping[str, Sequence[Mapping[str, Any]]]
    stills: Sequence[Still]
    burials: Sequence[Burial]
    deaths: Sequence[Death]
    claims: Sequence[Claim]
    limits: Sequence[Limit]


def polled_by_two(seen: Sightings) -> Iterator[str]:
    """Each job is polled by one process at a time: none goes on after another has taken over."""
    claims: defaultdict[int, list[float]] = defaultdict(list)
    for claim in seen.claims:
        claims[claim.port].append(claim.at)
    for (vendor, job), asks in _polls(seen.asks).items():
        owner, taken_at = asks[0].port, asks[0].at
        for ask in asks:
            if ask.port == owner:
                continue
            has_been = any(other.port == ask.port and other.at < taken_at for other in asks)
            may_own = not has_been or any(taken_at <= at <= ask.at for at in claims[ask.port])
            if may_own:
                owner, taken_at = ask.port, ask.at
            elif ask.at - taken_at > STEP_SECONDS:
                late = ask.at - taken_at
                yield f"owner: {vendor}/{job} was polled by {ask.port} {late:.1f} s after {owner} took over"


def bought_by_the_dead(seen: Sightings) -> Iterator[str]:
    """Who was declared dead sends nothing that it had meant to send before.

    How long it stood still says nothing: where nobody declared it dead meanwhile, it is still the owner.
    """
    intents = _intents(seen)
    # Of one that stood still nothing was on its way; of another it may have been.
    buried = [(burial, 0.0 if burial.found_still(seen.stills) else BUSY_SECONDS) for burial in seen.burials]
    for ask in seen.asks:
        meant = [at for at in intents.get(ask.what, ()) if at <= ask.at] if ask.kind == "submit" else []
        for burial, on_its_way_seconds in buried:
            late = ask.at - burial.at
            if burial.port == ask.port and late > on_its_way_seconds and meant and meant[-1] <= burial.at:
                yield f"zombie: {ask.port} bought {ask.what!r} {late:.1f} s after it was declared dead"


def bought_when_given_up(seen: Sightings) -> Iterator[str]:
    """Nothing is sent any more once somebody has written down that nobody knows whether it was."""
    for ask in seen.asks:
        events = seen.timelines.get(ask.what, ()) if ask.kind == "submit" else ()
        before = [event for event in events if event["at"] <= ask.at - BUSY_SECONDS]
        sendings = [event for event in before if event["type"] in ("submitting", "submission_unknown")]
        meant = [event["at"] for event in events if event["type"] == "submitting" and event["at"] <= ask.at]
        if sendings and sendings[-1]["type"] == "submission_unknown" and meant[-1] < sendings[-1]["at"]:
            late = ask.at - sendings[-1]["at"]
            yield f"zombie: {ask.port} bought {ask.what!r} {late:.1f} s after its sending was given up"


def too_many(seen: Sightings) -> Iterator[str]:
    """No provider has more jobs at once than it may have, over all replicas.

    A job counts from its charge to the event by which the gateway says that it is over: a part of the time
    for which it holds its place.
    """
    for limit in seen.limits:
        if limit.max_in_flight is None:
            continue
        edges: list[tuple[float, int]] = []
        for entry in seen.ledger:
            if entry.vendor == limit.vendor:
                ends_at = _released_at(seen.timelines.get(entry.prompt, ()), entry.at)
                edges += [(entry.at, 1), (ends_at, -1)] if ends_at > entry.at else []
        most = count = 0
        for _, step in sorted(edges):  # at the same moment an end comes first
            count += step
            most = max(most, count)
        if most > limit.max_in_flight:
            yield f"cap: {limit.vendor} had {most} jobs at once, {limit.max_in_flight} are allowed"


def too_often(seen: Sightings) -> Iterator[str]:
    """No provider is sent more in a minute than it may be, over all replicas.

    A process that stood still between its intent and its sending could not know; such ones do not count.
    """
    for limit in seen.limits:
        if limit.per_minute is None:
            continue
        span = tightest(seen, limit)
        if span is not None and span < WINDOW_SECONDS - BUSY_SECONDS:
            yield f"rate: {limit.vendor} got {limit.per_minute + 1} submits within {span:.2f} s"


def tightest(seen: Sightings, limit: Limit) -> float | None:
    """The shortest time in which the vendor got more submits than a minute's worth; None: there is none."""
    intents = _intents(seen)
    times = [ask.at for ask in seen.asks if ask.kind == "submit" and ask.vendor == limit.vendor
             and not _stood_still(ask, intents.get(ask.what, ()), seen.stills)]
    number = limit.per_minute or 0
    return min((after - before for before, after in zip(times, times[number:], strict=False)), default=None)


def takeovers(seen: Sightings, *, all_deaths: bool = False) -> list[float]:
    """Seconds from the last beat of each killed process to the first poll of one of its jobs by another.

    None of deaths after which there was nothing left to ask for; nor, but for `all_deaths`, of those after
    which nobody was left alone who could have asked.
    """
    polls = _polls(seen.asks)
    found: list[float] = []
    for death in seen.deaths:
        firsts: list[float] = []
        for asks in polls.values():
            before = [ask for ask in asks if ask.at <= death.at]
            if before and before[-1].port == death.port:
                firsts += [ask.at for ask in asks if ask.at > death.at and ask.port != death.port][:1]
        if firsts and (death.is_clear or all_deaths):
            found.append(min(firsts) - death.beat_at)
    return found


def too_slow(seen: Sightings) -> Iterator[str]:
    """What a killed process was following is followed again within 10 s, for 99 of 100."""
    taken = sorted(takeovers(seen))
    if taken and taken[int(0.99 * (len(taken) - 1))] > TAKEOVER_SECONDS:
        yield f"takeover: p99 {taken[int(0.99 * (len(taken) - 1))]:.1f} s of {len(taken)}"


def broken(seen: Sightings) -> list[str]:
    """Every promise that was broken."""
    rules = (polled_by_two, bought_by_the_dead, bought_when_given_up, too_many, too_often, too_slow)
    return [problem for rule in rules for problem in rule(seen)]


def _polls(asks: Iterable[Ask]) -> dict[tuple[str, str], list[Ask]]:
    """By job, oldest first."""
    found: defaultdict[tuple[str, str], list[Ask]] = defaultdict(list)
    for ask in asks:
        if ask.kind == "poll":
            found[ask.vendor, ask.what].append(ask)
    return found


def _intents(seen: Sightings) -> dict[str, list[float]]:
    """When each prompt's sendings were decided."""
    return {
        prompt: [event["at"] for event in events if event["type"] == "submitting"]
        for prompt, events in seen.timelines.items()
    }


def _stood_still(ask: Ask, intents: Sequence[float], stills: Iterable[Still]) -> bool:
    before = [at for at in intents if at <= ask.at]
    return bool(before) and any(
        still.port == ask.port and before[-1] <= still.ended and still.began <= ask.at for still in stills
    )


def _released_at(events: Sequence[Mapping[str, Any]], charged_at: float) -> float:
    """When the job that was charged then gave its place back: never, where nothing says so."""
    times = (event["at"] for event in events if event["type"] in _RELEASES and event["at"] >= charged_at)
    # A place that was given back before the charge arrived is not held by it.
    ended = any(event["type"] in ("completed", "failed", "cancelled") and event["at"] < charged_at
                for event in events)
    return charged_at if ended else min(times, default=float("inf"))
