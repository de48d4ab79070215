"""The line of waiting tasks: highest priority first, fair between callers, each to its first free candidate.

Fair: a caller's next task stands behind one task of every other caller, however many either has (start-time
fair queueing). What comes back from a vendor that took nothing keeps the turn that it had. Not held here: who
may go at all (`gateway.core.admission`), the loop that asks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection
from typing import TypeAlias

from gateway.core.facts import Candidate
from gateway.core.states import Task
from gateway.engine.provider import Fleet

_Place: TypeAlias = tuple[int, int, float, str]  # priority negated, turn, age, id
_Caller: TypeAlias = tuple[int, str]  # priority negated, owner: turns are counted within a priority


class Line:
    """The waiting tasks of this process. `gates_at`: when a gate may open by itself, Unix seconds."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._places: list[_Place] = []
        self._waiting: dict[str, tuple[_Place, Task]] = {}
        self._waited_for: Counter[str] = Counter()
        self._turns: dict[int, int] = {}  # by priority negated: the turn of the task that went last
        self._last: dict[_Caller, int] = {}  # the turn of a caller's last task
        self._mine: Counter[_Caller] = Counter()
        self.gates_at = float("inf")

    def add(self, task: Task) -> None:
        """Let a task wait: after its caller's other turns, or next of all if it was sent already."""
        caller = _caller(task)
        turn = self._turns.get(caller[0], 0)
        if task.attempts == 0:
            turn = self._last[caller] = max(turn, self._last.get(caller, 0)) + 1
        place = (caller[0], turn, task.created_at, task.id)
        self._waiting[task.id] = place, task
        insort(self._places, place)
        self._mine[caller] += 1
        self._waited_for.update({candidate.provider for candidate in task.open_candidates})

    def remove(self, task_id: str) -> None:
        """Let a task wait no more; one that does not wait is left alone."""
        if task_id not in self._waiting:
            return
        place, task = self._waiting.pop(task_id)
        del self._places[bisect_left(self._places, place)]
        self._waited_for.subtract({candidate.provider for candidate in task.open_candidates})
        caller = _caller(task)
        self._mine[caller] -= 1
        if not self._mine[caller]:
            del self._mine[caller]
            self._last.pop(caller, None)

    def place(self, task_id: str, now: float) -> tuple[int, float | None] | None:
        """A task's place from 1, and when it may start if that can be told; None when not in line."""
        if task_id not in self._waiting:
            return None
        place, task = self._waiting[task_id]
        gates = self._fleet.gates()
        names = dict.fromkeys(some.provider for some in task.open_candidates if some.provider in gates)
        times = [at for name in names if (at := gates[name].free_at(now)) is not None]
        return bisect_left(self._places, place) + 1, min(times, default=None)

    def ends_at(self, task: Task) -> float:
        """When a waiting task has waited long enough at every candidate; infinity when one has no limit.

        What somebody allowed to be sent again waits to its deadline.
        """
        limits = [float("inf")] if task.permissions else []
        for candidate in task.open_candidates:
            provider = self._fleet.providers.get(candidate.provider)
            limit = None if provider is None else provider.settings.max_queue_age
            limits.append(float("inf") if limit is None else limit)
        return task.created_at + max(limits, default=float("inf"))

    def waiting_for(self, provider: str) -> int:
        """How many tasks could go to this provider."""
        return self._waited_for[provider]

    def ready(
        self, now: float, room: int, may_go: Callable[[str], bool]
    ) -> list[tuple[str, Candidate]]:
        """At most `room` tasks that go now, each let through the gate of its first free candidate.

        `may_go` says of an id whether that task may go at all.
        """
        gates = self._fleet.gates()
        free = {name for name, gate in gates.items()
                if self._waited_for[name] > 0 and gate.free_at(now) == now}
        going: list[tuple[str, Candidate]] = []
        for level, turn, _, task_id in self._places:
            if not free or len(going) >= room:
                break
            candidate = self._open_to(self._waiting[task_id][1], free)
            if candidate is None or not may_go(task_id):
                continue
            gate = gates[candidate.provider]
            gate.enter(now)
            going.append((task_id, candidate))
            self._turns[level] = max(self._turns.get(level, 0), turn)
            if gate.free_at(now) != now:
                free.discard(candidate.provider)
        times = (gate.free_at(now) for gate in gates.values())
        self.gates_at = min((at for at in times if at is not None and at > now), default=float("inf"))
        return going

    def _open_to(self, task: Task, free: Collection[str]) -> Candidate | None:
        open_now = (some for some in task.open_candidates if some.provider in free)
        return next((some for some in open_now if self._fleet.find(some) is not None), None)


def _caller(task: Task) -> _Caller:
    return -task.priority, task.owner
