"""One database for several replicas: a server, and for every process a link to it that can be cut.

What was handed over is carried out by the server whatever becomes of the process; of an answer that cannot
arrive nobody knows. Texts for other processes travel with the commit, late, and are lost now and then: then
the listener hears None. The drivers' limits are those of `gateway.storage.postgres`, and so is what a link
that was cut in the middle of a commit may say. Not held here: any statement, what must hold (`promises`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.storage.db import Row, Step, StorageError, StorageShort, Value
from gateway.storage.replicas import REPLICA_BEAT, REPLICAS_END
from tests.simulation.disk import InMemory
from tests.simulation.promises import Promises

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

CLOCK: Final = "extract(epoch from clock_timestamp())::double precision"
READ_SECONDS: Final = 10.0  # after which a read without an answer is given up
WRITE_SECONDS: Final = 10.0
FATE_SECONDS: Final = 15.0  # for how long the fate of a commit is asked for
REFUSED_SECONDS: Final = 0.01
WAYS_SECONDS: Final = (0.0005, 0.003)  # to the server, and back
NEWS_SECONDS: Final = (0.002, 0.3)
DEAF_SECONDS: Final = (0.05, 2.0)  # until a listener notices that texts were lost
AGAIN_SECONDS: Final = (0.05, 2.0)  # until a link is made anew after a cut
MOMENT_SECONDS: Final = 1e-6
UNCOUNTED: Final = (REPLICA_BEAT, REPLICAS_END)  # there are so many that hardly a crossing would be another


class Server:
    """The database that all share; its clock is the world's, a little off."""

    def __init__(self, world: World) -> None:
        self.world, self.promises = world, Promises(world)
        self.links: list[Link] = []
        self._chance = world.chance("server")
        writer = world.database._writer  # noqa: SLF001 - where its clock has to be put
        writer.create_function("virtual_clock", 0, self.now)
        for _, end in world.plan.disk.outages:
            world.later(end, self._is_back)

    def now(self) -> float:
        """Unix seconds, as the server sees them."""
        return 1_799_999_983.0 + self.world.time()

    def until(self, now: float) -> float:
        """The end of the outage that there is at `now`, else `now`."""
        return next((end for start, end in self.world.plan.disk.outages if start <= now < end), now)

    def run(self, link: Link, steps: Sequence[Step], tell: str | None) -> list[Row]:
        """Commit a write. Raises StorageError for one that is undone."""
        writing = self.world.database.write([_in_virtual_time(step) for step in steps])
        try:
            writing.send(None)
        except StopIteration as done:
            rows: list[Row] = done.value
        else:
            raise RuntimeError("a database in memory answers at once")
        self.promises.committed(link.process, steps, rows)
        self.world.books.compare()
        if tell is not None:
            for other in self.links:
                if other is not link:
                    other.is_told(tell)
        return rows

    def _is_back(self) -> None:
        for link in self.links:
            link.listens_anew()


@cache
def _virtual(sql: str) -> str:
    return sql.replace(CLOCK, "virtual_clock()")


def _in_virtual_time(step: Step) -> Step:
    return step if CLOCK not in step.sql else msgspec.structs.replace(step, sql=_virtual(step.sql))


class _Write(msgspec.Struct, eq=False):
    """A write on its way."""

    steps: Sequence[Step]
    done: asyncio.Future[list[Row]]
    tell: str | None
    sent_at: float


