"""Which enabled offerings take a request, in which order, and why each other one does not. Pure.

Not held here: the rules themselves (data in the adapters' tables, read by `providers.refusals`), and who
of the candidates is free right now (`admission`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.core.facts import Candidate
from gateway.core.grants import EVERYTHING, Grant
from gateway.core.pricing import Estimate
from providers.refusals import Refusal, refusals
from providers.spec import Offering, VideoRequest

Strategy: TypeAlias = Literal["priority", "weighted", "cheapest", "fastest"]


class Listing(msgspec.Struct, frozen=True):
    """One enabled offering of one configured provider. The order of listings is the providers' priority.

    `canary`: the share (0..1) of what it could take that goes there first. From `retires_on`, midnight UTC,
    it takes nothing new.
    """

    provider: str
    offering: Offering
    weight: float = 1.0
    canary: float | None = None
    retires_on: date | None = None

    @property
    def candidate(self) -> Candidate:
        """What a task remembers of it."""
        return Candidate(self.provider, self.offering.slug)

    @property
    def retires_at(self) -> float:
        """When its last day is over, Unix seconds; infinity where it has none."""
        day = self.retires_on
        return float("inf") if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


class Refused(msgspec.Struct, frozen=True):
    """An offering that is no candidate, with every reason."""

    candidate: Candidate
    reasons: tuple[Refusal, ...]


class Route(msgspec.Struct, frozen=True):
    """The candidates in order, and the others with their reasons. No candidate: nobody takes the request.

    `canary` is the provider that chance put first, by its share; None: the strategy's word stood.
    """

    candidates: tuple[Candidate, ...]
    refused: tuple[Refused, ...]
    canary: str | None = None


class Knowledge(msgspec.Struct, frozen=True):
    """What a choice looks at: a listing's `price` (None: not configured), learned times, chance.

    `draining` are the providers that take nothing new, `retired` the listings whose last day is over, `grant`
    is what the caller may use, `currency` the one that prices are compared in.
    """

    price: Callable[[Listing], Estimate | None]
    render_seconds: Mapping[Candidate, float]
    chance: random.Random
    draining: frozenset[str] = frozenset()
    grant: Grant = EVERYTHING
    currency: str | None = None
    retired: frozenset[Candidate] = frozenset()


Rank: TypeAlias = "tuple[bool, Decimal] | float"


def _cheapest(listing: Listing, known: Knowledge) -> Rank:
    price = known.price(listing)
    is_known = price is not None and price[1] == known.currency  # what a euro is worth nobody has said
    return not is_known, price[0] if is_known and price is not None else Decimal(0)


# Each strategy is a sort key; the sort is stable, so ties stay in the providers' priority.
STRATEGIES: Final[Mapping[Strategy, Callable[[Listing, Knowledge], Rank]]] = {
    "priority": lambda listing, known: 0.0,
    # Efraimidis and Spirakis: u ** (1 / weight), largest first, is a weighted draw without replacement.
    "weighted": lambda listing, known: -(known.chance.random() ** (1 / listing.weight)),
    "cheapest": _cheapest,
    # What was never tried comes first: nothing else could ever show that it is faster.
    "fastest": lambda listing, known: known.render_seconds.get(listing.candidate, 0.0),
}


def choose(
    request: VideoRequest, listings: Sequence[Listing], pins: Sequence[str], strategy: Strategy,
    known: Knowledge,
) -> Route:
    """The candidates for `request`. `pins` are provider names: they restrict, and go before the strategy.

    Of a provider that is not for the caller nothing is told.
    """
    taken: list[Listing] = []
    refused: list[Refused] = []
    for listing in listings:
        if not is_allowed(known.grant.providers, listing.provider):
            continue
        reasons = _reasons(request, listing, pins, known)
        if reasons:
            refused.append(Refused(listing.candidate, tuple(reasons)))
        else:
            taken.append(listing)
    if strategy == "cheapest":
        prices = (known.price(listing) for listing in taken)
        currency = next((price[1] for price in prices if price is not None), None)
        known = msgspec.structs.replace(known, currency=currency)
    key = STRATEGIES[strategy]
    taken.sort(key=lambda listing: key(listing, known))
    drawn = _drawn(taken, known.chance)
    taken.sort(key=lambda listing: (listing.provider != drawn, listing.canary is not None))
    if pins:
        taken.sort(key=lambda listing: pins.index(listing.provider))
    first = drawn if taken and taken[0].provider == drawn else None
    return Route(tuple(listing.candidate for listing in taken), tuple(refused), first)


def _drawn(taken: Sequence[Listing], chance: random.Random) -> str | None:
    """The canary whose turn it is. One draw for all of them: each has its own part between 0 and 1."""
    shares = {listing.provider: listing.canary for listing in taken if listing.canary is not None}
    if not shares:
        return None
    left = chance.random()
    for provider in sorted(shares):  # so that neither strategy nor priority moves the parts
        left -= shares[provider]
        if left < 0:
            return provider
    return None


def retired(listings: Iterable[Listing], now: float) -> frozenset[Candidate]:
    """Those whose last day is over."""
    return frozenset(listing.candidate for listing in listings if listing.retires_at <= now)


def retires_next(listings: Iterable[Listing], now: float) -> float:
    """When the next of them retires, Unix seconds; infinity when none will."""
    return min((one.retires_at for one in listings if one.retires_at > now), default=float("inf"))


def is_allowed(allowed: Sequence[str] | None, name: str) -> bool:
    """Whether `name` is among what is allowed; None: all is."""
    return allowed is None or name in allowed


def _reasons(
    request: VideoRequest, listing: Listing, pins: Sequence[str], known: Knowledge
) -> list[Refusal]:
    if not is_allowed(known.grant.models, request.model):
        return [Refusal("model", "is not among the models that this key may use")]
    if pins and listing.provider not in pins:
        return [Refusal("provider", f"is not among the asked providers: {', '.join(pins)}")]
    if listing.candidate in known.retired:
        return [Refusal("provider", f"is retired since {listing.retires_on} and takes nothing new")]
    if listing.provider in known.draining:
        return [Refusal("provider", "is draining and takes nothing new")]
    return [*refusals(listing.offering, request), *_unpriced(listing, known)]


def _unpriced(listing: Listing, known: Knowledge) -> list[Refusal]:
    """Of whom spends only so much, what a video costs has to be known."""
    currencies = known.grant.currencies
    if not currencies:
        return []
    price = known.price(listing)
    unmet = currencies - {price[1] if price is not None else ""}
    return [
        Refusal("price", f"is not known in {currency}, in which what this key may spend is limited")
        for currency in sorted(unmet)
    ]
