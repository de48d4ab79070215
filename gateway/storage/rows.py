"""How rows become values and values rows.

Not held here: any statement (`store`), any rule of a task (`gateway.core.tasks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.facts import Candidate
from gateway.core.states import Event, Task
from gateway.storage.db import Row, Value

# The columns of `videos`: the fields of Task, and the status that follows from its state, for lists.
_FIELDS: Final = Task.__struct_fields__
TASK_COLUMNS: Final = (*_FIELDS, "status")
_TEXTS: Final = ("candidates", "ruled_out", "ref")
_INDEX: Final = {name: _FIELDS.index(name) for name in _TEXTS}
_STATE: Final = _FIELDS.index("state")

_encode = msgspec.json.Encoder().encode
_decode_candidates = msgspec.json.Decoder(tuple[Candidate, ...]).decode
_decode_ref = msgspec.json.Decoder(dict[str, str]).decode
_decode_detail = msgspec.json.Decoder(dict[str, str | int | float | None]).decode


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's key: `digest` is the SHA-256 of the whole key, `hint` its last four characters."""

    id: str
    name: str
    role: str
    digest: str
    hint: str
    created_at: float


class Idempotency(msgspec.Struct, frozen=True):
    """An idempotency key: whose request it belongs to (`fingerprint`), and which video it made."""

    name: str
    fingerprint: str
    video_id: str


class NewVideo(msgspec.Struct, frozen=True, kw_only=True):
    """A video to store. `request` is the normalized request (JSON), the `inputs` (data URIs) taken out."""

    task: Task
    request: str
    metadata: dict[str, str]
    inputs: dict[str, str]
    events: tuple[Event, ...]


class Video(msgspec.Struct, frozen=True):
    """A stored video as callers see it: the task, its request (JSON) and its metadata."""

    task: Task
    request: str
    metadata: dict[str, str]


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What a list may be narrowed by; times in Unix seconds, inclusive."""

    status: str | None = None
    stage: str | None = None
    model: str | None = None
    provider: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    metadata: dict[str, str] = {}


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A keyset page: it begins after the row with this (created_at, id)."""

    limit: int
    newest_first: bool = True
    after: tuple[float, str] | None = None


def task_values(task: Task) -> tuple[Value, ...]:
    """The row of a task, in the order of TASK_COLUMNS."""
    values = list(msgspec.structs.astuple(task))
    for index in _INDEX.values():
        value = values[index]
        values[index] = None if value is None else _encode(value).decode()
    return (*values, task.status)


def task_of(row: Row) -> Task:
    """The task of a row of TASK_COLUMNS."""
    values: list[object] = list(row[:-1])
    for name, index in _INDEX.items():
        text = values[index]
        if text is not None:
            values[index] = _decode_ref(str(text)) if name == "ref" else _decode_candidates(str(text))
    # The database holds what this file wrote: checking every field of every read would double its cost.
    return Task(**dict(zip(_FIELDS, values, strict=True)))  # type: ignore[arg-type]


def event_values(video_id: str, event: Event) -> tuple[Value, ...]:
    """The row of an event, in the order of the table."""
    return (
        video_id, event.seq, event.at, event.type, event.status, event.stage, event.provider, event.offering,
        _encode(event.detail).decode(),
    )


def event_of(row: Sequence[Value]) -> Event:
    """The event of a row: seq, at, type, status, stage, provider, offering, detail."""
    seq, at, kind, status, stage, provider, offering, detail = row
    return msgspec.convert(
        {
            "seq": seq, "at": at, "type": kind, "status": status, "stage": stage, "provider": provider,
            "offering": offering, "detail": _decode_detail(str(detail)),
        },
        Event,
    )
