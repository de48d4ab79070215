"""What is learned of a task that has ended: it is noted, it is kept, and no status changes.

Not held here: how often and for how long anybody asks (`test_pacing`, `tests/engine`).
"""

from __future__ import annotations

import pytest

from gateway.core.after_end import LATE_SECONDS
from gateway.core.facts import (
    Abandoned,
    Accepted,
    Adopted,
    Cancelled,
    DeadlinePassed,
    Fact,
    Forgotten,
    LateEnded,
    NotSent,
    OutputMissing,
    Polled,
    QueueTimedOut,
    Rejected,
    RerunAllowed,
    ResubmitAllowed,
    SubmitStarted,
    UnknownTimedOut,
)
from gateway.core.states import Task
from gateway.core.tasks import IllegalTransition, apply
from providers.spec import Charged, Pending, Progress, Succeeded, Unrecognised
from tests.core.made import CAUSE, FAILED, NOW, ONE, RENDERING, SUBMITTED, TWO, UNKNOWN, life, polled

SENDING: tuple[Fact, ...] = (SubmitStarted(ONE, ("0.42", "USD")), DeadlinePassed())
LINK = "https://files.example/v.mp4"


def linked(expires_in_seconds: float | None = None) -> Polled:
    got = Succeeded(raw_status="SUCCEED", url=LINK, expires_in_seconds=expires_in_seconds)
    return Polled(got, 600, "unknown")


def ends(task: Task) -> tuple[object, ...]:
    """All that a caller was told of the end."""
    return (task.state, task.status, task.stage, task.progress, task.completed_at, task.error_code,
            task.error_message, task.result_url, task.result_expires_at)


@pytest.mark.parametrize(
    "end",
    [(DeadlinePassed(),), (Cancelled(detach=True),), (OutputMissing(),),
     (Forgotten(CAUSE), UnknownTimedOut()), (Forgotten(CAUSE), Abandoned("x")),
     (Forgotten(CAUSE), Cancelled(detach=True)), (Forgotten(CAUSE), DeadlinePassed())],
)
def test_the_job_of_a_task_that_ended_without_its_vendors_word_is_looked_up_for_a_day(
    end: tuple[Fact, ...]
) -> None:
    task = life(*RENDERING, *end)
    ended_at = NOW + len(RENDERING) + len(end) - 1
    assert (task.late_until, task.is_followed) == (ended_at + 86_400, True)


@pytest.mark.parametrize(
    "happened",
    [
        (*RENDERING, Polled(FAILED, 600, "no")), (*RENDERING, linked()), (QueueTimedOut(),), (Cancelled(),),
        SENDING, (*UNKNOWN, UnknownTimedOut()), (*UNKNOWN, Cancelled(detach=True)),
        (*RENDERING, Forgotten(CAUSE), ResubmitAllowed("x"), DeadlinePassed()),
    ],
)
def test_what_its_vendor_ended_or_nobody_can_ask_for_is_not(happened: tuple[Fact, ...]) -> None:
    task = life(*happened)
    assert (task.is_terminal, task.late_until, task.is_followed) == (True, None, False)
    for fact in (linked(), polled(), LateEnded()):
        with pytest.raises(IllegalTransition):
            apply(task, fact, NOW)


def test_an_unfinished_task_is_followed_and_has_nothing_late() -> None:
    assert life(*RENDERING).is_followed
    with pytest.raises(IllegalTransition):
        apply(life(*RENDERING), LateEnded(), NOW)


@pytest.mark.parametrize("end", [DeadlinePassed(), Cancelled(detach=True)])
def test_an_acceptance_after_the_end_begins_the_day(end: Fact) -> None:
    ended = life(SubmitStarted(ONE, ("0.42", "USD")), end)
    assert (ended.charged, ended.late_until) == ("unknown", None)
    change = apply(ended, Accepted(SUBMITTED), NOW + 50)
    task = change.task
    assert (task.vendor_task_id, task.ref, task.charged) == ("v-1", '{"id":null}', "yes")
    assert (task.late_until, task.cost_amount) == (NOW + 50 + LATE_SECONDS, "0.42")
    assert [(event.type, event.detail) for event in change.events] == [
        ("accepted_after_end", {"vendor_task_id": "v-1"})]
    assert ends(task) == ends(ended)


