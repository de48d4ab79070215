"""The line of waiting tasks: highest priority first, fair between callers, each to its first free candidate.

Tasks with the same candidates stand in one row; who goes is found among the heads of the rows, so a hundred
thousand that wait for one provider cost nothing to those that wait for another. Fair: a caller's next task in
a row stands behind one task of every other caller there, however many either has (start-time fair queueing).
What comes back from a vendor that took nothing goes next. Those of an account (a key, a team) that may have
only so many videos at vendors form a file, of which only the first stands in the row; while the account has
that many, it stands aside, and who passes does so at no cost. Not held here: who may go at all
(`gateway.core.admission`, `accounts`), the loop that asks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush, merge
from typing import TypeAlias, cast

from gateway.core.facts import Candidate
from gateway.core.states import Task
from gateway.engine.accounts import Accounts
from gateway.engine.provider import Fleet

_Row: TypeAlias = tuple[Candidate, ...]  # the open candidates of all its tasks
_Caps: TypeAlias = tuple[str, ...]  # the accounts of a task that may have only so many at vendors
_File: TypeAlias = tuple[_Row, _Caps]
_Place: TypeAlias = tuple[int, int, float, str]  # priority negated, turn, age, id
_Caller: TypeAlias = tuple[int, str, _Row]  # priority negated, owner: whose turns are counted


class Line:
    """The waiting tasks of this process. `gates_at`: when somebody may go by itself, Unix seconds."""

    def __init__(self, fleet: Fleet, accounts: Accounts) -> None:
        self._fleet, self._accounts = fleet, accounts
        self._places: list[_Place] = []
        self._rows: dict[_Row, list[_Place]] = {}  # with the first of each file that does not stand aside
        self._files: dict[_File, list[_Place]] = {}
        self._aside: dict[str, set[_File]] = {}  # by the account that has all it may have
        self._away: dict[_File, str] = {}  # the same, by file
        self._waiting: dict[str, tuple[_Place, _Caller, _Caps]] = {}
        self._sizes: Counter[_Row] = Counter()
        self._turns: dict[tuple[int, _Row], int] = {}  # by priority negated: the turn that went last in a row
        self._last: dict[_Caller, int] = {}  # the turn of a caller's last task in a row
        self._mine: Counter[_Caller] = Counter()
        self.gates_at = float("inf")

    def __len__(self) -> int:
        """How many tasks wait."""
        return len(self._waiting)

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
        caps = self._accounts.capped(task)
        self._waiting[task.id] = place, caller, caps
        insort(self._places, place)
        self._stand(place, row, caps)
        self._sizes[row] += 1
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
        place, caller, caps = self._waiting.pop(task_id)
        row = caller[2]
        _take_out(self._places, place)
        self._step_out(place, row, caps)
        self._sizes[row] -= 1
        if not self._sizes[row]:
            del self._sizes[row], self._rows[row]
            self._turns = {key: turn for key, turn in self._turns.items() if key[1] != row}
        self._mine[caller] -= 1
        if not self._mine[caller]:
            del self._mine[caller]
            self._last.pop(caller, None)

    def regroup(self, tasks: Iterable[Task]) -> None:
        """The limits of accounts may have changed: find anew which of these stand in files."""
        for account in list(self._aside):
            self._stand_in(account)
        for task in tasks:
            if task.id not in self._waiting:
                continue
            place, caller, before = self._waiting[task.id]
            caps = self._accounts.capped(task)
            if caps != before:
                self._step_out(place, caller[2], before)
                self._stand(place, caller[2], caps)
                self._waiting[task.id] = place, caller, caps

    def place(self, task_id: str, now: float) -> tuple[int, float | None] | None:
        """A task's place from 1, and when it may start if that can be told; None when not in line."""
        if task_id not in self._waiting:
            return None
        place, (_, _, row), caps = self._waiting[task_id]
        gates = self._fleet.gates()
        names = [name for name in self._names(row) if name in gates]
        times = [at for name in names if (at := gates[name].free_at(now)) is not None]
        may_start = None if self._full(caps, now) else min(times, default=None)
        return bisect_left(self._places, place) + 1, may_start

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
        return sum(size for row, size in self._sizes.items() if provider in {some.provider for some in row})

    def ready(
        self, now: float, room: int, may_go: Callable[[str], bool]
    ) -> list[tuple[str, Candidate]]:
        """At most `room` tasks that go now, each let through the gate of its first free candidate.

        `may_go` is asked of an id last, whether that task goes; it takes its place in its accounts then.
        """
        for account in self._accounts.opened(now):
            self._stand_in(account)
        gates = self._fleet.gates()
        going: list[tuple[str, Candidate]] = []
        full: list[tuple[_File, str]] = []
        for place in merge(*(self._going(row, now, full) for row in self._rows)):
            level, turn, _, task_id = place
            if len(going) >= room:
                break
            _, (_, _, row), caps = self._waiting[task_id]
            candidate = self._free(row, now)  # others may have gone since its row was asked
            if candidate is None or self._full(caps, now) or not may_go(task_id):
                continue
            gates[candidate.provider].enter(now)
            going.append((task_id, candidate))
            self._turns[level, row] = max(self._turns[level, row], turn)
        for file, account in full:
            self._stand_aside(file, account)
        times = (gate.free_at(now) for gate in gates.values())
        gates_at = min((at for at in times if at is not None and at > now), default=float("inf"))
        self.gates_at = min(gates_at, self._accounts.opens_at(now))
        return going

    def straight(self, task: Task, now: float) -> Candidate | None:
        """Where a new task may go without waiting: a free candidate that nobody waits for who may go."""
        candidate = self._free(task.open_candidates, now)
        if candidate is None or not self._accounts.has_room(task, now):
            return None
        return None if self._is_awaited(candidate.provider, now) else candidate

    def _is_awaited(self, provider: str, now: float) -> bool:
        """Whether anybody waits for this provider, and not for one of its own."""
        return any(
            self._full(self._waiting[place[3]][2], now) is None for row, places in self._rows.items()
            if provider in self._names(row) for place in places
        )

    def _names(self, row: _Row) -> set[str]:
        """The providers that this row waits for; nobody waits for an offering whose last day is over."""
        return {some.provider for some in row if some not in self._fleet.retired}

    def _going(self, row: _Row, now: float, full: list[tuple[_File, str]]) -> Iterator[_Place]:
        """The places of a row in order, for as long as one of its candidates is free.

        A file whose account has all that it may have is noted in `full`, and is passed.
        """
        first, behind = iter(self._rows[row]), list[tuple[_Place, int]]()  # who is next in a file
        ahead = next(first, None)
        while ahead is not None or behind:
            if self._free(row, now) is None:
                return
            if behind and (ahead is None or behind[0][0] < ahead):
                place, index = heappop(behind)
            else:
                place, index, ahead = cast("_Place", ahead), 0, next(first, None)
            if caps := self._waiting[place[3]][2]:
                if (account := self._full(caps, now)) is not None:
                    full.append(((row, caps), account))
                    continue
                file = self._files[row, caps]
                if index + 1 < len(file):
                    heappush(behind, (file[index + 1], index + 1))
            yield place

    def _free(self, row: _Row, now: float) -> Candidate | None:
        """The first of these candidates that takes a task now."""
        for candidate in row:
            found = None if candidate in self._fleet.retired else self._fleet.find(candidate)
            if found is not None and found[0].gate.free_at(now) == now:
                return candidate
        return None

    # --- files --------------------------------------------------------------------------------------

    def _stand(self, place: _Place, row: _Row, caps: _Caps) -> None:
        """Put a place where it belongs: into its row, or into its file."""
        places = self._rows.setdefault(row, [])
        if not caps:
            insort(places, place)
            return
        file = self._files.setdefault((row, caps), [])
        insort(file, place)
        if file[0] is place and (row, caps) not in self._away:
            if len(file) > 1:
                _take_out(places, file[1])
            insort(places, place)

    def _step_out(self, place: _Place, row: _Row, caps: _Caps) -> None:
        """Take a place out of its row or its file; the next of that steps up."""
        if not caps:
            _take_out(self._rows[row], place)
            return
        file = self._files[row, caps]
        is_in_row = file[0] == place and (row, caps) not in self._away
        _take_out(file, place)
        if is_in_row:
            _take_out(self._rows[row], place)
            if file:
                insort(self._rows[row], file[0])
        if not file:
            del self._files[row, caps]
            account = self._away.pop((row, caps), None)
            if account is not None:
                self._aside[account].discard((row, caps))

    def _full(self, caps: _Caps, now: float) -> str | None:
        """The first of these accounts that may have no more at vendors."""
        for account in caps:
            if self._accounts.is_full(account, now):
                return account
        return None

    def _stand_aside(self, file: _File, account: str) -> None:
        if file not in self._away:
            _take_out(self._rows[file[0]], self._files[file][0])
            self._away[file] = account
            self._aside.setdefault(account, set()).add(file)

    def _stand_in(self, account: str) -> None:
        for file in self._aside.pop(account, ()):
            del self._away[file]
            insort(self._rows[file[0]], self._files[file][0])


def _take_out(places: list[_Place], place: _Place) -> None:
    del places[bisect_left(places, place)]
