"""A connection to PostgreSQL: how it is made, what is asked of the server, and what its errors mean.

Held here: the version and encoding that are needed, the table that tells a lost connection from a refused
value, and the driver's own table `write_marks`. Not held here: what is sent over a connection.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import msgspec
from asyncpg.connect_utils import SessionAttribute

from gateway.storage.db import Duplicate, StorageError, StorageShort
from gateway.storage.postgres_batch import MARKS, NOW, Table
from gateway.values import Secret

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

OLDEST_MAJOR: Final = 14
CONNECT_SECONDS: Final = 5.0
MAX_STATEMENT_BYTES: Final = 262_144  # of a text that is kept prepared; a batch's texts are long

MARKS_ADD: Final = f"""create table if not exists {MARKS} (
    writer text primary key, number bigint not null, at double precision not null) with (fillfactor = 50)"""
# `skip locked`: a row that is in somebody's transaction is in use.
MARK_BEGIN: Final = f"""with old as (delete from {MARKS} where writer in (
        select writer from {MARKS} where at < {NOW} - 86400 for update skip locked))
    insert into {MARKS} (writer, number, at) values ($1, 0, {NOW})"""  # noqa: S608
# It waits for a transaction that has the row, also for one that has just made it.
MARK_ASK: Final = f"""insert into {MARKS} (writer, number, at) values ($1, 0, {NOW})
    on conflict (writer) do update set at = excluded.at returning number"""  # noqa: S608
MARK_END: Final = f"delete from {MARKS} where writer = $1"  # noqa: S608
_COLUMNS: Final = """select c.relname, a.attname, format_type(a.atttypid, null),
        coalesce(a.attnum = any(i.indkey), false)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
    left join pg_index i on i.indrelid = c.oid and i.indisprimary
    where c.relkind in ('r', 'p') and n.nspname = current_schema() and a.attnum > 0 and not a.attisdropped"""

# SQLSTATE, or its first two characters (PostgreSQL documentation, appendix A): what an error says.
_LOST: Final = ("08", "57P", "25006", "25P03")  # the connection is gone, or leads to a server that only reads
_REPEATABLE: Final = ("40001", "40P01")  # undone for another's sake: the same again may succeed
# Disk, memory, connections; I/O, an internal error; somebody else's lock, a time limit, an operator's cancel.
_OF_THE_DATABASE: Final = ("53", "58", "XX", "55P03", "57014")
_NOT_UNIQUE: Final = "23505"

# All that asyncpg raises; the last three for a value that cannot be sent. An internal error is what a query
# meets on a connection whose end by the server was not read yet.
ERRORS: Final = (
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError,
    ValueError, TypeError, OverflowError,
)


# How complaints about a URL begin that quote nothing of it but its settings of TLS.
_SAYABLE: Final = ("`ssl", "root certificate file")
# A prepared statement that is not there, or is although nobody here made it.
_POOLED: Final = "behind a pooler that shares connections, set store.statement_cache_size = 0"
# When a server does not let us in: what to do about it.
_ADVICE: Final = {
    "28": "check user and password in [store] url, and the server's pg_hba.conf",
    "3D000": "make that database, or name another one in [store] url",
    "42501": "let this user connect to that database",
    "53300": "raise max_connections, or put a pooler before it",
}
# Errors whose texts quote values, or our own; but ssl's, some of which are a ValueError, too.
_QUOTING: Final = (
    asyncpg.InterfaceError, asyncpg.TargetServerAttributeNotMatched, ValueError, TypeError, OverflowError,
)


class Gone(ConnectionError):
    """What is at the other end is not the server that it was."""


class Link(msgspec.Struct, frozen=True):
    """Where the database is. `place` is the part of `dsn` that may be shown."""

    dsn: Secret
    statement_cache_size: int

    @property
    def place(self) -> str:
        """Host, port and database, without user and password."""
        parts = urlsplit(self.dsn.reveal())
        _, has_user, where = parts.netloc.rpartition("@")
        # Where a password holds a slash or an at sign that is not escaped, its rest would stand there.
        is_clear = bool(has_user) and "@" not in parts.path
        return f"PostgreSQL at {where}{parts.path}" if is_clear else "PostgreSQL"

    async def connect(
        self, kind: Literal["primary", "read-write"], *, command_seconds: float | None = None
    ) -> Connection:
        """A new connection to a server that is no standby (`read-write`: and takes writes).

        `command_seconds`: after that long a command is given up, and the server asked to cancel it. Raises
        StorageError, which says what to do, when there is no server, or one that is too old.
        """
        try:
            connection: Connection = await asyncpg.connect(
                self.dsn.reveal(), timeout=CONNECT_SECONDS, statement_cache_size=self.statement_cache_size,
                max_cacheable_statement_size=MAX_STATEMENT_BYTES,
                target_session_attrs=SessionAttribute(kind),
                server_settings={"application_name": "reelgate"}, command_timeout=command_seconds,
            )
        except ERRORS as error:
            if isinstance(error, ValueError) and not isinstance(error, OSError):  # as ssl's are
                raise StorageError(_unreadable(error)) from None
            raise StorageShort(f"cannot reach {self.place}: {reason(error)}; {_advice(error)}") from None
        version, encoding = connection.get_server_version(), connection.get_settings().server_encoding
        if version.major < OLDEST_MAJOR or encoding != "UTF8":
            connection.terminate()
            raise StorageError(
                f"{self.place} is version {version.major} with encoding {encoding}: version {OLDEST_MAJOR} "
                "or newer and a database with encoding UTF8 are needed"
            )
        return connection


async def tables(connection: Connection) -> dict[str, Table]:
    """What the server knows of the tables of the current schema."""
    types: dict[str, dict[str, str]] = {}
    keys: dict[str, list[str]] = {}
    for table, column, kind, is_key in await connection.fetch(_COLUMNS):
        types.setdefault(table, {})[column] = kind
        if is_key:
            keys.setdefault(table, []).append(column)
    return {table: Table(columns, tuple(keys.get(table, ()))) for table, columns in types.items()}


def is_lost(error: BaseException) -> bool:
    """Whether `error` says that the connection is of no use any more; else it may be closed all the same."""
    return isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError) or _is(error, _LOST)


def is_repeatable(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is run again."""
    return _is(error, _REPEATABLE)


