"""The state table and `apply`: which edges there are, and what holds on every way through them.

Held here: the table, and examples of single transitions. Not held here: whatever else may happen
(`test_any_life.py`), and whole lives with an engine and vendors (`tests/engine`).
"""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from gateway.core import tasks as module
from gateway.core.after_end import LINK_MAX_SECONDS
from gateway.core.facts import (
    REFUSALS,
    Accepted,
    Cancelled,
    Cause,
    Continued,
    DeadlinePassed,
    Fact,
    FileExpired,
    Forgotten,
    KeepingEnded,
    LateEnded,
    Lost,
    NotSent,
    OtherJob,
    OutputMissing,
    Polled,
    QueueTimedOut,
    Rejected,
    RerunAllowed,
    ResubmitAllowed,
    Stored,
    SubmitStarted,
    SubmitUnknown,
    UnknownTimedOut,
)
from gateway.core.states import STATUS_OF, TERMINAL, accepted_event, with_event
from gateway.core.tasks import EDGES, PROGRESS_STEP, IllegalTransition, InvariantViolation, apply
from providers.spec import Charged, Succeeded, Unrecognised
from tests.core.made import (
    CAUSE,
    FACTS,
    FAILED,
    NOW,
    ONE,
    RENDERING,
    SUBMITTED,
    TWO,
    UNKNOWN,
    life,
    make_task,
    polled,
)

# What the table has beside the drawing: a task can be stopped, or turn out to be at its end, from everywhere.
NOT_DRAWN = {
    ("waiting", "failed"), ("waiting", "cancelled"), ("submitting", "failed"), ("submitting", "cancelled"),
    ("rendering", "rendering"), ("submission_unknown", "completed"), ("submission_unknown", "cancelled"),
}


# --- the table ----------------------------------------------------------------------------------------

def test_the_table_is_what_the_docstring_draws() -> None:
    drawn: set[tuple[str, str]] = set()
    for line in (module.__doc__ or "").splitlines():
        arrows = re.match(r" {4}(\w+(?: -> \w+(?: \| \w+)*)+)", line)
        steps = [re.split(r" \| ", part) for part in arrows.group(1).split(" -> ")] if arrows else []
        drawn.update((start, end) for starts, ends in pairwise(steps) for start in starts for end in ends)
    table = {(start, end) for (start, _), ends in EDGES.items() for end in ends}
    assert drawn | NOT_DRAWN == table
    assert not drawn & NOT_DRAWN


def test_every_state_has_a_status_and_every_kind_of_fact_a_place() -> None:
    assert not {state for state, _ in EDGES} & TERMINAL
    assert {state for state, _ in EDGES} | TERMINAL == set(STATUS_OF)
    anywhere = {OtherJob}
    after_end = {LateEnded, Continued, Stored, Lost, KeepingEnded, FileExpired}
    assert {kind for _, kind in EDGES} | anywhere | after_end == set(FACTS) == set(Fact.__subclasses__())


def test_a_way_back_to_waiting_needs_proof_or_a_permission() -> None:
    back = {kind for (_, kind), ends in EDGES.items() if "waiting" in ends}
    assert back == {NotSent, Rejected, ResubmitAllowed, RerunAllowed}


# --- single transitions -------------------------------------------------------------------------------

def test_a_task_on_its_way_to_a_video() -> None:
    task = life(*RENDERING, polled(progress=PROGRESS_STEP))
    assert (task.status, task.stage, task.progress) == ("in_progress", "rendering", PROGRESS_STEP)
    assert (task.provider, task.offering) == (ONE.provider, ONE.offering)
    assert (task.vendor_task_id, task.ref) == ("v-1", '{"id":null}')
    assert (task.attempts, task.submitted_at, task.started_at, task.estimate_seconds) == (1, NOW, NOW + 1, 60)
    assert (task.charged, task.cost_amount, task.cost_currency) == ("yes", "0.42", "USD")
    got = Succeeded(raw_status="SUCCEED", url="https://x/v.mp4")
    done = apply(task, Polled(got, 600, "unknown"), NOW + 9).task
    assert (done.status, done.stage, done.progress) == ("completed", "linked", 100)
    assert done.completed_at == NOW + 9
    assert (done.result_url, done.result_expires_at, done.error_code) == ("https://x/v.mp4", NOW + 609, None)


@pytest.mark.parametrize(("said", "expires"), [(None, 600), (30.0, 30), (0.0, 0), (1e300, LINK_MAX_SECONDS)])
def test_a_link_lives_as_long_as_its_vendor_or_offering_says(said: float | None, expires: float) -> None:
    got = Succeeded(raw_status="SUCCEED", url="https://x/v.mp4", expires_in_seconds=said)
    assert apply(life(*RENDERING), Polled(got, 600, "no"), NOW).task.result_expires_at == NOW + expires


