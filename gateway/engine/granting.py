"""What a caller may still spend, asked before more is sent for it than was put aside when it ordered.

A policy's permission to send once more, and a price that has risen meanwhile. Not held here: the policies
(`rerun`, `unknown`), what follows from a permission (`gateway.core.tasks`).
"""

from __future__ import annotations

from functools import partial

from gateway.core.admission import pause_seconds
from gateway.core.facts import Cost, RerunAllowed, ResubmitAllowed
from gateway.core.spending import nanos
from gateway.core.states import Task
from gateway.engine.loop import Engine
from gateway.storage.allowance import OVER, Allowance, OverMoney


async def granted(engine: Engine, task: Task, permission: RerunAllowed | ResubmitAllowed) -> bool:
    """Save a permission; False where nothing has changed.

    Its key or team has not enough left, or an operator has stopped all spending. A database that does not
    answer is waited for: whoever asks would ask the vendor again meanwhile.
    """
    if await engine.insist(task.id, engine.spending.look):
        engine.telemetry.log.info("not_sent_again", video_id=task.id, limit="spending_stopped")
        return False
    accounts = await engine.insist(task.id, partial(engine.accounts.held_to, task))
    try:
        await engine.save(task, permission, Allowance(accounts=accounts, at=task.created_at, has_money=True))
    except OverMoney as error:
        engine.telemetry.log.info("not_sent_again", video_id=task.id, account=error.kind, limit=error.limit)
        return False
    return True


async def dearer(engine: Engine, task: Task, cost: Cost | None) -> Allowance | None:
    """What must hold where a sending costs more than was put aside; None: it does not.

    Prices may have changed since. Raises OverMoney where spending is bounded and nobody knows the price any
    more in the currency of the bound, and StorageError.
    """
    is_covered = cost is not None and cost[1] == task.reserved_currency
    if is_covered and cost is not None and nanos(cost[0]) <= nanos(task.reserved_amount):
        return None
    accounts = await engine.accounts.held_to(task)
    for account in accounts:
        if account.limits.has_money and (cost is None or cost[1] != account.limits.currency):
            raise OVER[account.kind, "money_per_day"]("the price is not known any more")
    return Allowance(accounts=accounts, at=task.created_at, has_money=True)


def put_off(engine: Engine, task_id: str) -> None:
    """Leave a task in line that may not be sent yet, and look again in a while, ever longer."""
    watch = engine.watches.get(task_id)
    if watch is not None:
        watch.failures += 1
        watch.not_before = engine.now() + pause_seconds(watch.failures, None, engine.chance)
        engine.due_at(task_id, watch.not_before)
