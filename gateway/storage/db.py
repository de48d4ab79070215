"""What a database driver does, and how the schema comes to be.

A write is data: steps that run in one transaction, each optionally guarded. That shape is what lets one
writer thread commit many writers' work at once on SQLite, and a batch do so on PostgreSQL. Not held here: any
statement of the product (`store`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import msgspec

Value: TypeAlias = str | int | float | None
Row: TypeAlias = tuple[Value, ...]

SQLITE_ONLY: Final = "store.url: this version keeps its data in SQLite only; use sqlite:PATH"
MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Step(msgspec.Struct, frozen=True):
    """One statement with `$1` placeholders. `guarded`: no row changed or returned undoes the whole write."""

    sql: str
    args: tuple[Value, ...]
    guarded: bool = False


class StorageError(Exception):
    """The database could not do what was asked; only a subclass says whether a write took place."""


class GuardFailed(StorageError):
    """A guarded step met no row: the write was undone, nothing changed."""


class Duplicate(StorageError):
    """A unique rule refused the write: it was undone, nothing changed."""


class StorageBusy(StorageError):
    """The database is used by another process, or more writes wait than the bound allows; nothing changed."""


class StorageShort(StorageBusy):
    """The disk is full or the database fails, so nothing new is begun; nothing changed."""


class SchemaTooNew(StorageError):
    """The database was written by a newer version of Reelgate; this one must not touch it."""


class Database(Protocol):
    """A driver. Statements use `$1` placeholders on every database."""

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

    async def write(self, steps: Sequence[Step], committed: Callable[[], None] | None = None) -> None:
        """Run `steps` as one atomic write; returns once it is durable.

        `committed` is called before this returns, and also when the caller was cancelled meanwhile: a write
        that was handed over goes on. Raises GuardFailed, Duplicate, StorageError.
        """
        ...

    async def migrate(self) -> int:
        """Bring the schema up to date; how many migrations ran. Raises SchemaTooNew."""
        ...

    async def close(self) -> None:
        """Finish what was handed over, then let go."""
        ...


class Migration(msgspec.Struct, frozen=True):
    """One numbered file of the schema's history."""

    number: int
    name: str
    sql: str


def migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """The migrations in order. Raises ValueError when the numbers are not 1, 2, 3, ..."""
    found = [
        Migration(int(path.name.split("_", 1)[0]), path.stem, path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.sql"))
    ]
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations in {folder} are not numbered 1..{len(found)}")
    return found


def pending(applied: int, known: Sequence[Migration]) -> Sequence[Migration]:
    """The migrations that are still to run on a schema of version `applied`. Raises SchemaTooNew."""
    if applied > len(known):
        raise SchemaTooNew(
            f"the database has schema version {applied}, this program knows {len(known)}: "
            "start the newer version of reelgate, or restore a backup taken before the upgrade"
        )
    return known[applied:]