@pytest.mark.parametrize(("kind", "scope", "code"), [(kind, *what) for kind, what in REFUSALS.items()])
def test_what_a_refusal_means_for_the_other_candidates(kind: str, scope: str, code: str) -> None:
    refusal = Rejected(Cause(kind, "no", 400, "1001"))  # type: ignore[arg-type]
    once = life(SubmitStarted(ONE), refusal)
    assert once.state == ("failed" if scope == "final" else "waiting")
    assert once.open_candidates == ((ONE, TWO) if scope == "later" else (TWO,))
    assert (once.charged, once.error_code) == ("no", code if scope == "final" else None)
    if scope == "elsewhere":
        twice = life(SubmitStarted(TWO), refusal, task=once)
        assert (twice.state, twice.error_code, twice.error_message) == ("failed", code, "no")


def test_a_refusal_of_a_kind_that_is_in_no_table_is_final() -> None:
    assert life(SubmitStarted(ONE), Rejected(CAUSE)).error_code == "vendor_rejected"


def test_a_task_that_came_back_is_as_free_as_a_new_one() -> None:
    task = life(SubmitStarted(ONE), NotSent(CAUSE))
    assert (task.status, task.provider, task.offering, task.submitted_at) == ("queued", None, None, None)
    assert (task.attempts, task.charged, task.open_candidates) == (1, "no", (ONE, TWO))


@pytest.mark.parametrize("hint", [0, PROGRESS_STEP - 1, None, -3])
def test_a_poll_that_brings_nothing_new_writes_nothing(hint: int | None) -> None:
    change = apply(life(*RENDERING), polled("QUEUED", hint), NOW + 5)
    assert not change.is_saved
    assert change.task == change.before


@pytest.mark.parametrize(("hint", "shown"), [(PROGRESS_STEP, PROGRESS_STEP), (99, 99), (100, 99), (4000, 99)])
def test_progress_is_written_in_steps_and_is_whole_only_at_the_end(hint: int, shown: int) -> None:
    assert apply(life(*RENDERING), polled("QUEUED", hint), NOW).task.progress == shown


@pytest.mark.parametrize("hint", [None, 0, 10, 59, 70])
def test_progress_never_falls(hint: int | None) -> None:
    assert life(*RENDERING, polled(progress=60), polled("BACK", hint)).progress == 60


def test_done_without_a_link_is_noted_and_asked_again() -> None:
    change = apply(life(*RENDERING), Polled(Succeeded(raw_status="SUCCEED", url=None), 600, "no"), NOW + 5)
    assert (change.task.state, change.task.raw_status) == ("rendering", "SUCCEED")
    assert change.task.raw_status_at == NOW + 5
    missing = apply(change.task, OutputMissing(), NOW + 200).task
    assert (missing.status, missing.error_code, missing.charged) == ("failed", "no_output", "yes")


def test_a_word_in_no_table_is_kept_and_followed() -> None:
    change = apply(life(*RENDERING), Polled(Unrecognised(raw_status="PAUSED"), 600, "no"), NOW)
    assert (change.task.state, change.task.raw_status) == ("rendering", "PAUSED")
    assert [event.type for event in change.events] == ["status_unrecognised"]


@pytest.mark.parametrize("charged", ["yes", "no", "unknown"])
def test_a_failed_render_costs_what_its_offering_says(charged: Charged) -> None:
    task = apply(life(*RENDERING), Polled(FAILED, 600, charged), NOW).task
    assert (task.status, task.error_code, task.error_message) == ("failed", "vendor_failed", "no")
    assert task.charged == charged


def test_what_the_vendor_forgot_is_unknown_but_paid_until_it_remembers() -> None:
    lost = life(*RENDERING, Forgotten(CAUSE))
    assert (lost.state, lost.charged, lost.vendor_task_id) == ("submission_unknown", "yes", "v-1")
    assert lost.unknown_at == NOW + 2
    back = apply(lost, polled("QUEUED"), NOW + 3)
    assert (back.task.state, back.task.unknown_at, back.is_saved) == ("rendering", None, True)


@pytest.mark.parametrize(
    ("happened", "fact", "code", "charged"),
    [
        ((), QueueTimedOut(), "queue_timeout", "no"),
        ((), DeadlinePassed(), "deadline_exceeded", "no"),
        (RENDERING, DeadlinePassed(), "deadline_exceeded", "yes"),
        (UNKNOWN, DeadlinePassed(), "deadline_exceeded", "unknown"),
        (UNKNOWN, UnknownTimedOut(), "submission_unknown", "unknown"),
    ],
)
def test_how_time_ends_a_task(happened: tuple[Fact, ...], fact: Fact, code: str, charged: str) -> None:
    task = life(*happened, fact)
    assert (task.status, task.stage, task.error_code, task.charged) == ("failed", None, code, charged)
    assert task.completed_at == NOW + len(happened)


