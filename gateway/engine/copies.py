"""Which files are copied out now: a bounded number at once, those first whose links die first.

What the store did not take is tried by one file at a time at least, and by all as soon as it takes one again.
Not held here: copying (`keeping`), when a try is repeated (`keeping` says not before when).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import Final

from gateway.core.states import Task

COPIES_MAX: Final = 8  # at once in this process
AWAY_SECONDS: Final = 15.0  # between two tries at most, while the store takes nothing at all


def link_of(task: Task) -> tuple[str, float]:
    """The vendor's link to the file, be it a late one, and when it dies (Unix seconds)."""
    if task.late_url is not None:
        return task.late_url, task.late_expires_at or 0.0
    return task.result_url or "", task.result_expires_at or 0.0


def oldest_unstored_seconds(tasks: Iterable[Task], now: float) -> float:
    """How long the file that waits longest has waited to be stored, 0 when none does."""
    since = (task.unstored_since for task in tasks if task.unstored_since is not None)
    return max(0.0, now - min(since, default=now))


class Copies:
    """The line of files that are due, and those that are being copied."""

    def __init__(self) -> None:
        self._line: list[tuple[float, str]] = []
        self._waiting: set[str] = set()
        self._running: set[str] = set()
        self._refused: dict[str, None] = {}  # files that the store did not take, since it last took one

    def line_up(self, task: Task) -> None:
        """A file is due."""
        if task.id not in self._waiting:
            self._waiting.add(task.id)
            heapq.heappush(self._line, (link_of(task)[1], task.id))

    def leave(self, task_id: str) -> None:
        """A file is not due any more."""
        self._waiting.discard(task_id)
        self._refused.pop(task_id, None)

    def refused(self, task_id: str) -> float:
        """The store did not take this file; the seconds after which it is tried again at the latest.

        A file that is refused while others are taken may itself be the reason, and has no such limit.
        """
        finds_out = next(iter(self._refused), None) == task_id
        self._refused[task_id] = None
        return AWAY_SECONDS if finds_out else math.inf

    def taken(self) -> list[str]:
        """The store took a file; those that it did not take before and may try again now."""
        again = list(self._refused) if len(self._refused) > 1 else []
        self._refused.clear()
        return again

    def next(self) -> str | None:
        """Whose turn it is; that one counts as being copied until `ended`."""
        while self._line and len(self._running) < COPIES_MAX:
            _, task_id = heapq.heappop(self._line)
            if task_id in self._waiting:
                self._waiting.discard(task_id)
                self._running.add(task_id)
                return task_id
        return None

    def ended(self, task_id: str) -> None:
        """It is being copied no longer."""
        self._running.discard(task_id)
