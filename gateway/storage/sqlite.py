"""The SQLite driver: one writer thread that commits whatever waits at once, and reads on the calling thread.

A read of a row takes microseconds, a hop into a thread fifty to a hundred of them; in WAL mode readers never
wait for the writer. So reads run where they are asked for, and only commits, with their fsync, have a thread.
Not held here: any statement of the product (`store`), any rule of the schema (`migrations/`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Final, TypeAlias

from gateway.storage.db import (
    Duplicate,
    GuardFailed,
    Row,
    Step,
    StorageBusy,
    StorageError,
    Value,
    migrations,
    pending,
)

BATCH_MAX: Final = 512  # writes in one commit: bounds how long the first of them waits
QUEUE_MAX: Final = 20_000  # writes that may wait; beyond, a write is refused before latency grows
BUSY_TIMEOUT_MS: Final = 5_000

_ERRORS: Final = (sqlite3.Error, OverflowError, UnicodeError)  # the last two for a value that it cannot bind
_NOT_UNIQUE: Final = ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")

_Job: TypeAlias = tuple[Sequence[Step], "asyncio.Future[None]", asyncio.AbstractEventLoop]


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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path) if exclusive else None
            self._writer = _connect(path)
            self._reader = self._writer if path == IN_MEMORY else _connect(path)
        except (sqlite3.Error, OSError) as error:
            self._unlock()
            raise StorageError(f"cannot open {path}: {error}") from error
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="sqlite-writer", daemon=True)
        if path != IN_MEMORY:
            self._thread.start()

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """All rows of one statement, read on this thread."""
        try:
            return self._reader.execute(sql, _named(args)).fetchall()
        except _ERRORS as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error

    async def write(self, steps: Sequence[Step], committed: Callable[[], None] | None = None) -> None:
        """Hand `steps` to the writer thread; returns after the fsync of the commit that they were part of."""
        if self._is_closed:
            raise StorageError(f"cannot write {self._path}: it is closed")
        if self._jobs.qsize() >= QUEUE_MAX:
            raise StorageBusy(f"{QUEUE_MAX} writes are waiting already")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self._thread.is_alive():
            _settle([(done, self._commit([(steps, done, loop)])[0])])
            await done
            if committed is not None:
                committed()
            return
        if committed is not None:
            done.add_done_callback(lambda _: None if done.cancelled() or done.exception() else committed())
        self._jobs.put((steps, done, loop))
        # Shielded: the commit goes on when the caller is cancelled, so nobody may conclude that it did not.
        await asyncio.shield(done)

    async def migrate(self) -> int:
        """Run what is missing, each in its own transaction, under SQLite's write lock."""
        try:
            return _migrate(self._writer)
        except sqlite3.Error as error:
            raise StorageError(f"cannot migrate {self._path}: {error}") from error

    async def close(self) -> None:
        """Commit what was handed over, then close. Nothing is taken from then on."""
        self._is_closed = True
        if self._thread.is_alive():
            self._jobs.put(None)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._reader.close()
        self._writer.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _work(self) -> None:
        """The writer thread: take what waits, commit it together, answer everybody."""
        running = True
        while running:
            batch: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                batch.append(job)
                if len(batch) >= BATCH_MAX or self._jobs.empty():
                    break
                job = self._jobs.get()
            running = job is not None
            if batch:
                _answer(batch, self._commit(batch))

    def _commit(self, batch: Sequence[_Job]) -> list[Exception | None]:
        """One transaction around all writes, a savepoint around each: one failing leaves the others alone."""
        results: list[Exception | None] = []
        try:
            self._writer.execute("begin immediate")
            for steps, _, _ in batch:
                results.append(_run(self._writer, steps, self._path))
            self._writer.execute("commit")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):  # tried again after the next batch, which fails
                self._writer.rollback()
            return [StorageError(f"cannot write {self._path}: {error}") for _ in batch]
        return results


def _answer(batch: Sequence[_Job], results: Sequence[Exception | None]) -> None:
    """Wake the writers, one call per event loop rather than one per writer."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], Exception | None]]] = {}
    for (_, done, loop), result in zip(batch, results, strict=True):
        by_loop.setdefault(loop, []).append((done, result))
    for loop, answers in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, answers)


def _settle(answers: Sequence[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for done, result in answers:
        if done.cancelled():
            continue
        if result is None:
            done.set_result(None)
        else:
            done.set_exception(result)


def _run(connection: sqlite3.Connection, steps: Sequence[Step], path: Path) -> Exception | None:
    """Run one write; why it was undone, or None. Raises sqlite3.Error when SQLite undid the whole batch."""
    connection.execute("savepoint one_write")
    for step in steps:
        try:
            cursor = connection.execute(step.sql, _named(step.args))
        except _ERRORS as error:
            if not connection.in_transaction:  # a full disk is answered like that
                raise
            taken = getattr(error, "sqlite_errorname", None) in _NOT_UNIQUE
            kind = Duplicate if taken else StorageError
            return _undone(connection, kind(f"cannot write {path}: {error}"))
        if step.guarded and cursor.rowcount < 1:
            return _undone(connection, GuardFailed(step.sql.split("\n", 1)[0]))
    connection.execute("release one_write")
    return None


def _undone(connection: sqlite3.Connection, why: Exception) -> Exception:
    connection.execute("rollback to one_write")
    connection.execute("release one_write")
    return why


def _named(args: Sequence[Value]) -> dict[str, Value]:
    """SQLite takes `$1` as a parameter named "1", so the same text serves both databases."""
    return {str(number): value for number, value in enumerate(args, 1)}


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
    _use_wal(connection)
    # FULL: a commit is on disk when it is answered; NORMAL may lose it with the power.
    connection.execute("pragma synchronous = full")
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Change to WAL, which stays in the file.

    SQLite does not wait for others here: of two that open a new file at once, one meets "locked" immediately.
    """
    ends_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= ends_at:
                raise
            time.sleep(0.005)
        else:
            return


def _lock(path: Path) -> int:
    """An advisory lock beside the file, held while the process lives. Raises StorageBusy."""
    handle = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 32).decode() or "unknown"
        os.close(handle)
        raise StorageBusy(
            f"another reelgate serve (process {owner}) is using {path}: "
            "stop it, or give this one another [store] url"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle


def _migrate(connection: sqlite3.Connection) -> int:
    connection.execute(
        "create table if not exists schema_version (number bigint primary key, name text not null)"
    )
    known = migrations()
    applied = 0
    while True:
        connection.execute("begin immediate")
        try:
            (version,) = connection.execute("select coalesce(max(number), 0) from schema_version").fetchone()
            todo = pending(version, known)
            if not todo:
                return applied
            for statement in _statements(todo[0].sql):
                connection.execute(statement)
            done = _named((todo[0].number, todo[0].name))
            connection.execute("insert into schema_version values ($1, $2)", done)
            connection.execute("commit")
            applied += 1
        finally:
            if connection.in_transaction:
                connection.execute("rollback")


def _statements(script: str) -> list[str]:
    """The statements of a script, one by one: `executescript` would commit before it begins."""
    found, text = [], ""
    for line in script.splitlines():
        text += line + "\n"
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return [*found, text] if text.strip() else found
