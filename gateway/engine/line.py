"""The line of waiting tasks: highest priority first, fair between callers, each to its first free candidate.

Tasks with the same candidates stand in one row; who goes is found among the heads of the rows, so a hundred
thousand that wait for one provider cost nothing to those that wait for another. Fair: a caller's next task in
a row stands behind one task of every other caller there, however many either has (start-time fair queueing).
What comes back from a vendor that took nothing goes next. Not held here: who may go at all
(`gateway.core.admission`), the loop that asks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator
from heapq import merge
from typing import TypeAlias

from gateway.core.facts import Candidate
from gateway.core.states import Task
from gateway.engine.provider import Fleet

_Row: TypeAlias = tuple[Candidate, ...]  # the open candidates of all its tasks
_Place: TypeAlias = tuple[int, int, float, str]  # priority negated, turn, age, id
_Caller: TypeAlias = tuple[int, str, _Row]  # priority negated, owner: whose turns are counted


class Line:
    """The waiting tasks of this process. `gates_at`: when a gate may open by itself, Unix seconds."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._places: list[_Place] = []
        self._rows: dict[_Row, list[_Place]] = {}
        self._waiting: dict[str, tuple[_Place, _Caller]] = {}
        self._turns: dict[tuple[int, _Row], int] = {}  # by priority negated: the turn that went last in a row
        self._last: dict[_Caller, int] = {}  # the turn of a caller's last task in a row
        self._mine: Counter[_Caller] = Counter()
        self.gates_at = float("inf")

    def add(self, task: Task) -> None:
        """Let a task wait: after its caller's other turns, or next of all if it was sent already."""
        row = task.open_candidates
        caller = (-task.priority, task.owner, row)
        if (caller[0], row) not in self._turns:
            self._turns[caller[0], row] = self._reached(caller[0], row)
        turn = self._turns[caller[0], row]
        if task.attempts == 0:
            turn = self._last[caller] = max(turn, self._last.get(caller, 0)) + 1
        place = (caller[0], turn, task.created_at, task.id)
        self._waiting[task.id] = place, caller
        insort(self._places, place)
        insort(self._rows.setdefault(row, []), place)
        self._mine[caller] += 1

    def _reached(self, level: int, row: _Row) -> int:
        """The turn that rows with a provider in common have reached: a new row begins there, not before."""
        names = {some.provider for some in row}
        heads = (
            places[index] for other, places in self._rows.items()
            if names & {some.provider for some in other}
            and (index := bisect_left(places, (level,))) < len(places)
        )
        return min((turn - 1 for head_level, turn, _, _ in heads if head_level == level), default=0)

    def remove(self, task_id: str) -> None:
        """Let a task wait no more; one that does not wait is left alone."""
        if task_id not in self._waiting:
            return
        place, caller = self._waiting.pop(task_id)
        row = self._rows[caller[2]]
        for places in (self._places, row):
            del places[bisect_left(places, place)]
        if not row:
            del self._rows[caller[2]]
            self._turns = {key: turn for key, turn in self._turns.items() if key[1] != caller[2]}
        self._mine[caller] -= 1
        if not self._mine[caller]:
            del self._mine[caller]
            self._last.pop(caller, None)

    def place(self, task_id: str, now: float) -> tuple[int, float | None] | None:
        """A task's place from 1, and when it may start if that can be told; None when not in line."""
        if task_id not in self._waiting:
            return None
        place, (_, _, row) = self._waiting[task_id]
        gates = self._fleet.gates()
        names = dict.fromkeys(some.provider for some in row if some.provider in gates)
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
        return sum(len(row) for key, row in self._rows.items() if provider in {some.provider for some in key})

    def ready(
        self, now: float, room: int, may_go: Callable[[str], bool]
    ) -> list[tuple[str, Candidate]]:
        """At most `room` tasks that go now, each let through the gate of its first free candidate.

        `may_go` says of an id whether that task may go at all.
        """
        gates = self._fleet.gates()
        going: list[tuple[str, Candidate]] = []
        for place in merge(*(self._going(row, now) for row in self._rows)):
            level, turn, _, task_id = place
            if len(going) >= room:
                break
            row = self._waiting[task_id][1][2]
            candidate = self._free(row, now)  # others may have gone since its row was asked
            if candidate is None or not may_go(task_id):
                continue
            gates[candidate.provider].enter(now)
            going.append((task_id, candidate))
            self._turns[level, row] = max(self._turns[level, row], turn)
        times = (gate.free_at(now) for gate in gates.values())
        self.gates_at = min((at for at in times if at is not None and at > now), default=float("inf"))
        return going

    def straight(self, task: Task, now: float) -> Candidate | None:
        """Where a new task may go without waiting: a free candidate that nobody waits for."""
        candidate = self._free(task.open_candidates, now)
        return None if candidate is None or self.waiting_for(candidate.provider) else candidate

    def _going(self, row: _Row, now: float) -> Iterator[_Place]:
        """The places of a row in order, for as long as one of its candidates is free."""
        for place in self._rows[row]:
            if self._free(row, now) is None:
                return
            yield place

    def _free(self, row: _Row, now: float) -> Candidate | None:
        """The first of these candidates that takes a task now."""
        for candidate in row:
            found = self._fleet.find(candidate)
            if found is not None and found[0].gate.free_at(now) == now:
                return candidate
        return None
