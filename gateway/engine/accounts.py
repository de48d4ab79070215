"""Whose limits a video counts towards, its key's and its team's, and how many each has at vendors from here.

What is counted here are the videos that this process follows: enough to leave an account's others in line
while it has all that it may have. That no replica lets one more through is for the write to say
(`gateway.storage.allowance`). Not held here: the line (`line`), requests per minute (`gateway.api.rates`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import islice
from typing import Final

import msgspec

from gateway.core.admission import CROWDED_SECONDS
from gateway.core.grants import NO_LIMITS, Grant, Limits
from gateway.core.health import doubled
from gateway.core.keys import limits_of_team
from gateway.core.states import Task
from gateway.engine.provider import Fleet
from gateway.storage.allowance import Account, Allowance, accounts_of
from gateway.storage.keys import Keys

KNOWN_SECONDS: Final = 5.0  # how long a key's limits are believed without asking the store
KNOWN_MAX: Final = 100_000
NAMES_MAX: Final = 4_096  # keys whose accounts' names are kept
TEAM: Final = "team:"  # how the owner of what a team has begins


class _Crowd(msgspec.Struct):
    until: float
    count: int


class Accounts:
    """What is known of every account that has a video here, by name: a key's id, or a team's as an owner.

    `now` is Unix time in seconds.
    """

    def __init__(self, keys: Keys, fleet: Fleet, now: Callable[[], float]) -> None:
        self._keys, self._fleet, self._now = keys, fleet, now
        self._known: dict[str, tuple[Limits, float]] = {}  # of keys, and until when that is believed
        self._places: dict[str, tuple[str, ...]] = {}  # the accounts of each video with a place, or almost
        self._counts: Counter[str] = Counter()  # how many of those each account has
        self._crowds: dict[str, _Crowd] = {}  # where other replicas hold all there is
        self._freed: set[str] = set()

    # --- limits -------------------------------------------------------------------------------------

    async def held_to(self, task: Task) -> tuple[Account, ...]:
        """The accounts that this task takes from, with their limits of now or of a moment ago.

        A revoked key is held to its limits as any other. Raises StorageError.
        """
        await self.look_up(task.key_id)
        return accounts_of(task.key_id, task.owner, self._grant(task))

    async def flight(self, task: Task) -> Allowance | None:
        """What must hold of a task's accounts once it is at a vendor; None: nothing. Raises StorageError."""
        held = [account for account in await self.held_to(task) if account.limits.max_in_flight is not None]
        return Allowance(accounts=tuple(held), at=task.created_at, is_in_flight=True) if held else None

    async def look_up(self, key_id: str) -> bool:
        """Ask the store for the limits of a key, unless known from just now; whether they are others now.

        Raises StorageError.
        """
        known = self._known.get(key_id)
        if not key_id or (known is not None and self._now() < known[1]):
            return False
        row = await self._keys.get(key_id, self._now())
        return self.learn(key_id, NO_LIMITS if row is None else row.grant.limits)

    def learn(self, key_id: str, limits: Limits) -> bool:
        """Remember the limits of a key; whether they are others than were known."""
        known = self._known.get(key_id)
        if known is None and len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[key_id] = limits, self._now() + KNOWN_SECONDS
        return limits != (NO_LIMITS if known is None else known[0])

    def capped(self, task: Task) -> tuple[str, ...]:
        """Those of the task's accounts that may have only so many videos at vendors, as far as is known."""
        return tuple(name for name in _names(task) if self._cap(name) is not None)

    def _cap(self, name: str) -> int | None:
        if name.startswith(TEAM):
            team = self._fleet.settings.teams.get(name.removeprefix(TEAM))
            return None if team is None else team.max_in_flight
        known = self._known.get(name)
        return None if known is None else known[0].max_in_flight

    def _grant(self, task: Task) -> Grant:
        known = self._known.get(task.key_id)
        limits = NO_LIMITS if known is None else known[0]
        team = self._fleet.settings.teams.get(task.owner.removeprefix(TEAM))
        if team is None or not task.owner.startswith(TEAM):
            return Grant(limits=limits)
        return Grant(limits=limits, team_limits=limits_of_team(team))

    # --- places -------------------------------------------------------------------------------------

    def is_full(self, name: str, now: float) -> bool:
        """Whether that account may have no more at vendors now, as far as can be seen from here."""
        crowd = self._crowds.get(name)
        if crowd is not None and now < crowd.until:
            return True
        cap = self._cap(name)
        return cap is not None and self._counts[name] >= cap

    def has_room(self, task: Task, now: float) -> bool:
        """Whether none of the task's accounts is full."""
        return not any(self.is_full(name, now) for name in _names(task))

    def is_over(self, task: Task) -> bool:
        """Whether this one was let through beyond a limit, before that was known: others are before it."""
        for name in _names(task):
            cap = self._cap(name)
            if cap is not None and self._counts[name] > cap:
                held = (task_id for task_id, names in self._places.items() if name in names)
                if task.id not in islice(held, cap):
                    return True
        return False

    def take(self, task: Task) -> None:
        """The task has a place at a vendor, or is about to have one."""
        if task.id not in self._places:
            self._places[task.id] = names = _names(task)
            self._counts.update(names)

    def leave(self, task_id: str) -> bool:
        """The task has no place at a vendor any more; whether it had one."""
        names = self._places.pop(task_id, None)
        for name in names or ():
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
            self._freed.add(name)
        return names is not None

    def crowded(self, names: Iterable[str], chance: random.Random) -> None:
        """Other replicas may hold all that these accounts may have: look again soon, ever later."""
        now = self._now()
        for name in names:
            crowd = self._crowds.setdefault(name, _Crowd(0.0, 0))
            if now >= crowd.until:
                crowd.count += 1
                most = doubled(CROWDED_SECONDS, crowd.count + 1)
                crowd.until = now + chance.uniform(CROWDED_SECONDS[0], most)

    def started(self, task: Task) -> None:
        """All replicas let one through."""
        for name in _names(task):
            if self._crowds.pop(name, None) is not None:
                self._freed.add(name)

    def opened(self, now: float) -> Iterable[str]:
        """Those that may have room again since this was asked last."""
        freed, self._freed = self._freed, set()
        if self._crowds:
            over = [name for name, crowd in self._crowds.items() if crowd.until <= now]
            freed.update(over)
            for name in over:
                if self._cap(name) is None or self._crowds[name].until <= now - KNOWN_SECONDS:
                    del self._crowds[name]
        return freed

    def opens_at(self, now: float) -> float:
        """When one may have room again though nothing ends here."""
        ends = (crowd.until for crowd in self._crowds.values() if crowd.until > now)
        return min(ends, default=float("inf"))


def _names(task: Task) -> tuple[str, ...]:
    """The names of the accounts that a task counts towards."""
    return _names_of(task.key_id, task.owner)


@lru_cache(NAMES_MAX)
def _names_of(key_id: str, owner: str) -> tuple[str, ...]:
    """One for all videos of a key."""
    if not owner.startswith(TEAM):
        return (key_id,) if key_id else ()
    return (key_id, owner) if key_id else (owner,)
