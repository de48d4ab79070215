"""What is reported of a video: the parts of a task, an event and a webhook that a line or a count may use.

Named fields of plain values: never a key, a prompt, a header or a link. Not held here: the lines and the
metrics themselves (`gateway.telemetry`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

UNLOGGED: Final = frozenset({"next_poll", "candidate_refused"})  # on the timeline, but no change of state
WARNINGS: Final = frozenset({
    "submission_unknown", "rejected", "not_sent", "failed", "status_unrecognised", "resubmit_allowed",
    "rerun_allowed", "abandoned", "lost", "other_job",
})
BOUGHT: Final = frozenset({"accepted_by_vendor", "adopted", "accepted_after_end"})
_UNTAKEN: Final = frozenset({"not_sent", "rejected", "submission_unknown"})  # what became of a paid call


class Followed(Protocol):
    """What is reported of a task; `gateway.core.states.Task` has it. Times in Unix seconds."""

    @property
    def id(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def is_terminal(self) -> bool: ...
    @property
    def is_in_flight(self) -> bool: ...
    @property
    def provider(self) -> str | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def created_at(self) -> float: ...
    @property
    def submitted_at(self) -> float | None: ...
    @property
    def completed_at(self) -> float | None: ...
    @property
    def charged(self) -> str: ...
    @property
    def cost_amount(self) -> str | None: ...
    @property
    def cost_currency(self) -> str | None: ...
    @property
    def cost_before(self) -> str | None: ...
    @property
    def traceparent(self) -> str | None: ...


class Happening(Protocol):
    """What is reported of an event; `gateway.core.states.Event` has it."""

    @property
    def type(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def stage(self) -> str | None: ...
    @property
    def provider(self) -> str | None: ...
    @property
    def offering(self) -> str | None: ...
    @property
    def detail(self) -> Mapping[str, str | int | float | None]: ...


class Delivered(Protocol):
    """What is reported of a webhook; `gateway.storage.webhooks.Message` has it. `endpoint` may be ''."""

    @property
    def id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def owner(self) -> str: ...


def fields(task: Followed, event: Happening) -> dict[str, str | int | float]:
    """What a line says of an event, as far as it has it."""
    found = {
        "video_id": task.id, "owner": task.owner if event.type == "accepted" else None,
        "status": event.status, "stage": event.stage, "provider": event.provider,
        "offering": event.offering, "attempt": task.attempts or None,
        "cause": event.detail.get("kind") or event.detail.get("code"), **_said(event),
    }
    return {name: value for name, value in found.items() if value is not None}


def _said(event: Happening) -> dict[str, str | int | float | None]:
    """What more an event's line says. The message of an answer may quote what was sent: only ours is said."""
    detail = event.detail
    if event.type == "status_unrecognised":
        return {"raw_status": detail.get("raw_status")}
    if event.type not in _UNTAKEN:
        return {}
    status = detail.get("http_status")
    return {"http_status": status, "message": detail.get("message") if status is None else None}


def holder(task: Followed | None) -> str | None:
    """The provider that has, or may have, a job of the task."""
    return None if task is None or not task.is_in_flight else task.provider


def doubter(task: Followed | None) -> str | None:
    """The provider that may have a job of the task, which nobody knows."""
    return None if task is None or task.state != "submission_unknown" else task.provider
