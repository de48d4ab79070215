"""One SQLite file: how it is opened, locked for the process that serves it, and brought up to date.

Not held here: reading and writing (`sqlite`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import time
from functools import cache
from pathlib import Path
from typing import Final

from gateway.storage.db import (
    RUNS_FROM_GET,
    SCHEMA,
    VERSION_GET,
    StorageBusy,
    migrations,
    pending,
    recorded,
)

BUSY_TIMEOUT_MS: Final = 5_000
# What PostgreSQL's words are here. One writer at a time locks no rows.
_WORDS: Final = (
    ("default (pg_current_xact_id()::text::bigint)", "default 0"),
    ("pg_current_xact_id()::text::bigint", "next_written()"),
    ("pg_current_snapshot()::text", "null"),
    ("strpos(", "instr("),
    (" for update skip locked", ""),
    (" for update", ""),
    ("extract(epoch from clock_timestamp())::double precision", "((julianday('now') - 2440587.5) * 86400.0)"),
)
_HOLE: Final = re.compile(r"\$(\d+)")
_HAS_WRITTEN: Final = "select 1 from pragma_table_info('events') where name = 'written'"
# The greatest number, by a walk from owner to owner along their index.
_LAST_WRITTEN: Final = """with recursive owners(name) as (
        select min(owner) from events
        union all select (select min(owner) from events where owner > name) from owners
            where name is not null)
    select coalesce(max((select max(written) from events where owner = name)), 0) from owners"""


@cache
def in_its_words(sql: str) -> str:
    """A statement of the product as SQLite understands it, with values by position."""
    for words, ours in _WORDS:
        sql = sql.replace(words, ours)
    return _HOLE.sub(r"?\1", sql)


def code(error: Exception) -> int | None:
    """SQLite's primary result code; None when the error is not from SQLite itself."""
    found: int | None = getattr(error, "sqlite_errorcode", None)
    return None if found is None else found & 0xFF


def connect(path: Path) -> sqlite3.Connection:
    """A connection in WAL mode whose commits are on disk when they return. Raises sqlite3.Error, OSError.

    A new file, and with it its log, is its owner's alone: it holds what all callers wrote. One that is there
    is not opened beside SQLite: closing it would drop the locks of this process, and with them its log.
    """
    if str(path) != ":memory:":
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
    _use_wal(connection)
    # FULL: a commit is on disk when it is answered; NORMAL may lose it with the power.
    connection.execute("pragma synchronous = full")
    _number_from(connection, 0)
    return connection


def _number_from(connection: sqlite3.Connection, last: int) -> None:
    """Have rows numbered in the order in which they are written, beyond `last`, over restarts, too.

    By the clock, in microseconds, so that a number is not given again after the last row was deleted.
    """

    def following() -> int:
        nonlocal last
        last = max(last + 1, time.time_ns() // 1_000)
        return last

    connection.create_function("next_written", 0, following)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Change to WAL, which stays in the file.

    SQLite does not wait for others here: of two that open a new file at once, one meets "locked" immediately.
    """
    _patiently(connection, "pragma journal_mode = wal")


def begin(connection: sqlite3.Connection) -> None:
    """Begin to write, once no other process does. Blocks. Raises sqlite3.Error."""
    _patiently(connection, "begin immediate")


def _patiently(connection: sqlite3.Connection, sql: str) -> None:
    """Run what meets a lock until it does not, for BUSY_TIMEOUT_MS."""
    ends_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute(sql)
        except sqlite3.OperationalError as error:
            if code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= ends_at:
                raise
            time.sleep(0.005)
        else:
            return


def lock(path: Path) -> int:
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


def migrate(connection: sqlite3.Connection, folder: Path) -> int:
    """Run the migrations of `folder` that are missing; how many. Raises SchemaTooNew, sqlite3.Error."""
    _patiently(connection, SCHEMA)
    known = migrations(folder)
    applied = 0
    while True:
        begin(connection)
        try:
            (version,) = connection.execute(VERSION_GET).fetchone()
            runs_from = _runs_from(connection, len(known)) if version > len(known) else 0
            todo = pending(version, runs_from, known)
            if not todo:
                if connection.execute(_HAS_WRITTEN).fetchone():
                    _number_from(connection, connection.execute(_LAST_WRITTEN).fetchone()[0])
                return applied
            for statement in _statements(todo[0].sql):
                connection.execute(in_its_words(statement))
            for step in recorded(todo[0]):
                connection.execute(in_its_words(step.sql), step.args)
            connection.execute("commit")
            applied += 1
        finally:
            if connection.in_transaction:
                connection.execute("rollback")


def _runs_from(connection: sqlite3.Connection, number: int) -> int:
    (found,) = connection.execute(in_its_words(RUNS_FROM_GET), (number,)).fetchone()
    return int(found or 0)


def _statements(script: str) -> list[str]:
    """The statements of a script, one by one: `executescript` would commit before it begins."""
    found, text = [], ""
    for line in script.splitlines():
        text += line + "\n"
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return [*found, text] if text.strip() else found