def is_of_the_database(error: BaseException) -> bool:
    """Whether the fault is not in a statement: whatever else is written now will most likely fail, too."""
    return _is(error, _OF_THE_DATABASE)


def refusal(error: BaseException, place: str) -> StorageError:
    """What is told to whose write the server, or the client before it, refused."""
    kind = Duplicate if _is(error, (_NOT_UNIQUE,)) else StorageError
    return kind(f"cannot write {place}: {reason(error)}")


def _unreadable(error: ValueError) -> str:
    """What is wrong with a URL. The driver's own text may hold what it took for a port, and is a password."""
    said, _, _ = str(error).partition("\n")
    if said.startswith(_SAYABLE):
        return f"[store] url cannot be used: {said}"
    return ("[store] url cannot be read as a URL of PostgreSQL: escape what is special in the password, "
            "as %2F for a slash, and mind what is behind ?")


def _advice(error: BaseException) -> str:
    """What to do about a connection that was refused."""
    if _is(error, ("42704",)):  # its text holds the name of a parameter, and no value
        return f"{error.args[0]}; take it out of [store] url"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "name a server in [store] url that takes writes: this is a standby, or set to be read-only"
    told = (text for state, text in _ADVICE.items() if _is(error, (state,)))
    return next(told, "check [store] url, and that the server runs and lets this user in")


def reason(error: BaseException) -> str:
    """An error in words, without values: the server's details and the driver's complaints quote rows."""
    if isinstance(error, asyncpg.PostgresError):
        where = ".".join(filter(None, (error.table_name, error.column_name, error.constraint_name)))
        hint = f": {_POOLED}" if _is(error, ("26000", "42P05")) else ""
        return f"{type(error).__name__} {error.sqlstate} {where}".rstrip() + hint
    if not isinstance(error, OSError) and isinstance(error, _QUOTING):
        return type(error).__name__
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


def _is(error: BaseException, states: tuple[str, ...]) -> bool:
    state = getattr(error, "sqlstate", None)
    return isinstance(state, str) and state.startswith(states)


async def close_gently(connection: Connection, seconds: float = 2.0) -> None:
    """Say goodbye; a server that does not answer is left without."""
    try:
        async with asyncio.timeout(seconds):
            await connection.close()
    except ERRORS:
        connection.terminate()