@pytest.mark.parametrize(
    ("happened", "charged"),
    [((SubmitStarted(ONE),), "unknown"), (RENDERING, "yes"), (UNKNOWN, "unknown"), ((), "no")],
)
def test_who_stops_following_learns_what_may_be_bought(happened: tuple[Fact, ...], charged: str) -> None:
    task = life(*happened, Cancelled(detach=True))
    assert (task.status, task.error_code, task.charged) == ("cancelled", "cancelled", charged)


@pytest.mark.parametrize("happened", [(SubmitStarted(ONE),), RENDERING, UNKNOWN])
def test_what_may_have_been_bought_cannot_just_be_cancelled(happened: tuple[Fact, ...]) -> None:
    task = life(*happened)
    with pytest.raises(IllegalTransition, match=f"Cancelled cannot happen to a task that is {task.state}"):
        apply(task, Cancelled(), NOW)


@pytest.mark.parametrize(
    ("fact", "event", "charged"),
    [
        (Accepted(SUBMITTED), "accepted_after_end", "yes"),
        (Rejected(CAUSE), "refused_after_end", "no"),
        (NotSent(CAUSE), "refused_after_end", "no"),
    ],
)
def test_an_answer_after_the_end_says_what_was_bought_only(fact: Fact, event: str, charged: str) -> None:
    ended = life(SubmitStarted(ONE), Cancelled(detach=True))
    change = apply(ended, fact, NOW + 5)
    assert ([some.type for some in change.events], change.task.charged) == ([event], charged)
    assert (change.task.state, change.task.completed_at) == (ended.state, ended.completed_at)


def test_a_task_that_may_have_been_bought_needs_a_permission_to_be_sent_again() -> None:
    unknown = life(*UNKNOWN)
    with pytest.raises(IllegalTransition):
        apply(unknown, SubmitStarted(TWO), NOW)
    with pytest.raises(InvariantViolation, match="without a permission"):
        apply(make_task(charged="unknown"), SubmitStarted(TWO), NOW)
    again = life(ResubmitAllowed("an operator"), SubmitStarted(TWO), task=unknown)
    assert (again.state, again.provider, again.resubmits, again.attempts) == ("submitting", "two", 1, 2)


def test_the_first_line_of_a_timeline() -> None:
    event = accepted_event(make_task())
    assert (event.seq, event.type, event.at, event.status) == (1, "accepted", NOW, "queued")
    assert event.detail == {"candidates": "one/kling-v3.0-pro-t2v, two/kling-v3.0-std-t2v"}


def test_an_event_added_to_a_change_has_the_next_number() -> None:
    change = with_event(apply(make_task(), SubmitStarted(ONE), NOW), "next_poll", {"at": 1.0})
    assert [(event.seq, event.type) for event in change.events] == [(2, "submitting"), (3, "next_poll")]
    assert change.task.last_seq == 3


AGAIN = (ResubmitAllowed("an operator"), SubmitStarted(TWO))


@pytest.mark.parametrize(
    ("happened", "charged"),
    [
        ((*RENDERING, Forgotten(CAUSE), *AGAIN, SubmitUnknown(CAUSE)), "yes"),
        ((*RENDERING, Forgotten(CAUSE), *AGAIN, Cancelled(detach=True)), "yes"),
        ((*UNKNOWN, *AGAIN, Accepted(SUBMITTED), Polled(FAILED, 600, "no")), "unknown"),
        ((*UNKNOWN, *AGAIN, Cancelled(detach=True), NotSent(CAUSE)), "unknown"),
    ],
)
def test_a_second_sending_does_not_unsay_what_is_known_of_the_first(
    happened: tuple[Fact, ...], charged: str
) -> None:
    assert life(*happened).charged == charged


@pytest.mark.parametrize(
    ("happened", "amount"),
    [(SubmitUnknown(CAUSE), "0.42"), (NotSent(CAUSE), None), (Rejected(CAUSE), None)],
)
def test_the_estimate_stays_unless_nothing_was_bought(happened: Fact, amount: str | None) -> None:
    assert life(SubmitStarted(ONE, ("0.42", "USD")), happened).cost_amount == amount


def test_nothing_was_charged_is_said_only_when_it_is_so() -> None:
    task = life(*UNKNOWN, AGAIN[0], QueueTimedOut())
    assert task.charged == "unknown"
    assert "nothing was charged" not in str(task.error_message)


def test_a_second_sending_has_not_the_first_ones_id() -> None:
    task = life(*RENDERING, Forgotten(CAUSE), *AGAIN, SubmitUnknown(CAUSE))
    assert (task.provider, task.vendor_task_id, task.ref) == ("two", None, None)
