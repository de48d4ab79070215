"""Callers' keys and the secrets they are known by: two for a while, when one takes the other's place.

Held here: the statements of these tables. Not held here: what a key is and may (`gateway.core.keys`), who
remembers one (`gateway.api.auth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from gateway.core.grants import Grant, Limits
from gateway.storage import news
from gateway.storage.db import Database, GuardFailed, Row, Step, Value
from gateway.storage.rows import KeyRow, Page

Names: TypeAlias = tuple[str, ...]

GOOD_MAX: Final = 100  # secrets that one statement looks for

_NAMES: Final = """k.id, k.name, k.role, k.created_at, k.expires_at, k.last_used_at, k.revoked_at, k.scopes,
    k.team, k.providers, k.models, k.limits"""
_OVERLAP: Final = "(select max(d.expires_at) from key_digests d where d.key_id = k.id and d.expires_at > $1)"
# S608 below: what is put into these texts are the constants of this file, never input.
_LIVING: Final = "k.revoked_at is null and (k.expires_at is null or k.expires_at > $1)"
_OF_DIGEST: Final = f"""from key_digests d join keys k on k.id = d.key_id
    where {_LIVING} and (d.expires_at is null or d.expires_at > $1) and d.digest"""
# What is known by the digest of `keys` alone was made by the version before, beside this one.
_OF_BEFORE: Final = f"""from keys k
    where {_LIVING} and not exists (select 1 from key_digests d where d.key_id = k.id)
    and k.digest"""  # noqa: S608
_HOLES: Final = ", ".join(f"${number}" for number in range(2, GOOD_MAX + 2))
KEY_ADD: Final = """insert into keys
    (id, name, role, digest, hint, created_at, expires_at, scopes, team, providers, models, limits)
    values ($1, $2, $3, $1, $4, $5, $6, $7, $8, $9, $10, $11)"""
DIGEST_ADD: Final = """insert into key_digests (digest, key_id, hint, created_at)
    values ($1, $2, $3, $4)"""
KEY_FIND: Final = f"""select d.digest, d.hint, null, {_NAMES} {_OF_DIGEST} = $2
    union all select k.digest, k.hint, null, {_NAMES} {_OF_BEFORE} = $2"""
GOOD: Final = f"""select d.digest {_OF_DIGEST} in ({_HOLES})
    union all select k.digest {_OF_BEFORE} in ({_HOLES})"""
KEY_GET: Final = f"select '', k.hint, {_OVERLAP}, {_NAMES} from keys k where k.id = $2"  # noqa: S608
PAGE: Final = f"""select '', k.hint, {_OVERLAP}, {_NAMES} from keys k
    order by k.created_at {{0}}, k.id {{0}} limit $2"""  # noqa: S608
PAGE_AFTER: Final = f"""select '', k.hint, {_OVERLAP}, {_NAMES} from keys k
    where (k.created_at, k.id) {{1}} ($3, $4)
    order by k.created_at {{0}}, k.id {{0}} limit $2"""  # noqa: S608
REVOKE: Final = "update keys set revoked_at = $2 where id = $1 and revoked_at is null"
USED: Final = "update keys set last_used_at = $2 where id = $1 and coalesce(last_used_at, 0) < $2"
# A rotation, in order: the secret of a key that the version before made, the new one, the end of the others.
ADOPT: Final = """insert into key_digests (digest, key_id, hint, created_at)
    select digest, id, hint, created_at from keys
    where id = $1 and digest <> id and not exists (select 1 from key_digests where key_id = $1)"""
TURN: Final = """update keys set digest = id, hint = $2
    where id = $1 and revoked_at is null and (expires_at is null or expires_at > $3)"""
FORGET: Final = "delete from key_digests where key_id = $1 and expires_at <= $2"
END_OTHERS: Final = """update key_digests set expires_at = $2
    where key_id = $1 and (expires_at is null or expires_at > $2)"""

_encode: Final = msgspec.json.Encoder().encode
_decode_names: Final = msgspec.json.Decoder(Names).decode
_decode_limits: Final = msgspec.json.Decoder(Limits).decode


class Keys:
    """All keys. `also` are steps of the same write, such as the record of who did it.

    Raises `StorageError` of `gateway.storage.db` throughout.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: KeyRow, also: Sequence[Step] = ()) -> None:
        """Store a new key, by its digest. Raises Duplicate."""
        grant = key.grant
        values = (
            key.id, key.name, key.role, key.hint, key.created_at, key.expires_at, _texts(key.scopes),
            key.team, _texts(grant.providers), _texts(grant.models), _encode(grant.limits).decode(),
        )
        digest = (key.digest, key.id, key.hint, key.created_at)
        await self._database.write((Step(KEY_ADD, values), Step(DIGEST_ADD, digest), *also))

    async def find(self, digest: str, now: float) -> KeyRow | None:
        """The key with this digest; none is as one that is expired or revoked."""
        rows = await self._database.read(KEY_FIND, (now, digest))
        return _key_of(rows[0]) if rows else None

    async def good(self, digests: Sequence[str], now: float) -> set[str]:
        """Which of these, at most GOOD_MAX, a caller may come with."""
        padded = (*digests, *[""] * (GOOD_MAX - len(digests)))
        return {str(digest) for (digest,) in await self._database.read(GOOD, (now, *padded))}

    async def get(self, key_id: str, now: float) -> KeyRow | None:
        """The key, without its digest, also one that is expired or revoked."""
        if "\0" in key_id:  # of which PostgreSQL cannot be asked
            return None
        rows = await self._database.read(KEY_GET, (now, key_id))
        return _key_of(rows[0]) if rows else None

    async def list(self, page: Page, now: float) -> list[KeyRow]:
        """Keys by creation, as `get`; at most `page.limit + 1`: one more tells of more."""
        order, sign = ("desc", "<") if page.newest_first else ("asc", ">")
        sql = (PAGE if page.after is None else PAGE_AFTER).format(order, sign)
        rows = await self._database.read(sql, (now, page.limit + 1, *(page.after or ())))
        return [_key_of(row) for row in rows]

    async def rotate(self, fresh: KeyRow, now: float, overlap: float, also: Sequence[Step] = ()) -> bool:
        """Give a key the secret that `fresh` has; the others are taken for `overlap` seconds more.

        False when there is no such key, or it is expired or revoked.
        """
        try:
            await self._database.write((
                Step(ADOPT, (fresh.id,)),
                Step(TURN, (fresh.id, fresh.hint, now), GuardFailed),
                Step(END_OTHERS, (fresh.id, now + overlap)),
                Step(FORGET, (fresh.id, now)),
                Step(DIGEST_ADD, (fresh.digest, fresh.id, fresh.hint, now)), *also,
            ), tell=news.of_key(fresh.id))
        except GuardFailed:
            return False
        return True

    async def revoke(self, key_id: str, now: float, also: Sequence[Step] = ()) -> bool:
        """End a key; False when there is none, or it was revoked before."""
        revoke = Step(REVOKE, (key_id, now), GuardFailed)
        try:
            await self._database.write((revoke, *also), tell=news.of_key(key_id))
        except GuardFailed:
            return False
        return True

    async def used(self, uses: Sequence[tuple[str, float]]) -> None:
        """Write down when keys, by their ids, were used last."""
        if uses:
            await self._database.write([Step(USED, (key_id, at)) for key_id, at in uses])


def _texts(names: Sequence[str] | None) -> str | None:
    return None if names is None else _encode(names).decode()


def _names_of(text: Value) -> Names | None:
    return None if text is None else _decode_names(str(text))


def _time_of(value: Value) -> float | None:
    return None if value is None else float(value)


def _key_of(row: Row) -> KeyRow:
    digest, hint, overlap, key_id, name, role, created_at, expires_at, used_at, revoked_at, *grant = row
    scopes, team, providers, models, limits = grant
    return KeyRow(
        id=str(key_id), name=str(name), role=str(role), digest=str(digest), hint=str(hint),
        created_at=float(created_at or 0), expires_at=_time_of(expires_at), last_used_at=_time_of(used_at),
        revoked_at=_time_of(revoked_at), scopes=_names_of(scopes), team=None if team is None else str(team),
        grant=Grant(
            providers=_names_of(providers), models=_names_of(models), limits=_decode_limits(str(limits))
        ),
        overlap_until=_time_of(overlap),
    )
