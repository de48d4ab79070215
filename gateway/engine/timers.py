"""When each task is due: those of the next seconds stand in a heap, the rest only know their time.

A hundred thousand tasks that wait for their next poll so cost a number each, and a look at all of them every
few seconds. Not held here: what is due when (`loop`), what is done then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from gateway.engine.watch import Watch

NEAR_SECONDS: Final = 5.0  # of what is due sooner the order is known


class Timers:
    """The times in `watches` (`due`, Unix seconds), in their order."""

    def __init__(self, watches: Mapping[str, Watch]) -> None:
        self._watches = watches
        self._near: list[tuple[float, str]] = []  # a heap; of some the time has been changed since
        self._near_until = -math.inf  # whatever is due sooner is in it
        self._later = math.inf  # nothing else is due sooner

    def __len__(self) -> int:
        """How many entries the heap has."""
        return len(self._near)

    def put(self, task_id: str, at: float) -> None:
        """The `due` of a task was set to `at`."""
        if at < self._near_until:
            heappush(self._near, (at, task_id))
        else:
            self._later = min(self._later, at)

    def next_at(self) -> float:
        """When one may be due, infinity when none is; none is due sooner."""
        return self._near[0][0] if self._near else self._later

    def pop(self, now: float) -> str | None:
        """The next task that is due now, which then is so no more; None when none is."""
        if now >= self._later:
            self._look_at_all(now + NEAR_SECONDS)
        while self._near and self._near[0][0] <= now:
            at, task_id = heappop(self._near)
            watch = self._watches.get(task_id)
            if watch is not None and watch.due == at:
                watch.due = None
                return task_id
        return None

    def _look_at_all(self, until: float) -> None:
        near, later = [], math.inf
        for task_id, watch in self._watches.items():
            at = watch.due
            if at is None:
                continue
            if at < until:
                near.append((at, task_id))
            elif at < later:
                later = at
        heapify(near)
        self._near, self._near_until, self._later = near, until, later
