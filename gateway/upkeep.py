"""What is done to the store beside or without serving: keys, migrations, backups, checks, moving house.

Not held here: serving (`gateway.app`), the verbs' options (`gateway.__main__`), copying itself and the rules
(`gateway.storage`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from gateway.api.auth import Role, make_key
from gateway.assembly import open_database, open_files
from gateway.settings import Settings, load
from gateway.storage import checking
from gateway.storage.copying import Copied, copy
from gateway.storage.db import Database, StorageBusy, StorageError
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from gateway.values import Source, StoreUrl, store_url
from providers import adapters

T = TypeVar("T")


def create_key(settings_path: Path, name: str, role: Role) -> dict[str, str | float]:
    """Make and store a caller's key, also beside a running `serve`. Only now is the key itself told."""
    row, key = make_key(name, role, time.time())

    async def store_it(database: Database) -> None:
        await database.migrate()
        await Store(database).key_add(row)

    _with_store(settings_path, store_it)
    return {"id": row.id, "name": row.name, "role": row.role, "key": key, "created_at": int(row.created_at)}


def files_trouble(settings: Settings) -> str | None:
    """Why finished videos cannot be stored, in a sentence, by trying; None: they can, or need not be."""
    files = open_files(settings)

    async def find() -> str | None:
        return None if files is None else await files.trouble()

    return asyncio.run(find())


def migrate(settings_path: Path) -> int:
    """Bring the schema up to date, also beside a running `serve`; how many migrations ran."""
    return _with_store(settings_path, lambda database: database.migrate())


def check(settings_path: Path) -> list[str]:
    """What is wrong with what is stored, in sentences; nothing: all is well."""

    async def find(database: Database) -> list[str]:
        return [*await database.flaws(), *await checking.check(database)]

    return _with_store(settings_path, find)


def backup(settings_path: Path, path: Path, copied: Copied) -> None:
    """Copy everything into a new SQLite file, also beside a running `serve`: all of it as of one moment."""
    if path.exists():
        raise StorageError(f"{path} exists already: a backup never overwrites")

    async def copy_it(database: Database) -> None:
        partial_path = path.with_name(f"{path.name}.partial")
        partial_path.unlink(missing_ok=True)
        target = SqliteDatabase(partial_path)
        try:
            await _copy(database, target, copied)
        finally:
            await target.close()
        for name in ("-wal", "-shm"):
            path.with_name(f"{partial_path.name}{name}").unlink(missing_ok=True)
        partial_path.rename(path)

    _with_store(settings_path, copy_it)


def move(settings_path: Path, target: str, copied: Copied) -> None:
    """Copy everything into an empty database, tasks in flight included. Nobody may serve meanwhile.

    `target` is a store's URL, or another configuration file, in which a password is better kept.
    """
    settings = load(settings_path, adapters(), os.environ)
    if target.startswith(("sqlite:", "postgresql://")):
        url = store_url(Source(Path.cwd(), os.environ), target)
    else:
        url = load(Path(target), adapters(), os.environ).store.url

    async def copy_it() -> None:
        async with _opened(settings.store.url, settings, exclusive=True) as source:
            await source.migrate()
            if source.is_shared and (living := await Store(source).replicas.living()):
                places = ", ".join(one.place or one.id for one in living)
                raise StorageBusy(f"stop every replica first, what they do would be lost: {places}")
            async with _opened(url, settings, exclusive=True) as new:
                await _copy(source, new, copied)

    asyncio.run(copy_it())


async def _copy(source: Database, target: Database, copied: Copied) -> None:
    await source.migrate()
    await target.migrate()
    async with source.snapshot() as read:
        await copy(read, target, copied)


def _with_store(settings_path: Path, work: Callable[[Database], Awaitable[T]]) -> T:
    settings = load(settings_path, adapters(), os.environ)

    async def do_it() -> T:
        async with _opened(settings.store.url, settings, exclusive=False) as database:
            return await work(database)

    return asyncio.run(do_it())


@asynccontextmanager
async def _opened(url: StoreUrl, settings: Settings, *, exclusive: bool) -> AsyncIterator[Database]:
    database = open_database(url, settings, exclusive=exclusive)
    try:
        yield database
    finally:
        await database.close()
