"""What is learned of a task that has ended: what was bought, what came late, and what became of its file.

A terminal status never changes. Held here: what each fact makes of an ended task. Not held here: the life
before (`tasks`, which is the only one to ask), when anybody asks (`pacing`), copying files (the engine).
"""

from __future__ import annotations

from typing import Final, TypeAlias

from msgspec.structs import replace

from gateway.core.facts import (
    Accepted,
    Cause,
    Continued,
    Fact,
    FileExpired,
    KeepingEnded,
    LateEnded,
    Lost,
    NotSent,
    Polled,
    Rejected,
    Stored,
)
from gateway.core.money import bought, render_failed, unspent
from gateway.core.states import Detail, Task, ref_text
from providers.spec import Failed, Succeeded

LINK_MAX_SECONDS: Final = 30 * 86_400.0  # of a link by its vendor's word: a larger one is a mistake of units
LATE_SECONDS: Final = 86_400.0  # how long a vendor is still asked for a job whose task has ended without it

# The task after it, the event's type (None: nothing to write), and its detail.
Learned: TypeAlias = tuple[Task, str | None, Detail]


def learned(task: Task, fact: Fact, now: float) -> Learned | None:
    """What `fact` says of a task that has ended; None: it cannot happen to it."""
    if task.unstored_since is not None and (kept := _of_its_file(task, fact, now)) is not None:
        return kept
    match fact:
        case Accepted(submitted=got):
            given: Detail = {"vendor_task_id": got.vendor_task_id}
            ref = ref_text(got.ref, got.vendor_task_id)
            after = replace(bought(task, "yes"), **given, ref=ref, late_until=now + LATE_SECONDS)
            return after, "accepted_after_end", given
        case NotSent() | Rejected() if task.submitted_at is not None and task.vendor_task_id is None:
            after = unspent(bought(task, "no"))
            return after, "refused_after_end", cause_detail(fact.cause)
        case Continued() if _has_open_sending(task):
            # What this sending costs is told of the video that has its job; `charged` stays as it was said.
            return replace(task, charged_now="no"), "continued", {"video_id": fact.video_id, "by": fact.by}
        case FileExpired() if task.file_key is not None:
            return replace(task, file_key=None, file_until=None), "file_expired", {}
        case _ if task.late_until is not None:
            return _late(task, fact, now)
        case _:
            return None


def _has_open_sending(task: Task) -> bool:
    """Whether it ended with a sending that may have made a job. One allowed to be sent again has none."""
    return task.provider is not None and task.charged_now == "unknown" and task.vendor_task_id is None


def _late(task: Task, fact: Fact, now: float) -> Learned | None:
    """What the vendor still had for it."""
    match fact:
        case Polled(progress=Succeeded(url=str(url))):
            after = replace(
                bought(task, "yes"), late_until=None, late_at=now, late_url=url,
                late_expires_at=now + link_seconds(fact), unstored_since=now if fact.is_kept else None,
            )
            return after, "late_output", {"raw_status": fact.progress.raw_status}
        case Polled(progress=Failed() as failed):
            after = render_failed(replace(task, late_until=None), fact.failed_is_charged)
            return after, "late_failure", {"raw_status": failed.raw_status, "code": failed.code}
        case Polled():
            return task, None, {}
        case LateEnded():
            return replace(task, late_until=None), "late_ended", {}
        case _:
            return None


def _of_its_file(task: Task, fact: Fact, now: float) -> Learned | None:
    """What became of the file that is to be stored. Of a late one no stage tells: that of its task stays."""
    waited_seconds = round(now - (task.unstored_since or now), 3)
    match fact:
        case Stored(file=file, key=key):
            after = replace(
                task, file=file, file_key=key, file_until=file.expires_at, unstored_since=None,
                stage=_stage(task, "stored"),
            )
            return after, "stored", {
                "bytes": file.bytes, "sha256": file.sha256, "waited_seconds": waited_seconds,
            }
        case Lost(reason=reason):
            after = replace(task, unstored_since=None, stage=_stage(task, "lost"))
            return after, "lost", {"reason": reason, "waited_seconds": waited_seconds}
        case KeepingEnded():
            return replace(task, unstored_since=None, stage=_stage(task, "linked")), "linked", {}
        case Polled(progress=Succeeded(url=str(url))):
            ends_at = now + link_seconds(fact)
            fresh = {"result_url": url, "result_expires_at": ends_at}
            if task.late_url is not None:
                fresh = {"late_url": url, "late_expires_at": ends_at}
            return replace(task, **fresh), "link_renewed", {"expires_at": round(ends_at, 3)}
        case Polled():
            return task, None, {}
        case _:
            return None


def _stage(task: Task, kept: str) -> str | None:
    return kept if task.state == "completed" else task.stage


def link_seconds(fact: Polled) -> float:
    """How long the link lives: as the vendor says, within reason, else as its page does."""
    said = fact.progress.expires_in_seconds if isinstance(fact.progress, Succeeded) else None
    return fact.link_seconds if said is None else min(said, LINK_MAX_SECONDS)


def cause_detail(cause: Cause) -> Detail:
    """Why a submit gave no acceptance, as a timeline tells it."""
    shown: Detail = {"kind": cause.kind, "http_status": cause.http_status}
    return shown | {"reason": cause.reason, "message": cause.message}
