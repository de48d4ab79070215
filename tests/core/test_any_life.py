"""What holds of a task whatever happens to it: random facts against random tasks, and in the life of one.

Not held here: examples (`test_tasks.py`), whole lives with an engine and vendors (`tests/engine`).
"""

from __future__ import annotations

from decimal import Decimal

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from gateway.core.facts import (
    ANSWERS,
    Accepted,
    Adopted,
    Cancelled,
    Cost,
    DeadlinePassed,
    Fact,
    NotSent,
    OtherJob,
    Polled,
    Rejected,
    RerunAllowed,
    ResubmitAllowed,
    SubmitStarted,
    SubmitUnknown,
)
from gateway.core.states import IN_FLIGHT, TERMINAL, Change, Task
from gateway.core.tasks import EDGES, IllegalTransition, InvariantViolation, apply
from gateway.errors import TASK_ERRORS
from providers.spec import Charged, Failed
from tests.core.made import FACTS, NOW, facts, make_task, tasks


def drops_a_job(task: Task, fact: Fact) -> bool:
    """Whether the fact names another job than the one that the task has."""
    if not isinstance(fact, Accepted | Adopted):
        return False
    return task.vendor_task_id not in (None, fact.submitted.vendor_task_id)


@settings(max_examples=100, deadline=None)
@given(tasks, facts, st.none() | st.just("0.42"))
def test_from_anywhere_a_fact_is_illegal_or_leads_where_the_table_says(
    task: Task, fact: Fact, before: str | None
) -> None:
    allowed = EDGES.get((task.state, type(fact)))
    assume(task.progress <= 100 and task.resubmits >= 0 and task.reruns >= 0)
    task = replace(task, cost_before=before)
    try:
        change = apply(task, fact, NOW)
    except IllegalTransition:
        is_anothers = isinstance(fact, Adopted) and drops_a_job(task, fact)  # its own is still looked up
        assert allowed is None or isinstance(fact, Cancelled) or is_anothers
        return
    except InvariantViolation:
        is_second = isinstance(fact, SubmitStarted) and task.charged != task.charged_before
        assert is_second or drops_a_job(task, fact)
        return
    if task.is_terminal or isinstance(fact, OtherJob):
        assert change.task.state == task.state
    else:
        assert allowed is not None
        assert change.task.state in allowed
    assert change.task.version == task.version


_WORST: tuple[Charged, ...] = ("no", "unknown", "yes")


