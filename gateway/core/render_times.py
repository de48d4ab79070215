"""How long renders take, learned: a small histogram for each kind of render, and the polls that it is worth.

The next look is due when waiting on would cost as much as a look does: when the delay to be expected since
the last one has grown to `cost`, what one look is worth in seconds of delay. Where the hazard hardly changes,
these are looks of the density sqrt(hazard / (2 * cost)), the best there is (R. Barlow, L. Hunter and
F. Proschan, "Optimum checking procedures", 1963; J. Keller, "Optimum checking schedules for systems subject
to random failure", 1974); where it jumps, the balance keeps within two percent of the exact optimum, and that
density does not. The hazard is that of all renders seen and of a few supposed ones, which say what is
believed before anything was seen: with none seen it is theirs alone, and beyond the longest seen as well.
Pure. Not held here: bounds, budgets and jitter (`pacing`), where it is stored.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from gateway.core.facts import Candidate

POLL_COST_SECONDS: Final = 0.2  # one poll is worth so much delay of one video: the one knob of the schedule

# Nothing known: every five seconds for a quarter of an hour, then the longer the older.
PRIOR_SECONDS: Final = 5.0
PRIOR_STEADY_SECONDS: Final = 900.0
SUPPOSED: Final = 1.5  # renders that the prior counts for at every age: twenty seen ones outweigh it

_RATIO: Final = 1.08  # of one bin's end to its beginning
_LONGEST_SECONDS: Final = 21_600.0
COUNT_MAX: Final = 400.0  # renders from which on all counts are halved: the last few hundred are what matters
STORED_MAX: Final = 2_000.0  # likewise in the store, where several replicas add to one histogram
_FRESH_SHARE: Final = 1 / 16  # of all renders may be new before the schedule is made anew
WIDE_SECONDS: Final = 60.0  # between two polls, above which an end between them is not known well enough
# Each render counts for both neighbours of its bin, too: at most for so much each, and for ever less the more
# are known, 1 / sqrt(total), since many show sharp ends as they are.
_ASIDE_MAX: Final = 1 / 3

_BINS: Final = math.ceil(math.log(_LONGEST_SECONDS, _RATIO)) + 1
EDGES: Final = array("d", [0.0, *(_RATIO**number for number in range(_BINS))])  # the first bin is 0 to 1 s


def bin_of(seconds: float) -> int:
    """The bin that a render time falls into; the last one takes all that is longer."""
    return min(_BINS - 1, max(0, bisect_right(EDGES, seconds) - 1))


def _prior_survivors(seconds: float) -> float:
    """The share of supposed renders that take longer: by the hazard that PRIOR_SECONDS is the answer to."""
    hazard = 2 * POLL_COST_SECONDS / PRIOR_SECONDS**2
    steady = min(seconds, PRIOR_STEADY_SECONDS)
    fading = PRIOR_STEADY_SECONDS * (1 - PRIOR_STEADY_SECONDS / max(seconds, PRIOR_STEADY_SECONDS))
    return math.exp(-hazard * (steady + fading))


_SURVIVORS: Final = [_prior_survivors(edge) for edge in EDGES]
_PRIOR: Final = array("d", [later / earlier for earlier, later in pairwise(_SURVIVORS)])  # of those in a bin


class RenderTimes:
    """The render times of one kind of render. `total` counts them, the old ones for less."""

    __slots__ = ("_built_for", "_counts", "_hazards", "total", "unsaved")

    def __init__(self) -> None:
        self.total = 0.0
        self.unsaved: dict[int, int] = {}  # by bin: seen, and not known to be stored
        self._counts = array("f", bytes(4 * _BINS))
        self._hazards: array[float] | None = None
        self._built_for = 0.0  # how many renders the schedule was made of

    def add(self, seconds: float) -> None:
        """One render took so long."""
        number = bin_of(seconds)
        self.unsaved[number] = self.unsaved.get(number, 0) + 1
        self._count(number, 1.0)
        self._age()

    def replace(self, stored: Mapping[int, float]) -> None:
        """What all replicas have stored, by bin, and what this one has not stored yet."""
        self._counts = array("f", bytes(4 * _BINS))
        self.total, self._hazards = 0.0, None
        for seen in (stored, self.unsaved):
            for number, count in seen.items():
                if 0 <= number < _BINS and count > 0:
                    self._count(number, count)
        self._age()

    def stored(self, number: int, count: int) -> None:
        """So many of a bin are stored now."""
        left = self.unsaved.get(number, 0) - count
        if left > 0:
            self.unsaved[number] = left
        else:
            self.unsaved.pop(number, None)

    def until(self, age_seconds: float, polls: float = 1.0) -> float:
        """How many seconds after this age so many polls are due: 1 for the next one, more for a longer pause.

        Infinity when that is beyond all bins.
        """
        here, at = bisect_right(EDGES, age_seconds), age_seconds
        ending, owed = 0.0, POLL_COST_SECONDS * polls**2  # k polls are k pauses, where the hazard is steady
        for end, hazard in zip(EDGES[here:], self._schedule()[here - 1 :], strict=True):
            width = end - at
            more = hazard * width
            delay = width * (ending + more / 2)
            if delay >= owed:
                return at - age_seconds + 2 * owed / (ending + math.sqrt(ending**2 + 2 * hazard * owed))
            ending, owed, at = ending + more, owed - delay, end
        return math.inf

    def hazard(self, age_seconds: float) -> float:
        """The share of renders of this age that end within a second, as it is believed."""
        return self._schedule()[bin_of(age_seconds)]

    def median(self) -> float | None:
        """The render time that half of them stay below, in seconds; None where none was seen."""
        if not self.total:
            return None
        below = 0.0
        for number, count in enumerate(self._counts):
            if below + count >= self.total / 2:
                share = (self.total / 2 - below) / count
                return EDGES[number] + share * (EDGES[number + 1] - EDGES[number])
            below += count
        return EDGES[_BINS]

    def _count(self, number: int, count: float) -> None:
        self._counts[number] += count
        self.total += count

    def _age(self) -> None:
        while self.total >= COUNT_MAX:
            for number in range(_BINS):
                self._counts[number] /= 2
            self.total = sum(self._counts)
            self._built_for /= 2

    def _schedule(self) -> array[float]:
        """The hazard of each bin; made anew only when enough is new."""
        if not self.total:
            return _NO_HISTORY
        if self._hazards is None or self.total - self._built_for > self.total * _FRESH_SHARE:
            self._hazards = _hazards(self._counts, self.total)
            self._built_for = self.total
        return self._hazards


def _hazards(counts: array[float], total: float) -> array[float]:
    """The share of those that reach a bin and end in it, a second of the bin's width."""
    aside = min(_ASIDE_MAX, 1 / math.sqrt(total)) if total else 0.0
    smooth = [0.0] * _BINS
    for number, count in enumerate(counts):
        if count:
            for near, share in ((-1, aside), (0, 1 - 2 * aside), (1, aside)):
                smooth[min(_BINS - 1, max(0, number + near))] += share * count
    hazards, later = array("f", bytes(4 * _BINS)), 0.0
    for number in range(_BINS - 1, -1, -1):
        after = later + SUPPOSED * _PRIOR[number]  # that still render at the end of the bin
        later += smooth[number]
        hazards[number] = math.log((later + SUPPOSED) / after) / (EDGES[number + 1] - EDGES[number])
    return hazards


