"""The parts of a traced gateway that are another kind of what there is without: its store, its telemetry.

Not held here: spans themselves (`spans`), what only goes around something (`around`).
"""

from __future__ import annotations

from collections.abc import Awaitable, MutableMapping, Sequence
from typing import TypeVar

from opentelemetry.trace import SpanKind

from gateway import logs
from gateway.core.states import Change, Event, Task
from gateway.reported import Followed, Happening
from gateway.storage.db import Bound, Database, Step
from gateway.storage.rows import Idempotency, NewVideo
from gateway.storage.store import Store
from gateway.telemetry import Telemetry
from gateway.tracing.spans import Attributes, Spans, active, at, exemplar, place_of

T = TypeVar("T")


def about(task: Task) -> dict[str, str | int | Sequence[str]]:
    """What every span of a video says of it."""
    facts: dict[str, str | int | Sequence[str]] = {
        "reelgate.video.id": task.id, "reelgate.model": task.model, "reelgate.attempt": task.attempts,
    }
    if task.provider is not None:
        facts["reelgate.provider"] = task.provider
    return facts


class TracedStore(Store):
    """The store; a commit of a video is a span, and so is the admission that it ends."""

    def __init__(self, database: Database, spans: Spans) -> None:
        super().__init__(database)
        self._spans = spans
        self._system = {"db.system.name": "postgresql" if database.is_shared else "sqlite"}

    async def video_add(
        self, new: NewVideo, key: Idempotency | None = None, also: Sequence[Step] = (),
        room: Bound | None = None,
    ) -> Idempotency | None:
        """As the store itself."""
        adding = super().video_add(new, key, also, room)
        held = await self._within("INSERT", new.task, new.events, adding)
        if held is None:
            self._admitted(new.task, new.events)
        return held

    async def task_save(
        self, change: Change, room: Bound | None = None, also: Sequence[Step] = ()
    ) -> Task:
        """As the store itself."""
        saving = super().task_save(change, room, also)
        after = await self._within("UPDATE", change.task, change.events, saving)
        self._admitted(after, change.events)
        return after

    async def _within(
        self, operation: str, task: Task, events: Sequence[Event], writing: Awaitable[T]
    ) -> T:
        parent = active() or place_of(task.traceparent)
        if parent is None:
            return await writing
        facts: Attributes = {
            **self._system, **about(task), "db.operation.name": operation, "db.collection.name": "videos",
            "reelgate.events": [event.type for event in events],
        }
        parent.work.tell()  # something changed, or was to
        with self._spans.open(f"{operation} videos", SpanKind.CLIENT, parent, facts):
            return await writing

    def _admitted(self, task: Task, events: Sequence[Event]) -> None:
        """Of the first sending: how long it waited. What is sent once more stood in line at other times."""
        parent = place_of(task.traceparent)
        is_first = task.attempts == 1 and any(event.type == "submitting" for event in events)
        if is_first and parent is not None and task.submitted_at is not None:
            self._spans.past("admission", parent, about(task), task.created_at, task.submitted_at)


def _with_trace(_: object, __: str, line: MutableMapping[str, object]) -> MutableMapping[str, object]:
    found = active()
    if found is not None:
        line["trace_id"] = found.trace_id
    return line


class TracedTelemetry(Telemetry):
    """The telemetry; what is measured and logged while something is traced says its trace."""

    def __init__(self) -> None:
        super().__init__({}, exemplar)

    def follow_configuration(self) -> None:
        """As the telemetry itself."""
        self.log = logs.logger(_with_trace)

    def task_changed(
        self, before: Followed | None, after: Followed, events: Sequence[Happening]
    ) -> None:
        """As the telemetry itself. Whoever commits for many tells of each, so each brings its own place."""
        with at(place_of(after.traceparent)):
            super().task_changed(before, after, events)