@pytest.mark.parametrize("refusal", [NotSent(CAUSE), Rejected(CAUSE)])
def test_a_refusal_after_the_end_says_that_nothing_was_bought(refusal: Fact) -> None:
    ended = life(*SENDING)
    change = apply(ended, refusal, NOW + 50)
    assert (change.task.charged, change.task.cost_amount, change.task.cost_currency) == ("no", None, None)
    assert change.events[0].type == "refused_after_end"
    assert change.events[0].detail["kind"] == CAUSE.kind
    assert ends(change.task) == ends(ended)


@pytest.mark.parametrize(
    "happened", [(QueueTimedOut(),), (Cancelled(),), (*RENDERING, linked()), (*RENDERING, DeadlinePassed())]
)
def test_a_refusal_cannot_be_the_answer_of_what_was_never_sent_or_was_accepted(
    happened: tuple[Fact, ...]
) -> None:
    for refusal in (NotSent(CAUSE), Rejected(CAUSE)):
        with pytest.raises(IllegalTransition):
            apply(life(*happened), refusal, NOW)


@pytest.mark.parametrize(("said", "seconds"), [(None, 600), (30.0, 30)])
def test_a_late_video_is_kept_beside_the_status(said: float | None, seconds: float) -> None:
    ended = life(*RENDERING, DeadlinePassed())
    change = apply(ended, linked(said), NOW + 500)
    task = change.task
    assert (task.late_url, task.late_at, task.late_expires_at) == (LINK, NOW + 500, NOW + 500 + seconds)
    assert (task.late_until, task.is_followed, task.charged) == (None, False, "yes")
    assert [(event.type, event.detail) for event in change.events] == [
        ("late_output", {"raw_status": "SUCCEED"})]
    assert (change.events[0].status, change.events[0].stage) == ("failed", None)
    assert ends(task) == ends(ended)
    with pytest.raises(IllegalTransition):
        apply(task, linked(), NOW + 501)


@pytest.mark.parametrize(("charged", "amount"), [("yes", "0.42"), ("unknown", "0.42"), ("no", None)])
def test_a_late_failure_says_what_it_cost(charged: Charged, amount: str | None) -> None:
    ended = life(*RENDERING, Cancelled(detach=True))
    change = apply(ended, Polled(FAILED, 600, charged), NOW + 500)
    task = change.task
    assert (task.charged, task.cost_amount, task.late_until, task.late_url) == (charged, amount, None, None)
    assert [(event.type, event.detail) for event in change.events] == [
        ("late_failure", {"raw_status": "FAILED", "code": "vendor_failed"})]
    assert ends(task) == ends(ended)


@pytest.mark.parametrize(
    "progress",
    [Pending(raw_status="PROCESSING", progress=90), Unrecognised(raw_status="PAUSED"),
     Succeeded(raw_status="SUCCEED", url=None)],
)
def test_while_the_vendor_is_not_done_nothing_is_written(progress: Progress) -> None:
    ended = life(*RENDERING, DeadlinePassed())
    change = apply(ended, Polled(progress, 600, "unknown"), NOW + 500)
    assert not change.is_saved
    assert change.task == change.before == ended


def test_after_a_day_nobody_looks_any_more() -> None:
    ended = life(*RENDERING, DeadlinePassed())
    change = apply(ended, LateEnded(), NOW + 90_000)
    assert (change.task.late_until, change.task.is_followed) == (None, False)
    assert [(event.type, event.detail) for event in change.events] == [("late_ended", {})]
    assert (change.task.charged, change.task.cost_amount) == ("yes", "0.42")
    assert ends(change.task) == ends(ended)


@pytest.mark.parametrize(
    "fact",
    [SubmitStarted(TWO), Adopted(SUBMITTED, "x"), Abandoned("x"), ResubmitAllowed("x"), Cancelled(),
     Cancelled(detach=True), DeadlinePassed(), UnknownTimedOut(), QueueTimedOut(), Forgotten(CAUSE),
     OutputMissing(), RerunAllowed(FAILED, "yes", (), "x")],
)
@pytest.mark.parametrize("end", [DeadlinePassed(), linked(), Cancelled(detach=True)])
def test_the_end_is_final(fact: Fact, end: Fact) -> None:
    with pytest.raises(IllegalTransition, match=f"{type(fact).__name__} cannot happen"):
        apply(life(*RENDERING, end), fact, NOW)


def test_the_numbers_of_late_events_go_on() -> None:
    ended = life(*RENDERING, DeadlinePassed())
    change = apply(ended, linked(), NOW + 500)
    assert [event.seq for event in change.events] == [ended.last_seq + 1] == [change.task.last_seq]
