"""The writes of a process on PostgreSQL: whoever waits is committed together, by one task on one connection.

What became of a COMMIT whose answer was lost is asked, not guessed. Every connection has a row of its own in
`write_marks`, and every batch writes its number there. Whoever asks for that row on a new connection waits
until the old transaction has let go of it, and then finds the batch's number or an older one. The server's
own `pg_xact_status` would not do: a transaction id that was lost in a crash is given again, to another
transaction, and a standby that took over may not know it; either could answer "committed" for what is gone.
Until that is known nothing else is written or read.

    the server answered                           what follows
      COMMIT                                        written
      an error, before COMMIT or to it              nothing changed: repeated, or told to whose write it was
      nothing, and COMMIT was not sent              nothing changed: StorageShort
      nothing, and COMMIT was sent                  asked; after 15 s StorageError: its fate is unknown

Not held here: what is sent for a batch (`postgres_transaction`), how a connection is made and which error
means what (`postgres_link`), reads (`postgres`).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from gateway.storage.db import Row, Step, StorageBusy, StorageError, StorageShort
from gateway.storage.postgres_link import (
    ERRORS,
    MARK_ASK,
    Link,
    close_gently,
    is_lost,
    is_of_the_database,
    is_repeatable,
    reason,
)
from gateway.storage.postgres_transaction import Result, Session

BATCH_MAX: Final = 512  # writes in one transaction: bounds how long the first of them waits
BATCH_CHARS: Final = 50_000_000  # of text in it: images come as text, and an array holds 1 GB at most
QUEUE_MAX: Final = 20_000  # writes that may wait; beyond, a write is refused before latency grows
BATCH_SECONDS: Final = 10.0  # a batch without an answer for so long has lost its connection
FATE_SECONDS: Final = 15.0  # for how long the fate of a COMMIT is asked for before its writers are told
PAUSE_SECONDS: Final = (0.1, 5.0)  # between tries to connect: the first, the longest
TRY_SECONDS: Final = 1.0  # between the commits that only try whether the trouble is over
REPEATS: Final = 5  # of a batch that was undone for another's sake
RETURNS: Final = 3  # of a batch to the line, because the connection ended before it was begun


class Job(msgspec.Struct, frozen=True, eq=False):
    """A write that waits; `tell` goes to the other processes with its commit."""

    steps: Sequence[Step]
    done: asyncio.Future[list[Row]]
    tell: str | None


class _Doubt(msgspec.Struct, frozen=True):
    """A batch whose COMMIT was sent and not answered, and where its number is written if it took place."""

    mark: str
    number: int
    results: list[Result]


class Writer:
    """The one task that writes; it lives from the first write to `close`. Does no I/O before.

    `pack` makes of what is to be told the fewest messages.
    """

    def __init__(self, link: Link, pack: Callable[[Iterable[str]], list[bytes]]) -> None:
        self.trouble: str | None = None
        self.settled = asyncio.Event()  # cleared while the fate of a COMMIT is unknown
        self.settled.set()
        self._link = link
        self._pack = pack
        self._jobs: deque[Job] = deque()
        self._batch: list[Job] = []
        self._results: list[Result] = []
        self._wake = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._doubt: _Doubt | None = None
        self._pause_seconds, self._returns = PAUSE_SECONDS[0], 0

    @property
    def waiting(self) -> int:
        """How many writes were handed over and are not committed yet."""
        return len(self._jobs) + len(self._batch)

    @property
    def _is_connected(self) -> bool:
        return self._session is not None and not self._session.connection.is_closed()

    def put(self, job: Job) -> None:
        """Take a write. Raises StorageBusy when too many wait, StorageShort while there is no server."""
        if self._is_closing:
            raise StorageError(f"cannot write {self._link.place}: it is closed")
        if self.waiting >= QUEUE_MAX:
            raise StorageBusy(f"{QUEUE_MAX} writes are waiting already")
        if self.trouble is not None and not self._is_connected:
            raise StorageShort(self.trouble)
        self._jobs.append(job)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Commit what was handed over, then let go. Nothing is taken from then on."""
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _work(self) -> None:
        """Connect, take what waits, commit it together, answer everybody. Only `close` ends it."""
        while not self._is_closing or self._jobs or self._batch:
            if not self._is_connected:
                await self._connect()
            elif self._jobs or not await self._woken(None if self.trouble is None else TRY_SECONDS):
                await self._commit()
        if self._session is not None:
            await self._leave(self._session)

    async def _woken(self, seconds: float | None) -> bool:
        """Wait for a write, the end of the connection or `close`; False when none came for `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    # --- the connection -----------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """One try; when it fails everybody who waits is refused, and the next try comes after a pause."""
        self._session = None
        try:
            self._session = await self._connected()
        except Exception as error:  # noqa: BLE001 (everybody waits for this task: nothing may end it)
            known = isinstance(error, StorageError)
            self.trouble = str(error) if known else f"cannot use {self._link.place}: {reason(error)}"
            refused, self._jobs = self._jobs, deque()
            _answer(refused, [StorageShort(self.trouble) for _ in refused])
            if self._batch or not self._is_closing:
                self._wake.clear()
                # Jitter: many replicas lose a server at the same moment.
                await self._woken(self._pause_seconds * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)
                self._pause_seconds = min(2 * self._pause_seconds, PAUSE_SECONDS[1])
        else:
            self.trouble, self._pause_seconds = None, PAUSE_SECONDS[0]

    async def _connected(self) -> Session:
        """A new connection that is ready for a batch, once it is known what became of the last one."""
        connection = await self._link.connect("read-write")
        try:
            async with asyncio.timeout(BATCH_SECONDS):
                if self._doubt is not None:
                    found = await connection.fetchval(MARK_ASK, self._doubt.mark)
                    self._resolve(is_committed=found == self._doubt.number)
                session = Session(self._link, connection)
                await session.prepare()
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(lambda _: self._wake.set())
        return session

    async def _leave(self, session: Session) -> None:
        try:
            async with asyncio.timeout(TRY_SECONDS):
                await session.leave()
        except ERRORS:  # the mark is swept a day later
            session.connection.terminate()
        await close_gently(session.connection)

    # --- a batch ------------------------------------------------------------------------------------------

    async def _commit(self) -> None:
        """Commit what waits and answer everybody; without any, only try whether that is possible again."""
        session = self._session
        if session is None:
            return
        self._take()
        # Not the client's timeout, with which the server is asked to cancel: a COMMIT that is cancelled while
        # it waits for a standby is done all the same, and a standby that lacks it may take over.
        watchdog = asyncio.get_running_loop().call_later(BATCH_SECONDS, session.connection.terminate)
        try:
            results = await self._tried(session)
        except Exception as error:  # noqa: BLE001 (nobody may be left without an answer)
            session.connection.terminate()
            self._lose(session, error)
        except BaseException:
            session.connection.terminate()
            raise
        else:
            self._returns = 0
            self._settle(results)
        finally:
            watchdog.cancel()

    def _take(self) -> None:
        """Move what waits into the batch, up to its bounds; a write that is larger than these goes alone."""
        chars = 0
        while self._jobs and len(self._batch) < BATCH_MAX and chars < BATCH_CHARS:
            job = self._jobs.popleft()
            self._batch.append(job)
            chars += sum(len(value) for step in job.steps for value in step.args if isinstance(value, str))

    async def _tried(self, session: Session) -> list[Result]:
        """What the batch brought to each, once that is final. Raises when the connection is of no use."""
        is_apart, repeats = False, 0
        while True:
            try:
                results = self._results = await session.run([job.steps for job in self._batch],
                                                            is_apart=is_apart)
                kept = [job for job, result in zip(self._batch, results, strict=True)
                        if not isinstance(result, Exception)]
                is_kept = bool(kept) or not self._batch
                told = self._pack(job.tell for job in kept if job.tell is not None)
                await session.end(is_kept=is_kept, told=told)
            except ERRORS as error:
                if is_lost(error) or session.connection.is_closed():
                    raise
                session.is_committing = False  # it was answered, with an error
                await session.end(is_kept=False)
                if is_repeatable(error) and repeats < REPEATS:
                    repeats += 1
                elif is_apart or is_repeatable(error) or is_of_the_database(error):
                    self.trouble = f"cannot write {self._link.place}: {reason(error)}"
                    return [StorageShort(self.trouble) for _ in self._batch]
                else:
                    is_apart = True
            else:
                self.trouble = None if is_kept else self.trouble
                return results

    def _lose(self, session: Session, error: Exception) -> None:
        """The connection ended amid a batch."""
        lost = f"lost {self._link.place}: {reason(error)}"
        if session.is_committing:
            self.trouble = f"{lost}; whether the last writes took place is being found out"
            self._doubt = _Doubt(session.mark, session.number, self._results)
            self.settled.clear()
            asyncio.get_running_loop().call_later(FATE_SECONDS, self._give_up, self._batch)
        elif not session.has_begun and self._returns < RETURNS:
            self._returns += 1
            self._jobs.extendleft(reversed(self._batch))
            self._batch = []
        else:
            self._settle([StorageShort(f"{lost}; nothing changed") for _ in self._batch])

    def _resolve(self, *, is_committed: bool) -> None:
        """It is known what became of the doubtful batch; guards failed in it only if it stands."""
        if self._doubt is not None and self._batch:
            lost = f"lost {self._link.place} before it took place; nothing changed"
            self._settle(self._doubt.results if is_committed else [StorageShort(lost) for _ in self._batch])
        self._doubt = None
        self.settled.set()

    def _give_up(self, batch: list[Job]) -> None:
        """Tell a doubtful batch's writers that nobody knows; whether it stands is asked for nevertheless."""
        if self._doubt is not None and self._batch is batch:
            unknown = f"cannot reach {self._link.place}: whether the write took place is unknown"
            self._settle([StorageError(unknown) for _ in batch])
            self._wake.set()

    def _settle(self, results: Sequence[Result]) -> None:
        """Answer the batch."""
        batch, self._batch = self._batch, []
        _answer(batch, results)


def _answer(jobs: Iterable[Job], results: Iterable[Result]) -> None:
    for job, result in zip(jobs, results, strict=True):
        if job.done.done():
            continue
        if isinstance(result, Exception):
            job.done.set_exception(result)
        else:
            job.done.set_result(result)