_NO_HISTORY: Final = _hazards(array("f", bytes(4 * _BINS)), 0.0)
NOTHING_LEARNED: Final = RenderTimes()


class Kind(NamedTuple):
    """What a render time depends on beside the offering: the video's length in seconds, and sound."""

    duration: int | None
    audio: bool | None


class TimesRow(msgspec.Struct, frozen=True):
    """One bin as it is stored. `duration` 0 and `audio` -1 where nobody knows."""

    provider: str
    offering: str
    duration: int
    audio: int
    bin: int
    count: float


class Learned:
    """The render times of every kind of render of every offering that was used."""

    def __init__(self) -> None:
        self._kinds: dict[Candidate, dict[Kind, RenderTimes]] = {}

    def times(self, candidate: Candidate, kind: Kind) -> RenderTimes:
        """What is known of such renders; to be read only."""
        return self._kinds.get(candidate, _NONE).get(kind, NOTHING_LEARNED)

    def learn(self, candidate: Candidate, kind: Kind, at_least: float, at_most: float) -> bool:
        """A render took between so many seconds, by the last two polls; whether that was exact enough."""
        if not 0 <= at_least <= at_most or at_most - at_least > max(WIDE_SECONDS, at_most / 2):
            return False
        self._make(candidate, kind).add((at_least + at_most) / 2)
        return True

    def seconds(self, candidate: Candidate, kind: Kind) -> float | None:
        """The median time of such renders, else of that offering's best known kind; None: never seen."""
        kinds = self._kinds.get(candidate, _NONE)
        exact = kinds.get(kind, NOTHING_LEARNED)
        return (exact if exact.total else max(kinds.values(), key=_total, default=exact)).median()

    def unsaved(self) -> list[TimesRow]:
        """What has to be added to the stored counts. Ask `stored` once it is, with the same rows."""
        return [
            _row(candidate, kind, number, count)
            for candidate, kind, times in self._all() for number, count in times.unsaved.items()
        ]

    def stored(self, rows: Iterable[TimesRow]) -> None:
        """These were added to the stored counts."""
        for row in rows:
            candidate, kind = _key(row)
            self._make(candidate, kind).stored(row.bin, round(row.count))

    def load(self, rows: Iterable[TimesRow]) -> list[tuple[Candidate, Kind]]:
        """Take over what all replicas have stored. Returns whose stored counts should be halved."""
        read: dict[tuple[Candidate, Kind], dict[int, float]] = {}
        for row in rows:
            read.setdefault(_key(row), {})[row.bin] = row.count
        for (candidate, kind), stored in read.items():
            self._make(candidate, kind).replace(stored)
        return [key for key, stored in read.items() if sum(stored.values()) > STORED_MAX]

    def _make(self, candidate: Candidate, kind: Kind) -> RenderTimes:
        return self._kinds.setdefault(candidate, {}).setdefault(kind, RenderTimes())

    def _all(self) -> Iterator[tuple[Candidate, Kind, RenderTimes]]:
        for candidate, kinds in self._kinds.items():
            for kind, times in kinds.items():
                yield candidate, kind, times


_NONE: Final[Mapping[Kind, RenderTimes]] = MappingProxyType({})


def _total(times: RenderTimes) -> float:
    return times.total


def row_kind(candidate: Candidate, kind: Kind) -> tuple[str, str, int, int]:
    """The first four columns of all rows of such renders: provider, offering, duration, audio."""
    audio = -1 if kind.audio is None else int(kind.audio)
    return candidate.provider, candidate.offering, kind.duration or 0, audio


def _row(candidate: Candidate, kind: Kind, number: int, count: int) -> TimesRow:
    return TimesRow(*row_kind(candidate, kind), number, float(count))


def _key(row: TimesRow) -> tuple[Candidate, Kind]:
    audio = None if row.audio < 0 else bool(row.audio)
    return Candidate(row.provider, row.offering), Kind(row.duration or None, audio)