class Link(InMemory):
    """A `Database`, as one process reaches it. Raises asyncio.CancelledError to who is dead."""

    def __init__(self, process: Process, server: Server) -> None:
        self.process, self._world, self._server = process, process.world, server
        self._plan = process.world.plan.disk
        self._chance = process.world.chance(f"link of {process.name}")
        self._hear: Callable[[str | None], None] | None = None
        self._cut_until, self._is_silent = -1.0, False
        self._back_at: float | None = None  # when it is connected again, once it has noticed that it is not
        self._free_at = self._heard_at = self._deaf_until = -1.0
        self._waiting = 0
        server.links.append(self)

    # --- what befalls it ----------------------------------------------------------------------------

    def is_cut(self, seconds: float, *, is_silent: bool) -> None:
        """Nothing gets through for a while; `is_silent`: and nobody says so."""
        self._cut_until, self._is_silent = self._world.time() + seconds, is_silent
        self._world.later(seconds, self.listens_anew)

    def listens_anew(self) -> None:
        """It can be reached again, and what was told meanwhile was lost."""
        self._world.later(self._chance.uniform(*AGAIN_SECONDS), self._hears, None)

    def reached_at(self) -> float:
        """When the server can be reached: now, or later."""
        now = self._world.time()
        return max(now, self._cut_until, self._server.until(max(now, self._cut_until)))

    # --- news ---------------------------------------------------------------------------------------

    def listen(self, hear: Callable[[str | None], None]) -> None:
        """Have `hear` called with what other processes tell."""
        self._hear = hear
        self._hears(None)

    def is_told(self, text: str) -> None:
        """Somebody told this with a commit."""
        now, chance = self._world.time(), self._chance
        if self._hear is None or self.reached_at() > now or self._deaf_until > now:
            return
        if self._world.news_lost and chance.random() < self._world.news_lost:
            deaf_seconds = chance.uniform(*DEAF_SECONDS)
            self._deaf_until = now + deaf_seconds
            self._world.later(deaf_seconds, self._hears, None)
            return
        self._heard_at = max(self._heard_at + MOMENT_SECONDS, now + chance.uniform(*NEWS_SECONDS))
        self._world.later(self._heard_at - now, self._hears, text)

    def _hears(self, text: str | None) -> None:
        """In the process's own time: one that stands still hears it when it goes on."""
        if self._hear is not None and not self.process.is_dead and self.reached_at() <= self._world.time():
            self._world.loop.call_soon(self._hear, text, context=self.process.context)

    # --- the driver ---------------------------------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        """Several processes serve from it at once."""
        return True

    @property
    def waiting(self) -> int:
        """How many writes were handed over and are not answered yet."""
        return self._waiting

    @property
    def trouble(self) -> str | None:
        """From the first call that did not get through until it is connected again."""
        if self._back_at is not None and self._world.time() >= self._back_at:
            self._back_at = None
        return None if self._back_at is None else "there is no server"

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """All rows of one statement, as they were when the server was asked."""
        self.process.must_live()
        now = self._world.time()
        left_seconds = self.reached_at() - now
        if left_seconds > 0:
            patience = READ_SECONDS if self._is_silent else REFUSED_SECONDS
            await asyncio.sleep(min(left_seconds, patience))
            self.process.must_live()
            self._notices()
        if self._is_away() or (self._world.has_faults and self._chance.random() < self._plan.fails / 2):
            self._count("read fails")
            raise StorageError("the database does not answer")
        rows = await self._world.database.read(_virtual(sql), args)
        if self._chance.random() < 0.3:
            await asyncio.sleep(self._way_seconds())
            self.process.must_live()
        return rows

    async def write(
        self, steps: Sequence[Step], committed: Callable[[], None] | None = None, tell: str | None = None
    ) -> list[Row]:
        """One atomic write; what was handed over goes on when its caller, or the process, is gone."""
        if steps[0].sql not in UNCOUNTED:
            await self.process.crosses_or_stays("write begins")
        self.process.must_live()
        if self.trouble is not None:
            raise StorageShort("there is no server")
        done: asyncio.Future[list[Row]] = self._world.loop.create_future()
        if committed is not None:
            done.add_done_callback(lambda _: None if done.exception() else committed())
        done.add_done_callback(lambda _: done.exception())  # seen, also when nobody waits for it any more
        self._waiting += 1
        self._leaves(_Write(steps, done, tell, self._world.time()))
        return await asyncio.shield(done)

    # --- a write on its way -------------------------------------------------------------------------

    def _leaves(self, write: _Write) -> None:
        now = self._world.time()
        left_seconds = self.reached_at() - now
        if left_seconds <= 0:
            # One connection: what was handed over first is carried out first.
            self._free_at = max(self._free_at + MOMENT_SECONDS, now + self._way_seconds())
            self._world.later(self._free_at - now, self._arrives, write)
        elif self._is_silent and left_seconds < WRITE_SECONDS and self._chance.random() < 0.5:
            self._world.later(left_seconds + self._way_seconds(), self._arrives, write)
        else:
            patience = WRITE_SECONDS if self._is_silent else REFUSED_SECONDS
            self._world.later(min(left_seconds, patience), self._is_lost, write)

    def _arrives(self, write: _Write) -> None:
        """The server has it, and carries it out unless the connection ends before its commit."""
        has_died = self.process.is_dead and self._chance.random() < 0.5
        if has_died or self._is_away():
            self._is_lost(write)
            return
        if self._world.has_faults and self._chance.random() < self._plan.fails:
            self._count("write fails")
            self._is_answered(write, StorageError("the database could not do it"))
            return
        result: list[Row] | StorageError
        try:
            result = self._server.run(self, write.steps, write.tell)
        except StorageError as error:
            result = error
        self._world.later(self._way_seconds(), self._returns, write, result)

    def _returns(self, write: _Write, result: list[Row] | StorageError) -> None:
        """The answer to a commit; where it cannot arrive its fate is asked for, but not for ever."""
        left_seconds = self.reached_at() - self._world.time()
        if left_seconds > 0:
            self._notices()
            is_known = left_seconds <= FATE_SECONDS
            answer = result if is_known else StorageError("whether the write took place is unknown")
            self._world.later(min(left_seconds, FATE_SECONDS), self._is_answered, write, answer)
            return
        is_done = not isinstance(result, StorageError)
        if is_done and self._world.has_faults and self._chance.random() < self._plan.lies:
            self._count("write is done and denied")
            result = StorageError("the database was gone before it answered")
        self._is_answered(write, result)

    def _is_lost(self, write: _Write) -> None:
        self._count("write is lost")
        self._notices()
        self._is_answered(write, StorageShort("the connection was lost; nothing changed"))

    def _is_answered(self, write: _Write, result: list[Row] | StorageError) -> None:
        self._waiting -= 1
        if self.process.is_dead or write.done.done():
            return
        if isinstance(result, StorageError):
            write.done.set_exception(result)
        else:
            write.done.set_result(result)

    def _is_away(self) -> bool:
        return self.reached_at() > self._world.time()

    def _notices(self) -> None:
        """It knows that the server cannot be reached, and connects as soon as that is possible again."""
        if self._back_at is None and self._is_away():
            self._back_at = self.reached_at() + self._chance.uniform(*AGAIN_SECONDS)

    def _way_seconds(self) -> float:
        seconds = self._chance.uniform(*WAYS_SECONDS)
        if self._world.has_faults and self._chance.random() < self._plan.slow:
            seconds += self._chance.uniform(0, self._plan.slow_seconds)
        return seconds

    def _count(self, what: str) -> None:
        self._world.history.disk_faults += 1
        self._world.say(f"link of {self.process.name}", what)
