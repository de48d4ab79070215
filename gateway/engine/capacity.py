"""How many polls of one vendor this process makes a second, found out while more are due than it makes.

A processor that is busy (`pulse`) is a budget that nobody configured: without it polls would be no fewer,
only later than planned. Known, it is shared out like a configured one. A vendor that answers slowly is none:
it is slow for a while, and polls that were planned for long after that would find its videos late. Pure. Not
held here: sharing it out (`turns`), how many polls may be under way at once (`turns`, `loop`).
"""

from __future__ import annotations

import math
from typing import Final

WINDOW_SECONDS: Final = 1.0  # of nothing but work, before it is believed that there is too much
_FEWEST: Final = 20  # polls, before their number says anything
_STANDSTILL_SECONDS: Final = 3.0  # between two looks: the whole process was stopped, which says nothing
_USED: Final = 0.93  # of it is shared out: the rest lets a line get shorter
_GROWTH: Final = 0.001  # in the first mean interval without a line; with their square after that
_GROWTH_MAX: Final = 0.25  # between two looks
_OFF: Final = 2.0  # times what was believed: a standstill was taken for the end of what can be made
STRETCH_MAX: Final = 20.0  # of the time between polls; whoever wishes for more still has late ones


class Capacity:
    """What one process makes of one vendor's polls. Times in Unix seconds."""

    def __init__(self) -> None:
        self._per_second = math.inf  # nobody has met its end
        self._met: float | None = None  # polls a second while there was nothing but work; not told yet
        self._looked_at = self._grown_at = self._met_at = -math.inf
        self._since: float | None = None  # nothing but work
        self._begun = 0  # polls since then

    def looked(self, now: float, begun: int, *, is_short: bool) -> None:
        """So many polls were begun. `is_short`: more are due, and nothing but this process keeps them."""
        stood_seconds, self._looked_at = now - self._looked_at, now
        if not is_short or not 0 <= stood_seconds <= _STANDSTILL_SECONDS:
            self._since = None
            return
        if self._since is None:
            self._since, self._begun = now, 0
            return
        self._begun += begun
        seconds = now - self._since
        if seconds >= WINDOW_SECONDS and self._begun >= _FEWEST:
            self._met, self._met_at = self._begun / seconds, now
            self._since, self._begun = now, 0

    def per_second(self, now: float, tasks: int, wished: float) -> float:
        """How many polls a second may be planned for so many tasks, which wish for so many a second.

        The longer no line was met the faster it grows, until all wishes are met: then it is infinite again.
        """
        if self._met is not None:
            met, before = _USED * self._met, self._per_second
            # The mean of an interval: what changes faster moves polls that were planned apart to one moment.
            weight = min(1.0, WINDOW_SECONDS * max(met, before) / max(tasks, 1))
            is_off = math.isinf(before) or met > _OFF * before
            self._per_second = met if is_off else before + weight * (met - before)
            self._met, self._grown_at = None, now
        elif not math.isinf(self._per_second):
            interval_seconds = max(tasks, 1) / self._per_second
            intervals = max(0.0, now - self._met_at) / interval_seconds
            share = max(0.0, now - self._grown_at) / interval_seconds
            self._per_second *= 1.0 + min(_GROWTH_MAX, _GROWTH * (1.0 + intervals**2) * share)
            self._grown_at = now
        if self._per_second >= wished:
            self._per_second = math.inf
        return max(self._per_second, wished / STRETCH_MAX)
