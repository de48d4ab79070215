"""The life of this process among others on one database: it beats, buries, inherits, and listens.

A replica that was paused or cut off for too long finds itself declared dead: it forgets all that it knew and
goes on under a new name. On a database of its own a process inherits everything at once. Not held here:
claiming (`takeover`), running tasks (`loop`), how long a name is certainly valid (`gateway.core.lease`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.core.lease import LEASE_SECONDS
from gateway.engine.counts import tell_others
from gateway.engine.learning import keep_learned
from gateway.engine.loop import Engine
from gateway.engine.reports import hear, met
from gateway.engine.summing import sum_up_ever
from gateway.engine.sweeping import sweep_ever
from gateway.engine.takeover import adopt, is_known, look_around, take_over, tell_missing
from gateway.storage import news
from gateway.storage.db import Duplicate, StorageError
from gateway.storage.replicas import Outlived, ReplicaRow

ReplicaRole: TypeAlias = Literal["all", "api", "engine"]

BEAT_SECONDS: Final = 1.0
MISSED_SECONDS: Final = 30.0  # between two looks whether news were lost, though nothing says so
LEAVE_SECONDS: Final = 2.0  # for saying goodbye to a database that may be away
_VERSIONS_BATCH: Final = 1_000


class Identity(msgspec.Struct, frozen=True):
    """Who a process is: `place` is its host and port, at which it can be the only one; '' where that is open.

    `new_name` makes the names that it owns tasks by.
    """

    role: ReplicaRole
    place: str
    version: str
    new_name: Callable[[], str]


async def follow(engine: Engine, identity: Identity) -> None:
    """Take over what is unfinished and run every task when it is due, until the engine is stopped."""
    engine.store.listen(partial(tell_others, engine))
    for hold in await engine.insist("", engine.store.holds):
        engine.fleet.hold(hold.provider, hold.action)
    replica = Replica(engine, identity)
    if identity.role == "api":
        await replica.live()
    else:
        await _together(replica.live(), engine.run(), keep_learned(engine), sweep_ever(engine),
                        sum_up_ever(engine))


async def _together(*lives: Coroutine[None, None, None]) -> None:
    """Return when all have ended, or raise what one of them ends with; then none of them goes on."""
    parts = [asyncio.create_task(life) for life in lives]
    try:
        await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
        for part in parts:
            if part.done():
                part.result()
    finally:
        for part in parts:
            part.cancel()
        await asyncio.wait(parts)


class Replica:
    """A process, as the others on its database see it."""

    def __init__(self, engine: Engine, identity: Identity) -> None:
        self._engine, self._identity = engine, identity
        self._store, self._replicas = engine.store, engine.store.replicas
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._resumed = asyncio.Event()
        self._changed: set[str] = set()
        self._has_missed = self._has_orders = True

    async def live(self) -> None:
        """All of it, until cancelled; on a database of its own, until everything is taken over."""
        if not self._store.is_shared:
            for owner in await self._engine.insist("", self._store.owners_unlisted):
                if owner != self._engine.replica:
                    await take_over(self._engine, owner)
            await look_around(self._engine)
            self._engine.settled()
            return
        self._store.hear(self._heard)
        if self._identity.role == "api":
            await _together(self._listen(), self._own(self._watch))
        else:
            await _together(self._listen(), self._own(self._inherit))

    # --- living -------------------------------------------------------------------------------------

    async def _own(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Live under a name, by which tasks may be owned, until cancelled; `work` is done meanwhile."""
        if self._identity.place:  # who served here before is gone, or we could not listen
            place = self._identity.place
            await self._engine.insist("", partial(self._replicas.end_at, self._engine.replica, place))
        await self._join()
        try:
            await _together(self._beat(), work())
        finally:
            with contextlib.suppress(StorageError, TimeoutError):  # the others will notice in a while
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._replicas.leave(self._engine.replica)

    async def _join(self) -> None:
        """Begin to live, under the engine's name."""
        name, identity, lease = self._engine.replica, self._identity, self._engine.lease
        begun = lease.begun()
        join = partial(self._replicas.join, name, identity.place, identity.role, identity.version)
        with contextlib.suppress(Duplicate):  # nobody else has this name: it was noted, and denied
            await self._engine.insist("", join)
        lease.confirmed(begun)
        self._share(await self._engine.insist("", self._replicas.living))

    async def _beat(self) -> None:
        """Say every second that this process lives, and what it has met. See `Lease`: late is not living.

        At once where an operator resumed a provider: what was told of it until now is over.
        """
        engine = self._engine
        while True:
            begun = engine.lease.begun()
            self._resumed.clear()
            try:
                await self._replicas.beat(engine.replica, met(engine))
            except Outlived:
                await self._rejoin()
            except StorageError as error:
                engine.telemetry.storage_failed("", error)
            else:
                engine.lease.confirmed(begun)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, BEAT_SECONDS - (engine.lease.begun() - begun))):
                    await self._resumed.wait()

    async def _rejoin(self) -> None:
        engine, before = self._engine, self._engine.replica
        engine.lease.lost()
        engine.rename(self._identity.new_name())
        engine.telemetry.outlived(before, engine.replica)
        await self._join()
        self._wake.set()

    async def _inherit(self) -> None:
        """Bury the dead, take over what they left and what nobody owns, share what all have to share."""
        engine = self._engine
        owners = await engine.insist("", self._store.owners_unlisted)
        while True:
            self._wake.clear()
            try:
                await self._replicas.end(engine.replica, LEASE_SECONDS)
                for owner in (*owners, *await self._store.orphaned()):
                    count = await take_over(engine, owner)
                    if count and owner:
                        engine.telemetry.took_over(owner, count)
                        tell_missing(engine)
                self._share(await self._replicas.living())
            except StorageError as error:
                engine.telemetry.storage_failed("", error)
            else:
                owners = []
                if not engine.is_settled:
                    await look_around(engine)
                    engine.settled()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._wake.wait()

    async def _watch(self) -> None:
        """See how many share what callers may ask: all that a process does of it which follows no task."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                self._share(await self._replicas.living())
            except StorageError as error:
                self._engine.telemetry.storage_failed("", error)

    def _share(self, everybody: list[ReplicaRow]) -> None:
        """Divide each budget of polls by what everybody follows, and callers' requests by who answers.

        And hear what the others tell of the providers.
        """
        hear(self._engine, everybody)
        self._engine.doors = max(1, sum(one.role != "engine" for one in everybody))
        living = [one for one in everybody if one.role != "api"]
        for name, provider in self._engine.fleet.providers.items():
            mine = provider.gate.in_flight + 1
            others = (1 + one.following.get(name, 0) for one in living if one.id != self._engine.replica)
            provider.share(mine / (mine + sum(others)))
        self._engine.peers = max(0, len(living) - 1)

    # --- listening ----------------------------------------------------------------------------------

    def _heard(self, text: str | None) -> None:
        """Note what others tell; it is looked at in turn."""
        told = None if text is None else news.read(text)
        if text is None:
            self._has_missed = True
        elif isinstance(told, news.Ordered):
            self._has_orders = True
            if told.is_lifted:
                self._engine.fleet.resume(told.provider)
                self._resumed.set()
        elif isinstance(told, news.VideoChanged) and told.is_unowned:
            self._wake.set()
        elif isinstance(told, news.VideoChanged) and told.replica == self._engine.replica:
            self._changed.add(told.id)
        else:
            return
        self._news.set()

    async def _listen(self) -> None:
        """Obey what others ordered, and see what they changed in what this process owns."""
        while True:
            self._news.clear()
            try:
                while self._changed:
                    await self._refresh(self._changed.pop())
                if self._has_missed:
                    self._has_missed, self._has_orders = False, True
                    await self._look_at_all()
                if self._has_orders:
                    self._has_orders = False
                    await self._obey()
            except StorageError as error:
                self._has_missed = True
                self._engine.telemetry.storage_failed("", error)
                await asyncio.sleep(BEAT_SECONDS)
                continue  # what could not be looked up is no news to wait for
            try:
                async with asyncio.timeout(MISSED_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                self._has_missed = True

    async def _refresh(self, task_id: str) -> None:
        stored, known = await self._store.task_get(task_id), self._engine.tasks.get(task_id)
        if stored is None or (known is None and not stored.is_followed):
            return
        if not is_known(self._engine, task_id):
            await adopt(self._engine, stored)  # a claim may have been done, and denied
        elif known is not None and known.version < stored.version:
            self._engine.saved(stored, ())

    async def _look_at_all(self) -> None:
        """Compare every owned task with what is stored."""
        last, owned = "", dict[str, int]()
        while batch := await self._store.versions(self._engine.replica, last, _VERSIONS_BATCH):
            last = batch[-1][0]
            owned.update(batch)
        known = self._engine.tasks
        differ = [task_id for task_id, version in owned.items()
                  if task_id not in known or known[task_id].version < version]
        gone = [task_id for task_id in list(known) if task_id not in owned]
        for task_id in (*differ, *gone):
            await self._refresh(task_id)

    async def _obey(self) -> None:
        """The orders in force, for every provider; an order that was lifted is over."""
        holds = {hold.provider: hold.action for hold in await self._store.holds()}
        for name in {*self._engine.fleet.providers, *holds}:
            self._engine.fleet.hold(name, holds.get(name))
        self._engine.look()
