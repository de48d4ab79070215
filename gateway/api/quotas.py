"""What a caller is held to when it orders, and the 429 that says which limit is reached and when it renews.

Not held here: the limits (`gateway.core.grants`), how they are held to over all replicas
(`gateway.storage.allowance`), requests per minute (`rates`).
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.api.auth import Caller
from gateway.api.gateway import Gateway
from gateway.core.spending import day_of, decimal_text, entries, nanos
from gateway.core.states import Task
from gateway.errors import Problem
from gateway.storage.allowance import Account, Allowance, Limit, OverLimit, accounts_of
from providers.spec import Charged

_STOPPED: Final = "An operator has stopped all spending: nothing new is taken, what was is finished."
_STOPPED_SECONDS: Final = 30
_CROWDS: Final[dict[Limit, str]] = {
    "max_queued": "may have {most} videos waiting at once, and has them; nothing was stored or sent",
    "max_in_flight": "may have {most} videos at vendors at once, and has them; nothing was stored or sent",
}


async def check_spending(gateway: Gateway, charged: Charged = "no") -> None:
    """Raises Problem spending_stopped while all spending is stopped. `charged`: what is known so far."""
    if await gateway.engine.spending.look():
        headers = {"Retry-After": str(_STOPPED_SECONDS)}
        raise Problem("spending_stopped", _STOPPED, headers=headers, extra={"charged": charged})


def allowance_of(caller: Caller, task: Task) -> Allowance:
    """What must hold of the caller's accounts once this new task is stored."""
    return Allowance(
        accounts=accounts_of(caller.id, caller.owner, caller.grant), at=task.created_at, has_money=True,
        is_queued=task.state == "waiting", is_in_flight=task.is_in_flight,
    )


async def over(gateway: Gateway, accounts: tuple[Account, ...], task: Task, error: OverLimit) -> Problem:
    """The refusal of a task that an account has no room for. Nothing of it was stored or sent."""
    account = next(account for account in accounts if account.kind == error.kind)
    who = "This key" if error.kind == "key" else f"The {account.id.replace(':', ' ', 1)}"
    if error.limit in _CROWDS:
        said = _CROWDS[error.limit].format(most=getattr(account.limits, error.limit))
        return Problem("quota_exceeded", f"{who} {said}.", extra={"charged": task.charged})
    limits, now = account.limits, gateway.now()
    most = nanos(getattr(limits, error.limit))
    left = max(0, most - await gateway.store.allowances.spent(account, error.limit, task.created_at))
    period = "day" if error.limit == "money_per_day" else "month"
    needed = decimal_text(_price(task, limits.currency))
    detail = (
        f"{who} may spend {decimal_text(most)} {limits.currency} per {period}; {decimal_text(left)} is left "
        f"and {needed} is needed."
    )
    extra, headers = {"retryable": False, "charged": task.charged}, {"x-should-retry": "false"}
    if task.permissions:  # its money counts where it was accepted, whenever it is sent
        accepted = day_of(task.created_at)
        detail += f" It counts in the {period} of its acceptance, {accepted}, which does not renew."
        return Problem("quota_exceeded", detail, extra=extra, headers=headers)
    renews = renewal(error.limit, now)
    headers["Retry-After"] = str(max(1, math.ceil(renews.timestamp() - now)))
    detail += f" It renews at {renews:%Y-%m-%dT%H:%M:%SZ}."
    return Problem("quota_exceeded", detail, extra=extra, headers=headers)


def renewal(limit: Limit, at: float) -> datetime:
    """When a limit on money begins anew: at midnight UTC, of the day or of the month's first."""
    day = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if limit == "money_per_day":
        return day + timedelta(days=1)
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _price(task: Task, currency: str) -> int:
    """What a task puts aside as it is, in nanos."""
    told = entries(None, task)
    return sum(entry.amounts.reserved for entry in told if entry.currency == currency)
