"""What a key may spend and use: limits, and the providers and models that it is for. Pure values.

Not held here: who has which (`gateway.storage.keys`, `[teams]` of the settings), holding a caller to it
(`gateway.engine`, `gateway.storage.allowance`).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

Count: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
Currency: TypeAlias = Annotated[str, Meta(pattern="^[A-Z]{3}$")]


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The most that a key, or a team together, may have. None: no limit.

    `max_in_flight`: videos at vendors at once, others wait; `max_queued`: videos that wait at once. Money by
    the day and the month (UTC) in which a video was accepted, what is reserved counted.
    """

    requests_per_minute: Count | None = None
    max_in_flight: Count | None = None
    max_queued: Count | None = None
    money_per_day: Decimal | None = None
    money_per_month: Decimal | None = None
    currency: Currency = "USD"

    @property
    def has_money(self) -> bool:
        """Whether what it may spend is bounded."""
        return self.money_per_day is not None or self.money_per_month is not None


NO_LIMITS: Final = Limits()


class Grant(Struct, frozen=True, kw_only=True):
    """What a caller may use, and how much of it. `providers` and `models` None: all."""

    providers: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    limits: Limits = NO_LIMITS  # of its key
    team_limits: Limits = NO_LIMITS  # of its team together

    @property
    def currencies(self) -> frozenset[str]:
        """Those in which what it spends is bounded: what has no price in them cannot be."""
        return frozenset(each.currency for each in (self.limits, self.team_limits) if each.has_money)


EVERYTHING: Final = Grant()
