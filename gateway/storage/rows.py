"""How rows become values and values rows.

Not held here: any statement (`store`), any rule of a task (`gateway.core.tasks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from sys import intern
from typing import Final

import msgspec

from gateway.core.facts import Candidate, File
from gateway.core.grants import EVERYTHING, Grant
from gateway.core.health import HoldAction
from gateway.core.states import Event, Task, ref_of, ref_text
from gateway.storage.db import Row, Value

# The columns of `videos`: the fields of Task, and the status that follows from its state, for lists.
_FIELDS: Final = Task.__struct_fields__
TASK_COLUMNS: Final = (*_FIELDS, "status")
_TEXTS: Final = ("candidates", "ruled_out", "file")
_INDEX: Final = {name: _FIELDS.index(name) for name in _TEXTS}
_REF: Final = _FIELDS.index("ref")
_JOB: Final = _FIELDS.index("vendor_task_id")
# Texts that many tasks have in common: of the tasks in memory each is kept once.
_SHARED: Final = tuple(_FIELDS.index(name) for name in (
    "owner", "model", "state", "stage", "replica", "provider", "offering", "raw_status", "charged",
    "charged_before", "cost_amount", "cost_currency", "key_id", "reserved_amount", "reserved_currency",
    "sent_amount", "sent_currency", "charged_now",
))
CANDIDATES_MAX: Final = 4_096  # lists of candidates that are kept decoded

_encode = msgspec.json.Encoder().encode
_decode_candidates = lru_cache(CANDIDATES_MAX)(msgspec.json.Decoder(tuple[Candidate, ...]).decode)
_decode_ref = msgspec.json.Decoder(dict[str, str]).decode
_decode_file = msgspec.json.Decoder(File).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
_decode_pins = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_events = msgspec.json.Decoder(tuple[Event, ...]).decode
_decode_detail = msgspec.json.Decoder(dict[str, str | int | float | None]).decode

_DECODED: Final[Mapping[str, Callable[[str], object]]] = {
    "candidates": _decode_candidates, "ruled_out": _decode_candidates, "file": _decode_file,
}


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's key. `digest` is the SHA-256 of the whole secret, `hint` its last four characters.

    `scopes` None: all that its role may. `overlap_until`: until when a secret before this one is taken, too.
    Times in Unix seconds.
    """

    id: str
    name: str
    role: str
    digest: str
    hint: str
    created_at: float
    expires_at: float | None = None
    last_used_at: float | None = None
    revoked_at: float | None = None
    scopes: tuple[str, ...] | None = None
    team: str | None = None
    grant: Grant = EVERYTHING
    overlap_until: float | None = None


class Idempotency(msgspec.Struct, frozen=True):
    """An idempotency key: whose request it belongs to (`fingerprint`), and which video it made."""

    name: str
    fingerprint: str
    video_id: str


class NewVideo(msgspec.Struct, frozen=True, kw_only=True):
    """A video to store. `request` is the normalized request (JSON), the `inputs` (data URIs) taken out.

    `pins` are the providers that the caller restricted the candidates to, in order; none: no restriction.
    `webhook_url` is the request's own place for webhooks, `webhook_origin` its scheme, host and port.
    """

    task: Task
    request: str
    metadata: dict[str, str]
    inputs: dict[str, str]
    events: tuple[Event, ...]
    pins: tuple[str, ...] = ()
    webhook_url: str | None = None
    webhook_origin: str | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """All that a caller asked for, so that it can be asked for again; the fields are those of NewVideo."""

    request: str
    inputs: dict[str, str]
    metadata: dict[str, str]
    pins: tuple[str, ...]
    webhook_url: str | None = None
    webhook_origin: str | None = None


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's order, kept over restarts: nothing new is sent to `provider`. `at` in Unix seconds."""

    provider: str
    action: HoldAction
    by: str
    at: float


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
    if (ref := ref_of(task)) is not None:  # as an earlier program reads it
        values[_REF] = _encode(ref).decode()
    return (*values, task.status)


def task_of(row: Row) -> Task:
    """The task of a row that begins with TASK_COLUMNS."""
    values: list[object] = list(row[: len(_FIELDS)])
    for name, index in _INDEX.items():
        text = values[index]
        if text is not None:
            values[index] = _DECODED[name](str(text))
    if values[_REF] is not None:
        job = values[_JOB]
        values[_REF] = ref_text(_decode_ref(str(values[_REF])), None if job is None else str(job))
    # The database holds what this file wrote: checking every field of every read would double its cost.
    return Task(*values)  # type: ignore[arg-type]


def followed_of(row: Row) -> Task:
    """As `task_of`, of a task that stays in memory: texts that many tasks have are there once."""
    values = list(row)
    for index in _SHARED:
        text = values[index]
        if isinstance(text, str):
            values[index] = intern(text)
    return task_of(tuple(values))


def asked_values(new: NewVideo) -> tuple[Value, ...]:
    """The row of a request: video_id, request, metadata, pins, webhook_url, webhook_origin."""
    metadata, pins = _encode(new.metadata).decode(), _encode(new.pins).decode()
    return (new.task.id, new.request, metadata, pins, new.webhook_url, new.webhook_origin)


def asked_of(row: Row, inputs: Sequence[Row]) -> Asked:
    """What was asked for, from the row that REQUEST_GET gives and the rows (field, value) of its inputs."""
    request, metadata, pins, webhook_url, webhook_origin = row
    return Asked(
        request=str(request), metadata=_decode_metadata(str(metadata)), pins=_decode_pins(str(pins)),
        inputs={str(field): str(value) for field, value in inputs},
        webhook_url=None if webhook_url is None else str(webhook_url),
        webhook_origin=None if webhook_origin is None else str(webhook_origin),
    )


def video_of(row: Row) -> Video:
    """The video of a row of TASK_COLUMNS, request and metadata."""
    return Video(task_of(row), str(row[-2]), _decode_metadata(str(row[-1])))


def hold_of(row: Row) -> Hold:
    """The hold of a row: provider, action, by whom, at."""
    return msgspec.convert(dict(zip(Hold.__struct_fields__, row, strict=True)), Hold)


def events_values(task: Task, events: Sequence[Event]) -> tuple[Value, ...]:
    """The row of the events of one save, one at least: the last one's fields, and the others as JSON."""
    *earlier, last = events
    return (
        task.id, last.seq, last.at, last.type, last.status, last.stage, last.provider, last.offering,
        _encode(last.detail).decode(), _encode(earlier).decode(), len(events), task.owner,
    )


def events_of(row: Sequence[Value]) -> list[Event]:
    """The events of a row: seq, at, type, status, stage, provider, offering, detail, earlier."""
    seq, at, kind, status, stage, provider, offering, detail, earlier = row
    last = msgspec.convert(
        {
            "seq": seq, "at": at, "type": kind, "status": status, "stage": stage, "provider": provider,
            "offering": offering, "detail": _decode_detail(str(detail)),
        },
        Event,
    )
    return [*_decode_events(str(earlier)), last]
