"""A race for caps in virtual time: creates by many callers against the real store, interleaved by a seed.

Three stores share a database in memory; every call takes its time on the way there and back, so that what
one has read is old when it writes. Prices are random, clocks differ, days and a month turn. Held here: who
orders, and what becomes of a video. Not held here: what must hold (`purses`), real processes (`races`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from gateway.core.facts import (
    Accepted,
    Adopted,
    Cancelled,
    Cause,
    Fact,
    LateEnded,
    NotSent,
    Polled,
    Rejected,
    RerunAllowed,
    ResubmitAllowed,
    SubmitStarted,
    SubmitUnknown,
    UnknownTimedOut,
)
from gateway.core.spending import nanos
from gateway.core.states import Task, accepted_event
from gateway.core.tasks import apply
from gateway.storage.allowance import Allowance, OverLimit, Together, accounts_of
from gateway.storage.db import Bound, GuardFailed, Row, Step, Value
from gateway.storage.rows import Idempotency, NewVideo
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from gateway.storage.store import Store
from providers.spec import Failed, Submitted, Succeeded
from tests.campaigns.purses import Caller, Purses, callers
from tests.campaigns.report import Ended, told
from tests.campaigns.stage import Plan
from tests.core.made import ONE, TWO, make_task
from tests.simulation.disk import InMemory
from tests.virtual import run_virtual

STORES: Final = 3
CROWD: Final = 200  # who order at once
SPAN_SECONDS: Final = 5 * 86_400.0  # of the callers' time that a race takes
BEGIN: Final = 1_801_267_200.0  # 2027-01-29: the month turns on the third day
SKEW_SECONDS: Final = 2.0  # that a replica's clock may be off
_WAY_SECONDS: Final = 30.0  # of virtual time, at most, to the database and back
_PAUSE_SECONDS: Final = 60.0  # between two creates of a caller
_ROLL_UP_SECONDS: Final = 60.0
_TWICE, _ONCE_MORE, _DELETED = 0.05, 0.3, 0.2
_LATER, _NO = Cause("capacity", "later"), Cause("content_policy", "no")
_FAILED: Final = Failed(raw_status="FAILED", code="vendor_failed", message="no")
_DONE: Final = Succeeded(raw_status="DONE", url="https://files.example/v.mp4")


class _Way(InMemory):
    """The database as one replica reaches it. After each write the purses are looked into."""

    is_shared, trouble, waiting = True, None, 0

    def __init__(self, real: SqliteDatabase, purses: Purses, chance: random.Random) -> None:
        self._real, self._purses, self._chance = real, purses, chance

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """All rows of one statement, as they were a while ago."""
        await self._takes_time()
        rows = await self._real.read(sql, args)
        await self._takes_time()
        return rows

    async def write(
        self, steps: Sequence[Step], committed: object = None, tell: str | None = None
    ) -> list[Row]:
        """One atomic write."""
        await self._takes_time()
        try:
            rows = await self._real.write(steps)
        except OverLimit as error:
            await self._purses.refused(steps, error)
            raise
        await self._purses.committed(steps)
        await self._takes_time()
        return rows

    def listen(self, hear: object) -> None:
        """Nobody tells anything."""

    async def _takes_time(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, _WAY_SECONDS / 4))


class _Race:
    """A race under way. `left` are creates that nobody has ordered yet."""

    def __init__(self, plan: Plan, size: int, database: SqliteDatabase, who: Sequence[Caller]) -> None:
        self.chance = random.Random(plan.seed)
        self.plan, self.size, self.left, self.who = plan, size, size, who
        self.purses = Purses(database, who)
        self.stores = [Store(_Way(database, self.purses, self.chance)) for _ in range(STORES)]
        self.skews = [self.chance.uniform(-SKEW_SECONDS, SKEW_SECONDS) for _ in range(STORES)]
        turns = size / CROWD * (_WAY_SECONDS + _PAUSE_SECONDS) / 2
        self.pace = SPAN_SECONDS / turns
        self.lives: set[asyncio.Task[None]] = set()
        self.lost_saves = 0
        self._number = 0

    async def run(self) -> None:
        """All creates, and all that comes of them."""
        summing = [asyncio.create_task(self._sum_up(store)) for store in self.stores]
        await asyncio.gather(*(self._order() for _ in range(CROWD)))
        while self.lives:
            await asyncio.wait(self.lives)
        for one in summing:
            one.cancel()
        await asyncio.wait(summing)
        for one in summing:
            if not one.cancelled():
                one.result()
        await self.purses.close()

    def now(self, place: int) -> float:
        """Unix seconds by the clock of that replica."""
        return BEGIN + asyncio.get_running_loop().time() * self.pace + self.skews[place]

    async def _sum_up(self, store: Store) -> None:
        while True:
            await asyncio.sleep(self.chance.uniform(0, _ROLL_UP_SECONDS))
            await store.ledger.roll_up()

    # --- callers ------------------------------------------------------------------------------------

    async def _order(self) -> None:
        while self.left > 0:
            self.left -= 1
            if self.left % 10_000 == 0:
                self.plan.say(f"{self.size - self.left:7} of {self.size} creates")
            await self._one(self.chance.choice(self.who))
            await asyncio.sleep(self.chance.uniform(0, _PAUSE_SECONDS))

    async def _one(self, caller: Caller) -> None:
        """One create, or the same by two connections at once: of these one is stored at most."""
        self._number += 1
        key = Idempotency(f"key {self._number}", "print", "")
        price = f"{Decimal(round(10 ** self.chance.uniform(7, 9.7))).scaleb(-9):f}"
        if self.chance.random() >= _TWICE:
            await self._create(caller, price, None)
            return
        both = await asyncio.gather(*(self._create(caller, price, key) for _ in range(2)))
        if sum(both) > 1:
            self.purses.problems.append("one idempotency key has two videos")

    async def _create(self, caller: Caller, price: str, key: Idempotency | None) -> bool:
        """Order it at some replica; whether it was stored."""
        chance, place = self.chance, self.chance.randrange(STORES)
        self._number += 1
        video_id, now = f"video_{self._number}", self.now(place)
        task = make_task(
            video_id, owner=caller.owner, key_id=caller.key_id, created_at=now, deadline_at=now + 86_400,
            reserved_amount=price, reserved_currency=caller.currency,
        )
        if chance.random() < 0.5:  # straight through
            task = apply(task, SubmitStarted(ONE, self._price(task)), now).task
        self.purses.ordered(task)
        bound = self._bound(task, has_money=True, is_queued=task.state == "waiting",
                            is_in_flight=task.state == "submitting")
        new = NewVideo(task=task, request="{}", metadata={}, inputs={}, events=(accepted_event(task),))
        taken = None if key is None else Idempotency(key.name, key.fingerprint, video_id)
        try:
            holder = await self.stores[place].video_add(new, taken, room=bound)
        except OverLimit as error:
            self.purses.refusals[error.limit] += 1
            return False
        if holder is not None:
            return False
        self.purses.accepted += 1
        life = asyncio.create_task(self._live(task))
        self.lives.add(life)
        life.add_done_callback(self.lives.discard)
        return True

    def _bound(self, task: Task, **takes: bool) -> Allowance:
        grant = next(one.grant for one in self.who if one.key_id == task.key_id)
        return Allowance(accounts=accounts_of(task.key_id, task.owner, grant), at=task.created_at, **takes)

    def _price(self, task: Task) -> tuple[str, str]:
        """What a sending costs: what was put aside or less; now and then more, since prices change."""
        aside, share = Decimal(task.reserved_amount or 0), self.chance.random()
        part = Decimal(1) if share < 0.4 else Decimal("1.5") if share > 0.95 else Decimal(str(share))
        return f"{(aside * part).quantize(Decimal(1).scaleb(-9)):f}", task.reserved_currency or ""

    # --- what becomes of a video ----------------------------------------------------------------------

    async def _live(self, task: Task) -> None:
        if task.state == "submitting":
            self.purses.sent(task)
        while not task.is_terminal or task.late_until is not None:
            await asyncio.sleep(self.chance.uniform(0, 4 * _PAUSE_SECONDS))
            fact, bound = self._next(task)
            if task.state == "waiting" and self.chance.random() < _TWICE:
                task = await self._against_each_other(task, fact, bound)
            else:
                task = await self._saved(task, fact, bound)
        if self.chance.random() < _DELETED:
            await self.chance.choice(self.stores).video_delete(task.id, task.owner)

    async def _saved(self, task: Task, fact: Fact, bound: Bound | None) -> Task:
        """The task after a fact; as it was where its account has no room for that."""
        change = apply(task, fact, task.created_at)
        try:
            after = await self.chance.choice(self.stores).task_save(change, bound)
        except OverLimit as error:
            self.purses.refusals[f"{error.limit}, later"] += 1
            if task.state == "submission_unknown":
                return await self._saved(task, UnknownTimedOut(), None)
            return task
        self.purses.happened(after, fact)
        return after

    async def _against_each_other(self, task: Task, fact: Fact, bound: Bound | None) -> Task:
        """A caller cancels while its video is being sent: one of the two has come too late."""
        async def one(what: Fact, held_to: Bound | None) -> Task:
            try:
                return await self._saved(task, what, held_to)
            except GuardFailed:
                self.lost_saves += 1
                return task

        both = await asyncio.gather(one(fact, bound), one(Cancelled(), None))
        if sum(after.version > task.version for after in both) != 1:
            self.purses.problems.append(f"{task.id} was saved twice at one version")
        return max(both, key=lambda after: after.version)

    def _next(self, task: Task) -> tuple[Fact, Bound | None]:
        """What happens to it next, and what must hold for that."""
        share = self.chance.random()
        if task.is_terminal:
            return (LateEnded() if share < 0.5 else self._polled()), None
        if task.state == "waiting":
            return self._from_line(task, share)
        if task.state == "submitting":
            ways: tuple[tuple[float, Fact], ...] = (
                (0.15, NotSent(_LATER)), (0.25, Rejected(_LATER)), (0.3, Rejected(_NO)),
                (0.4, SubmitUnknown(_LATER)), (1.0, Accepted(self._submitted(task))),
            )
            return next(fact for until, fact in ways if share <= until), None
        if task.state == "submission_unknown":
            if share < 0.3:
                return ResubmitAllowed("the race"), self._bound(task, has_money=True)
            return (Adopted(self._submitted(task), "the race") if share < 0.6 else UnknownTimedOut()), None
        if share < 0.1 and task.reruns < 2:
            said = self.chance.choice(("yes", "no", "unknown"))
            allowed = RerunAllowed(_FAILED, said, (), "the race")  # type: ignore[arg-type]  # one of these
            return allowed, self._bound(task, has_money=True)
        return (Cancelled(detach=True) if share < 0.2 else self._polled()), None

    def _from_line(self, task: Task, share: float) -> tuple[Fact, Bound | None]:
        if share < 0.15:
            return Cancelled(), None
        cost = self._price(task)
        flight: Bound = self._bound(task, is_in_flight=True)
        if nanos(cost[0]) > nanos(task.reserved_amount):
            flight = Together((flight, self._bound(task, has_money=True)))
        return SubmitStarted(self.chance.choice((ONE, TWO)), cost), flight

    def _polled(self) -> Polled:
        if self.chance.random() < 0.7:
            return Polled(_DONE, 3600, "unknown")
        return Polled(_FAILED, 3600, self.chance.choice(("yes", "no", "unknown")))

    def _submitted(self, task: Task) -> Submitted:
        job = f"{task.id}-{task.attempts}"
        return Submitted(vendor_task_id=job, ref={"id": job}, raw_status=None, estimate_seconds=None)


async def _raced(plan: Plan, size: int) -> _Race:
    database = SqliteDatabase(IN_MEMORY)
    await database.migrate()
    race = _Race(plan, size, database, callers(size))
    await race.run()
    await database.close()
    return race


async def simulated_races(plan: Plan, size: int) -> Ended:
    """Race with `size` creates, on a loop of its own in virtual time, and tell what came of it."""
    began = time.monotonic()
    race = await asyncio.to_thread(lambda: run_virtual(_raced(plan, size)))
    seconds, purses = time.monotonic() - began, race.purses
    refused = ", ".join(f"{limit} {count}" for limit, count in sorted(purses.refusals.items()))
    rows = [
        ("campaign", f"simulated races, seed {plan.seed}"),
        ("creates", f"{size}, and {purses.creates - size} of them by two at once"),
        ("accepted", str(purses.accepted)), ("refused by", refused),
        ("commits looked at", str(purses.commits)), ("over a cap", str(purses.over)),
        ("days, months", f"{len(purses.days)}, {len({day[:7] for day in purses.days})}"),
        ("saves that came too late", str(race.lost_saves)), *purses.rows(),
        ("seconds", f"{seconds:.0f}, {size / seconds:.0f} creates/s"),
    ]
    return told(rows, purses.problems)
