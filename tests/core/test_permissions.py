"""What becomes of a task that may have been bought: found, given up, or allowed to be bought once more.

And the promises that no rule may break, asserted whatever the rule. Not held here: who decides
(`tests/engine`, `tests/api`), what all the sendings cost (`test_money`).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from gateway.core import after_end
from gateway.core import tasks as module
from gateway.core.facts import (
    Abandoned,
    Accepted,
    Adopted,
    Cancelled,
    Candidate,
    Cause,
    DeadlinePassed,
    Fact,
    Forgotten,
    NotSent,
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
from gateway.core.states import State, Task
from gateway.core.tasks import IllegalTransition, InvariantViolation, apply
from providers.spec import Charged, Submitted
from tests.core.made import (
    CAUSE,
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

FORGOTTEN: tuple[Fact, ...] = (*RENDERING, polled(progress=50), Forgotten(CAUSE))
OTHER = Submitted(vendor_task_id="v-2", ref={"id": "v-2"})


def rerun(charged: Charged = "yes", *ruled_out: Candidate) -> RerunAllowed:
    return RerunAllowed(FAILED, charged, ruled_out, "the policy")


# --- an unknown submission ----------------------------------------------------------------------------

def test_what_was_found_goes_on_as_if_it_had_been_accepted() -> None:
    change = apply(life(*UNKNOWN), Adopted(SUBMITTED, "an operator"), NOW + 9)
    task = change.task
    assert (task.state, task.stage, task.charged, task.unknown_at) == ("rendering", "rendering", "yes", None)
    assert (task.vendor_task_id, task.ref, task.raw_status) == ("v-1", '{"id":null}', "QUEUED")
    assert (task.started_at, task.raw_status_at, task.estimate_seconds) == (NOW + 9, NOW + 9, 60)
    assert [(event.type, event.detail) for event in change.events] == [
        ("adopted", {"vendor_task_id": "v-1", "by": "an operator"}),
    ]


def test_a_job_that_its_vendor_forgot_may_be_named_again_but_not_exchanged() -> None:
    lost = life(*FORGOTTEN)
    assert apply(lost, Adopted(SUBMITTED, "an operator"), NOW).task.state == "rendering"
    with pytest.raises(IllegalTransition):
        apply(lost, Adopted(OTHER, "an operator"), NOW)


@pytest.mark.parametrize(
    ("fact", "events", "detail"),
    [
        (Abandoned("me"), ["abandoned", "failed"], {"code": "submission_unknown", "by": "me"}),
        (UnknownTimedOut(), ["failed"], {"code": "submission_unknown"}),
    ],
)
def test_what_is_given_up_fails_and_may_have_been_bought(
    fact: Fact, events: list[str], detail: dict[str, str]
) -> None:
    change = apply(life(*UNKNOWN), fact, NOW + 9)
    task = change.task
    assert (task.state, task.stage, task.error_code, task.charged) == (
        "failed", None, "submission_unknown", "unknown")
    assert task.error_message == (
        "The vendor may have accepted this video, but its answer was lost; it was not sent again.")
    assert (task.completed_at, task.late_until) == (NOW + 9, None), "without an id nobody can look"
    assert [event.type for event in change.events] == events
    assert change.events[0].detail == detail
    assert change.events[-1].detail["code"] == "submission_unknown"


def test_what_is_given_up_with_an_id_says_which() -> None:
    task = life(*FORGOTTEN, Abandoned("an operator"))
    assert task.error_message == "The vendor accepted this video as v-1, and no longer knows it."
    assert (task.charged, task.vendor_task_id) == ("yes", "v-1")


def test_a_permission_to_send_again_begins_anew_and_forgets_nothing() -> None:
    lost = life(*FORGOTTEN)
    change = apply(lost, ResubmitAllowed("an operator"), NOW + 9)
    task = change.task
    gone = ("provider", "offering", "submitted_at", "unknown_at", "vendor_task_id", "ref", "raw_status",
            "raw_status_at", "estimate_seconds")
    assert [getattr(task, name) for name in gone] == [None] * len(gone)
    assert (task.state, task.stage, task.status) == ("waiting", "waiting", "in_progress")
    assert (task.resubmits, task.reruns, task.attempts, task.progress) == (1, 0, 1, 50)
    assert (task.charged, task.charged_before, task.cost_before) == ("yes", "yes", "0.42")
    assert task.open_candidates == (ONE, TWO)
    assert [(event.type, event.detail) for event in change.events] == [
        ("resubmit_allowed", {"by": "an operator", "vendor_task_id": "v-1"}),
    ]
    assert change.events[0].provider == "one", "the timeline says whose job it was"


# --- a failed render ----------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("charged", "known"), [("yes", ("yes", "0.42")), ("unknown", ("unknown", "0.42")), ("no", ("no", None))]
)
def test_a_permission_to_buy_elsewhere_keeps_what_the_failure_cost(
    charged: Charged, known: tuple[str, str | None]
) -> None:
    change = apply(life(*RENDERING), rerun(charged), NOW + 9)
    task = change.task
    assert (task.state, task.status, task.reruns, task.resubmits) == ("waiting", "in_progress", 1, 0)
    assert (task.vendor_task_id, task.ref, task.provider) == (None, None, None)
    assert (task.charged, task.cost_amount) == (task.charged_before, task.cost_before) == known
    assert task.open_candidates == (TWO,)
    assert [(event.type, event.detail) for event in change.events] == [
        ("rerun_allowed", {
            "by": "the policy", "vendor_task_id": "v-1", "raw_status": "FAILED", "code": "vendor_failed",
            "message": "no", "charged": charged,
        }),
    ]
    assert (task.completed_at, task.error_code) == (None, None)


def test_a_permission_extends_to_no_candidate_that_it_rules_out_and_each_is_named_once() -> None:
    three = replace(TWO, provider="three")
    task = life(SubmitStarted(ONE), Accepted(SUBMITTED), task=make_task(candidates=(ONE, TWO, three)))
    after = apply(task, rerun("yes", TWO, TWO), NOW).task
    assert after.ruled_out == (ONE, TWO)
    assert after.open_candidates == (three,)


def test_what_is_bought_again_is_sent_again() -> None:
    again = life(SubmitStarted(TWO, ("0.5", "USD")), task=life(*RENDERING, rerun()))
    assert (again.state, again.provider, again.attempts, again.status) == (
        "submitting", "two", 2, "in_progress")


# --- submits under way --------------------------------------------------------------------------------

def test_a_deadline_while_the_answer_is_out_ends_the_task_and_leaves_open_what_was_bought() -> None:
    task = life(SubmitStarted(ONE, ("0.42", "USD")), DeadlinePassed())
    assert (task.state, task.error_code, task.charged) == ("failed", "deadline_exceeded", "unknown")
    assert (task.cost_amount, task.late_until) == ("0.42", None)


def test_a_refusal_that_was_known_already_lets_the_task_wait_on() -> None:
    one = make_task(candidates=(ONE,))
    known = life(SubmitStarted(ONE), Rejected(Cause("auth", "no"), is_known=True), task=one)
    assert (known.state, known.open_candidates, known.charged) == ("waiting", (ONE,), "no")
    news = life(SubmitStarted(ONE), Rejected(Cause("auth", "no")), task=one)
    assert (news.state, news.error_code) == ("failed", "vendor_auth")
    other = life(SubmitStarted(ONE), Rejected(Cause("auth", "no"), is_known=True))
    assert (other.state, other.open_candidates) == ("waiting", (TWO,)), "another candidate is not waited for"
    final = life(SubmitStarted(ONE), Rejected(Cause("content_policy", "no"), is_known=True), task=one)
    assert final.state == "failed"


@pytest.mark.parametrize("fact", [NotSent(Cause("not_sent", "refused")), Rejected(Cause("auth", "no"))])
def test_the_timeline_says_why_a_submit_was_not_taken(fact: NotSent | Rejected) -> None:
    cause = replace(fact.cause, http_status=401, reason="1001")
    event = apply(life(SubmitStarted(ONE)), replace(fact, cause=cause), NOW).events[0]
    assert event.detail == {
        "kind": cause.kind, "http_status": 401, "reason": "1001", "message": cause.message,
    }
    assert (event.provider, event.offering) == (ONE.provider, ONE.offering)


@pytest.mark.parametrize(("cost", "told"), [(("0.42", "USD"), "0.42 USD"), (None, None)])
def test_the_timeline_says_which_attempt_it_is_and_what_it_is_to_cost(
    cost: tuple[str, str] | None, told: str | None
) -> None:
    event = apply(make_task(attempts=2), SubmitStarted(TWO, cost), NOW).events[0]
    assert (event.type, event.detail) == ("submitting", {"attempt": 3, "cost": told})
    assert (event.provider, event.status, event.stage) == ("two", "queued", "submitting")


# --- what no rule may do ------------------------------------------------------------------------------

Spoil = Callable[[Task], Task]
_SPOILED: dict[str, Spoil] = {
    "progress falls": lambda task: replace(task, progress=10),
    "an attempt is forgotten": lambda task: replace(task, attempts=0),
    "a status goes back": lambda task: replace(task, state="waiting"),
    "a vendor's job is dropped": lambda task: replace(task, vendor_task_id=None),
}


def spoil_polls(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> None:
    """No rule breaks a promise by itself, so that of polls is exchanged."""
    rules = dict(module._STEPS)  # noqa: SLF001
    rules[Polled] = lambda task, fact, now: (spoil(task), "spoiled", {})
    monkeypatch.setattr(module, "_STEPS", rules)


@pytest.mark.parametrize("broken", _SPOILED)
def test_a_rule_that_breaks_a_promise_changes_nothing(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = life(*RENDERING, polled(progress=50))
    spoil_polls(monkeypatch, _SPOILED[broken])
    edges: dict[tuple[State, type[Fact]], frozenset[State]] = dict(module.EDGES)
    edges["rendering", Polled] = frozenset({"rendering", "waiting"})
    monkeypatch.setattr(module, "EDGES", edges)
    with pytest.raises(InvariantViolation, match=rf"^{broken}: rendering -> .* by Polled$"):
        apply(task, polled(), NOW)


def test_a_rule_cannot_lead_where_the_table_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_polls(monkeypatch, lambda task: replace(task, state="cancelled"))
    with pytest.raises(InvariantViolation, match=r"^rendering -> cancelled by Polled$"):
        apply(life(*RENDERING), polled(), NOW)


def test_a_terminal_state_stays_whatever_a_rule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = life(*RENDERING, DeadlinePassed())
    monkeypatch.setattr(after_end, "render_failed", lambda task, charged: replace(task, state="completed"))
    with pytest.raises(InvariantViolation, match="a terminal state changes: failed -> completed by Polled"):
        apply(ended, Polled(FAILED, 600, "no"), NOW)


def test_all_that_is_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    task = life(*RENDERING, polled(progress=50))
    spoil_polls(monkeypatch, lambda task: replace(task, progress=0, attempts=0))
    with pytest.raises(InvariantViolation, match=r"^progress falls, an attempt is forgotten: "):
        apply(task, polled(), NOW)


@pytest.mark.parametrize("happened", [UNKNOWN, RENDERING, FORGOTTEN])
def test_a_vendors_job_is_dropped_by_a_permission_only(happened: tuple[Fact, ...]) -> None:
    task = life(*happened)
    dropping = []
    for fact in (ResubmitAllowed("x"), rerun(), DeadlinePassed(), Cancelled(detach=True), Abandoned("x"),
                 SubmitUnknown(CAUSE), OutputMissing(), QueueTimedOut(), polled()):
        try:
            after = apply(task, fact, NOW).task
        except IllegalTransition:
            continue
        if task.vendor_task_id is not None and after.vendor_task_id is None:
            dropping.append(type(fact))
    assert set(dropping) <= {ResubmitAllowed, RerunAllowed}
