"""Query parameters: strict, because a misspelt filter that is ignored lists too much, or buys elsewhere.

Held here: the one check of names, for every route that needs a key, and the values of lists. A route has its
parameters in its signature, or names in its `opt`, as `query`, the Struct that it reads them by. Not held
here: the statements that they become (`gateway.storage`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter
from litestar.types import Scope
from msgspec import Meta

from gateway.errors import FieldError, Problem, invalid
from gateway.storage.audit import AuditFilters
from gateway.storage.rows import Filters

Query = TypeVar("Query", bound=msgspec.Struct)
_LABEL: Final = re.compile(r"metadata\[(.{1,64})\]")
_LABELS: Final = "metadata[key]"  # how all of those are shown
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


def known_names(route: BaseRouteHandler) -> tuple[str, ...]:
    """What the query of a request to that route may name; all `metadata[...]` as `metadata[key]`."""
    declared = [
        one.kwarg_definition.name or name for name, one in route.parsed_fn_signature.parameters.items()
        if isinstance(one.kwarg_definition, QueryParameter)
    ]
    shape: type[msgspec.Struct] | None = route.opt.get("query")
    if shape is not None:
        declared += shape.__struct_fields__
    return (*declared, _LABELS) if shape is ListQuery else tuple(declared)


def check_names(scope: Scope, route: BaseRouteHandler) -> None:
    """Raises Problem for a name in the query that the route does not know, or that comes twice."""
    if not scope["query_string"]:
        return
    known, given = known_names(route), set[str]()
    for name, _ in Request[Any, Any, Any](scope).query_params.multi_items():
        if (_LABELS if _LABEL.fullmatch(name) else name) not in known:
            which = f"known are {', '.join(known)}" if known else "none is known"
            raise invalid(f"?{name}", f"{name} is no query parameter here; {which}")
        if name in given:
            raise invalid(f"?{name}", f"{name} is given twice")
        given.add(name)


def read_list_query(items: Iterable[tuple[str, str]]) -> tuple[ListQuery, Filters]:
    """The parameters and the filters they make. Raises Problem: one is not storable, or out of range."""
    labels: dict[str, str] = {}
    query = ListQuery()
    for name, value in items:
        _check_storable(name, value)
        label = _LABEL.fullmatch(name)
        if label is None:
            query = _with(query, name, value)
        else:
            labels[label.group(1)] = value
    if len(labels) > LABELS_MAX:
        raise invalid("?metadata", f"a video has at most {LABELS_MAX} labels")
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
    query = read_query(items, AuditQuery())
    since, until = _times(query.created_after, query.created_before)
    filters = AuditFilters(
        action=query.action, actor=query.actor, object=query.target, key_id=whose,
        created_after=since, created_before=until,
    )
    return query, filters


def read_query(items: Iterable[tuple[str, str]], query: Query) -> Query:
    """`query` with these parameters in the place of its own. Raises Problem as `read_list_query`."""
    for name, value in items:
        _check_storable(name, value)
        query = _with(query, name, value)
    return query


def _check_storable(name: str, value: str) -> None:
    """Raises Problem for a parameter that no database could be asked of."""
    if "\0" in name + value:
        raise invalid(f"?{name}", "Holds U+0000, which no database keeps in a text.")


def _times(after: int | None, before: int | None) -> tuple[float | None, float | None]:
    """Whole seconds, both inclusive, as times of rows are compared with them."""
    return None if after is None else float(after), None if before is None else before + 0.999999


def _with(query: Query, name: str, value: str) -> Query:
    """`query` with one more parameter, read on its own so that an error names it."""
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
    shown: list[dict[str, Any]] = [
        {"name": name, "in": "query", "required": False, "schema": field} for name, field in fields.items()
    ]
    if shape is ListQuery:
        labels = {"type": "object", "additionalProperties": {"type": "string"}}
        shown.append(
            {"name": "metadata", "in": "query", "required": False, "style": "deepObject", "schema": labels}
        )
    return shown
