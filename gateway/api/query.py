"""The list's query parameters: strict, because a misspelt filter that is ignored lists too much.

Not held here: the statements that they become (`gateway.storage.lists`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.errors import FieldError, Problem, invalid
from gateway.storage.rows import Filters

_LABEL: Final = re.compile(r"metadata\[(.{1,64})\]")
LABELS_MAX: Final = 16  # that a video can have
_UnixSeconds = Annotated[int, Meta(ge=0, le=2**53, description="Unix seconds, inclusive")]


class ListQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `GET /v1/videos` takes, beside `metadata[key]=value`, up to LABELS_MAX times."""

    limit: Annotated[int, Meta(ge=1, le=100, description="how many at most")] = 20
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


def read_list_query(items: Iterable[tuple[str, str]]) -> tuple[ListQuery, Filters]:
    """The parameters and the filters they make. Raises Problem: one is unknown, repeated or out of range."""
    plain: dict[str, str] = {}
    labels: dict[str, str] = {}
    for name, value in items:
        label = _LABEL.fullmatch(name)
        kept, key = (plain, name) if label is None else (labels, label.group(1))
        if key in kept:
            raise invalid(f"?{name}", f"{name} is given twice")
        if "\0" in name + value:
            raise invalid(f"?{name}", "Holds U+0000, which no database keeps in a text.")
        kept[key] = value
    if len(labels) > LABELS_MAX:
        raise invalid("?metadata", f"a video has at most {LABELS_MAX} labels")
    query = ListQuery()
    for name, value in plain.items():
        query = _with(query, name, value)
    filters = Filters(
        status=query.status, stage=query.stage, model=query.model, provider=query.provider, metadata=labels,
        created_after=None if query.created_after is None else float(query.created_after),
        created_before=None if query.created_before is None else query.created_before + 0.999999,
    )
    return query, filters


def _with(query: ListQuery, name: str, value: str) -> ListQuery:
    """`query` with one more parameter, read on its own so that an error names it."""
    known = ListQuery.__struct_fields__
    if name not in known:
        raise invalid(f"?{name}", f"{name} is no filter; known are {', '.join(known)} and metadata[key]")
    try:
        read = msgspec.convert({name: value}, ListQuery, strict=False)
    except msgspec.ValidationError as error:
        detail = str(error).partition(" - at ")[0]
        at_fault = (FieldError(f"?{name}", detail),)
        raise Problem("invalid_request", f"{name}: {detail}", errors=at_fault) from None
    return msgspec.structs.replace(query, **{name: getattr(read, name)})


def list_parameters() -> list[dict[str, Any]]:
    """The parameters as the OpenAPI document shows them, made from the Struct."""
    _, components = msgspec.json.schema_components((ListQuery,))
    fields: dict[str, dict[str, Any]] = components["ListQuery"]["properties"]
    shown: list[dict[str, Any]] = [
        {"name": name, "in": "query", "required": False, "schema": field} for name, field in fields.items()
    ]
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    metadata = {"name": "metadata", "in": "query", "required": False, "style": "deepObject", "schema": labels}
    return [*shown, metadata]
