"""What is done to the store beside or without serving: keys, migrations, backups, checks, moving house.

Not held here: serving (`gateway.app`), the verbs' options (`gateway.__main__`,
`gateway.store_verbs`), copying itself and the rules
(`gateway.storage`).
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec.structs import replace

from gateway.api.key_shapes import (
    KeyBody,
    KeyObject,
    LimitsBody,
    NewKeyObject,
    check_body,
    facts,
    key_of,
    shown,
    turned,
    with_secret,
)
from gateway.api.reading import read_struct
from gateway.assembly import open_database, open_files
from gateway.core.keys import OVERLAP_MAX_SECONDS
from gateway.core.lease import LEASE_SECONDS
from gateway.errors import Problem, invalid
from gateway.settings import Settings, load, nameable, store_settings
from gateway.storage import checking
from gateway.storage.audit import COMMAND_LINE, Entry, Facts, recording
from gateway.storage.copying import FINISHED, Copied, copy, must_be_whole, prepare
from gateway.storage.db import Database, StorageBusy, StorageError, must_run
from gateway.storage.keys import Keys
from gateway.storage.rows import KeyRow, Page
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.stop import Stopped
from gateway.storage.store import Store
from gateway.values import Source, StoreUrl, store_url
from providers import adapters

T = TypeVar("T")
KEYS_AT_ONCE: Final = 500


def create_key(settings_path: Path, asked: Mapping[str, object]) -> dict[str, Any]:
    """Make and store a caller's key, also beside a running `serve`. Only now is its secret told.

    `asked` are the fields of KeyBody, those of its limits among them. Raises Problem.
    """
    bounds = {name: value for name in LimitsBody.__struct_fields__
              if (value := asked.get(name)) is not None}
    given = {name: list(value) if isinstance(value, tuple) else value
             for name, value in asked.items() if name not in LimitsBody.__struct_fields__}
    body = read_struct(msgspec.json.encode(
        {name: value for name, value in given.items() if value not in (None, [])} | {"limits": bounds}
    ), KeyBody)

    check_body(body, nameable(settings_path, adapters()))

    async def make(keys: Keys, now: float) -> NewKeyObject:
        row, secret = key_of(body, now)
        await keys.add(row, (recording(_done(now, "key.created", row.id, None, facts(row))),))
        return with_secret(row, secret)

    return _plain(_with_keys(settings_path, make, is_there=False))


def list_keys(settings_path: Path) -> list[dict[str, Any]]:
    """All keys, newest first, without their secrets."""

    async def find(keys: Keys, now: float) -> list[KeyObject]:
        found: list[KeyRow] = []
        while True:
            last = (found[-1].created_at, found[-1].id) if found else None
            page = await keys.list(Page(limit=KEYS_AT_ONCE, after=last), now)
            found += page[:KEYS_AT_ONCE]
            if len(page) <= KEYS_AT_ONCE:
                return [shown(row) for row in found]

    return [_plain(one) for one in _with_keys(settings_path, find)]


def rotate_key(settings_path: Path, key_id: str, overlap: float) -> dict[str, Any]:
    """Give a key another secret, told only now; the old one is taken for `overlap` seconds more.

    Raises Problem.
    """
    if not 0 <= overlap <= OVERLAP_MAX_SECONDS:
        raise invalid("/overlap", f"An overlap is at most {OVERLAP_MAX_SECONDS // 86_400} days.")

    async def rotate(keys: Keys, now: float) -> NewKeyObject:
        row = await _key(keys, key_id, now)
        fresh, secret = turned(row, now)
        entry = _done(
            now, "key.rotated", key_id, {"hint": row.hint}, {"hint": fresh.hint, "overlap": int(overlap)}
        )
        if not await keys.rotate(fresh, now, overlap, (recording(entry),)):
            raise Problem("expired", f"The key {key_id} is revoked or expired; make another one.")
        return with_secret(await _key(keys, key_id, now), secret)

    return _plain(_with_keys(settings_path, rotate))


def revoke_key(settings_path: Path, key_id: str) -> dict[str, Any]:
    """End a key, within seconds on every replica. Raises Problem when there is none."""

    async def revoke(keys: Keys, now: float) -> KeyObject:
        row = await _key(keys, key_id, now)
        entry = _done(now, "key.revoked", key_id, facts(row), facts(replace(row, revoked_at=now)))
        await keys.revoke(key_id, now, (recording(entry),))
        return shown(await _key(keys, key_id, now))

    return _plain(_with_keys(settings_path, revoke))


def _plain(one: KeyObject) -> dict[str, Any]:
    return msgspec.convert(msgspec.to_builtins(one), dict[str, Any])


async def _key(keys: Keys, key_id: str, now: float) -> KeyRow:
    row = await keys.get(key_id, now)
    if row is None:
        raise Problem("not_found", f"There is no key {key_id[:80]!r}.")
    return row


def _done(now: float, action: str, target: str, before: Facts | None, after: Facts) -> Entry:
    return Entry(now, COMMAND_LINE, action, target, before, after, None)


def _with_keys(
    settings_path: Path, work: Callable[[Keys, float], Awaitable[T]], *, is_there: bool = True
) -> T:
    """`work` on the keys; without `is_there` on those of a store that is made first where it is missing."""

    async def do_it(database: Database) -> T:
        await prepare(database)
        return await work(Store(database).keys, time.time())

    return _with_store(settings_path, do_it, is_there=is_there)


def spending(settings_path: Path, is_stopped: bool | None) -> Stopped | None:
    """Stop all spending, or let it begin again, also beside `serve`; None: neither. Who stopped it."""

    async def order(database: Database) -> Stopped | None:
        await prepare(database)
        stop, now = Store(database).stop, time.time()
        before = await stop.get()
        if is_stopped in (None, before is not None):
            return before
        action = "spending.stopped" if is_stopped else "spending.started"
        told: tuple[Facts, Facts] = ({"stopped": not is_stopped}, {"stopped": is_stopped})
        also = (recording(_done(now, action, "spending", *told)),)
        await (stop.put(Stopped(COMMAND_LINE, now), also) if is_stopped else stop.delete(also))
        return await stop.get()

    return _with_store(settings_path, order, is_there=True)


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
        await must_run(database.read)
        await must_be_whole(database.read)
        return [*await database.flaws(), *await checking.check(database)]

    return _with_store(settings_path, find, is_there=True)


def backup(settings_path: Path, path: Path, copied: Copied) -> None:
    """Copy everything into a new SQLite file, also beside a running `serve`: all of it as of one moment.

    In the copy all spending is stopped: what waits in it may be bought by the time that somebody restores it.
    """
    partial_path = path.with_name(f"{path.name}.partial")
    try:
        if path.exists():
            raise StorageError(f"{path} exists already: a backup never overwrites")
        partial_path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error

    async def copy_it(database: Database) -> None:
        target, order = SqliteDatabase(partial_path), Stopped("backup", time.time())
        try:
            try:
                await _copy(database, target, copied)
                await Store(target).stop.put(order, (FINISHED,))
            finally:
                await target.close()
            partial_path.rename(path)
        finally:
            for rest in ("", "-wal", "-shm"):
                path.with_name(f"{partial_path.name}{rest}").unlink(missing_ok=True)

    _with_store(settings_path, copy_it, is_there=True)


def move(settings_path: Path, target: str, copied: Copied) -> None:
    """Copy everything into an empty database, tasks in flight included. Nobody may serve meanwhile.

    `target` is a store's URL, or another configuration file, in which a password is better kept.
    """
    settings = load(settings_path, adapters(), os.environ)
    _must_be_there(settings.store.url)
    if target.startswith("sqlite:") or "://" in target:
        there, url = settings, store_url(Source(Path.cwd(), os.environ), target)
    else:
        there = load(Path(target), adapters(), os.environ)
        url = there.store.url
    if _which(settings.store.url) == _which(url):
        raise StorageError("source and target are the same database")

    async def copy_it() -> None:
        async with _opened(settings.store.url, settings, exclusive=True) as source:
            before = await _nobody_serves(source)
            async with _opened(url, there, exclusive=True) as new:
                before |= await _nobody_serves(new)
                await _copy(source, new, copied)
                for one in (source, new):
                    await _nobody_began(one, before)
                await new.write([FINISHED])

    asyncio.run(copy_it())


def _which(url: StoreUrl) -> tuple[object, ...]:
    """Which database that is, as far as its URL says."""
    if url.dsn is None:
        return (url.path and url.path.resolve(),)
    parts = urlsplit(url.dsn.reveal())
    options = dict(parse_qsl(parts.query))
    login, _, hosts = parts.netloc.rpartition("@")
    named = [unquote(host) for host in (hosts or options.get("host", "")).split(",")]
    port = options.get("port", "5432")
    places = [host if re.search(r":\d+$", host) else f"{host}:{port}" for host in named]
    name = unquote(parts.path[1:]) or options.get("dbname") or unquote(login.partition(":")[0])
    return (*places, name)


async def _nobody_serves(database: Database) -> set[str]:
    """Who has served lately, by id. Raises StorageBusy with the places of those who do."""
    if not database.is_shared:
        return set()  # opened exclusively
    await database.migrate()
    replicas = Store(database).replicas
    await replicas.end("", LEASE_SECONDS)  # the last one that was killed nobody has buried
    seen = await replicas.seen()  # first: who begins after it is found by whom it is compared with
    if living := await replicas.living():
        places = ", ".join(one.place or one.id for one in living)
        raise StorageBusy(f"stop every replica first, what they do would be lost: {places}")
    return set(seen)


async def _nobody_began(database: Database, before: set[str]) -> None:
    """Raises StorageBusy with the places of those who have served and are not among `before`."""
    found = await Store(database).replicas.seen() if database.is_shared else {}
    if begun := ", ".join(place or name for name, place in found.items() if name not in before):
        raise StorageBusy(
            f"began to serve while this copied, so that what it did is lost: {begun}; "
            "stop every replica, empty the database that was copied to, and copy again"
        )


async def _copy(source: Database, target: Database, copied: Copied) -> None:
    await source.migrate()
    await target.migrate()
    async with source.snapshot() as read:
        await copy(read, target, copied)


def _with_store(
    settings_path: Path, work: Callable[[Database], Awaitable[T]], *, is_there: bool = False
) -> T:
    settings = store_settings(settings_path, os.environ)
    if is_there:
        _must_be_there(settings.store.url)

    async def do_it() -> T:
        async with _opened(settings.store.url, settings, exclusive=False) as database:
            return await work(database)

    return asyncio.run(do_it())


def _must_be_there(url: StoreUrl) -> None:
    """Raises StorageError where SQLite's file is not: whoever opens it makes it, and would find it empty."""
    try:
        if url.path is not None:
            url.path.stat()
    except OSError as error:
        hint = "mind [store] url, and that its disk is mounted"
        raise StorageError(f"cannot open {url.path}: {error.strerror}; {hint}") from error


@asynccontextmanager
async def _opened(url: StoreUrl, settings: Settings, *, exclusive: bool) -> AsyncIterator[Database]:
    database = open_database(url, settings, exclusive=exclusive)
    try:
        yield database
    finally:
        await database.close()
