"""What a task has cost and whether it was charged: by one sending and by several, in one currency and in two.

Not held here: what a request would cost (`test_pricing`), whatever else may happen (`test_any_life`).
"""

from __future__ import annotations

import pytest

from gateway.core.facts import (
    Accepted,
    Cancelled,
    Candidate,
    Cost,
    DeadlinePassed,
    Fact,
    Forgotten,
    NotSent,
    Polled,
    Rejected,
    RerunAllowed,
    ResubmitAllowed,
    SubmitStarted,
    SubmitUnknown,
)
from gateway.core.money import charged_with, cost_with, render_failed, unanswered, unspent
from gateway.core.states import Task
from providers.spec import Charged, Submitted
from tests.core.made import CAUSE, FAILED, NOW, ONE, SUBMITTED, TWO, life, make_task

USD: Cost = ("0.42", "USD")
MORE: Cost = ("0.7", "USD")
EUR: Cost = ("5", "EUR")
AGAIN = ResubmitAllowed("an operator")
REFUSED = (NotSent(CAUSE), Rejected(CAUSE))
SECOND = Accepted(Submitted(vendor_task_id="v-2", ref={"id": "v-2"}))


def sent(cost: Cost | None, candidate: Candidate = ONE) -> SubmitStarted:
    return SubmitStarted(candidate, cost)


FORGOTTEN = (sent(USD), Accepted(SUBMITTED), Forgotten(CAUSE))


def lost(cost: Cost | None) -> tuple[Fact, ...]:
    """Sent once, nobody knows, and allowed to be sent again."""
    return sent(cost), SubmitUnknown(CAUSE), AGAIN


def rerun(charged: Charged) -> tuple[Fact, ...]:
    """Bought once, failed by its vendor, and allowed to be bought elsewhere."""
    return sent(USD), Accepted(SUBMITTED), RerunAllowed(FAILED, charged, (), "the policy")


def money(task: Task) -> tuple[str, str | None, str | None]:
    """What is charged, and the cost; without an amount a currency says nothing."""
    return task.charged, task.cost_amount, None if task.cost_amount is None else task.cost_currency


# --- one sending --------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("happened", "expected"),
    [
        ((), ("no", None, None)),
        ((sent(USD),), ("no", *USD)),
        ((sent(None),), ("no", None, None)),
        ((sent(USD), SubmitUnknown(CAUSE)), ("unknown", *USD)),
        ((sent(USD), Accepted(SUBMITTED)), ("yes", *USD)),
        ((sent(None), Accepted(SUBMITTED)), ("yes", None, None)),
        ((sent(USD), NotSent(CAUSE)), ("no", None, None)),
        ((sent(USD), Rejected(CAUSE)), ("no", None, None)),
        ((sent(USD), NotSent(CAUSE), sent(EUR), Accepted(SUBMITTED)), ("yes", *EUR)),
        ((sent(USD), Accepted(SUBMITTED), Polled(FAILED, 60, "no")), ("no", None, None)),
        ((sent(USD), Accepted(SUBMITTED), Polled(FAILED, 60, "unknown")), ("unknown", *USD)),
        ((sent(USD), Accepted(SUBMITTED), Polled(FAILED, 60, "yes")), ("yes", *USD)),
        ((sent(USD), DeadlinePassed()), ("unknown", *USD)),
        ((sent(USD), Cancelled(detach=True)), ("unknown", *USD)),
    ],
)
def test_one_sending_costs_its_estimate_unless_it_bought_nothing(
    happened: tuple[Fact, ...], expected: tuple[object, ...]
) -> None:
    assert money(life(*happened)) == expected


