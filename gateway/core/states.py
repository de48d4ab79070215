"""A task as plain values: its states, its hot row, the events of its timeline, and a change of it.

What changes it is in `gateway.core.tasks`; what can happen to it in `gateway.core.facts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sys import intern
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from gateway.core.facts import Candidate, File
from providers.spec import Charged, Ref

Detail: TypeAlias = dict[str, str | int | float | None]
Status: TypeAlias = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
State: TypeAlias = Literal[
    "waiting", "submitting", "rendering", "submission_unknown", "completed", "failed", "cancelled"
]

STATUS_OF: Final[Mapping[State, Status]] = {
    "waiting": "queued", "submitting": "queued",
    "rendering": "in_progress", "submission_unknown": "in_progress",
    "completed": "completed", "failed": "failed", "cancelled": "cancelled",
}
TERMINAL: Final[frozenset[State]] = frozenset({"completed", "failed", "cancelled"})
# A task in one of these has, or may have, a job at a vendor: it fills a place there.
IN_FLIGHT: Final[frozenset[State]] = frozenset({"submitting", "rendering", "submission_unknown"})

_encode = msgspec.json.Encoder().encode
_decode_ref = msgspec.json.Decoder(dict[str, str | None]).decode

UNOWNED: Final = ""  # the replica of a task that nobody follows yet


class Task(msgspec.Struct, frozen=True, gc=False):
    """The hot row of one video: all that the engine needs, nothing of the prompt. Times in Unix seconds.

    `version` counts and fences saves; `replica` is the process that owns the task; `last_seq` numbers events;
    `duration` (seconds) and `audio` are those of the video asked for: its render time depends on them.
    `charged_before` and `cost_before` are what was bought before the last permission to send again;
    `late_...` what an ended task still brought, and until when anybody looks for it.
    `file` is what was stored of it; its bytes are under `file_key` until `file_until`, then both are None.
    `unstored_since`: since when an ended task has a file at its vendor that is still to be stored.
    `key_id`: whose key ordered it. `reserved_...`: what is put aside for a sending while it waits, None where
    nothing has a price; `sent_...` and `charged_now`: the price of its latest sending alone, and what is
    known of that. `ref` is the adapter's reference as JSON, null where it names the job's id: most
    tasks share one text.
    `traceparent`: where in a trace (W3C) what happens to it belongs.
    """

    id: str
    owner: str
    model: str
    state: State
    candidates: tuple[Candidate, ...]
    created_at: float
    deadline_at: float
    stage: str | None = None
    version: int = 1
    last_seq: int = 0
    replica: str = UNOWNED
    priority: int = 0
    ruled_out: tuple[Candidate, ...] = ()
    provider: str | None = None
    offering: str | None = None
    vendor_task_id: str | None = None
    ref: str | None = None
    raw_status: str | None = None
    raw_status_at: float | None = None
    progress: int = 0
    attempts: int = 0
    resubmits: int = 0
    estimate_seconds: float | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    unknown_at: float | None = None
    completed_at: float | None = None
    result_url: str | None = None
    result_expires_at: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    charged: Charged = "no"
    charged_before: Charged = "no"
    cost_amount: str | None = None
    cost_currency: str | None = None
    cost_before: str | None = None
    reruns: int = 0
    rerun_of: str | None = None
    adopted_from: str | None = None
    late_until: float | None = None
    late_at: float | None = None
    late_url: str | None = None
    late_expires_at: float | None = None
    duration: int | None = None
    audio: bool | None = None
    file: File | None = None
    file_key: str | None = None
    file_until: float | None = None
    unstored_since: float | None = None
    key_id: str = ""
    reserved_amount: str | None = None
    reserved_currency: str | None = None
    sent_amount: str | None = None
    sent_currency: str | None = None
    charged_now: Charged = "no"
    traceparent: str | None = None

    @property
    def status(self) -> Status:
        """The caller's word for the state. It never goes back: what is sent again stays in progress."""
        status = STATUS_OF[self.state]
        return "in_progress" if status == "queued" and self.permissions else status

    @property
    def permissions(self) -> int:
        """How often it was allowed to send again what may have been, or was, bought already."""
        return self.resubmits + self.reruns

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can change the state any more."""
        return self.state in TERMINAL

    @property
    def is_followed(self) -> bool:
        """Whether it is looked after: unfinished, or ended while its vendor may still bring its file."""
        return not self.is_terminal or self.late_until is not None or self.unstored_since is not None

    @property
    def is_in_flight(self) -> bool:
        """Whether it has, or may have, a job at a vendor: it fills a place there."""
        return self.state in IN_FLIGHT

    @property
    def tried(self) -> Candidate:
        """The candidate that it was, or is being, sent to."""
        return Candidate(self.provider or "", self.offering or "")

    @property
    def open_candidates(self) -> tuple[Candidate, ...]:
        """The candidates that no refusal has ruled out yet, in order."""
        return tuple(candidate for candidate in self.candidates if candidate not in self.ruled_out)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a video's timeline. `detail` holds plain values: no prompt, key or link."""

    type: str
    at: float
    status: Status
    stage: str | None
    provider: str | None
    offering: str | None
    detail: dict[str, str | int | float | None]
    seq: int = 0


class Change(msgspec.Struct, frozen=True):
    """What follows from a fact: the task after it, and the events to write. No event: nothing to save."""

    before: Task
    task: Task
    events: tuple[Event, ...]

    @property
    def is_saved(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.events)


def ref_text(ref: Ref, vendor_task_id: str | None) -> str:
    """An adapter's reference as a task keeps it."""
    kept = {name: None if value == vendor_task_id else value for name, value in ref.items()}
    return intern(_encode(kept).decode())


def ref_of(task: Task) -> Ref | None:
    """The adapter's reference to the task's job, None while it has none."""
    if task.ref is None:
        return None
    known = task.vendor_task_id or ""
    return {name: known if value is None else value for name, value in _decode_ref(task.ref).items()}


def with_event(change: Change, kind: str, detail: Detail) -> Change:
    """`change` with one more event of the same moment, such as the poll that the engine planned."""
    first = change.events[0]
    seq = change.task.last_seq + 1
    event = replace(first, type=kind, detail=detail, seq=seq)
    return Change(change.before, replace(change.task, last_seq=seq), (*change.events, event))


def is_minor(change: Change) -> bool:
    """Whether it is but another word of the vendor's for the same state: not worth a commit."""
    before, after = change.before, change.task
    is_a_word = [event.type for event in change.events] == ["vendor_status"]
    return is_a_word and (before.state, before.progress) == (after.state, after.progress)


def with_noted(change: Change, noted: Sequence[Event]) -> Change:
    """`change` with the events that came before it and are not written yet."""
    if not noted:
        return change
    events = (*noted, *change.events)
    numbered = tuple(replace(event, seq=seq) for seq, event in enumerate(events, change.before.last_seq + 1))
    return Change(change.before, replace(change.task, last_seq=numbered[-1].seq), numbered)


def accepted_event(task: Task) -> Event:
    """The first line of a timeline: the gateway took the request and will answer for it."""
    return Event(
        type="accepted", at=task.created_at, status=task.status, stage=task.stage, provider=None,
        offering=None, seq=1,
        detail={"candidates": ", ".join(f"{some.provider}/{some.offering}" for some in task.candidates)},
    )
