"""What a video is expected to cost: pure, in decimals, from the configured prices. No price is None, never 0.

Not held here: what was charged in the end (only the vendor knows), or budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from gateway.core.facts import Cost
from gateway.settings import Price
from providers.spec import VideoRequest


def estimate(rows: Sequence[Price], request: VideoRequest) -> tuple[Decimal, str] | None:
    """Amount and currency by the first of an offering's prices that fits the request; None when none does."""
    for row in rows:
        if row.fits(request.resolution, request.audio):
            amount = (row.per_second or Decimal(0)) * request.duration + (row.per_request or Decimal(0))
            return amount, row.currency
    return None


def as_cost(price: tuple[Decimal, str] | None) -> Cost | None:
    """The estimate as a task remembers it: a plain decimal text, at least two places, and the currency."""
    if price is None:
        return None
    amount, currency = price
    places = max(2, -int(amount.normalize().as_tuple().exponent))
    return f"{amount:.{places}f}", currency
