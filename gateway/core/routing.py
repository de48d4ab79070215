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

    `draining` are the providers that take nothing new.
    """

    price: Callable[[Listing], Decimal | None]
    render_seconds: Mapping[Candidate, float]
    chance: random.Random
    draining: frozenset[str] = frozenset()


_UNKNOWN: Final = float("inf")


def _cheapest(listing: Listing, known: Knowledge) -> float:
    price = known.price(listing)
    return _UNKNOWN if price is None else float(price)


# Each strategy is a sort key; the sort is stable, so ties stay in the providers' priority.
STRATEGIES: Final[Mapping[Strategy, Callable[[Listing, Knowledge], float]]] = {
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
        reasons = _reasons(request, listing, pins, known.draining)
        if reasons:
            refused.append(Refused(listing.candidate, tuple(reasons)))
        else:
            taken.append(listing)
    key = STRATEGIES[strategy]
    taken.sort(key=lambda listing: key(listing, known))
    if pins:
        taken.sort(key=lambda listing: pins.index(listing.provider))
    return Route(tuple(listing.candidate for listing in taken), tuple(refused))


def _reasons(
    request: VideoRequest, listing: Listing, pins: Sequence[str], draining: frozenset[str]
) -> list[Refusal]:
    if pins and listing.provider not in pins:
        return [Refusal("provider", f"is not among the asked providers: {', '.join(pins)}")]
    if listing.provider in draining:
        return [Refusal("provider", "is draining and takes nothing new")]
    return refusals(listing.offering, request)