# --- several sendings ---------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("happened", "expected"),
    [
        (lost(USD), ("unknown", *USD)),
        ((*lost(USD), sent(MORE)), ("unknown", "1.12", "USD")),
        ((*lost(USD), sent(MORE), SECOND), ("yes", "1.12", "USD")),
        ((*lost(USD), sent(MORE), SubmitUnknown(CAUSE)), ("unknown", "1.12", "USD")),
        ((*lost(USD), sent(MORE), NotSent(CAUSE)), ("unknown", *USD)),
        ((*lost(USD), sent(MORE), Rejected(CAUSE)), ("unknown", *USD)),
        ((*lost(USD), sent(MORE), NotSent(CAUSE), sent(MORE), SECOND), ("yes", "1.12", "USD")),
        ((*lost(USD), sent(MORE), SECOND, Polled(FAILED, 60, "no")), ("unknown", *USD)),
        ((*lost(USD), *lost(MORE), sent(MORE), SECOND), ("yes", "1.82", "USD")),
        (rerun("no"), ("no", None, None)),
        (rerun("yes"), ("yes", *USD)),
        ((*rerun("no"), sent(EUR, TWO), SECOND), ("yes", *EUR)),
        ((*rerun("yes"), sent(MORE, TWO)), ("yes", "1.12", "USD")),
        ((*rerun("yes"), sent(MORE, TWO), NotSent(CAUSE)), ("yes", *USD)),
        ((*rerun("unknown"), sent(MORE, TWO), SECOND), ("yes", "1.12", "USD")),
        ((*FORGOTTEN, AGAIN, sent(MORE), SECOND), ("yes", "1.12", "USD")),
    ],
)
def test_what_was_or_may_have_been_bought_adds_up(
    happened: tuple[Fact, ...], expected: tuple[object, ...]
) -> None:
    assert money(life(*happened)) == expected


@pytest.mark.parametrize("price", [EUR, None], ids=["another currency", "no price"])
def test_a_sum_in_two_currencies_or_with_an_unknown_price_is_not_known(price: Cost | None) -> None:
    assert money(life(*lost(USD), sent(price))) == ("unknown", None, None)
    assert money(life(*lost(USD), sent(price), SECOND)) == ("yes", None, None)
    assert money(life(*lost(price), sent(USD), SECOND)) == ("yes", None, None)
    assert money(life(*lost(USD), *lost(price), sent(USD), SECOND)) == ("yes", None, None)


@pytest.mark.parametrize("price", [EUR, None], ids=["another currency", "no price"])
@pytest.mark.parametrize("refusal", REFUSED)
def test_a_second_sending_that_bought_nothing_leaves_the_first_ones_cost(
    price: Cost | None, refusal: Fact
) -> None:
    assert money(life(*lost(USD), sent(price), refusal)) == ("unknown", *USD)
    assert money(life(*rerun("yes"), sent(price, TWO), refusal)) == ("yes", *USD)


@pytest.mark.parametrize("price", [EUR, None], ids=["another currency", "no price"])
def test_a_second_render_that_cost_nothing_leaves_the_first_ones_cost(price: Cost | None) -> None:
    failed = Polled(FAILED, 60, "no")
    assert money(life(*lost(USD), sent(price), SECOND, failed)) == ("unknown", *USD)


@pytest.mark.parametrize("refusal", REFUSED)
@pytest.mark.parametrize("first", [lost(USD), rerun("yes")], ids=["lost", "failed"])
def test_a_refusal_after_the_end_takes_back_the_price_of_its_own_sending_only(
    first: tuple[Fact, ...], refusal: Fact
) -> None:
    ended = life(*first, sent(MORE, TWO), DeadlinePassed())
    assert ended.cost_amount == "1.12"
    task = life(refusal, task=ended)
    assert money(task) == (ended.charged_before, *USD)


# --- the parts ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("before", ["no", "unknown", "yes"])
@pytest.mark.parametrize("now", ["no", "unknown", "yes"])
def test_the_gravest_of_what_is_known_counts(before: Charged, now: Charged) -> None:
    order = ["no", "unknown", "yes"]
    known = charged_with(make_task(charged_before=before), now)
    assert order.index(known) == max(order.index(before), order.index(now))


@pytest.mark.parametrize(
    ("state", "charged"), [("submitting", "unknown"), ("waiting", "no"), ("rendering", "no")]
)
def test_only_a_submit_under_way_may_have_been_bought_meanwhile(state: str, charged: str) -> None:
    assert unanswered(make_task(state=state)).charged == charged


def test_no_cent_is_lost_in_a_sum() -> None:
    task = make_task(charged_before="yes", cost_before="0.1", cost_currency="USD")
    assert cost_with(task, ("0.2", "USD")) == ("0.3", "USD")
    assert cost_with(task, ("999999999.999999999", "USD")) == ("1000000000.099999999", "USD")


def test_a_failed_render_of_unknown_price_keeps_its_estimate() -> None:
    task = make_task(charged="yes", cost_amount="0.42", cost_currency="USD")
    assert money(render_failed(task, "unknown")) == ("unknown", *USD)
    assert money(render_failed(task, "no")) == ("no", None, None)
    assert unspent(task).cost_amount is None
    assert life(DeadlinePassed(), task=make_task()).completed_at == NOW
