"""What a task has cost, as far as anybody can know: over all its sendings, and never less than was known.

Pure. Not held here: when a fact changes it (`tasks`), what a request would cost (`pricing`).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from msgspec.structs import replace

from gateway.core.facts import Cost
from gateway.core.states import Task
from providers.spec import Charged

_CHARGED: Final[tuple[Charged, ...]] = ("no", "unknown", "yes")


def cost_with(task: Task, cost: Cost | None) -> Cost | None:
    """The price of all sendings that were or may have been bought and one more; None: not known."""
    if cost is None or task.charged_before == "no":
        return cost
    if task.cost_before is None or task.cost_currency != cost[1]:
        return None
    return str(Decimal(task.cost_before) + Decimal(cost[0])), cost[1]


def charged_with(task: Task, now: Charged) -> Charged:
    """What is known of all sendings together: a second one does not unsay what is known of the first."""
    return max(task.charged_before, now, key=_CHARGED.index)


def unanswered(task: Task) -> Task:
    """The answer of a submit in flight is not known yet, so neither is whether it was bought."""
    return bought(task, "unknown") if task.state == "submitting" else task


def bought(task: Task, charged: Charged) -> Task:
    """A task of whose latest sending this is known now."""
    return replace(task, charged=charged_with(task, charged), charged_now=charged)


def bought_before(task: Task) -> Task:
    """A task of which it is known now that a sending before the last permission was bought."""
    return replace(task, charged="yes", charged_before="yes")


def bought_all_the_same(task: Task) -> Task:
    """A task whose latest sending was surely bought, whatever comes of the job that it follows for it."""
    price = None if task.sent_amount is None else (task.sent_amount, task.sent_currency or "")
    amount, currency = cost_with(task, price) or (None, task.cost_currency)
    known = replace(task, cost_amount=amount, cost_before=amount, cost_currency=currency)
    return replace(known, charged="yes", charged_before="yes", charged_now="yes")


def unspent(task: Task) -> Task:
    """The estimate of this sending goes with the proof that it bought nothing."""
    currency = None if task.cost_before is None else task.cost_currency
    return replace(task, cost_amount=task.cost_before, cost_currency=currency)


def render_failed(task: Task, charged: Charged) -> Task:
    """What a failed render cost, by all that is known."""
    known = unspent(task) if charged == "no" else task
    return replace(known, charged=charged_with(task, charged), charged_now=charged)
