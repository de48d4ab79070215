"""The waiting tasks of this process in their order: highest priority first, then oldest.

Not held here: who of them may go (`gateway.core.admission`), the loop that asks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter

from gateway.core.states import Task


class Queue:
    """Tasks by priority and age, and for which providers any of them waits."""

    def __init__(self) -> None:
        self._places: list[tuple[int, float, str]] = []
        self._waited_for: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, task: Task) -> None:
        """Let a task wait at its place."""
        insort(self._places, _place(task))
        self._waited_for.update(candidate.provider for candidate in task.open_candidates)

    def remove(self, task: Task) -> None:
        """Let a task wait no more; one that does not wait is left alone."""
        place = self.place(task)
        if place is not None:
            del self._places[place - 1]
            self._waited_for.subtract(candidate.provider for candidate in task.open_candidates)

    def place(self, task: Task) -> int | None:
        """A task's place from 1; None when it does not wait."""
        index = bisect_left(self._places, _place(task))
        return index + 1 if self._places[index : index + 1] == [_place(task)] else None

    def is_waited_for(self, provider: str) -> bool:
        """Whether any task could go to this provider."""
        return self._waited_for[provider] > 0

    def ids(self) -> list[str]:
        """The ids of all that wait, in order."""
        return [task_id for _, _, task_id in self._places]


def _place(task: Task) -> tuple[int, float, str]:
    return -task.priority, task.created_at, task.id
