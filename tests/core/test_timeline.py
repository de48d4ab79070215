"""What is written down of each fact: the timeline word for word, and what a caller is told of an end.

Not held here: which state follows (`test_tasks`), permissions and what is learned late (`test_permissions`,
`test_after_the_end`).
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.core.facts import (
    Accepted,
    Cancelled,
    Cause,
    DeadlinePassed,
    Fact,
    Forgotten,
    NotSent,
    OutputMissing,
    Polled,
    QueueTimedOut,
    Rejected,
    SubmitStarted,
    SubmitUnknown,
)
from gateway.core.states import Detail, Event, is_minor, with_event, with_noted
from gateway.core.tasks import PROGRESS_STEP, IllegalTransition, InvariantViolation, apply
from gateway.errors import TASK_ERRORS
from providers.spec import Succeeded, Unrecognised
from tests.core.made import FAILED, NOW, ONE, RENDERING, SUBMITTED, TWO, UNKNOWN, life, make_task, polled

SENDING: tuple[Fact, ...] = (SubmitStarted(ONE),)
TOLD = Cause("capacity", "no place", 503, "full")
FINAL = Cause("invalid_request", "too long", 400, "1001")
WHY: Detail = {"kind": "capacity", "http_status": 503, "reason": "full", "message": "no place"}
LINKED = Polled(Succeeded(raw_status="SUCCEED", url="https://files.example/v.mp4"), 600, "unknown")

# What happened, what happens then, and the lines that it writes: type and detail.
LINES: tuple[tuple[tuple[Fact, ...], Fact, list[tuple[str, Detail]]], ...] = (
    ((), SubmitStarted(ONE), [("submitting", {"attempt": 1, "cost": None})]),
    (SENDING, Accepted(SUBMITTED),
     [("accepted_by_vendor", {"vendor_task_id": "v-1", "raw_status": "QUEUED"})]),
    (SENDING, NotSent(TOLD), [("not_sent", WHY)]),
    (SENDING, Rejected(TOLD), [("rejected", WHY)]),
    (SENDING, Rejected(Cause("auth", "no place", 503, "full")), [("rejected", WHY | {"kind": "auth"})]),
    (SENDING, Rejected(FINAL), [
        ("rejected",
         {"kind": "invalid_request", "http_status": 400, "reason": "1001", "message": "too long"}),
        ("failed", {"code": "vendor_rejected"}),
    ]),
    (SENDING, SubmitUnknown(TOLD), [("submission_unknown", WHY)]),
    (SENDING, Cancelled(detach=True), [("cancelled", {"detached": 1})]),
    ((), Cancelled(), [("cancelled", {"detached": 0})]),
    (RENDERING, Cancelled(detach=True), [("cancelled", {"detached": 1})]),
    (RENDERING, Forgotten(TOLD), [("submission_unknown", WHY)]),
    (RENDERING, polled("PROCESSING"), [("vendor_status", {"raw_status": "PROCESSING", "progress": 0})]),
    (RENDERING, polled("QUEUED", 60), [("vendor_status", {"raw_status": "QUEUED", "progress": 60})]),
    (RENDERING, Polled(Unrecognised(raw_status="PAUSED"), 600, "no"),
     [("status_unrecognised", {"raw_status": "PAUSED", "progress": 0})]),
    (RENDERING, LINKED, [("completed", {"raw_status": "SUCCEED"})]),
    (RENDERING, Polled(FAILED, 600, "no"),
     [("failed", {"raw_status": "FAILED", "code": "vendor_failed", "message": "no"})]),
    (RENDERING, OutputMissing(), [("failed", {"code": "no_output"})]),
    (RENDERING, DeadlinePassed(), [("failed", {"code": "deadline_exceeded"})]),
    ((), QueueTimedOut(), [("failed", {"code": "queue_timeout"})]),
)


@pytest.mark.parametrize(("happened", "fact", "lines"), LINES)
def test_what_the_timeline_says(
    happened: tuple[Fact, ...], fact: Fact, lines: list[tuple[str, Detail]]
) -> None:
    before = life(*happened)
    change = apply(before, fact, NOW + 7)
    assert change.before is before
    assert [(event.type, event.detail) for event in change.events] == lines
    first = before.last_seq + 1
    assert [event.seq for event in change.events] == list(range(first, first + len(lines)))
    for event in change.events:
        assert (event.at, event.status, event.stage) == (NOW + 7, change.task.status, change.task.stage)
        assert event.provider == (None if before.provider is None and change.task.provider is None else "one")


@pytest.mark.parametrize(
    ("happened", "fact", "code", "message"),
    [
        ((), Cancelled(), "cancelled", "Cancelled by the caller."),
        (RENDERING, Cancelled(detach=True), "cancelled",
         "The caller stopped following this video; the vendor may still render it."),
        (SENDING, Cancelled(detach=True), "cancelled",
         "The caller stopped following this video; the vendor may still render it."),
        (RENDERING, OutputMissing(), "no_output",
         "The vendor says that the video is done but gave no link to it."),
        (RENDERING, DeadlinePassed(), "deadline_exceeded",
         "The deadline passed before the video was finished."),
        ((), QueueTimedOut(), "queue_timeout", "No provider had a place for this video in time."),
        (SENDING, Rejected(FINAL), "vendor_rejected", "too long"),
        (RENDERING, Polled(FAILED, 600, "no"), "vendor_failed", "no"),
    ],
)
def test_what_a_caller_is_told_of_an_end(
    happened: tuple[Fact, ...], fact: Fact, code: str, message: str
) -> None:
    task = apply(life(*happened), fact, NOW + 7).task
    assert (task.error_code, task.error_message, task.completed_at) == (code, message, NOW + 7)
    assert task.stage is None
    assert code in TASK_ERRORS


def test_a_refusal_that_was_known_already_is_on_the_timeline_too() -> None:
    task = life(*SENDING, task=make_task(candidates=(ONE,)))
    known = Rejected(Cause("auth", "no place", 503, "full"), is_known=True)
    change = apply(task, known, NOW + 7)
    assert [(event.type, event.detail) for event in change.events] == [("rejected", WHY | {"kind": "auth"})]


def test_when_nobody_knows_the_time_is_noted() -> None:
    task = apply(life(*SENDING), SubmitUnknown(TOLD), NOW + 7).task
    assert (task.started_at, task.unknown_at) == (NOW + 7, NOW + 7)


@pytest.mark.parametrize("progress", [None, PROGRESS_STEP - 1])
def test_no_line_no_change(progress: int | None) -> None:
    change = apply(life(*RENDERING), polled("QUEUED", progress), NOW + 7)
    assert (change.events, change.is_saved) == ((), False)


def test_no_late_line_no_change() -> None:
    change = apply(life(*RENDERING, DeadlinePassed()), polled("LATER"), NOW + 7)
    assert (change.events, change.is_saved) == ((), False)


def test_a_late_line_has_its_own_time() -> None:
    change = apply(life(*RENDERING, DeadlinePassed()), LINKED, NOW + 700)
    assert [event.at for event in change.events] == [NOW + 700]


def test_a_late_video_says_that_it_was_bought_although_nobody_knew() -> None:
    ended = make_task(state="failed", stage=None, completed_at=NOW, late_until=NOW + 900)
    task = replace(ended, charged="unknown", ref='{"id":"v"}')
    assert apply(task, LINKED, NOW + 1).task.charged == "yes"


def test_a_refusal_of_a_kind_in_no_table_fails_at_once_however_many_candidates_are_left() -> None:
    task = apply(life(*SENDING), Rejected(Cause("timeout", "?"), is_known=True), NOW).task
    assert (task.state, task.ruled_out) == ("failed", (ONE,))


def test_what_cannot_happen_says_what_and_to_whom() -> None:
    task = life(*UNKNOWN)
    with pytest.raises(IllegalTransition) as caught:
        apply(task, SubmitStarted(TWO), NOW)
    assert (caught.value.task, caught.value.fact) == (task, SubmitStarted(TWO))
    assert str(caught.value) == "SubmitStarted cannot happen to a task that is submission_unknown"


def test_what_would_be_bought_twice_says_so() -> None:
    told = "^a task that may have been bought would be sent again without a permission$"
    with pytest.raises(InvariantViolation, match=told):
        apply(make_task(charged="unknown"), SubmitStarted(TWO), NOW)


# --- words that wait ----------------------------------------------------------------------------------

NO_LINK = Polled(Succeeded(raw_status="SUCCEED", url=None), 600, "unknown")


@pytest.mark.parametrize(
    ("happened", "fact", "expected"),
    [
        (RENDERING, polled("PROCESSING"), True),
        (RENDERING, polled("PROCESSING", PROGRESS_STEP - 1), True),
        ((*RENDERING, polled("PROCESSING", 60)), polled("ENCODING", 99), True),
        (RENDERING, NO_LINK, True),
        (RENDERING, polled("PROCESSING", PROGRESS_STEP), False),
        (RENDERING, polled("QUEUED", PROGRESS_STEP), False),
        (RENDERING, polled("QUEUED"), False),  # nothing at all
        ((*RENDERING, Forgotten(TOLD)), polled("PROCESSING"), False),
        (RENDERING, Polled(Unrecognised(raw_status="PAUSED"), 600, "no"), False),
        (RENDERING, LINKED, False),
        (RENDERING, Polled(FAILED, 600, "no"), False),
        (SENDING, Accepted(SUBMITTED), False),
    ],
)
def test_only_another_word_for_the_same_state_is_not_worth_a_commit(
    happened: tuple[Fact, ...], fact: Fact, *, expected: bool
) -> None:
    assert is_minor(apply(life(*happened), fact, NOW + 7)) is expected


def test_what_was_noted_comes_before_a_change_and_is_numbered_with_it() -> None:
    task = life(*RENDERING)
    noted: tuple[Event, ...] = ()
    for second, word in enumerate(("ONE", "TWO")):
        change = apply(task, polled(word), NOW + 10 + second)
        task, noted = replace(change.task, last_seq=change.before.last_seq), (*noted, *change.events)
    assert [event.seq for event in noted] == [task.last_seq + 1] * 2, "as if each were the only one"
    ending = with_event(apply(task, LINKED, NOW + 20), "after", {})
    whole = with_noted(ending, noted)
    lines = [(event.seq - task.last_seq, event.type, event.at - NOW) for event in whole.events]
    assert lines == [
        (1, "vendor_status", 10), (2, "vendor_status", 11), (3, "completed", 20), (4, "after", 20),
    ]
    assert (whole.before, whole.task) == (task, replace(ending.task, last_seq=task.last_seq + 4))
    assert with_noted(ending, ()) is ending
