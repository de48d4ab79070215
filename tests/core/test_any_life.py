"""What holds of a task whatever happens to it: random facts against random tasks, and in the life of one.

Not held here: examples (`test_tasks.py`), whole lives with an engine and vendors (`tests/engine`).
"""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from gateway.core.facts import (
    Accepted,
    Cancelled,
    Fact,
    NotSent,
    Polled,
    Rejected,
    ResubmitAllowed,
    SubmitStarted,
    SubmitUnknown,
)
from gateway.core.states import IN_FLIGHT, Change, Task
from gateway.core.tasks import EDGES, IllegalTransition, InvariantViolation, apply
from gateway.errors import TASK_ERRORS
from providers.spec import Charged, Failed
from tests.core.made import FACTS, NOW, facts, make_task, tasks


@settings(max_examples=100, deadline=None)
@given(tasks, facts)
def test_from_anywhere_a_fact_is_illegal_or_leads_where_the_table_says(task: Task, fact: Fact) -> None:
    allowed = EDGES.get((task.state, type(fact)))
    assume(task.progress <= 100)
    try:
        change = apply(task, fact, NOW)
    except IllegalTransition:
        assert allowed is None or isinstance(fact, Cancelled)
        return
    except InvariantViolation:
        assert task.charged != task.charged_before
        assert isinstance(fact, SubmitStarted)
        return
    if task.is_terminal:
        assert change.task.state == task.state
    else:
        assert allowed is not None
        assert change.task.state in allowed
    assert change.task.version == task.version


_WORST: tuple[Charged, ...] = ("no", "unknown", "yes")


class Life(RuleBasedStateMachine):
    """One task from its acceptance, to which anything happens. `bought` is what is known of each sending."""

    def __init__(self) -> None:
        super().__init__()
        self.task = make_task()
        self.now = NOW
        self.bought: list[Charged] = []
        self.may_send = True

    @precondition(lambda self: not self.task.is_terminal)
    @rule(data=st.data())
    def what_the_table_allows(self, data: st.DataObject) -> None:
        kinds = [kind for state, kind in EDGES if state == self.task.state]
        if self.task.ref is None:  # nobody can ask a vendor for a job without its reference
            kinds = [kind for kind in kinds if kind is not Polled]
        self._happens(data.draw(FACTS[data.draw(st.sampled_from(kinds))]))

    @rule(fact=facts.filter(lambda fact: not isinstance(fact, Polled)))
    def anything(self, fact: Fact) -> None:
        is_answer = isinstance(fact, Accepted | NotSent | Rejected)
        is_answered = self.may_send or self.bought[-1] == "yes"
        if not (self.task.is_terminal and is_answer and is_answered):  # each sending has one answer
            self._happens(fact)

    def _happens(self, fact: Fact) -> None:
        before, self.now = self.task, self.now + 1
        try:
            change = apply(before, fact, self.now)
        except IllegalTransition:
            return
        self._sendings(before, fact)
        self._holds(before, change)
        self.task = replace(change.task, version=before.version + int(change.is_saved))

    def _sendings(self, before: Task, fact: Fact) -> None:
        match fact:
            case SubmitStarted():
                assert self.may_send, "sent again without proof or permission"
                self.may_send = False
                self.bought.append("no")
            case Accepted():
                self.bought[-1] = "yes"
            case NotSent() | Rejected():
                self.may_send = True
                self.bought[-1] = "no"
            case SubmitUnknown():
                self.bought[-1] = "unknown"
            case Cancelled() if before.state == "submitting":
                self.bought[-1] = "unknown"
            case Polled(progress=Failed()):
                self.bought[-1] = fact.failed_is_charged
            case ResubmitAllowed():
                self.may_send = True

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
            ends = ("state", "progress", "completed_at", "error_code", "error_message", "result_url")
            assert [getattr(after, name) for name in ends] == [getattr(before, name) for name in ends]

    @invariant()
    def charged_is_what_is_known(self) -> None:
        assert self.task.charged == max(self.bought, key=_WORST.index, default="no")

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


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=80, stateful_step_count=20, deadline=None)
