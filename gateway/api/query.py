"""The query parameters of lists: strict, because a misspelt filter that is ignored lists too much.

Not held here: the statements that they become (`gateway.storage`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from gateway.errors import FieldError, Problem, invalid
from gateway.storage.audit import AuditFilters
from gateway.storage.rows import Filters

Query = TypeVar("Query", bound=msgspec.Struct)
_LABEL: Final = re.compile(r"metadata\[(.{1,64})\]")
LABELS_MAX: Final = 16  # that a video can have
_UnixSeconds = Annotated[int, Meta(ge=0, le=2**53, description="Unix seconds, inclusive")]
_Limit = Annotated[int, Meta(ge=1, le=100, description="how many at most")]


class ListQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `GET /v1/videos` takes, beside `metadata[key]=value`, up to LABELS_MAX times."""

    limit: _Limit = 20
    after: Annotated[str | None, Meta(description="begin after the video with this id")] = None
    order: Annotated[Literal["asc", "desc"], Meta(description="by creation; desc = newest first")] = "desc"
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"] | None = None
    stage: (
        Literal[
            "waiting", "submitting", "rendering", "submission_unknown", "storing", "stored", "lost", "linked"
        ]
        | None
    ) = None
    model: str | None = None
    provider: str | None = None
    created_after: _UnixSeconds | None = None
    created_before: _UnixSeconds | None = None


class AuditQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `GET /v1/audit` takes."""

    limit: _Limit = 20
    after: Annotated[str | None, Meta(description="begin after the entry with this id")] = None
    order: Annotated[Literal["asc", "desc"], Meta(description="by time; desc = newest first")] = "desc"
    action: Annotated[str | None, Meta(description="such as provider.paused")] = None
    actor: Annotated[str | None, Meta(description="who did it: a key's id, or a whole `actor`")] = None
    target: Annotated[str | None, Meta(description="the id or name of what was acted on")] = None
    created_after: _UnixSeconds | None = None
    created_before: _UnixSeconds | None = None


def read_list_query(items: Iterable[tuple[str, str]]) -> tuple[ListQuery, Filters]:
    """The parameters and the filters they make. Raises Problem: one is unknown, repeated or out of range."""
    plain: dict[str, str] = {}
    labels: dict[str, str] = {}
    for name, value in items:
        label = _LABEL.fullmatch(name)
        kept, key = (plain, name) if label is None else (labels, label.group(1))
        _keep(kept, key, name, value)
    if len(labels) > LABELS_MAX:
        raise invalid("?metadata", f"a video has at most {LABELS_MAX} labels")
    query = ListQuery()
    for name, value in plain.items():
        query = _with(query, name, value, " and metadata[key]")
    since, until = _times(query.created_after, query.created_before)
    filters = Filters(
        status=query.status, stage=query.stage, model=query.model, provider=query.provider, metadata=labels,
        created_after=since, created_before=until,
    )
    return query, filters


def read_audit_query(
    items: Iterable[tuple[str, str]], whose: str | None
) -> tuple[AuditQuery, AuditFilters]:
    """As `read_list_query`; `whose` is the key that all must have been done with, None: any."""
    plain: dict[str, str] = {}
    query = AuditQuery()
    for name, value in items:
        _keep(plain, name, name, value)
        query = _with(query, name, value)
    since, until = _times(query.created_after, query.created_before)
    filters = AuditFilters(
        action=query.action, actor=query.actor, object=query.target, key_id=whose,
        created_after=since, created_before=until,
    )
    return query, filters


def read_query(items: Iterable[tuple[str, str]], query: Query) -> Query:
    """`query` with these parameters in the place of its own. Raises Problem as `read_list_query`."""
    plain: dict[str, str] = {}
    for name, value in items:
        _keep(plain, name, name, value)
        query = _with(query, name, value)
    return query


def _keep(kept: dict[str, str], key: str, name: str, value: str) -> None:
    """Take a parameter. Raises Problem for one that comes again, or that no database could be asked of."""
    if key in kept:
        raise invalid(f"?{name}", f"{name} is given twice")
    if "\0" in name + value:
        raise invalid(f"?{name}", "Holds U+0000, which no database keeps in a text.")
    kept[key] = value


def _times(after: int | None, before: int | None) -> tuple[float | None, float | None]:
    """Whole seconds, both inclusive, as times of rows are compared with them."""
    return None if after is None else float(after), None if before is None else before + 0.999999


def _with(query: Query, name: str, value: str, also_known: str = "") -> Query:
    """`query` with one more parameter, read on its own so that an error names it."""
    known = query.__struct_fields__
    if name not in known:
        raise invalid(f"?{name}", f"{name} is no filter; known are {', '.join(known)}{also_known}")
    try:
        read = msgspec.convert({name: value}, type(query), strict=False)
    except msgspec.ValidationError as error:
        detail = str(error).partition(" - at ")[0]
        at_fault = (FieldError(f"?{name}", detail),)
        raise Problem("invalid_request", f"{name}: {detail}", errors=at_fault) from None
    return msgspec.structs.replace(query, **{name: getattr(read, name)})


def parameters_of(shape: type[msgspec.Struct]) -> list[dict[str, Any]]:
    """The parameters as the OpenAPI document shows them, made from the Struct."""
    _, components = msgspec.json.schema_components((shape,))
    fields: dict[str, dict[str, Any]] = components[shape.__name__]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": field} for name, field in fields.items()
    ]


def list_parameters() -> list[dict[str, Any]]:
    """Those of `GET /v1/videos`."""
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    metadata = {"name": "metadata", "in": "query", "required": False, "style": "deepObject", "schema": labels}
    return [*parameters_of(ListQuery), metadata]
