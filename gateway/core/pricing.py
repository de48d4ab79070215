"""What a video is expected to cost: pure, in decimals, from the configured prices. No price is None, never 0.

Not held here: what was charged in the end (only the vendor knows), or budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TypeAlias

from gateway.core.facts import Cost
from gateway.settings import Price
from providers.spec import VideoRequest

Estimate: TypeAlias = tuple[Decimal, str]  # amount and currency


def estimate(rows: Sequence[Price], request: VideoRequest) -> Estimate | None:
    """Amount and currency by the first of an offering's prices that fits the request; None when none does."""
    for row in rows:
        if row.fits(request.resolution, request.audio):
            amount = (row.per_second or Decimal(0)) * request.duration + (row.per_request or Decimal(0))
            return amount, row.currency
    return None


def dearest(prices: Iterable[Estimate | None]) -> Estimate | None:
    """What to put aside whichever of these it will be: the most, in the currency of the first priced one."""
    known = [price for price in prices if price is not None]
    alike = [price for price in known if price[1] == known[0][1]]
    return max(alike, default=None)


def as_cost(price: Estimate | None) -> Cost | None:
    """The estimate as a task remembers it: a plain decimal text, at least two places, and the currency."""
    if price is None:
        return None
    amount, currency = price
    places = max(2, -int(amount.normalize().as_tuple().exponent))
    return f"{amount:.{places}f}", currency
