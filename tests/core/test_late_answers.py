"""What the answer to a sending still tells of a task that another process may have taken over meanwhile.

Not held here: saving it (`tests/engine/test_races.py`), what follows after an end (`test_after_the_end`).
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.core.facts import (
    Abandoned,
    Accepted,
    Adopted,
    Cancelled,
    Continued,
    DeadlinePassed,
    Fact,
    LateEnded,
    NotSent,
    OtherJob,
    OutputMissing,
    Polled,
    QueueTimedOut,
    Rejected,
    ResubmitAllowed,
    SubmitStarted,
    SubmitUnknown,
    UnknownTimedOut,
)
from gateway.core.states import Task
from gateway.core.tasks import IllegalTransition, apply, came_late
from providers.spec import Submitted
from tests.core.made import CAUSE, FAILED, NOW, ONE, SUBMITTED, TWO, life, make_task, polled

SENT = life(SubmitStarted(ONE))
ANSWERS: dict[str, Fact] = {
    "accepted": Accepted(SUBMITTED), "rejected": Rejected(CAUSE), "not sent": NotSent(CAUSE),
    "unknown": SubmitUnknown(CAUSE),
}
ADOPTED = Adopted(SUBMITTED, "the vendor, whose answer came late")
BESIDES = OtherJob("v-1", ONE, 1)
ONCE_MORE: tuple[Fact, ...] = (SubmitUnknown(CAUSE), ResubmitAllowed("an operator"))
OTHER = Submitted(vendor_task_id="v-2", ref={"id": "v-2"})


def since(*happened: Fact) -> Task:
    """The task as another process has left it since it was sent."""
    return replace(life(*happened, task=SENT), replica="another", version=SENT.version + 1 + len(happened))


# What another process made of it, and the answers that still tell something: as they are, or as what.
TABLE: dict[str, tuple[Task, dict[str, Fact]]] = {
    "nothing yet": (since(), ANSWERS),
    "unknown": (since(SubmitUnknown(CAUSE)), {"accepted": ADOPTED}),
    "detached": (since(Cancelled(detach=True)), ANSWERS),
    "over its deadline": (since(DeadlinePassed()), ANSWERS),
    "given up": (since(SubmitUnknown(CAUSE), Abandoned("an operator")), ANSWERS),
    "given up in time": (since(SubmitUnknown(CAUSE), UnknownTimedOut()), ANSWERS),
    "allowed once more": (since(*ONCE_MORE), {"accepted": BESIDES}),
    "sent once more": (since(*ONCE_MORE, SubmitStarted(ONE)), {"accepted": BESIDES}),
    "sent elsewhere": (since(*ONCE_MORE, SubmitStarted(TWO)), {"accepted": BESIDES}),
    "bought once more": (since(*ONCE_MORE, SubmitStarted(ONE), Accepted(OTHER)), {"accepted": BESIDES}),
    "bought once more, and over": (
        since(*ONCE_MORE, SubmitStarted(ONE), Accepted(OTHER), Polled(FAILED, 600, "no")),
        {"accepted": BESIDES},
    ),
    "found": (since(SubmitUnknown(CAUSE), Adopted(SUBMITTED, "an operator")), {}),
    "found as another job": (
        since(SubmitUnknown(CAUSE), Adopted(OTHER, "an operator")), {"accepted": BESIDES},
    ),
    "found as another job that failed": (
        since(SubmitUnknown(CAUSE), Adopted(OTHER, "an operator"), Polled(FAILED, 600, "no")),
        {"accepted": BESIDES},
    ),
    "found and over": (
        since(SubmitUnknown(CAUSE), Adopted(SUBMITTED, "an operator"), Polled(FAILED, 600, "no")), {},
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("became", TABLE)
def test_what_an_answer_still_tells(became: str, answer: str) -> None:
    stored, told = TABLE[became]
    assert came_late(stored, ANSWERS[answer], SENT) == told.get(answer)


@pytest.mark.parametrize(
    "fact",
    [SubmitStarted(ONE), polled(), OutputMissing(), Cancelled(), Cancelled(detach=True), DeadlinePassed(),
     QueueTimedOut(), UnknownTimedOut(), ADOPTED, Abandoned("x"), ResubmitAllowed("x"), LateEnded(),
     Continued("video_2", "x")],
)
@pytest.mark.parametrize("became", TABLE)
def test_only_the_answer_to_a_sending_counts_for_another_process(became: str, fact: Fact) -> None:
    assert came_late(TABLE[became][0], fact, SENT) is None


@pytest.mark.parametrize(
    ("became", "state", "event"),
    [
        ("nothing yet", "rendering", "accepted_by_vendor"), ("unknown", "rendering", "adopted"),
        ("detached", "cancelled", "accepted_after_end"),
        ("over its deadline", "failed", "accepted_after_end"), ("given up", "failed", "accepted_after_end"),
    ],
)
def test_a_job_that_was_bought_is_known_whoever_owns_its_task(became: str, state: str, event: str) -> None:
    stored = TABLE[became][0]
    fact = came_late(stored, Accepted(SUBMITTED), SENT)
    assert fact is not None
    change = apply(stored, fact, NOW + 60)
    assert (change.task.state, [some.type for some in change.events]) == (state, [event])
    assert (change.task.vendor_task_id, change.task.charged) == ("v-1", "yes")
    assert change.task.replica == "another"


@pytest.mark.parametrize("became", [name for name, (_, told) in TABLE.items() if BESIDES in told.values()])
def test_a_job_that_nobody_waits_for_any_more_is_known_and_changes_nothing_else(became: str) -> None:
    stored = TABLE[became][0]
    change = apply(stored, BESIDES, NOW + 60)
    (event,) = change.events
    assert (event.type, event.detail) == ("other_job", {"vendor_task_id": "v-1"})
    assert (event.provider, event.offering) == (ONE.provider, ONE.offering)
    assert change.task == replace(
        stored, charged="yes", charged_before="yes", last_seq=stored.last_seq + 1,
        charged_now="yes" if became.startswith("found as another") else stored.charged_now,
    )


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("became", TABLE)
def test_no_answer_breaks_a_promise_whatever_became_of_the_task(became: str, answer: str) -> None:
    stored = TABLE[became][0]
    fact = came_late(stored, ANSWERS[answer], SENT)
    if fact is None:
        return
    try:
        after = apply(stored, fact, NOW + 60).task
    except IllegalTransition:
        assert (stored.is_terminal, answer) == (True, "unknown"), "which tells nothing new"
        return
    assert after.attempts == stored.attempts
    assert not stored.is_terminal or after.state == stored.state


def test_an_answer_of_an_earlier_sending_is_not_taken_for_that_of_a_later_one() -> None:
    again = life(NotSent(CAUSE), SubmitStarted(ONE), task=SENT)
    assert came_late(again, Accepted(SUBMITTED), SENT) == BESIDES
    assert came_late(again, Accepted(SUBMITTED), again) == Accepted(SUBMITTED)
    assert came_late(make_task(), Accepted(SUBMITTED), SENT) == BESIDES
