"""The database as one process meets it: slow, failing, lying, and silent for ever to a process that is dead.

A wrapper around the real one, which outlives every process. Not held here: any statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.storage.db import MIGRATIONS, Read, Row, Step, StorageError, Value

if TYPE_CHECKING:
    from tests.simulation.process import Process

MOMENT_SECONDS: Final = 1e-6
TRY_SECONDS: Final = 1.0  # between the driver's own tries whether its trouble is over


class InMemory:
    """What a database of a simulation has no use for."""

    async def migrate(self, folder: Path = MIGRATIONS) -> int:
        """The world has done that."""
        return 0

    async def close(self) -> None:
        """The real one stays open for the next process."""

    def snapshot(self) -> AbstractAsyncContextManager[Read]:
        """Raises StorageError: nobody copies a database here."""
        raise StorageError("nobody copies a database in a simulation")

    async def flaws(self) -> list[str]:
        """None: there is no file to break."""
        return []


class Disk(InMemory):
    """A `Database`. Raises StorageError as planned, asyncio.CancelledError to who is dead."""

    def __init__(self, process: Process) -> None:
        self._process, self._world = process, process.world
        self._real, self._plan = process.world.database, process.world.plan.disk
        self._failed_at: float | None = None
        self._free_at = -1.0  # when the writer is done with what it has
        self._chance = process.world.chance(f"disk of {process.name}")

    @property
    def waiting(self) -> int:
        """Nothing ever waits for its turn here."""
        return 0

    @property
    def trouble(self) -> str | None:
        """As the driver has it: from a failed write until the disk is tried again and answers."""
        now = self._world.time()
        if self._failed_at is None or (now >= self._failed_at + TRY_SECONDS and not self._is_out(now)):
            return None
        return "the disk does not answer"

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """All rows of one statement."""
        self._process.must_live()
        self._breaks("read", self._plan.fails / 2)
        return await self._real.read(sql, args)

    @property
    def is_shared(self) -> bool:
        """One process at a time serves from it."""
        return False

    def listen(self, hear: Callable[[str | None], None]) -> None:
        """There is nobody else."""

    async def write(
        self, steps: Sequence[Step], committed: Callable[[], None] | None = None, tell: str | None = None
    ) -> list[Row]:
        """One atomic write; what was handed over goes on when its caller is cancelled, as in the driver."""
        self._process.crosses("write begins")
        self._breaks("write", self._plan.fails)
        now, most = self._world.time(), self._plan.slow_seconds
        before = after = 0.0
        if self._plan.slow and self._chance.random() < self._plan.slow:
            before, after = self._chance.uniform(0, most), self._chance.uniform(0, most)
        # One writer: what was handed over first is committed and answered first, never at the same moment.
        begins_at = max(now + before, self._free_at + MOMENT_SECONDS if self._free_at >= now else now)
        self._free_at = ends_at = begins_at + after
        commit = self._commit(steps, committed, (begins_at, ends_at))
        if ends_at > now:
            return await asyncio.shield(asyncio.create_task(commit))
        return await commit

    async def _commit(
        self, steps: Sequence[Step], committed: Callable[[], None] | None, times: tuple[float, float]
    ) -> list[Row]:
        begins_at, ends_at = times
        await self._until(begins_at)
        rows = await self._real.write(steps)
        self._world.books.compare()
        self._process.crosses("write is done")
        await self._until(ends_at)
        if self._plan.lies and self._chance.random() < self._plan.lies:
            self._count("write is done and denied")
            raise StorageError("the database was gone before it answered")
        if committed is not None:
            committed()
        return rows

    async def _until(self, at: float) -> None:
        now = self._world.time()
        if at > now:
            await asyncio.sleep(at - now)
            self._process.must_live()

    def _breaks(self, what: str, share: float) -> None:
        now = self._world.time()
        if self._is_out(now) or (share and self._chance.random() < share):
            if what == "write":
                self._failed_at = now
            self._count(f"{what} fails")
            raise StorageError("the disk does not answer")

    def _is_out(self, now: float) -> bool:
        return any(start <= now < end for start, end in self._plan.outages)

    def _count(self, what: str) -> None:
        self._world.history.disk_faults += 1
        self._world.say("disk", what)
