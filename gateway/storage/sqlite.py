"""The SQLite driver: statements run on the calling thread, and one thread commits whatever waits at once.

A statement on a row takes microseconds, a hop into a thread fifty to a hundred of them; in WAL mode readers
never wait for the writer. So reads and writes run where they are asked for, and only commits, with their
fsync, have a thread; while one is under way, the writes of the next gather. A batch in which something fails,
is large, or meets another process's lock is left to the thread as a whole.
When a commit fails, the database is in trouble until one succeeds again, which the thread tries by itself; on
a full disk, until there is room for the reserve as well.
Not held here: any statement of the product (`store`), any rule of the schema (`migrations/`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

from gateway.storage import reserve
from gateway.storage.db import (
    MIGRATIONS,
    Duplicate,
    Read,
    Row,
    Step,
    StorageBusy,
    StorageError,
    StorageShort,
    Value,
)
from gateway.storage.sqlite_file import begin, code, connect, in_its_words, lock, migrate

BATCH_MAX: Final = 128  # writes in one commit: bounds how long the loop is busy with them
QUEUE_MAX: Final = 20_000  # writes that may wait; beyond, a write is refused before latency grows
LARGE_CHARS: Final = 65_536  # only a new video with images has more; on a full disk that is not even tried
LOOP_MAX_CHARS: Final = 65_536  # likewise; it is written beside the loop
TRY_SECONDS: Final = 1.0  # between the commits that only try whether the trouble is over

_ERRORS: Final = (sqlite3.Error, OverflowError, UnicodeError)  # the last two for a value that it cannot bind
_NOT_UNIQUE: Final = ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
# A statement's own fault undoes one write; whatever else SQLite says is the database's, and undoes the batch.
_OF_A_STATEMENT: Final = (
    None, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_RANGE,
)
_ANEW: Final = (sqlite3.SQLITE_BUSY, *_OF_A_STATEMENT[1:])  # the thread waits for locks, and undoes one write
_OF_THE_FILE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)  # no later commit mends that

_Result: TypeAlias = "list[Row] | Exception"
_Job: TypeAlias = tuple[
    Sequence[Step], "asyncio.Future[list[Row]]", Callable[[], None] | None, Context, asyncio.AbstractEventLoop
]
_Answer: TypeAlias = tuple[_Job, _Result]
# What running writes on the loop came to: in an open transaction; undone; or to be run anew, each alone.
_Ran: TypeAlias = "list[_Result] | Exception | None"
_Batch: TypeAlias = tuple[Sequence[_Job], _Ran]


class _Entangled(Exception):
    """A write failed after it had changed something, beside others that did not fail."""


IN_MEMORY: Final = Path(":memory:")


class SqliteDatabase:
    """One SQLite file. `exclusive` marks the process that serves it: a second one meets StorageBusy.

    `IN_MEMORY` has no thread: every write happens where it is asked for, so that a whole life can run in
    virtual time.
    """

    def __init__(self, path: Path, *, exclusive: bool = False) -> None:
        self._path = path
        self._lock: int | None = None
        self._is_closed = False
        self._reserve = Path(f"{path}-reserve") if exclusive and path != IN_MEMORY else None
        self._damage: str | None = None
        self._is_full = False
        self._gathering: list[_Job] = []
        self._batch: Sequence[_Job] = ()  # the writer's connection is its own until it is committed
        self._planned_on: asyncio.AbstractEventLoop | None = None
        self._writing = threading.Lock()  # migrations use the writer's connection on another thread
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock(path) if exclusive else None
            self._writer = connect(path)
            self._writer.execute("pragma busy_timeout = 0")  # the loop waits for no lock, and `begin` does
            self._reader = self._writer if path == IN_MEMORY else connect(path)
        except (sqlite3.Error, OSError) as error:
            self._unlock()
            raise StorageError(f"cannot open {path}: {error}") from error
        self._trouble = self._lack()
        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="sqlite-writer", daemon=True)
        if path != IN_MEMORY:
            self._thread.start()

    @property
    def waiting(self) -> int:
        """How many writes were handed over and are not committed yet."""
        return len(self._gathering) + len(self._batch)

    @property
    def trouble(self) -> str | None:
        """Why nothing new should be begun; a broken file stays so until the process ends."""
        return self._trouble

    @property
    def is_shared(self) -> bool:
        """Never: one process serves from a file."""
        return False

    def listen(self, hear: Callable[[str | None], None]) -> None:
        """Nothing is heard: there is no other process."""

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """All rows of one statement, read on this thread."""
        try:
            return self._reader.execute(in_its_words(sql), args).fetchall()
        except _ERRORS as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Read]:
        """Reads of one moment, on a connection of their own."""
        connection = connect(self._path)

        async def read(sql: str, args: Sequence[Value]) -> list[Row]:
            return connection.execute(in_its_words(sql), args).fetchall()

        try:
            connection.execute("begin")
            yield read
        except _ERRORS as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error
        finally:
            connection.close()

    async def flaws(self) -> list[str]:
        """What SQLite's integrity check says."""
        said = [str(row[0]) for row in await self.read("pragma integrity_check")]
        return [] if said == ["ok"] else said

    async def write(
        self, steps: Sequence[Step], committed: Callable[[], None] | None = None, tell: str | None = None
    ) -> list[Row]:
        """Run `steps` with what else waits; returns after the fsync of the commit that they were part of."""
        if self._is_closed:
            raise StorageError(f"cannot write {self._path}: it is closed")
        if self.waiting >= QUEUE_MAX:
            raise StorageBusy(f"{QUEUE_MAX} writes are waiting already")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Row]] = loop.create_future()
        job = (steps, done, committed, copy_context(), loop)
        if not self._thread.is_alive():
            (result,) = self._commit([job])
            if isinstance(result, Exception):
                raise result
            if committed is not None:
                committed()
            return result
        self._gathering.append(job)
        self._plan(loop)
        return await done  # cancelled, it is committed all the same: nobody may conclude that it is not

    async def migrate(self, folder: Path = MIGRATIONS) -> int:
        """Run what is missing, each in its own transaction, under SQLite's write lock."""
        try:
            with self._writing:
                return migrate(self._writer, folder)
        except sqlite3.Error as error:
            raise StorageError(f"cannot migrate {self._path}: {error}") from error

    async def close(self) -> None:
        """Commit what was handed over, then close. Nothing is taken from then on."""
        self._is_closed = True
        if self._thread.is_alive():
            if self._gathering:
                self._batches.put((self._gathering, None))
            self._batches.put(None)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._reader.close()
        self._writer.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with what waits once this turn of the loop is over, unless a batch is under way."""
        is_planned = self._planned_on is not None and not self._planned_on.is_closed()
        if self._gathering and not self._batch and not is_planned:
            self._planned_on = loop
            loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Run what waits, and let the thread commit it; in trouble the thread does all of it."""
        self._planned_on = None
        if self._is_closed:
            return
        batch = self._gathering[:BATCH_MAX]
        del self._gathering[:BATCH_MAX]
        self._batch = batch
        is_plain = self._trouble is None and all(_chars(steps) <= LOOP_MAX_CHARS for steps, *_ in batch)
        self._batches.put((batch, self._opened(batch) if is_plain else None))

    def _opened(self, batch: Sequence[_Job]) -> _Ran:
        """Run `batch` in a transaction that is left open for the thread to commit."""
        try:
            self._writer.execute("begin immediate")
            return [self._run_plain(steps) for steps, *_ in batch]
        except Exception as error:  # noqa: BLE001 (the thread tells everybody who waits)
            error.__traceback__ = None  # its frames hold cursors: one open hinders the next transaction
            with contextlib.suppress(sqlite3.Error, MemoryError):  # tried again before the next batch
                self._writer.rollback()
            is_own_fault = isinstance(error, _Entangled | OverflowError | UnicodeError)
            return None if is_own_fault or code(error) in _ANEW else error

    def _run_plain(self, steps: Sequence[Step]) -> _Result:
        """Run one write that needs nothing undone: it succeeds, or fails before it has changed anything."""
        rows: list[Row] = []
        for step in steps:
            cursor = self._writer.execute(in_its_words(step.sql), step.args)
            returned = cursor.fetchall() if cursor.description else []
            if step.guard is not None and not returned and cursor.rowcount < 1:
                if step is steps[0]:
                    return step.guard(step.sql.split("\n", 1)[0])
                raise _Entangled
            rows += returned
        return rows

    def _work(self) -> None:
        """The thread: commit each batch, answer everybody; in trouble try the disk. Only `close` ends it."""
        while True:
            try:
                taken = self._batches.get(timeout=None if self._trouble is None else TRY_SECONDS)
            except Empty:
                self._commit(())
                continue
            if taken is None:
                return
            batch, ran = taken
            self._answer(batch, self._commit(batch, ran))

    def _answer(self, batch: Sequence[_Job], results: Sequence[_Result]) -> None:
        """Wake the writers, one call per event loop rather than one per writer."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for job, result in zip(batch, results, strict=True):
            by_loop.setdefault(job[-1], []).append((job, result))
        self._batch = ()
        if self._gathering:
            by_loop.setdefault(self._gathering[0][-1], [])
        for loop, answers in by_loop.items():
            with contextlib.suppress(RuntimeError):  # a loop that is closed has nobody left who waits
                loop.call_soon_threadsafe(self._go_on, loop, answers)

    def _go_on(self, loop: asyncio.AbstractEventLoop, answers: Sequence[_Answer]) -> None:
        _settle(answers)
        self._plan(loop)

    def _commit(
        self, batch: Sequence[_Job], ran: _Ran = None, *, is_retry: bool = False
    ) -> list[_Result]:
        """Commit `batch`, once more each write alone where that may help; its rows, or why it was undone."""
        try:
            results = self._together(batch) if ran is None else self._closed(ran)
        except Exception as error:  # noqa: BLE001 (everybody waits for this thread: nothing may end it)
            self._trouble = f"cannot write {self._path}: {error}"
            if self._may_succeed_alone(error) and not is_retry:
                return [self._commit([job], is_retry=True)[0] for job in batch]
            return [StorageError(f"cannot write {self._path}: {error}") for _ in batch]
        if self._trouble is not None:
            self._trouble = self._lack()
            self._is_full &= self._trouble is not None
        return results

    def _closed(self, results: list[_Result] | Exception) -> list[_Result]:
        """Commit the open transaction in which `results` came. Raises what it ended by: all are undone."""
        if isinstance(results, Exception):
            raise results
        with self._writing:
            try:
                self._writer.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # tried again before the next batch
                    self._writer.rollback()
                raise
        return results

    def _together(self, batch: Sequence[_Job]) -> list[_Result]:
        """One transaction around all writes, a savepoint around each: one failing leaves the others alone.

        No write at all tries the disk: a header is written as it was. Raises sqlite3.Error: all are undone.
        """
        with self._writing:
            try:
                if self._writer.in_transaction:  # it could not be undone before
                    self._writer.rollback()
                begin(self._writer)
                results = [self._run(steps) for steps, *_ in batch]
                if not batch:
                    (version,) = self._writer.execute("pragma user_version").fetchone()
                    self._writer.execute(f"pragma user_version = {version}")
                self._writer.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # tried again before the next batch
                    self._writer.rollback()
                raise
        return results

    def _run(self, steps: Sequence[Step]) -> _Result:
        """Run one write; its rows, or why it was undone. Raises sqlite3.Error where all are to be undone."""
        if self._is_full and _chars(steps) > LARGE_CHARS:
            return StorageShort(f"cannot write {self._path}: the disk is full, and this would take the rest")
        self._writer.execute("savepoint one_write")
        rows: list[Row] = []
        for step in steps:
            try:
                cursor = self._writer.execute(in_its_words(step.sql), step.args)
                returned = cursor.fetchall() if cursor.description else []
            except _ERRORS as error:
                if not self._writer.in_transaction or code(error) not in _OF_A_STATEMENT:
                    raise
                taken = getattr(error, "sqlite_errorname", None) in _NOT_UNIQUE
                kind = Duplicate if taken else StorageError
                return _undone(self._writer, kind(f"cannot write {self._path}: {error}"))
            if step.guard is not None and not returned and cursor.rowcount < 1:
                return _undone(self._writer, step.guard(step.sql.split("\n", 1)[0]))
            rows += returned
        self._writer.execute("release one_write")
        return rows

    def _may_succeed_alone(self, error: Exception) -> bool:
        """Whether only some of the writes that were undone by `error` need fail when they are tried again."""
        if code(error) in _OF_THE_FILE:
            self._damage = f"{self._path} is broken, restore a backup: {error}"
            return True
        try:
            is_full = code(error) == sqlite3.SQLITE_FULL or (
                # SQLite calls it an I/O error when the index of the log, a mapped file, cannot grow.
                code(error) == sqlite3.SQLITE_IOERR
                and reserve.room_bytes(self._path.parent) < reserve.RESERVE_BYTES
            )
            self._is_full |= is_full
            return is_full and self._made_room()
        except OSError as another:
            self._trouble = f"{self._trouble}; {another}"
            return False

    def _made_room(self) -> bool:
        """Let the reserve go, and shorten the log: what did not fit may have left it as long as the disk."""
        was_held = self._reserve is not None and reserve.let_go(self._reserve)
        log = Path(f"{self._path}-wal")
        before = log.stat().st_size if log.exists() else 0
        with self._writing, contextlib.suppress(sqlite3.Error):  # what it brought is seen by the length
            self._writer.execute("pragma wal_checkpoint(truncate)")
        return was_held or before > (log.stat().st_size if log.exists() else 0)

    def _lack(self) -> str | None:
        """What is still amiss although a commit succeeded: a broken file, or no room for the reserve."""
        return self._damage or (None if self._reserve is None else reserve.hold(self._reserve))


def _settle(answers: Sequence[_Answer]) -> None:
    """Tell of each write what came of it, those that watch before the one that waits."""
    for (_, done, committed, context, loop), result in answers:
        if committed is not None and not isinstance(result, Exception):
            loop.call_soon(committed, context=context)  # the writer's: lines of the log tell its request
        if done.cancelled():
            continue
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)


def _chars(steps: Sequence[Step]) -> int:
    """How much text a write stores."""
    return sum([len(value) for step in steps for value in step.args if type(value) is str])


def _undone(connection: sqlite3.Connection, why: Exception) -> Exception:
    connection.execute("rollback to one_write")
    connection.execute("release one_write")
    return why
