"""Callers' keys over HTTP: make, list, rotate, revoke. Each change is recorded with who made it.

Not held here: what a key may be and how it is shown (`key_shapes`), rows (`gateway.storage.keys`), what a key
is let through to (`auth`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import Request, delete, get, post
from litestar.params import FromPath
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from gateway.api.audit import entry_of
from gateway.api.gateway import caller_of, gateway_of
from gateway.api.key_shapes import (
    KeyBody,
    KeyObject,
    NewKeyObject,
    TurnBody,
    beyond,
    check_body,
    facts,
    key_of,
    shown,
    turned,
    with_secret,
)
from gateway.api.problems import responses
from gateway.api.query import read_query
from gateway.api.reading import read_struct
from gateway.errors import Problem, invalid
from gateway.storage.audit import recording
from gateway.storage.rows import KeyRow, Page


class KeyQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """What `GET /v1/keys` takes."""

    limit: Annotated[int, Meta(ge=1, le=100, description="how many at most")] = 20
    after: Annotated[str | None, Meta(description="begin after the key with this id")] = None
    order: Annotated[Literal["asc", "desc"], Meta(description="by creation; desc = newest first")] = "desc"


class KeyList(Struct, frozen=True, kw_only=True):
    """One page, revoked keys among them; both ids are null when it is empty."""

    object: Literal["list"] = "list"
    data: list[KeyObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@post(
    "/v1/keys", status_code=201, opt={"role": "admin", "scope": "keys"}, responses=responses(413),
    summary="Make a key", tags=["keys"],
)
async def create_key(request: Request[Any, Any, Any]) -> NewKeyObject:
    """A new key; its secret is shown this once. A key that is bounded itself gives none that is less so."""
    gateway = gateway_of(request)
    body = read_struct(await request.body(), KeyBody)
    check_body(body, gateway.fleet.settings)
    row, secret = key_of(body, gateway.now())
    await _check_gives(request, row)
    entry = entry_of(request, "key.created", row.id, None, facts(row))
    await gateway.store.keys.add(row, (recording(entry),))
    return with_secret(row, secret)


@get(
    "/v1/keys", opt={"role": "admin", "scope": "keys", "query": KeyQuery}, responses=responses(),
    summary="List keys", tags=["keys"],
)
async def list_keys(request: Request[Any, Any, Any]) -> KeyList:
    """All keys, newest first, by keyset; also those that are revoked or expired. Never a secret."""
    gateway = gateway_of(request)
    query, now = read_query(request.query_params.multi_items(), KeyQuery()), gateway.now()
    position = None
    if query.after is not None:
        last = await gateway.store.keys.get(query.after, now)
        if last is None:
            raise invalid("?after", "after is not the id of a key")
        position = (last.created_at, last.id)
    page = Page(limit=query.limit, newest_first=query.order == "desc", after=position)
    found = await gateway.store.keys.list(page, now)
    data = [shown(row) for row in found[: query.limit]]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return KeyList(data=data, first_id=first_id, last_id=last_id, has_more=len(found) > query.limit)


@get(
    "/v1/keys/{key_id:str}", opt={"role": "admin", "scope": "keys"}, responses=responses(404),
    summary="Get a key", tags=["keys"],
)
async def get_key(request: Request[Any, Any, Any], key_id: FromPath[str]) -> KeyObject:
    """The key, without its secret."""
    return shown(await _key(request, key_id))


@delete(
    "/v1/keys/{key_id:str}", status_code=200, opt={"role": "admin", "scope": "keys"},
    responses=responses(404), summary="Revoke a key", tags=["keys"],
)
async def revoke_key(request: Request[Any, Any, Any], key_id: FromPath[str]) -> KeyObject:
    """End a key within 5 seconds on every replica, its open streams too. What it owns stays as it is."""
    gateway = gateway_of(request)
    row, now = await _key(request, key_id), gateway.now()
    entry = entry_of(request, "key.revoked", row.id, facts(row), facts(replace(row, revoked_at=now)))
    if row.revoked_at is None and await gateway.store.keys.revoke(row.id, now, (recording(entry),)):
        gateway.door.changed(row.id)
    return shown(await _key(request, key_id))


@post(
    "/v1/keys/{key_id:str}/rotate", status_code=200, opt={"role": "admin", "scope": "keys"},
    responses=responses(404, 410, 413), summary="Give a key a new secret", tags=["keys"],
)
async def rotate_key(request: Request[Any, Any, Any], key_id: FromPath[str]) -> NewKeyObject:
    """A new secret, shown this once, for the same key: what it owns stays its own.

    For `overlap` seconds the old one is taken as well.
    """
    gateway = gateway_of(request)
    body = read_struct(await request.body() or b"{}", TurnBody)
    row, now = await _key(request, key_id), gateway.now()
    await _check_gives(request, row)
    fresh, secret = turned(row, now)
    entry = entry_of(request, "key.rotated", row.id, {"hint": row.hint}, {"hint": fresh.hint} | asdict(body))
    if not await gateway.store.keys.rotate(fresh, now, float(body.overlap), (recording(entry),)):
        raise Problem("expired", "This key is revoked or expired; make another one.")
    gateway.door.changed(row.id)
    return with_secret(await _key(request, key_id), secret)


async def _key(request: Request[Any, Any, Any], key_id: str) -> KeyRow:
    gateway = gateway_of(request)
    row = await gateway.store.keys.get(key_id, gateway.now())
    if row is None:
        raise Problem("not_found", f"There is no key {key_id[:80]!r}.")
    return row


async def _check_gives(request: Request[Any, Any, Any], row: KeyRow) -> None:
    """Raises Problem permission_denied where a bounded key would come by more through this one."""
    gateway = gateway_of(request)
    own = await gateway.store.keys.get(caller_of(request).id, gateway.now())
    more = [] if own is None else beyond(own, row)  # the one caller of a gateway without keys has none
    if more:
        detail = f"A bounded key gives a secret to none that is less so. This one is by: {', '.join(more)}."
        raise Problem("permission_denied", detail)
