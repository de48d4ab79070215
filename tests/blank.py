"""SQLite databases with the schema in them already.

Held here: the schema, made once in a process and copied, which takes a tenth of the time that making it
again does. Not held here: files whose migrations are part of what their tests prove, and PostgreSQL's
(`tests.postgres`).
"""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path
from unittest import mock

from gateway.storage import sqlite
from gateway.storage.db import MIGRATIONS
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from gateway.storage.sqlite_file import connect, migrate


def blank() -> SqliteDatabase:
    """A database of its own in memory; `migrate` finds nothing to do."""
    with mock.patch.object(sqlite, "connect", _copied):
        return SqliteDatabase(IN_MEMORY)


def lay(path: Path) -> None:
    """A file with one, unless there is a file already. The name that a schema is given is the same in all."""
    if not path.exists():
        path.write_bytes(_schema().serialize())


def _copied(path: Path) -> sqlite3.Connection:
    connection = connect(path)
    _schema().backup(connection)
    return connection


@cache
def _schema() -> sqlite3.Connection:
    connection = connect(IN_MEMORY)
    migrate(connection, MIGRATIONS)
    return connection
