"""The dry run: what would happen to a request, and the refusal that names every reason.

Spends nothing, stores nothing. Not held here: the routing itself (`gateway.core.routing`).
"""

from __future__ import annotations

import re

import msgspec

from gateway.api.gateway import Gateway
from gateway.api.wire import Asked
from gateway.core.grants import Grant
from gateway.core.pricing import as_cost
from gateway.core.routing import Refused, Route
from gateway.engine import handing
from gateway.errors import Problem

_DATA_URI = re.compile(r"data:[^,]{1,100},")


class PlannedCost(msgspec.Struct):
    """An estimate by the configured prices; `amount` is a decimal text."""

    amount: str
    currency: str
    kind: str = "estimate"


class VendorRequest(msgspec.Struct):
    """The create call as it would leave, with the key and image bytes left out."""

    method: str
    url: str
    headers: dict[str, str]
    body: dict[str, object]


class PlannedCandidate(msgspec.Struct):
    """One candidate, in the order in which they would be tried.

    `canary` is the share of requests that its provider is tried first for; null where it has none.
    """

    provider: str
    offering: str
    canary: float | None
    request: VendorRequest
    cost: PlannedCost | None


class PlanRefusal(msgspec.Struct):
    """An offering that would not be tried, with every reason."""

    provider: str
    offering: str
    reasons: list[str]


class Plan(msgspec.Struct, kw_only=True):
    """What would happen to a request."""

    object: str = "video.plan"
    model: str
    candidates: list[PlannedCandidate]
    refused: list[PlanRefusal]


def plan_of(gateway: Gateway, asked: Asked, grant: Grant) -> Plan:
    """The plan of a request, of what `grant` allows. Raises Problem no_route when there is no candidate."""
    route = gateway.fleet.route(asked.request, asked.pins, grant)
    if not route.candidates:
        raise no_route(route)
    planned = []
    for candidate in route.candidates:
        found = gateway.fleet.find(candidate)
        if found is None:
            continue
        provider, offering = found
        public_url = gateway.fleet.settings.server.public_url
        call = provider.adapter.call(handing.shown(asked.request, offering, public_url), offering)
        scheme = provider.settings.adapter.auth_scheme
        shown = VendorRequest(
            method="POST", url=provider.settings.base_url.rstrip("/") + call.path,
            headers={"Authorization": f"{scheme} [key]", "Content-Type": "application/json"},
            body={name: _shown(value) for name, value in call.body.items()},
        )
        cost = as_cost(provider.price(offering, asked.request))
        estimated = None if cost is None else PlannedCost(*cost)
        canary = provider.settings.canary
        planned.append(PlannedCandidate(candidate.provider, candidate.offering, canary, shown, estimated))
    return Plan(model=asked.request.model, candidates=planned, refused=_refusals(route.refused))


def no_route(route: Route) -> Problem:
    """The 422 that names, for every enabled offering, each reason why it does not take the request."""
    detail = "No enabled offering takes this combination; `candidates` has each one's reasons."
    if not route.refused:
        detail = "None of the enabled providers is for this key."
    return Problem("no_route", detail, extra={"candidates": _refusals(route.refused)})


def _refusals(refused: tuple[Refused, ...]) -> list[PlanRefusal]:
    return [
        PlanRefusal(
            entry.candidate.provider, entry.candidate.offering,
            [f"{reason.param}: {reason.reason}" for reason in entry.reasons],
        )
        for entry in refused
    ]


def _shown(value: object) -> object:
    """A field of the body for people: image bytes are named by their size, not repeated."""
    if isinstance(value, str) and (head := _DATA_URI.match(value)) is not None:
        return f"{head.group()}[{len(value) - head.end()} characters]"
    return value
