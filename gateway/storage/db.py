"""What a database driver does, and how the schema comes to be.

A write is data: steps that run in one transaction, each optionally guarded. That shape is what lets one
writer thread commit many writers' work at once on SQLite, and a batch do so on PostgreSQL. Not held here: any
statement of the product (`store`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import msgspec

Value: TypeAlias = str | int | float | None
Row: TypeAlias = tuple[Value, ...]
Read: TypeAlias = "Callable[[str, Sequence[Value]], Awaitable[list[Row]]]"

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class StorageError(Exception):
    """The database could not do what was asked; only a subclass says whether a write took place."""


class GuardFailed(StorageError):
    """A guarded step met no row: the write was undone, nothing changed."""


class NoRoom(GuardFailed):
    """A cap or rate that all replicas share is used up: the write was undone, nothing changed."""


class Duplicate(StorageError):
    """A unique rule refused the write: it was undone, nothing changed."""


class StorageBusy(StorageError):
    """The database is used by another process, or more writes wait than the bound allows; nothing changed."""


class StorageShort(StorageBusy):
    """The disk is full or the database fails, so nothing new is begun; nothing changed."""


class Step(msgspec.Struct, frozen=True):
    """One statement with `$1` placeholders, in PostgreSQL's words where the databases differ.

    `guard`: no row changed or returned undoes the whole write, and raises this. `turn`: whose end others
    wait for from this step on; where writes are many at once all turns are taken first, in one order.
    """

    sql: str
    args: tuple[Value, ...]
    guard: type[GuardFailed] | None = None
    turn: str | None = None


class Bound(Protocol):
    """What all replicas must agree on before something is taken: a write is undone where it does not hold."""

    def before(self) -> list[Step]:
        """Steps that make everybody who takes of the same wait for this write's end."""
        ...

    def after(self) -> list[Step]:
        """Guarded steps behind what takes it: they undo it, with NoRoom."""
        ...


class SchemaTooNew(StorageError):
    """The database was written by a newer version of Reelgate; this one must not touch it."""


class Database(Protocol):
    """A driver. Statements use `$1` placeholders on every database."""

    @property
    def is_shared(self) -> bool:
        """Whether several processes may serve from it at once."""
        ...

    @property
    def waiting(self) -> int:
        """How many writes were handed over and are not committed yet."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why nothing new should be begun, in a sentence: a full disk, commits that fail. None: all is well.

        Writes are taken nevertheless: what is paid for is to be finished as far as it goes.
        """
        ...

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """All rows of one statement. Raises StorageError."""
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Read]:
        """Reads that all see the same moment, whatever is written meanwhile. Raises StorageError."""
        ...

    async def write(
        self, steps: Sequence[Step], committed: Callable[[], None] | None = None, tell: str | None = None
    ) -> list[Row]:
        """Run `steps` as one atomic write; the rows that they returned, once it is durable.

        `committed` is called before this returns, and also when the caller was cancelled meanwhile: a write
        that was handed over goes on. `tell` reaches the other processes with the commit, never without it.
        Raises GuardFailed, Duplicate, StorageError.
        """
        ...

    def listen(self, hear: Callable[[str | None], None]) -> None:
        """Have `hear` called with what other processes tell; with None when something may be missed."""
        ...

    async def migrate(self, folder: Path = MIGRATIONS) -> int:
        """Bring the schema up to date; how many migrations ran. Raises SchemaTooNew."""
        ...

    async def flaws(self) -> list[str]:
        """What the database itself finds broken in what it stores, in sentences. May take minutes."""
        ...

    async def close(self) -> None:
        """Finish what was handed over, then let go."""
        ...


class Migration(msgspec.Struct, frozen=True):
    """One numbered file of the schema's history.

    `runs_from`: the oldest schema whose programs still run after it, by its line `-- runs-from: N`. What only
    adds says so, so that two neighbouring versions share a database during an upgrade.
    """

    number: int
    name: str
    sql: str
    runs_from: int


SCHEMA: Final = "create table if not exists schema_version (number bigint primary key, name text not null)"
VERSION_GET: Final = "select coalesce(max(number), 0) from schema_version"
RUNS_FROM_GET: Final = "select max(coalesce(runs_from, number)) from schema_version where number > $1"
LATER_GET: Final = "select name from schema_version where number > $1 order by number"
VERSION_ADD: Final = "insert into schema_version (number, name) values ($1, $2)"
RUNS_FROM_SET: Final = "update schema_version set runs_from = $2 where number = $1"
RUNS_FROM_SINCE: Final = 3  # the migration that made room for it


def migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """The migrations in order. Raises ValueError when the numbers are not 1, 2, 3, ..."""
    found = [_migration(path) for path in sorted(folder.glob("*.sql"))]
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations in {folder} are not numbered 1..{len(found)}")
    return found


def _migration(path: Path) -> Migration:
    sql, number = path.read_text(encoding="utf-8"), int(path.name.split("_", 1)[0])
    said = re.search(r"^-- runs-from: (\d+)$", sql, re.MULTILINE)
    return Migration(number, path.stem, sql, int(said[1]) if said else number)


def recorded(done: Migration) -> list[Step]:
    """What is written down of a migration that ran, in the transaction that it ran in."""
    steps = [Step(VERSION_ADD, (done.number, done.name))]
    if done.number >= RUNS_FROM_SINCE:
        steps.append(Step(RUNS_FROM_SET, (done.number, done.runs_from)))
    return steps


def pending(applied: int, runs_from: int, known: Sequence[Migration]) -> Sequence[Migration]:
    """The migrations still to run on a schema of version `applied`; none on a newer one that we may share.

    `runs_from`: what RUNS_FROM_GET says for our own number, 0 where it says nothing. Raises SchemaTooNew.
    """
    if applied > len(known) and runs_from > len(known):
        raise SchemaTooNew(
            f"the database has schema version {applied}, this program knows {len(known)}, and at least "
            f"{runs_from} is needed: start the newer version of reelgate, or restore a backup from before"
        )
    return known[applied:]


async def must_run(read: Read) -> None:
    """Raises SchemaTooNew where this program may not even look at what `read` reads."""
    known = migrations()
    ((version,),) = await read(VERSION_GET, ())
    ((runs_from,),) = await read(RUNS_FROM_GET, (len(known),)) if int(version or 0) > len(known) else [(0,)]
    pending(int(version or 0), int(runs_from or 0), known)


async def must_know(read: Read) -> None:
    """Raises SchemaTooNew where a newer program's migration has run, also one that only adds."""
    if later := await read(LATER_GET, (len(migrations()),)):
        names = ", ".join(str(name) for (name,) in later)
        raise SchemaTooNew(f"use the newer program: this one would leave out what migration {names} added")
