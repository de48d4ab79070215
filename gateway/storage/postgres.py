"""The PostgreSQL driver: several processes serve from one database, each with a few connections.

Writes go through one connection that commits whatever waits at once (`postgres_writer`); reads through a few
others, newest first, so that a quiet process uses one. Behind PgBouncer's transaction pooling before 1.21 the
statement cache has to be 0; LISTEN does not get through there, and is made up for (`postgres_ear`).
Not held here: any statement of the product (`store`), any rule of the schema (`migrations/`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from gateway.storage.db import (
    MIGRATIONS,
    RUNS_FROM_GET,
    SCHEMA,
    VERSION_GET,
    Migration,
    Read,
    Row,
    Step,
    StorageBusy,
    StorageError,
    StorageShort,
    Value,
    migrations,
    pending,
    recorded,
)
from gateway.storage.postgres_ear import Ear
from gateway.storage.postgres_link import (
    ERRORS,
    MARKS_ADD,
    Connection,
    Link,
    close_gently,
    is_lost,
    reason,
)
from gateway.storage.postgres_transaction import CHANNEL
from gateway.storage.postgres_writer import FATE_SECONDS, Job, Writer
from gateway.values import Secret

READERS_MAX: Final = 8
READ_SECONDS: Final = 10.0
_MIGRATING: Final = 5_283_164_112  # any number that nobody else locks
_FLAWS: Final = """select 'pages with a wrong checksum were read', checksum_failures::text
    from pg_stat_database where datname = current_database() and checksum_failures > 0
    union all select 'an index is not valid', c.relname::text
    from pg_index i join pg_class c on c.oid = i.indexrelid where not i.indisvalid"""
_PROBE: Final = "select pg_notify($1, $2)"


class PostgresDatabase:
    """One database of a PostgreSQL server, 14 or newer. Connects when it is first used, not before."""

    def __init__(self, dsn: str, *, statement_cache_size: int = 100) -> None:
        self._link = Link(Secret(dsn), statement_cache_size)
        self._readers = _Readers(self._link)
        self._ear = Ear(self._link, self._probe)
        self._writer = Writer(self._link, self._ear.pack)

    @property
    def is_shared(self) -> bool:
        """Several processes may serve from it at once."""
        return True

    @property
    def waiting(self) -> int:
        """How many writes were handed over and are not committed yet."""
        return self._writer.waiting

    @property
    def trouble(self) -> str | None:
        """Why nothing new should be begun: there is no server, or it fails."""
        return self._writer.trouble

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """All rows of one statement. While the fate of a write is unknown it waits: neither may be seen."""
        if not self._writer.settled.is_set():
            try:
                async with asyncio.timeout(FATE_SECONDS):
                    await self._writer.settled.wait()
            except TimeoutError:
                raise StorageShort(f"cannot read {self._link.place}: {self._writer.trouble}") from None
        return await self._readers.read(sql, args)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Read]:
        """Reads of one moment, on a connection of their own. They may take as long as they need."""
        connection = await self._link.connect("primary")

        async def read(sql: str, args: Sequence[Value]) -> list[Row]:
            return [tuple(record) for record in await connection.fetch(sql, *args)]

        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield read
        except ERRORS as error:
            raise StorageError(f"cannot read {self._link.place}: {reason(error)}") from error
        finally:
            await close_gently(connection)

    async def write(
        self, steps: Sequence[Step], committed: Callable[[], None] | None = None, tell: str | None = None
    ) -> list[Row]:
        """Hand `steps` to the writer; returns after the commit that they were part of."""
        done: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        if committed is not None:
            done.add_done_callback(lambda _: None if done.exception() else committed())
        done.add_done_callback(lambda _: done.exception())  # seen, also when nobody waits for it any more
        self._writer.put(Job(steps, done, tell))
        # Shielded: the commit goes on when the caller is cancelled, so nobody may conclude that it did not.
        return await asyncio.shield(done)

    def listen(self, hear: Callable[[str | None], None]) -> None:
        """Have `hear` called, in the running event loop; with None also when listening begins."""
        self._ear.start(hear)

    async def migrate(self, folder: Path = MIGRATIONS) -> int:
        """Run what is missing, each in its own transaction, one process at a time."""
        connection = await self._link.connect("read-write")
        try:
            return await _migrate(connection, folder)
        except ERRORS as error:
            raise StorageError(f"cannot migrate {self._link.place}: {reason(error)}") from error
        finally:
            await close_gently(connection)

    async def flaws(self) -> list[str]:
        """What the server knows to be broken: pages whose checksum was wrong, indexes that were not built."""
        return [f"{what}: {which}" for what, which in await self.read(_FLAWS)]

    async def close(self) -> None:
        """Commit what was handed over, then close. Nothing is taken from then on."""
        await self._writer.close()
        await self._ear.close()
        await self._readers.close()

    async def _probe(self, message: bytes) -> None:
        await self._readers.read(_PROBE, (CHANNEL, message.decode()))


class _Readers:
    """Connections for reading, the one that was used last first.

    asyncpg's own pool wraps and resets a connection for every use, which costs as much as the read of a row.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(READERS_MAX)
        self._is_closed = False

    async def read(self, sql: str, args: Sequence[Value]) -> list[Row]:
        """All rows; once more on a fresh connection when the first was lost. Raises StorageError."""
        try:
            if self._places.locked():  # not for ever: what fills the places may never be answered
                async with asyncio.timeout(READ_SECONDS):
                    await self._places.acquire()
            else:
                await self._places.acquire()
        except TimeoutError:
            raise StorageBusy(f"cannot read {self._link.place}: too many reads wait already") from None
        try:
            return await self._read(sql, args)
        except ERRORS as error:
            kind = StorageShort if is_lost(error) else StorageError
            raise kind(f"cannot read {self._link.place}: {reason(error)}") from error
        finally:
            self._places.release()

    async def _read(self, sql: str, args: Sequence[Value]) -> list[Row]:
        if self._is_closed:
            raise StorageError(f"cannot read {self._link.place}: it is closed")
        connection = self._idle.pop() if self._idle else await self._connected()
        try:
            return await self._read_on(connection, sql, args)
        except ERRORS as error:
            is_cut = is_lost(error) or connection.is_closed()
            if not is_cut or isinstance(error, TimeoutError):
                raise
        self._drop_idle()  # what cut one has most likely cut them all
        return await self._read_on(await self._connected(), sql, args)

    async def close(self) -> None:
        """Close every connection. What is being read goes on; nothing else is read."""
        self._is_closed = True
        while self._idle:
            await close_gently(self._idle.pop())

    async def _read_on(self, connection: Connection, sql: str, args: Sequence[Value]) -> list[Row]:
        """Read, and keep the connection where it may be used again: not with half an answer in it."""
        is_usable = False
        try:
            rows = [tuple(record) for record in await connection.fetch(sql, *args)]
            is_usable = True
        except ERRORS as error:
            is_usable = not (is_lost(error) or connection.is_closed())
            raise
        else:
            return rows
        finally:
            if is_usable and not self._is_closed:
                self._idle.append(connection)
            else:
                connection.terminate()

    async def _connected(self) -> Connection:
        return await self._link.connect("primary", command_seconds=READ_SECONDS)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().terminate()


async def _migrate(connection: Connection, folder: Path) -> int:
    known = migrations(folder)
    applied = 0
    while True:
        async with connection.transaction():
            # It ends with the transaction, so it also holds where transactions share connections.
            await connection.execute("select pg_advisory_xact_lock($1)", _MIGRATING)
            await connection.execute(SCHEMA)
            await connection.execute(MARKS_ADD)
            version = int(await connection.fetchval(VERSION_GET))
            is_newer = version > len(known)
            runs_from = int(await connection.fetchval(RUNS_FROM_GET, len(known)) or 0) if is_newer else 0
            todo = pending(version, runs_from, known)
            if not todo:
                return applied
            await _run(connection, todo[0])
            applied += 1


async def _run(connection: Connection, migration: Migration) -> None:
    await connection.execute(migration.sql)
    for step in recorded(migration):
        await connection.execute(step.sql, *step.args)
