"""What operators and admins did, as they list it; and what a route that does such a thing writes down of it.

An admin sees every action, an operator its own. Not held here: the rows (`gateway.storage.audit`), which
actions there are (the routes that do them).
"""

from __future__ import annotations

from typing import Any, Literal

from litestar import Request, get
from msgspec import Struct

from gateway.api.auth import MAY, operator
from gateway.api.gateway import caller_of, gateway_of, request_id_of
from gateway.api.problems import responses
from gateway.api.query import AuditQuery, read_audit_query
from gateway.errors import invalid
from gateway.storage.audit import Entry, Facts, Recorded
from gateway.storage.rows import Page


class AuditEntry(Struct, frozen=True, kw_only=True):
    """An action: who did what to `target`, what that was `before` and is `after`, in which request.

    `key` and `role` are null of what was done on the command line.
    """

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    created_at: int
    actor: str
    key: str | None
    role: str | None
    action: str
    target: str
    before: Facts | None
    after: Facts | None
    request_id: str | None


class AuditList(Struct, frozen=True, kw_only=True):
    """One page; both ids are null when it is empty."""

    object: Literal["list"] = "list"
    data: list[AuditEntry]
    first_id: str | None
    last_id: str | None
    has_more: bool


def entry_of(
    request: Request[Any, Any, Any], action: str, target: str, before: Facts | None, after: Facts | None
) -> Entry:
    """What is recorded of an action that this request asks for: by its caller, now."""
    caller = caller_of(request)
    return Entry(
        gateway_of(request).now(), operator(caller), action, target, before, after,
        request_id_of(request.scope), caller.id, caller.role,
    )


@get(
    "/v1/audit", opt={"role": "operator", "scope": "audit", "query": AuditQuery}, responses=responses(),
    summary="What operators and admins did", tags=["operations"],
)
async def list_audit(request: Request[Any, Any, Any]) -> AuditList:
    """Every order, decision and change of keys, by time. An admin sees all of them, an operator its own."""
    audit, caller = gateway_of(request).store.audit, caller_of(request)
    whose = None if "admin" in MAY[caller.role] else caller.id
    query, filters = read_audit_query(request.query_params.multi_items(), whose)
    position = None
    if query.after is not None:
        position = await audit.position(query.after, whose)
        if position is None:
            raise invalid("?after", "after is not the id of an entry that you may see")
    page = Page(limit=query.limit, newest_first=query.order == "desc", after=position)
    found = await audit.list(filters, page)
    data = [_shown(recorded) for recorded in found[:query.limit]]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return AuditList(data=data, first_id=first_id, last_id=last_id, has_more=len(found) > query.limit)


def _shown(recorded: Recorded) -> AuditEntry:
    entry = recorded.entry
    return AuditEntry(
        id=recorded.id, created_at=int(entry.at), actor=entry.actor, key=entry.key_id, role=entry.role,
        action=entry.action, target=entry.object, before=entry.before, after=entry.after,
        request_id=entry.request_id,
    )
