"""What operators and admins did, one row each, written with the change itself: there is never one without.

Whoever changes something adds `recording(entry)` to the steps of that very write. Held here: the statements
of this table. Not held here: which actions there are (those who do them), who may read them
(`gateway.api.audit`).
"""

from __future__ import annotations

import secrets
from typing import Final, TypeAlias

import msgspec

from gateway.storage.db import Database, Row, Step, Value
from gateway.storage.rows import Page

Facts: TypeAlias = dict[str, str | int | float | bool | None]

KEPT_SECONDS: Final = 400 * 86_400.0  # at least: a year, and a month to look back over it
SWEPT_MAX: Final = 1_000  # at once
COMMAND_LINE: Final = "command line"  # the actor of what is done beside a running gateway

_NAMES: Final = "id, at, actor, key_id, role, action, object, before, after, request_id"
# S608 below: what is put into these texts are the constants of this file, never input.
AUDIT_ADD: Final = f"""insert into audit ({_NAMES})
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""  # noqa: S608
AUDIT_GET: Final = """select at, id from audit
    where id = $1 and (key_id = $2 or cast($2 as text) is null)"""
AUDIT_SWEEP: Final = f"""delete from audit where id in (
    select id from audit where at < $1 order by at limit {SWEPT_MAX})
    returning id"""  # noqa: S608

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Facts | None).decode


class Entry(msgspec.Struct, frozen=True):
    """One action. `at` in Unix seconds; `before` and `after` say what it changed, and never hold a secret.

    `actor` is as `gateway.api.auth.operator` says it, or COMMAND_LINE; `action` is `thing.done`, such as
    `provider.paused`; `object` is the id or name of what was acted on. `key_id` and `role` are the caller's.
    """

    at: float
    actor: str
    action: str
    object: str
    before: Facts | None
    after: Facts | None
    request_id: str | None
    key_id: str | None = None
    role: str | None = None


class Recorded(msgspec.Struct, frozen=True):
    """An entry as it is stored, with its id."""

    id: str
    entry: Entry


class AuditFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What a list may be narrowed by; `actor` is a whole actor or a key's id, times are inclusive.

    `key_id` bounds what its reader may see: only what was done with that key.
    """

    action: str | None = None
    actor: str | None = None
    object: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    key_id: str | None = None


_WHERE: Final = {
    "action": "action = {0}", "actor": "(actor = {0} or key_id = {0})", "object": "object = {0}",
    "created_after": "at >= {0}", "created_before": "at <= {0}", "key_id": "key_id = {0}",
}


def recording(entry: Entry) -> Step:
    """The step that records `entry`: part of the write of the change itself."""
    before, after = _encode(entry.before).decode(), _encode(entry.after).decode()
    return Step(AUDIT_ADD, (
        f"audit_{secrets.token_hex(16)}", entry.at, entry.actor, entry.key_id, entry.role, entry.action,
        entry.object, before, after, entry.request_id,
    ))


class Audit:
    """The record of all actions. It is read and grows; nothing in it is ever changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: Entry) -> None:
        """Record what changed nothing that is stored; what did so has `recording` in its own write."""
        await self._database.write((recording(entry),))

    async def position(self, entry_id: str, key_id: str | None) -> tuple[float, str] | None:
        """Where a page after this entry begins; None when there is none, or not of this key (None: any)."""
        if "\0" in entry_id:  # of which PostgreSQL cannot be asked
            return None
        rows = await self._database.read(AUDIT_GET, (entry_id, key_id))
        return (float(rows[0][0] or 0), str(rows[0][1])) if rows else None

    async def list(self, filters: AuditFilters, page: Page) -> list[Recorded]:
        """Entries by time, keyset-paged; at most `page.limit + 1`: one more tells of more."""
        args: list[Value] = []
        where = ["true"]
        for name, condition in _WHERE.items():
            value = getattr(filters, name)
            if value is not None:
                args.append(value)
                where.append(condition.format(f"${len(args)}"))
        sign, direction = ("<", "desc") if page.newest_first else (">", "asc")
        if page.after is not None:
            args += page.after
            where.append(f"(at, id) {sign} (${len(args) - 1}, ${len(args)})")
        args.append(page.limit + 1)
        sql = f"""select {_NAMES} from audit where {" and ".join(where)}
            order by at {direction}, id {direction} limit ${len(args)}"""  # noqa: S608
        return [_recorded(row) for row in await self._database.read(sql, args)]

    async def sweep(self, before: float) -> int:
        """Remove what was recorded before then, SWEPT_MAX at most, the oldest first; how many there were."""
        return len(await self._database.write((Step(AUDIT_SWEEP, (before,)),)))


def _recorded(row: Row) -> Recorded:
    entry_id, at, actor, key_id, role, action, named, before, after, request_id = (
        None if value is None else str(value) for value in row
    )
    entry = Entry(
        float(at or 0), actor or "", action or "", named or "", _decode(before or "null"),
        _decode(after or "null"), request_id, key_id, role,
    )
    return Recorded(entry_id or "", entry)
