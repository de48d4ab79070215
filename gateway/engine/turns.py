"""The due polls of one provider in the order in which they go, and how far they are spread where not all fit.

Fair between callers: a caller's next poll stands behind one poll of every other caller, however many
either has (start-time fair queueing). A budget that cannot carry what the schedule wishes is shared
between the callers by their wishes, each up to an equal part (max-min fairness), and a caller's polls are
spread by what is missing. Nobody starves: then nobody is planned for later than one and a half times the
mean interval, and who waited for longer goes before, in two turns of three. What this process can make at
all (`capacity`) is shared likewise where it is less; then a late poll is nobody's limit, so everybody's
longest pause only grows with the others. A poll in line costs a few entries, no coroutine. Not held here:
when a poll is wished (`gateway.core.pacing`), asking (`poll`), the loop.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from heapq import heappop, heappush
from typing import Final, TypeAlias

import msgspec

from gateway.core.admission import Pace
from gateway.core.health import Health
from gateway.core.pacing import Bounds, Scarce
from gateway.core.render_times import PRIOR_SECONDS
from gateway.engine.capacity import Capacity

ASKING_MAX: Final = 500  # polls of one provider under way at once: if it hangs, the others have their share
PATIENCE: Final = 1.5  # mean intervals, while a budget is short: nobody is left alone for longer
SHARED_SECONDS: Final = 1.0  # for so long a sharing of the budget holds
_USED: Final = 0.97  # of the budget is shared out: the rest lets a line get shorter
_IN_A_ROW: Final = 2  # overdue polls, before one by its turn
_LEAST_SECONDS: Final = 0.01  # between two polls of one task that its schedule may wish
_HALVINGS: Final = 20  # of the interval in which the equal part is looked for


_Place: TypeAlias = tuple[int, str, str]  # turn, task, caller: one object in all that hold it


@lru_cache(4_096)
def _rate(seconds: float) -> float:
    """Polls a second; many tasks have one number."""
    return 1.0 / max(_LEAST_SECONDS, seconds)


class _Caller(msgspec.Struct):
    """One caller: its `tasks`, the polls a second that they wish, how many wait, its last turn in line."""

    tasks: int = 0
    wished: float = 0.0
    waiting: int = 0
    last: int = 0
    stretch: float = 1.0


class Turns:
    """The line of due polls at one provider. Times in Unix seconds."""

    def __init__(self, pace: Pace, health: Health) -> None:
        self.pace, self._health = pace, health
        self._callers: dict[str, _Caller] = {}
        self._wishes: dict[str, float] = {}  # by task: polls a second
        self._waiting: dict[str, _Place] = {}  # by task
        self._line: list[_Place] = []  # of some the task waits no more
        self._overdue: list[tuple[float, _Place]] = []  # with when it was asked for last; likewise
        self._granted: set[str] = set()
        self._turn = self._in_a_row = 0
        self._shared_at = -math.inf
        self.capacity = Capacity()
        self._scarce: Scarce | None = None  # what is shorter than the wishes
        self._stretch = 1.0  # of the time between polls, over all callers
        self._mean_seconds = 0.0  # between two polls of a task, where the budget is short; else 0

    # --- the line -----------------------------------------------------------------------------------

    @property
    def has_line(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    @property
    def granted(self) -> int:
        """How many have their turn and have not used it yet."""
        return len(self._granted)

    def wait_seconds(self, task_id: str, now: float, chance: random.Random) -> float:
        """How long a task in line may wait; 0 for one that is not in line."""
        if task_id not in self._waiting:
            return 0.0
        return max(self.free_at(now, chance) - now, len(self._waiting) / self.pace.per_second)

    def line_up(self, task_id: str, owner: str, asked_at: float, now: float) -> bool:
        """A task, last asked for at `asked_at`, is due: it joins the line, or keeps its place there.

        False: it has its turn already, which it could not use when that came.
        """
        if task_id in self._granted:
            return False
        if task_id in self._waiting:
            return True
        if task_id not in self._wishes:
            self.wish(task_id, owner, PRIOR_SECONDS)  # one that was taken over
        self._share(now)
        caller = self._callers.setdefault(owner, _Caller())
        caller.waiting += 1
        caller.last = max(self._turn, caller.last) + 1
        self._waiting[task_id] = place = caller.last, task_id, owner
        heappush(self._line, place)
        if self._mean_seconds:
            heappush(self._overdue, (asked_at, place))
        return True

    def ready(
        self, now: float, room: int, chance: random.Random, *, is_late: bool = False
    ) -> list[str]:
        """At most `room` tasks whose polls are to begin now. `go` then says that it is its turn.

        `is_late`: this process has more to do than it does.
        """
        going: list[str] = []
        is_free = True
        while self._waiting and (is_free := self.free_at(now, chance) <= now) and len(going) < room:
            self.pace.spend(now)
            self._health.asked_at = now
            going.append(self._next(now))
            self._granted.add(going[-1])
        self.capacity.looked(now, len(going), is_short=is_late and is_free and bool(self._waiting))
        return going

    def free_at(self, now: float, chance: random.Random) -> float:
        """When the first in line may go; infinity when nobody waits."""
        if not self._waiting:
            return math.inf
        return max(self.pace.free_at(now), self._health.poll_at(now, chance))

    def go(self, task_id: str) -> bool:
        """Whether it is this task's turn, which is used up by that."""
        if task_id in self._granted:
            self._granted.discard(task_id)
            return True
        return False

    def take(self, now: float) -> bool:
        """Take a turn for what is in no hurry, outside the line: only when nobody waits in it."""
        return not self._waiting and self.pace.take(now)

    def leave(self, task_id: str, owner: str) -> None:
        """A task is not asked for any more."""
        self._granted.discard(task_id)
        caller = self._callers.get(owner)
        if caller is None:
            return
        if task_id in self._waiting:
            self._quit(task_id)
        rate = self._wishes.pop(task_id, None)
        if rate is not None:
            caller.tasks -= 1
            caller.wished -= rate
            self._drop(owner)

    def _next(self, now: float) -> str:
        """Take the next out of the line."""
        overdue, line = self._overdue, self._line
        while overdue and not self._stands(overdue[0][1]):
            heappop(overdue)
        while not self._stands(line[0]):
            heappop(line)
        is_short = bool(overdue and self._mean_seconds)
        if is_short and overdue[0][0] <= now - PATIENCE * self._mean_seconds and self._in_a_row < _IN_A_ROW:
            self._in_a_row += 1
            _, (_, task_id, _) = heappop(overdue)
        else:
            self._in_a_row = 0
            turn, task_id, _ = heappop(line)
            self._turn = max(self._turn, turn)
        self._quit(task_id)
        return task_id

    def _stands(self, place: _Place) -> bool:
        return self._waiting.get(place[1]) is place

    def _quit(self, task_id: str) -> None:
        _, _, owner = self._waiting.pop(task_id)
        self._callers[owner].waiting -= 1
        self._drop(owner)
        if not self._waiting:
            self._line.clear()
            self._overdue.clear()

    def _drop(self, owner: str) -> None:
        caller = self._callers[owner]
        if not caller.waiting and not caller.tasks:
            del self._callers[owner]

    # --- the budget ---------------------------------------------------------------------------------

    def wish(self, task_id: str, owner: str, seconds: float) -> None:
        """The schedule would have this task asked for in so many seconds, if all fitted."""
        caller = self._callers.setdefault(owner, _Caller())
        before = self._wishes.get(task_id)
        if before is None:
            caller.tasks += 1
        self._wishes[task_id] = rate = _rate(round(seconds, 2))
        caller.wished += rate - (before or 0.0)

    def stretch(self, now: float) -> float:
        """By how much polls are further apart than is wished, over all callers, from 1: as it is wished."""
        self._share(now)
        return self._stretch

    def bounds(self, owner: str, bounds: Bounds, now: float) -> Bounds:
        """A caller's bounds: the provider's, or wider ones where not all that is wished can be asked."""
        self._share(now)
        if self._scarce is None:
            return bounds
        caller = self._callers.get(owner)
        stretch = 1.0 if caller is None else caller.stretch
        longest = bounds.max_seconds * stretch
        if self._scarce == "budget":
            longest = max(bounds.min_seconds, PATIENCE * self._mean_seconds)
        return Bounds(bounds.min_seconds, longest, stretch, self._scarce)

    def _share(self, now: float) -> None:
        """Share anew, if that is due: by wishes, up to an equal part, and enough for PATIENCE."""
        if now - self._shared_at < SHARED_SECONDS and self._shared_at <= now:
            return
        self._shared_at = now
        callers = list(self._callers.values())
        wished = sum(caller.wished for caller in callers)
        budget = _USED * self.pace.per_second
        capacity = self.capacity.per_second(now, len(self._wishes), wished)
        rate = min(budget, capacity)
        self._scarce = None if wished <= rate else "budget" if budget <= capacity else "load"
        self._mean_seconds = len(self._wishes) / rate if self._scarce == "budget" else 0.0
        self._stretch = max(1.0, wished / rate)
        if self._scarce is None:
            return
        least = rate / (PATIENCE * len(self._wishes))  # polls a second of each task
        wishes = [(caller.wished, least * caller.tasks) for caller in callers]
        low, high = 0.0, max(wishes)[0]
        for _ in range(_HALVINGS):
            part = (low + high) / 2
            given = sum([min(wished, max(part, floor)) for wished, floor in wishes])
            low, high = (part, high) if given < rate else (low, part)
        for caller in callers:
            caller.stretch = max(1.0, caller.wished / max(high, least * caller.tasks))
