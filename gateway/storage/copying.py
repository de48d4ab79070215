"""A whole database copied into another: the move from SQLite to PostgreSQL and back, and backups.

Every table that outlives its processes goes along, row by row in the order of its key, so tasks in flight go
on where they were. A target is marked while it is incomplete, and nobody uses it then. Not held here: opening
databases, and making sure that nobody serves (`gateway.upkeep`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from gateway.storage.db import Database, Read, Step, StorageError, must_know
from gateway.storage.ledger import AMOUNTS, LEDGER_COLUMNS, SPENT_KEY, USAGE_KEY
from gateway.storage.rows import TASK_COLUMNS

Copied: TypeAlias = Callable[[str, int], None]


class Table(msgspec.Struct, frozen=True):
    """A table that is copied: its primary key, its other columns, and how many rows are held at once."""

    name: str
    key: tuple[str, ...]
    rest: tuple[str, ...]
    page: int = 500

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them, the key first."""
        return (*self.key, *self.rest)


# What speaks of living processes is left out. tests/storage compares this with the schema.
TABLES: Final = (
    Table("keys", ("id",), (
        "name", "role", "digest", "hint", "created_at", "revoked_at", "expires_at", "last_used_at", "scopes",
        "team", "providers", "models", "limits",
    )),
    Table("key_digests", ("digest",), ("key_id", "hint", "created_at", "expires_at")),
    Table("videos", ("id",), tuple(name for name in TASK_COLUMNS if name != "id")),
    Table("video_requests", ("video_id",), (
        "request", "metadata", "pins", "webhook_url", "webhook_origin",
    )),
    Table("video_inputs", ("video_id", "field"), ("value",), page=4),  # each up to 14 MB
    Table("video_labels", ("owner", "name", "value", "created_at", "video_id"), ()),
    Table("events", ("video_id", "seq"), (
        "at", "type", "status", "stage", "provider", "offering", "detail", "earlier", "count",
        "owner",
    )),
    Table("uploads", ("id",), (
        "owner", "filename", "purpose", "content_type", "bytes", "sha256", "created_at", "expires_at",
    )),
    Table("upload_contents", ("upload_id",), ("value",), page=4),
    Table("idempotency_keys", ("owner", "name"), ("fingerprint", "video_id", "created_at")),
    Table("webhook_endpoints", ("id",), (
        "owner", "url", "events", "secrets", "created_at", "disabled_at", "disabled_by",
    )),
    Table("webhook_messages", ("id",), (
        "event", "owner", "video_id", "endpoint", "target", "url", "type", "at", "task", "content", "state",
        "step", "tries", "next_at", "claim",
    )),
    Table("webhook_tries", ("message_id", "number"), ("video_id", "at", "status", "error", "ms")),
    Table("file_removals", ("key",), ("at", "is_begun")),
    Table("signing_keys", ("id",), ("secret", "created_at")),
    Table("provider_holds", ("provider",), ("action", "by_whom", "at")),
    Table("audit", ("id",), (
        "at", "actor", "key_id", "role", "action", "object", "before", "after", "request_id",
    )),
    Table("ledger", ("video_id", "version", "part"), tuple(
        name for name in LEDGER_COLUMNS if name not in ("video_id", "version", "part")
    )),
    Table("usage_days", USAGE_KEY, AMOUNTS),
    Table("spent_periods", SPENT_KEY, ("amount",)),
    Table("spending_stops", ("name",), ("by_whom", "at")),
    Table("render_times", ("provider", "offering", "duration", "audio", "bin"), ("count",)),
)
NOT_COPIED: Final = (
    "schema_version", "event_log", "replicas", "provider_gates", "provider_sendings", "chores",
    "allowances",
)


# A row of `chores` that no replica ever takes: there before the first row is, and gone after the last.
_MARK: Final = "copying"
_MARK_GET: Final = "select 1 from chores where name = $1"
_MARK_ADD: Final = Step("insert into chores (name, at) values ($1, 0)", (_MARK,))
FINISHED: Final = Step("delete from chores where name = $1", (_MARK,))


async def must_be_whole(read: Read, name: str = "this database") -> None:
    """Raises StorageError where a copy was begun and not finished: what it lacks would be bought again."""
    if await read(_MARK_GET, (_MARK,)):
        raise StorageError(f"a copy into {name} was not finished: empty it and copy again")


async def prepare(database: Database) -> None:
    """Bring the schema up to date, before its rows are used. Raises StorageError, also for half a copy."""
    await database.migrate()
    await must_be_whole(database.read)


async def copy(read: Read, target: Database, copied: Copied) -> None:
    """Copy everything that `read` sees into `target`, an empty database of this very schema.

    `copied` is told of each table's rows so far. Nobody may use `target` before FINISHED is written there.
    Raises StorageError, also for a target that is not empty.
    """
    for name, side in (("the source", read), ("the target", target.read)):
        await must_know(side)
        await must_be_whole(side, name)
    for table in TABLES:
        if await target.read(f"select 1 from {table.name} limit 1"):  # noqa: S608 (a name of the table above)
            raise StorageError(f"the database to copy to is not empty: it has rows in {table.name}")
    await target.write([_MARK_ADD])
    for table in TABLES:
        await _copy_table(read, target, table, copied)


async def _copy_table(read: Read, target: Database, table: Table, copied: Copied) -> None:
    names, holes = ", ".join(table.columns), _holes(len(table.columns))
    # S608: names of the table above, no input.
    insert = f"insert into {table.name} ({names}) values ({holes})"  # noqa: S608
    key = ", ".join(table.key)
    first = f"select {names} from {table.name} order by {key} limit {table.page}"  # noqa: S608
    after = f"""select {names} from {table.name} where ({key}) > ({_holes(len(table.key))})
        order by {key} limit {table.page}"""  # noqa: S608
    count, rows = 0, await read(first, ())
    while rows:
        await target.write([Step(insert, row) for row in rows])
        count += len(rows)
        copied(table.name, count)
        rows = await read(after, rows[-1][: len(table.key)])


def _holes(count: int) -> str:
    return ", ".join(f"${number}" for number in range(1, count + 1))
