"""Which enabled offerings take a request, in which order, and why each other one does not. Pure.

Not held here: the rules themselves (data in the adapters' tables, read by `providers.spec.refusals`), and who
of the candidates is free right now (`admission`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.core.facts import Candidate
from gateway.core.grants import EVERYTHING, Grant
from gateway.core.pricing import Estimate
from providers.spec import Offering, Refusal, VideoRequest, refusals

Strategy: TypeAlias = Literal["priority", "weighted", "cheapest", "fastest"]


class Listing(msgspec.Struct, frozen=True):
    """One enabled offering of one configured provider. The order of listings is the providers' priority."""

    provider: str
    offering: Offering
    weight: float = 1.0

    @property
    def candidate(self) -> Candidate:
        """What a task remembers of it."""
        return Candidate(self.provider, self.offering.slug)


class Refused(msgspec.Struct, frozen=True):
    """An offering that is no candidate, with every reason."""

    candidate: Candidate
    reasons: tuple[Refusal, ...]


class Route(msgspec.Struct, frozen=True):
    """The candidates in order, and the others with their reasons. No candidate: nobody takes the request."""

    candidates: tuple[Candidate, ...]
    refused: tuple[Refused, ...]


class Knowledge(msgspec.Struct, frozen=True):
    """What a choice looks at: a listing's `price` (None: not configured), learned times, chance.

    `draining` are the providers that take nothing new, `grant` is what the caller may use, `currency` the one
    that prices are compared in.
    """

    price: Callable[[Listing], Estimate | None]
    render_seconds: Mapping[Candidate, float]
    chance: random.Random
    draining: frozenset[str] = frozenset()
    grant: Grant = EVERYTHING
    currency: str | None = None


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
    """The candidates for `request`. `pins` are provider names: they restrict, and go before the strategy."""
    taken: list[Listing] = []
    refused: list[Refused] = []
    for listing in listings:
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
    if pins:
        taken.sort(key=lambda listing: pins.index(listing.provider))
    return Route(tuple(listing.candidate for listing in taken), tuple(refused))


def is_allowed(allowed: Sequence[str] | None, name: str) -> bool:
    """Whether `name` is among what is allowed; None: all is."""
    return allowed is None or name in allowed


def _reasons(
    request: VideoRequest, listing: Listing, pins: Sequence[str], known: Knowledge
) -> list[Refusal]:
    if not is_allowed(known.grant.models, request.model):
        return [Refusal("model", "is not among the models that this key may use")]
    if not is_allowed(known.grant.providers, listing.provider):
        return [Refusal("provider", "is not among the providers that this key may use")]
    if pins and listing.provider not in pins:
        return [Refusal("provider", f"is not among the asked providers: {', '.join(pins)}")]
    if listing.provider in known.draining:
        return [Refusal("provider", "is draining and takes nothing new")]
    return [*refusals(listing.offering, request), *_unpriced(listing, known)]


def _unpriced(listing: Listing, known: Knowledge) -> list[Refusal]:
    """Of whom spends only so much, what a video costs has to be known."""
    price = known.price(listing) if known.grant.currencies else None
    unmet = known.grant.currencies - {price[1] if price is not None else ""}
    return [
        Refusal("price", f"is not known in {currency}, in which what this key may spend is limited")
        for currency in sorted(unmet)
    ]
