"""The life of a task: its states, the facts that can happen to it, and the one table that says what follows.

`apply` is the only place where a task changes, and pure: nothing is read or sent. Not held here: when to poll
(`pacing`), who may submit now (`admission`), what was bought (`money`), what comes later (`after_end`),
saving (`gateway.storage`), the loops (`gateway.engine`).

    waiting -> submitting -> rendering -> completed | failed | cancelled
    submitting -> waiting             only on proof that nothing was accepted
    submitting -> submission_unknown  on everything else
    submission_unknown -> rendering | waiting | failed   only by policy, reconciliation or an operator
    rendering -> submission_unknown   the vendor has forgotten an id that it gave (404 beyond the grace time)
    rendering -> waiting              the vendor failed the render, and a policy allows to buy it elsewhere
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from msgspec.structs import replace

from gateway.core.after_end import LATE_SECONDS, cause_detail, learned, link_seconds
from gateway.core.facts import (
    ANSWERS,
    REFUSALS,
    Abandoned,
    Accepted,
    Adopted,
    Cancelled,
    Candidate,
    DeadlinePassed,
    Fact,
    Forgotten,
    NotSent,
    OtherJob,
    OutputMissing,
    Polled,
    QueueTimedOut,
    Rejected,
    RerunAllowed,
    ResubmitAllowed,
    SubmitStarted,
    SubmitUnknown,
    UnknownTimedOut,
)
from gateway.core.money import (
    bought,
    bought_all_the_same,
    bought_before,
    cost_with,
    render_failed,
    unanswered,
    unspent,
)
from gateway.core.states import Change, Detail, Event, State, Status, Task, ref_text, with_event
from providers.spec import Failed, Pending, Submitted, Succeeded, Unrecognised

# Every legal edge, by fact. A terminal state has none: what is learned later is only noted (`_late`).
EDGES: Final[Mapping[tuple[State, type[Fact]], frozenset[State]]] = {
    ("waiting", SubmitStarted): frozenset({"submitting"}),
    ("waiting", Cancelled): frozenset({"cancelled"}),
    ("waiting", QueueTimedOut): frozenset({"failed"}),
    ("waiting", DeadlinePassed): frozenset({"failed"}),
    ("submitting", Accepted): frozenset({"rendering"}),
    ("submitting", NotSent): frozenset({"waiting"}),
    ("submitting", Rejected): frozenset({"waiting", "failed"}),
    ("submitting", SubmitUnknown): frozenset({"submission_unknown"}),
    ("submitting", Cancelled): frozenset({"cancelled"}),
    ("submitting", DeadlinePassed): frozenset({"failed"}),
    ("submission_unknown", Adopted): frozenset({"rendering"}),
    ("submission_unknown", Abandoned): frozenset({"failed"}),
    ("submission_unknown", UnknownTimedOut): frozenset({"failed"}),
    ("submission_unknown", ResubmitAllowed): frozenset({"waiting"}),
    ("submission_unknown", Polled): frozenset({"rendering", "completed", "failed"}),
    ("submission_unknown", Cancelled): frozenset({"cancelled"}),
    ("submission_unknown", DeadlinePassed): frozenset({"failed"}),
    ("rendering", Polled): frozenset({"rendering", "completed", "failed"}),
    ("rendering", RerunAllowed): frozenset({"waiting"}),
    ("rendering", OutputMissing): frozenset({"failed"}),
    ("rendering", Forgotten): frozenset({"submission_unknown"}),
    ("rendering", Cancelled): frozenset({"cancelled"}),
    ("rendering", DeadlinePassed): frozenset({"failed"}),
}

# Progress is written only when it moved this far: polls cost no writes, and a life stays at eight rows.
PROGRESS_STEP: Final = 50
_ORDER: Final[Mapping[Status, int]] = {
    "queued": 0, "in_progress": 1, "completed": 2, "failed": 2, "cancelled": 2,
}


class IllegalTransition(Exception):
    """A fact that cannot happen in this state. Nothing was changed."""

    def __init__(self, task: Task, fact: Fact) -> None:
        super().__init__(f"{type(fact).__name__} cannot happen to a task that is {task.state}")
        self.task, self.fact = task, fact


class InvariantViolation(Exception):
    """A transition would have broken a promise (terminal is final, progress never falls)."""


def apply(task: Task, fact: Fact, now: float) -> Change:
    """What `fact` makes of `task` at `now`. Raises IllegalTransition, or InvariantViolation for our fault."""
    if isinstance(fact, OtherJob):
        return _other_job(task, fact, now)
    if task.is_terminal:
        return _late(task, fact, now)
    allowed = EDGES.get((task.state, type(fact)))
    if allowed is None:
        raise IllegalTransition(task, fact)
    after, kind, detail = _STEPS[type(fact)](task, fact, now)
    after = replace(after, stage=_stage(after))
    if after.is_terminal and after.ref is not None and not isinstance(fact, Polled):
        after = replace(after, late_until=now + LATE_SECONDS)  # the vendor has not had the last word
    if after.state not in allowed:
        raise InvariantViolation(f"{task.state} -> {after.state} by {type(fact).__name__}")
    _check(task, after, fact)
    if kind is None:
        return Change(task, after, ())
    change = _change(task, after, now, kind, detail)
    if after.is_terminal and kind != after.state:
        change = with_event(change, after.state, {"code": after.error_code})
    return change


def came_late(stored: Task, fact: Fact, sent: Task) -> Fact | None:
    """What the answer to a sending still tells of the task, whoever owns it by now; None: nothing.

    `sent` is the task as it was sent. Another process may have taken it over meanwhile and not know.
    """
    if not isinstance(fact, ANSWERS):
        return None
    is_same = (stored.attempts, stored.provider) == (sent.attempts, sent.provider)
    if is_same and stored.vendor_task_id is None:
        if stored.state == "submission_unknown" and isinstance(fact, Accepted):
            return Adopted(fact.submitted, "the vendor, whose answer came late")
        if stored.state == "submitting" or stored.is_terminal:
            return fact
    if not isinstance(fact, Accepted):
        return None
    job_id = fact.submitted.vendor_task_id
    is_known = (stored.provider, stored.vendor_task_id) == (sent.provider, job_id)
    return None if is_known else OtherJob(job_id, sent.tried, sent.attempts)


def _other_job(task: Task, fact: OtherJob, now: float) -> Change:
    """A job that the task does not follow is noted, whatever its state; what is known of money is kept."""
    is_last = (task.attempts, task.tried) == (fact.attempt, fact.candidate)
    after = bought_all_the_same(task) if is_last else bought_before(task)
    return _change(task, after, now, "other_job", {"vendor_task_id": fact.vendor_task_id}, fact.candidate)


def _check(task: Task, after: Task, fact: Fact) -> None:
    """What must be true of any change, whatever rule made it. Raises InvariantViolation."""
    may_drop = isinstance(fact, ResubmitAllowed | RerunAllowed)
    broken = {
        "progress falls": after.progress < task.progress,
        "an attempt is forgotten": after.attempts < task.attempts,
        "a status goes back": _ORDER[after.status] < _ORDER[task.status],
        "a terminal state changes": task.is_terminal and after.state != task.state,
        "a vendor's job is dropped": task.vendor_task_id not in (None, after.vendor_task_id) and not may_drop,
    }
    if any(broken.values()):
        names = ", ".join(name for name, is_so in broken.items() if is_so)
        raise InvariantViolation(f"{names}: {task.state} -> {after.state} by {type(fact).__name__}")


def _stage(task: Task) -> str | None:
    if task.state in ("failed", "cancelled"):
        return None
    if task.state == "completed":
        return "linked" if task.unstored_since is None else "storing"
    return task.state


def _change(
    task: Task, after: Task, now: float, kind: str, detail: Detail, of: Candidate | None = None
) -> Change:
    """The change with its event, which is `of` where the task was sent last unless said otherwise."""
    seq = task.last_seq + 1
    after = replace(after, last_seq=seq)
    last = after.provider or task.provider, after.offering or task.offering
    provider, offering = last if of is None else (of.provider, of.offering)
    event = Event(
        type=kind, at=now, status=after.status, stage=after.stage, detail=detail, seq=seq,
        provider=provider, offering=offering,
    )
    return Change(task, after, (event,))


_Step: TypeAlias = tuple[Task, str | None, Detail]


def _ended(task: Task, now: float, code: str, message: str) -> Task:
    return replace(task, state="failed", completed_at=now, error_code=code, error_message=message)


def _submit_started(task: Task, fact: SubmitStarted, now: float) -> _Step:
    if task.charged != task.charged_before:
        raise InvariantViolation("a task that may have been bought would be sent again without a permission")
    amount, currency = cost_with(task, fact.cost) or (None, task.cost_currency)  # of `cost_before`
    price, priced_in = fact.cost or (None, None)
    after = replace(
        task, state="submitting", provider=fact.candidate.provider, offering=fact.candidate.offering,
        attempts=task.attempts + 1, submitted_at=now, cost_amount=amount, cost_currency=currency,
        sent_amount=price, sent_currency=priced_in, charged_now="no",
    )
    cost = None if fact.cost is None else " ".join(fact.cost)
    return after, "submitting", {"attempt": after.attempts, "cost": cost}


def _rendering(task: Task, got: Submitted, now: float) -> Task:
    return replace(
        bought(task, "yes"), state="rendering", vendor_task_id=got.vendor_task_id,
        ref=ref_text(got.ref, got.vendor_task_id), started_at=now, raw_status=got.raw_status,
        raw_status_at=now, unknown_at=None, estimate_seconds=got.estimate_seconds,
    )


def _accepted(task: Task, fact: Accepted, now: float) -> _Step:
    got = fact.submitted
    detail: Detail = {"vendor_task_id": got.vendor_task_id, "raw_status": got.raw_status}
    return _rendering(task, got, now), "accepted_by_vendor", detail


def _adopted(task: Task, fact: Adopted, now: float) -> _Step:
    if task.vendor_task_id not in (None, fact.submitted.vendor_task_id):
        raise IllegalTransition(task, fact)  # it has a job, and that is still looked up
    after = _rendering(task, fact.submitted, now)
    return after, "adopted", {"vendor_task_id": after.vendor_task_id, "by": fact.by}


def _back(task: Task) -> Task:
    return replace(unspent(task), state="waiting", provider=None, offering=None, submitted_at=None)


def _not_sent(task: Task, fact: NotSent, now: float) -> _Step:
    return _back(task), "not_sent", cause_detail(fact.cause)


def _rejected(task: Task, fact: Rejected, now: float) -> _Step:
    scope, code = REFUSALS.get(fact.cause.kind, ("final", "vendor_rejected"))
    if scope == "later":
        return _back(task), "rejected", cause_detail(fact.cause)
    after = replace(task, ruled_out=(*task.ruled_out, task.tried))
    if scope == "elsewhere" and after.open_candidates:
        return _back(after), "rejected", cause_detail(fact.cause)
    if scope == "elsewhere" and fact.is_known:
        return _back(task), "rejected", cause_detail(fact.cause)
    return _ended(unspent(after), now, code, fact.cause.message), "rejected", cause_detail(fact.cause)


def _submit_unknown(task: Task, fact: SubmitUnknown, now: float) -> _Step:
    after = replace(
        bought(task, "unknown"), state="submission_unknown", started_at=now, unknown_at=now,
    )
    return after, "submission_unknown", cause_detail(fact.cause)


def _forgotten(task: Task, fact: Forgotten, now: float) -> _Step:
    after = replace(task, state="submission_unknown", unknown_at=now)
    return after, "submission_unknown", cause_detail(fact.cause)


def _polled(task: Task, fact: Polled, now: float) -> _Step:
    got = fact.progress
    noted = task
    if got.raw_status != task.raw_status:
        noted = replace(task, raw_status=got.raw_status, raw_status_at=now)
    if task.state == "submission_unknown":
        noted = replace(noted, state="rendering", unknown_at=None)
    match got:
        case Succeeded(url=str(url)):
            done = replace(
                noted, state="completed", progress=100, completed_at=now, result_url=url,
                result_expires_at=now + link_seconds(fact), unstored_since=now if fact.is_kept else None,
            )
            return done, "completed", {"raw_status": got.raw_status}
        case Failed():
            failed = render_failed(_ended(noted, now, got.code, got.message), fact.failed_is_charged)
            return failed, "failed", {"raw_status": got.raw_status, "code": got.code, "message": got.message}
        case Pending() | Unrecognised() if (got.progress or 0) >= task.progress + PROGRESS_STEP:
            noted = replace(noted, progress=min(got.progress or 0, 99))
        case _:
            pass
    if noted is task:
        return task, None, {}
    kind = "status_unrecognised" if isinstance(got, Unrecognised) else "vendor_status"
    return noted, kind, {"raw_status": got.raw_status, "progress": noted.progress}


def _output_missing(task: Task, fact: OutputMissing, now: float) -> _Step:
    message = "The vendor says that the video is done but gave no link to it."
    return _ended(task, now, "no_output", message), "failed", {"code": "no_output"}


def _cancelled(task: Task, fact: Cancelled, now: float) -> _Step:
    if task.state != "waiting" and not fact.detach:
        raise IllegalTransition(task, fact)
    after = replace(
        unanswered(task), state="cancelled", completed_at=now, error_code="cancelled",
        error_message="Cancelled by the caller." if task.state == "waiting" else
        "The caller stopped following this video; the vendor may still render it.",
    )
    return after, "cancelled", {"detached": int(task.state != "waiting")}


def _timed_out(code: str, message: str) -> Callable[[Task, Fact, float], _Step]:
    def step(task: Task, fact: Fact, now: float) -> _Step:
        return _ended(unanswered(task), now, code, message), "failed", {"code": code}

    return step


def _unknown_timed_out(task: Task, fact: UnknownTimedOut, now: float) -> _Step:
    lost = "The vendor may have accepted this video, but its answer was lost; it was not sent again."
    forgotten = f"The vendor accepted this video as {task.vendor_task_id}, and no longer knows it."
    after = _ended(task, now, "submission_unknown", forgotten if task.vendor_task_id else lost)
    return after, "failed", {"code": "submission_unknown"}


def _abandoned(task: Task, fact: Abandoned, now: float) -> _Step:
    after, _, detail = _unknown_timed_out(task, UnknownTimedOut(), now)
    return after, "abandoned", detail | {"by": fact.by}


def _once_more(task: Task) -> Task:
    """Back among the waiting, with what was bought so far kept apart from what comes."""
    return replace(
        task, state="waiting", provider=None, offering=None, submitted_at=None, unknown_at=None,
        vendor_task_id=None, ref=None, raw_status=None, raw_status_at=None, estimate_seconds=None,
        charged_before=task.charged, cost_before=task.cost_amount,
    )


def _resubmit_allowed(task: Task, fact: ResubmitAllowed, now: float) -> _Step:
    after = replace(_once_more(task), resubmits=task.resubmits + 1)
    return after, "resubmit_allowed", {"by": fact.by, "vendor_task_id": task.vendor_task_id}


def _rerun_allowed(task: Task, fact: RerunAllowed, now: float) -> _Step:
    ruled_out = dict.fromkeys((*task.ruled_out, task.tried, *fact.ruled_out))
    failed = render_failed(task, fact.failed_is_charged)
    after = replace(_once_more(failed), reruns=task.reruns + 1, ruled_out=tuple(ruled_out))
    detail: Detail = {
        "by": fact.by, "vendor_task_id": task.vendor_task_id, "raw_status": fact.failed.raw_status,
        "code": fact.failed.code, "message": fact.failed.message, "charged": failed.charged,
    }
    return after, "rerun_allowed", detail


_STEPS: Final[Mapping[type[Fact], Callable[..., _Step]]] = {
    SubmitStarted: _submit_started,
    Accepted: _accepted,
    NotSent: _not_sent,
    Rejected: _rejected,
    SubmitUnknown: _submit_unknown,
    Forgotten: _forgotten,
    Polled: _polled,
    OutputMissing: _output_missing,
    Cancelled: _cancelled,
    Adopted: _adopted,
    Abandoned: _abandoned,
    ResubmitAllowed: _resubmit_allowed,
    RerunAllowed: _rerun_allowed,
    DeadlinePassed: _timed_out("deadline_exceeded", "The deadline passed before the video was finished."),
    QueueTimedOut: _timed_out(
        "queue_timeout", "No provider had a place for this video in time."
    ),
    UnknownTimedOut: _unknown_timed_out,
}


def _late(task: Task, fact: Fact, now: float) -> Change:
    """A terminal status never changes. What comes later still says what was bought, and where the file is."""
    found = learned(task, fact, now)
    if found is None:
        raise IllegalTransition(task, fact)
    after, kind, detail = found
    _check(task, after, fact)
    return Change(task, task, ()) if kind is None else _change(task, after, now, kind, detail)
