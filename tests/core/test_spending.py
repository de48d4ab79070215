"""What a ledger says of a video, whatever happens to it: never more settled than is sure, never less held.

Held here: the entries of random lives against what is known of each sending, and against a vendor's books.
Not held here: the rows (`tests/storage/test_ledger.py`), what is known of a purchase (`test_money.py`).
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.facts import (
    ANSWERS,
    Accepted,
    Adopted,
    Cancelled,
    Cause,
    Continued,
    Cost,
    DeadlinePassed,
    Fact,
    Forgotten,
    LateEnded,
    NotSent,
    OtherJob,
    OutputMissing,
    Polled,
    Rejected,
    RerunAllowed,
    ResubmitAllowed,
    SubmitStarted,
    SubmitUnknown,
    UnknownTimedOut,
)
from gateway.core.spending import Amounts, Entry, day_of, decimal_text, entries, nanos
from gateway.core.states import TERMINAL, Task
from gateway.core.tasks import EDGES, IllegalTransition, InvariantViolation, apply
from providers.spec import Charged, Failed, Succeeded
from tests.core.made import CAUSE, FACTS, FAILED, NOW, ONE, SUBMITTED, TWO, facts, make_task, polled

PRICE, OTHER = ("0.42", "USD"), ("0.7", "USD")
DONE = Polled(Succeeded(raw_status="DONE", url="https://files.example/v.mp4"), 3600, "unknown")


def ordered() -> Task:
    """A waiting task whose dearest candidate costs 0.70 USD."""
    return make_task(key_id="key_1", reserved_amount="0.70", reserved_currency="USD")


def books(task: Task, *happened: Fact) -> Counter[tuple[str, str, str]]:
    """Sums by provider, currency and name, over all that these facts make of a task."""
    found: Counter[tuple[str, str, str]] = Counter()
    told = list(entries(None, task))
    for number, fact in enumerate(happened):
        after = apply(task, fact, NOW + number).task
        told += entries(task, after)
        task = after
    for entry in told:
        for name in Amounts.__struct_fields__:
            found[entry.provider, entry.currency, name] += getattr(entry.amounts, name)
    return Counter({key: count for key, count in found.items() if count})


def sums(told: Counter[tuple[str, str, str]], name: str) -> int:
    """The sum of `name` over all providers and currencies."""
    return sum(count for key, count in told.items() if key[2] == name)


SENT = SubmitStarted(ONE, PRICE)
REFUSED = Rejected(Cause("content_policy", "no"))
FAILED_FREE, FAILED_PAID, FAILED_SOMEHOW = (Polled(FAILED, 3600, said) for said in ("no", "yes", "unknown"))
LIVES: dict[str, tuple[tuple[Fact, ...], str, str]] = {
    "waits": ((), "0.70", "0.00"),
    "is cancelled in line": ((Cancelled(),), "0.00", "0.00"),
    "is being sent": ((SENT,), "0.70", "0.00"),  # it may come back, and be sent to the dearest
    "is being sent to the dearest": ((SubmitStarted(ONE, OTHER),), "0.70", "0.00"),
    "became dearer": ((SubmitStarted(ONE, ("0.90", "USD")),), "0.90", "0.00"),
    "was not sent, and waits again": ((SENT, NotSent(CAUSE)), "0.70", "0.00"),
    "renders": ((SENT, Accepted(SUBMITTED), polled()), "0.42", "0.00"),
    "is done": ((SENT, Accepted(SUBMITTED), DONE), "0.00", "0.42"),
    "failed, and is free": ((SENT, Accepted(SUBMITTED), FAILED_FREE), "0.00", "0.00"),
    "failed, and is paid": ((SENT, Accepted(SUBMITTED), FAILED_PAID), "0.00", "0.42"),
    "failed, and nobody knows": ((SENT, Accepted(SUBMITTED), FAILED_SOMEHOW), "0.42", "0.00"),
    "nobody knows": ((SENT, SubmitUnknown(CAUSE), UnknownTimedOut()), "0.42", "0.00"),
    "detached, its vendor at work": ((SENT, Accepted(SUBMITTED), Cancelled(detach=True)), "0.42", "0.00"),
    "detached, done later": ((SENT, Accepted(SUBMITTED), Cancelled(detach=True), DONE), "0.00", "0.42"),
    "detached, failed later": (
        (SENT, Accepted(SUBMITTED), Cancelled(detach=True), FAILED_FREE), "0.00", "0.00"
    ),
    "detached, never heard of again": (
        (SENT, Accepted(SUBMITTED), Cancelled(detach=True), LateEnded()), "0.00", "0.42"
    ),
    "cut off while it was sent, refused later": ((SENT, DeadlinePassed(), NotSent(CAUSE)), "0.00", "0.00"),
    "cut off while it was sent, taken later": ((SENT, DeadlinePassed(), Accepted(SUBMITTED)), "0.42", "0.00"),
    "unknown, and sent once more": (
        (SENT, SubmitUnknown(CAUSE), ResubmitAllowed("me"), SENT, Accepted(SUBMITTED), DONE), "0.42", "0.42"
    ),
    "unknown, and waiting once more": ((SENT, SubmitUnknown(CAUSE), ResubmitAllowed("me")), "1.12", "0.00"),
    "failed for free, and bought again": (
        (SENT, Accepted(SUBMITTED), RerunAllowed(FAILED, "no", (), "me"), SENT, Accepted(SUBMITTED), DONE),
        "0.00", "0.42",
    ),
    "failed and paid, and bought again": (
        (SENT, Accepted(SUBMITTED), RerunAllowed(FAILED, "yes", (), "me"), SENT, Accepted(SUBMITTED), DONE),
        "0.00", "0.84",
    ),
    "failed and paid, bought again, and refused": (
        (SENT, Accepted(SUBMITTED), RerunAllowed(FAILED, "yes", (), "me"), SENT, REFUSED), "0.00", "0.42",
    ),
    "given up, and its job is another video's": (
        (SENT, SubmitUnknown(CAUSE), UnknownTimedOut(), Continued("video_2", "me")), "0.00", "0.00"
    ),
    "given up, its job another's, and one came late": (
        (SENT, SubmitUnknown(CAUSE), UnknownTimedOut(), Continued("video_2", "me"), Accepted(SUBMITTED)),
        "0.42", "0.00",
    ),
    "done without a link": ((SENT, Accepted(SUBMITTED), OutputMissing(), LateEnded()), "0.00", "0.42"),
    "forgotten by its vendor": (
        (SENT, Accepted(SUBMITTED), Forgotten(CAUSE), UnknownTimedOut(), LateEnded()), "0.00", "0.42"
    ),
}


@pytest.mark.parametrize("name", LIVES)
def test_a_life_in_the_books(name: str) -> None:
    happened, reserved, settled = LIVES[name]
    found = books(ordered(), *happened)
    assert decimal_text(sums(found, "reserved")) == reserved
    assert decimal_text(sums(found, "settled")) == settled
    assert sums(found, "accepted") == 1


def test_a_life_is_counted_where_it_is() -> None:
    paid = RerunAllowed(FAILED, "yes", (ONE,), "me")
    found = books(ordered(), SENT, Accepted(SUBMITTED), paid)
    assert found == {
        ("one", "USD", "accepted"): 1, ("one", "USD", "reserved"): nanos("0.70"),
        ("one", "USD", "settled"): nanos("0.42"),
    }
    found = books(ordered(), SubmitStarted(TWO, PRICE), Accepted(SUBMITTED), DONE)
    assert {provider for provider, _, _ in found} == {"two"}
    found = books(ordered(), SENT, Accepted(SUBMITTED), DONE)
    assert found == {
        ("one", "USD", "accepted"): 1, ("one", "USD", "completed"): 1,
        ("one", "USD", "settled"): nanos("0.42"),
    }


def test_no_other_video_goes_on_with_a_sending_that_is_over() -> None:
    """It was allowed to be sent again, and was not: what the sending before that holds is not given back."""
    ended = SENT, SubmitUnknown(CAUSE), ResubmitAllowed("me"), DeadlinePassed()
    assert decimal_text(sums(books(ordered(), *ended), "reserved")) == "0.42"
    with pytest.raises(IllegalTransition):
        books(ordered(), *ended, Continued("video_2", "me"))


def test_a_sending_in_another_currency_has_its_own_line() -> None:
    sent = SubmitStarted(ONE, ("0.30", "EUR"))
    counted, paid = {("one", "USD", "accepted"): 1}, {("one", "EUR", "reserved"): nanos("0.30")}
    assert books(ordered(), sent) == counted | paid | {("one", "USD", "reserved"): nanos("0.70")}
    assert books(ordered(), sent, Accepted(SUBMITTED)) == counted | paid


def test_what_has_no_price_is_counted_and_costs_nothing_known() -> None:
    task = make_task(key_id="key_1")
    assert entries(None, task) == (Entry("one", "", Amounts(accepted=1)),)
    found = books(task, SubmitStarted(ONE), Accepted(SUBMITTED), DONE)
    assert found == {("one", "", "accepted"): 1, ("one", "", "completed"): 1}


def test_a_video_of_before_the_ledger_stays_outside() -> None:
    assert not books(make_task(), SENT, Accepted(SUBMITTED), DONE)


def test_a_save_that_moves_no_money_is_no_entry() -> None:
    task = apply(apply(ordered(), SENT, NOW).task, Accepted(SUBMITTED), NOW).task
    assert not entries(task, apply(task, polled(), NOW).task)
    waiting = ordered()
    assert not entries(waiting, apply(waiting, SENT, NOW).task), "it goes where it was expected to go"
    assert len(entries(waiting, apply(waiting, SubmitStarted(TWO, PRICE), NOW).task)) == 2


@pytest.mark.parametrize("text", ["0.00", "0.10", "0.000000001", "123.45", "999999999.999999999", "-1.50"])
def test_an_amount_goes_there_and_back(text: str) -> None:
    assert decimal_text(nanos(text)) == text


def test_an_amount_is_never_rounded() -> None:
    with pytest.raises(ValueError, match="more than 9 decimals"):
        nanos("0.0000000001")


def test_a_day_begins_at_midnight_utc() -> None:
    assert [day_of(at) for at in (1_798_761_599.999, 1_798_761_600.0)] == ["2026-12-31", "2027-01-01"]


class Books(RuleBasedStateMachine):
    """One task to which anything happens, its ledger, and the books of its vendor.

    `known` is what is sure of each sending ("open": it may still go either way), `prices` what each costs.
    The vendor decides at once: `truth` says what it will have charged, and nothing it tells contradicts that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.task = ordered()
        self.now = NOW
        self.total = Amounts()
        self.known: list[str] = []
        self.truth: list[bool] = []
        self.prices: list[int] = []
        self.awaits = False
        self._book(None, self.task)

    def _book(self, before: Task | None, after: Task) -> None:
        for entry in entries(before, after):
            self.total = self.total.plus(entry.amounts)

    @precondition(lambda self: not self.task.is_terminal)
    @rule(data=st.data())
    def goes_on(self, data: st.DataObject) -> None:
        here = self.task.state
        kinds = [kind for (state, kind), ends in EDGES.items() if state == here and ends - TERMINAL]
        self._happens(data.draw(FACTS[data.draw(st.sampled_from(kinds))]), is_paid=data.draw(st.booleans()))

    @rule(fact=facts, is_paid=st.booleans())
    def anything(self, fact: Fact, is_paid: bool) -> None:
        self._happens(fact, is_paid=is_paid)

    def _happens(self, fact: Fact, *, is_paid: bool) -> None:
        if isinstance(fact, Polled) and self.task.ref is None:
            return
        if isinstance(fact, ANSWERS) and not self.awaits:
            return
        if not self._is_true(fact):
            return
        before, self.now = self.task, self.now + 1
        try:
            after = apply(before, fact, self.now).task
        except (IllegalTransition, InvariantViolation):
            return
        self._learn(before, after, fact, is_paid=is_paid)
        held = self.total.reserved + self.total.settled
        self._book(before, after)
        if not _is_asked_for(before, fact):
            assert self.total.reserved + self.total.settled <= held
        self.task = after

    def _is_true(self, fact: Fact) -> bool:
        """Whether a vendor that never lies could have said so."""
        match fact:
            case Accepted() | Adopted():
                return bool(self.truth) and self.truth[-1]
            case NotSent() | Rejected():
                return not self.truth[-1]
            case OtherJob():  # of the last sending there is but one job
                return (self.task.attempts, self.task.tried) != (fact.attempt, fact.candidate)
            case Polled(progress=Succeeded(url=str())):
                return self.truth[-1]
            case Polled(progress=Failed()) | RerunAllowed() if self.truth:
                said: Charged = fact.failed_is_charged
                return self.truth[-1] if said == "yes" else said == "unknown" or self.known[-1] != "yes"
            case _:
                return True

    def _learn(self, before: Task, after: Task, fact: Fact, *, is_paid: bool) -> None:
        if isinstance(fact, ANSWERS):
            self.awaits = False
        match fact:
            case SubmitStarted(cost=cost):
                self.awaits = True
                self.known.append("open")
                self.truth.append(is_paid)
                self.prices.append(_price(cost))
            case NotSent() | Rejected():
                self.known[-1] = "no"
            case Polled(progress=Succeeded()) if after.result_url or after.late_url:
                self.known[-1] = "yes"
            case Polled(progress=Failed()) | RerunAllowed() if after.state != "rendering":
                self.known[-1] = {"no": "no", "yes": "yes"}.get(fact.failed_is_charged, "open")
                if fact.failed_is_charged == "no":
                    self.truth[-1] = False  # given back at this moment, before anybody hears of it
            case Continued():  # its job, and what that costs, is another video's from now on
                self.known[-1], self.truth[-1] = "no", False
            case LateEnded() | ResubmitAllowed() if before.charged_now == "yes":  # nobody asks any more
                self.known[-1] = "yes"

    @invariant()
    def the_ledger_is_what_is_known_of_each_sending(self) -> None:
        of = list(zip(self.known, self.prices, strict=True))
        aside = nanos(self.task.reserved_amount) if self.task.state in ("waiting", "submitting") else 0
        if self.task.state == "submitting" and self.task.sent_currency == self.task.reserved_currency:
            aside = max(0, aside - self.prices[-1])
        assert self.total.settled == sum(price for known, price in of if known == "yes")
        assert self.total.reserved == aside + sum(price for known, price in of if known == "open")

    @invariant()
    def the_vendors_books_are_within(self) -> None:
        """At every moment, not only at the end."""
        vendor = sum(price for is_paid, price in zip(self.truth, self.prices, strict=True) if is_paid)
        assert self.total.settled <= vendor <= self.total.settled + self.total.reserved

    @invariant()
    def nothing_unknown_is_equality(self) -> None:
        if self.task.is_terminal and "open" not in self.known:
            vendor = sum(price for is_paid, price in zip(self.truth, self.prices, strict=True) if is_paid)
            assert (self.total.settled, self.total.reserved) == (vendor, 0)

    @invariant()
    def it_is_counted_once(self) -> None:
        ends = {name: int(self.task.state == name) for name in ("completed", "failed", "cancelled")}
        assert self.total.accepted == 1
        assert {name: getattr(self.total, name) for name in ends} == ends


def _is_asked_for(task: Task, fact: Fact) -> bool:
    """Whether it may take more than is held, so that its save is held to the limits anew."""
    if not isinstance(fact, SubmitStarted):
        return isinstance(fact, ResubmitAllowed | RerunAllowed)
    is_alike = fact.cost is not None and fact.cost[1] == task.reserved_currency
    return fact.cost is not None and not (is_alike and _price(fact.cost) <= nanos(task.reserved_amount))


def _price(cost: Cost | None) -> int:
    return 0 if cost is None else int(Decimal(cost[0]) * 10**9)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
