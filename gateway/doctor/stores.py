"""The database, asked and not changed: whether it can be reached and trusted, its schema, and the keys in it.

Not held here: broken rows and rules (`reelgate db check`), the file that SQLite uses (`places`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

from gateway.assembly import open_database
from gateway.doctor.aside import aside
from gateway.doctor.case import Case
from gateway.doctor.machine import (
    SHARED_FILESYSTEMS,
    Machine,
    is_seen,
    may_write,
    may_write_in,
    nearest,
)
from gateway.doctor.rules import Finding
from gateway.settings import Settings
from gateway.storage.db import (
    RUNS_FROM_GET,
    VERSION_GET,
    Database,
    SchemaTooNew,
    StorageError,
    migrations,
    pending,
)
from gateway.storage.files import MARKER, is_there
from gateway.storage.postgres_health import FACTS, Facts, facts_of
from gateway.storage.rows import KeyRow, Page
from gateway.storage.store import Store
from gateway.storage.unfinished import homes

CONNECTIONS: Final = 11  # of one replica: eight that read, one that writes, one that listens; one of a backup
_SKEW_SECONDS: Final = 30.0
_SOON_SECONDS: Final = 7 * 86_400.0
_KEYS_AT_ONCE: Final = 500
_MANAGES: Final = frozenset({"operator", "admin"})
_NO_TABLE: Final = ("no such table", "no such column", "UndefinedTable", "UndefinedColumn")
# What a driver says when it cannot open or connect, in the first of these rows that is in it.
_OPENING: Final = (
    ("not a database", "store-not-a-database"), ("malformed", "store-not-a-database"),
    ("cannot open", "store-unusable"), ("28P01", "database-refuses-login"),
    ("28000", "database-refuses-login"), ("3D000", "database-missing"), ("53300", "database-full"),
    ("with encoding", "database-unfit"), ("[store] url cannot be", "store-url-malformed"),
    ("TargetServerAttribute", "database-read-only"), ("25006", "database-read-only"),
)


async def store(case: Case) -> list[Finding]:
    """All about the database."""
    settings = case.settings
    path = settings.store.url.path
    if path is not None and (trouble := _folder_trouble(path)) is not None:
        return [Finding("store-unusable", "store.url", trouble)]
    if path is not None and not is_seen(path):
        return list(_of_keys([], settings, case.machine.now()))
    try:
        database = open_database(settings.store.url, settings, exclusive=False)
    except StorageError as error:
        return [_unopened(error)]
    try:
        return [finding async for finding in _asked(database, case)]
    except StorageError as error:
        return [_unopened(error)]
    finally:
        await database.close()


def _folder_trouble(path: Path) -> str | None:
    """Why no file can be made at `path` or beside it, or locked, by looking: one of ours would stay there."""
    above = nearest(path.parent)
    if not above.is_dir():
        return f"{above} is no folder"
    if not may_write_in(above):
        return f"this user may not write in {above}"
    lock = Path(f"{path}-lock")  # which `serve` takes, and nothing else
    return f"this user may not write {lock}" if is_seen(lock) and not may_write(lock) else None


def _unopened(error: StorageError) -> Finding:
    text = str(error)
    rule = next((rule for word, rule in _OPENING if word in text), "database-unreachable")
    return Finding(rule, "store.url", text)


async def _asked(database: Database, case: Case) -> AsyncIterator[Finding]:
    if database.is_shared:
        for finding in _of_server(facts_of(await database.read(FACTS)), case):
            yield finding
    known = migrations()
    version = await _number(database, VERSION_GET)
    if version is None:  # nothing was ever stored here
        for finding in _of_keys([], case.settings, case.machine.now()):
            yield finding
        return
    newest = (await _number(database, RUNS_FROM_GET, len(known)) or 0) if version > len(known) else 0
    try:
        todo = pending(version, newest, known)
    except SchemaTooNew as error:
        yield Finding("schema-newer", "store.url", str(error))
        return
    if todo:
        yield Finding("schema-behind", "store.url", f"{len(todo)} migrations have not run")
        return
    state, now = Store(database), case.machine.now()
    for finding in _of_keys(await _all(state, now), case.settings, now):
        yield finding
    for finding in _of_homes(await homes(database), case.settings):
        yield finding
    folder = case.settings.files.url.path
    for finding in [] if folder is None else await _of_folder(folder, state, case.machine):
        yield finding
    stopped = await state.stop.get()
    if stopped is not None:
        yield Finding("spending-stopped", "spending", f"{stopped.by} stopped it")


async def _of_folder(folder: Path, state: Store, machine: Machine) -> list[Finding]:
    """What is wrong with a folder of files, by what the database knows of them, and of replicas."""
    found = []
    if await state.files.has_any() and not await aside(is_there, folder):
        found.append(Finding("files-away", "files.url", f"{folder} has no {MARKER}, and videos are stored"))
    if state.is_shared and machine.filesystem(folder) not in SHARED_FILESYSTEMS:
        hosts = {replica.place.partition(" ")[0] for replica in await state.replicas.living()}
        if len(hosts) > 1:
            told = f"{folder} is on one machine, replicas on {', '.join(sorted(hosts))}"
            found.append(Finding("files-not-shared", "files.url", told))
    return found


async def _number(database: Database, sql: str, *args: int) -> int | None:
    """The number that one statement finds; None: there are no tables."""
    try:
        rows = await database.read(sql, args)
    except StorageError as error:
        if any(word in str(error) for word in _NO_TABLE):
            return None
        raise
    return None if rows[0][0] is None else int(rows[0][0])


async def _all(state: Store, now: float) -> list[KeyRow]:
    found: list[KeyRow] = []
    while True:
        after = (found[-1].created_at, found[-1].id) if found else None
        page = await state.keys.list(Page(limit=_KEYS_AT_ONCE, after=after), now)
        found += page[:_KEYS_AT_ONCE]
        if len(page) <= _KEYS_AT_ONCE:
            return found


def _of_server(facts: Facts, case: Case) -> Iterator[Finding]:
    """What is wrong with a server of PostgreSQL, its database or its user."""
    where = "store.url"
    skew = facts.at - case.machine.now()
    if facts.is_read_only:
        yield Finding("database-read-only", where, "default_transaction_read_only is on")
    if not facts.may_create:
        yield Finding("database-forbids-schema", where, f"the user {facts.user} may not")
    for name, value in (("fsync", facts.fsync), ("synchronous_commit", facts.synchronous_commit)):
        if value == "off":
            yield Finding("database-not-durable", where, f"{name} is off")
    if facts.connections < CONNECTIONS:
        yield Finding("database-few-connections", where, f"{facts.connections} are left for {facts.user}")
    if facts.statement_timeout_ms:
        found = f"is {facts.statement_timeout_ms} ms for {facts.user}"
        yield Finding("database-statement-timeout", where, found)
    if abs(skew) > _SKEW_SECONDS:
        yield Finding("clock-wrong", where, f"the database's clock is {skew:+.0f} s from this machine's")


def _of_homes(found: Sequence[tuple[tuple[str, ...], int]], settings: Settings) -> Iterator[Finding]:
    """Whose videos nobody follows, or can send."""
    missing: Counter[str] = Counter()
    for names, count in found:
        if names and settings.providers.keys().isdisjoint(names):
            missing[names[0]] += count
    for name, count in missing.items():
        yield Finding("provider-gone", f"providers.{name}", f"is not there; unfinished videos: {count}")


def _of_keys(keys: Sequence[KeyRow], settings: Settings, now: float) -> Iterator[Finding]:
    """Who can call, who can manage, and whose key is of no use."""
    if settings.auth.mode == "off":
        return
    good = [
        key for key in keys if key.revoked_at is None and (key.expires_at is None or key.expires_at > now)
    ]
    if not good:
        yield Finding("no-key", "keys", f"{len(keys)} were made, none is good" if keys else "none was made")
    elif not any(key.role in _MANAGES for key in good):
        yield Finding("no-admin-key", "keys", "none has the role operator or admin")
    models = {offering.model for entry in settings.providers.values() for offering in entry.offerings}
    for key in good:
        where = f"keys.{key.id}"
        left = None if key.expires_at is None else key.expires_at - now
        if left is not None and left < _SOON_SECONDS:
            yield Finding("key-ends-soon", where, f"{key.name} ends in {left / 86_400:.1f} d")
        if key.team is not None and key.team not in settings.teams:
            yield Finding("key-of-unknown-team", where, f"{key.name} is of team {key.team}")
        for allowed, there in ((key.grant.providers, settings.providers), (key.grant.models, models)):
            if allowed and not set(allowed) & set(there):
                yield Finding("key-for-nothing", where, f"{key.name} is for {', '.join(allowed)}")