class Life(RuleBasedStateMachine):
    """One task from its acceptance, to which anything happens.

    `bought` is what is known of each sending and `prices` what each was to cost; `permitted` of them were
    before the last permission; `awaits`: the last is under way: each has one answer, also after the end.
    `is_told`: another job is known of the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.task = make_task()
        self.now = NOW
        self.bought: list[Charged] = []
        self.prices: list[Cost | None] = []
        self.permitted = 0
        self.is_told = False
        self.may_send = True
        self.awaits = False

    @precondition(lambda self: not self.task.is_terminal)
    @rule(data=st.data())
    def goes_on(self, data: st.DataObject) -> None:
        here = self.task.state
        kinds = [kind for (state, kind), ends in EDGES.items() if state == here and ends - TERMINAL]
        self._happens(data.draw(FACTS[data.draw(st.sampled_from(kinds))]))

    @rule(fact=facts)
    def anything(self, fact: Fact) -> None:
        self._happens(fact)

    def _happens(self, fact: Fact) -> None:
        if isinstance(fact, Polled) and self.task.ref is None:
            return  # nobody can ask a vendor for a job without its reference
        if isinstance(fact, ANSWERS) and not self.awaits:
            return
        if isinstance(fact, OtherJob) and not self._may_come(fact):
            return
        before, self.now = self.task, self.now + 1
        try:
            change = apply(before, fact, self.now)
        except IllegalTransition:
            if isinstance(fact, ANSWERS):  # too late to change anything, and an answer all the same
                assert before.is_terminal
                assert not isinstance(fact, Accepted)
                self._sendings(before, fact)
            return
        except InvariantViolation:
            assert drops_a_job(before, fact)
            return
        self._sendings(before, fact)
        self._holds(before, change)
        self.task = replace(change.task, version=before.version + int(change.is_saved))

    def _is_of_the_last(self, task: Task, fact: OtherJob) -> bool:
        return (task.attempts, task.tried) == (fact.attempt, fact.candidate)

    def _may_come(self, fact: OtherJob) -> bool:
        """Whether an owner that was taken for dead could still tell that: of each sending it is told once."""
        if self._is_of_the_last(self.task, fact):
            return self.task.vendor_task_id is not None and not self.is_told
        return "unknown" in self.bought[:self.permitted]

    def _other_job(self, before: Task, fact: OtherJob) -> None:
        if not self._is_of_the_last(before, fact):
            self.bought[self.bought.index("unknown")] = "yes"
            return
        # Two jobs are known of one sending: one is bought for its price, the other as it may be.
        price, self.prices[-1] = self.prices[-1], self.prices[-1] and ("0", self.prices[-1][1])
        self.is_told = True
        self.bought.insert(-1, "yes")
        self.prices.insert(-1, price)

    def _sendings(self, before: Task, fact: Fact) -> None:
        if isinstance(fact, ANSWERS):
            self.awaits = False
        match fact:
            case SubmitStarted():
                assert self.may_send, "sent again without proof or permission"
                self.may_send, self.awaits, self.is_told = False, True, False
                self.bought.append("no")
                self.prices.append(fact.cost)
            case Accepted() | Adopted():
                self.bought[-1] = "yes"
            case NotSent() | Rejected():
                self.may_send = True
                self.bought[-1] = "no"
            case SubmitUnknown():
                self.bought[-1] = "unknown"
            case Cancelled() | DeadlinePassed() if before.state == "submitting":
                self.bought[-1] = "unknown"
            case Polled(progress=Failed()) if before.is_followed:
                self.bought[-1] = fact.failed_is_charged
            case RerunAllowed():
                self.bought[-1] = fact.failed_is_charged
                self.may_send = True
            case ResubmitAllowed():
                self.may_send = True
            case OtherJob():
                self._other_job(before, fact)
        if isinstance(fact, ResubmitAllowed | RerunAllowed):
            self.permitted = len(self.bought)

    def _holds(self, before: Task, change: Change) -> None:
        after = change.task
        assert change.is_saved or after == before
        assert after.progress >= before.progress
        assert after.version == before.version
        assert [event.seq for event in change.events] == list(range(before.last_seq + 1, after.last_seq + 1))
        if change.events:
            last = change.events[-1]
            assert (last.at, last.status, last.stage) == (self.now, after.status, after.stage)
        if before.is_terminal:
            ends = ["state", "progress", "completed_at", "error_code", "error_message"]
            ends += ["result_url"] if before.unstored_since is None else []  # else another link may come
            assert [getattr(after, name) for name in ends] == [getattr(before, name) for name in ends]

    @invariant()
    def charged_is_what_is_known(self) -> None:
        assert self.task.charged == max(self.bought, key=_WORST.index, default="no")

    @invariant()
    def the_cost_is_that_of_all_that_was_or_may_have_been_bought(self) -> None:
        sent = list(zip(self.bought, self.prices, strict=True))
        # While a submit is under way its price is shown already: the intent to spend is part of the row.
        paid = [price for number, (bought, price) in enumerate(sent)
                if bought != "no" or (self.awaits and number == len(sent) - 1)]
        shown = None
        if paid and None not in paid and len({price[1] for price in paid if price}) == 1:
            amounts = [price for price in paid if price]
            shown = sum(Decimal(amount) for amount, _ in amounts), amounts[0][1]
        task = self.task
        is_told = None if task.cost_amount is None else (Decimal(task.cost_amount), task.cost_currency)
        assert is_told == shown

    @invariant()
    def its_fields_agree_with_its_state(self) -> None:
        task = self.task
        assert task.is_terminal == (task.completed_at is not None)
        is_bad = task.state in ("failed", "cancelled")
        assert is_bad == (task.error_code is not None) == (task.stage is None)
        assert (task.state == "completed") == (task.result_url is not None) == (task.progress == 100)
        assert task.error_code is None or task.error_code in TASK_ERRORS
        assert 0 <= task.progress <= 100
        assert task.state not in IN_FLIGHT or task.provider is not None

    @invariant()
    def only_an_ended_task_with_a_job_and_without_a_video_is_looked_up(self) -> None:
        task = self.task
        if task.late_until is not None:
            assert task.is_terminal
            assert task.ref is not None
            assert (task.result_url, task.late_url) == (None, None)
        assert (task.late_url is None) == (task.late_at is None) == (task.late_expires_at is None)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=80, stateful_step_count=20, deadline=None)
