"""The configured providers as operators see them, and the orders that they give: pause, drain, resume.

An order is stored before it is obeyed, so it outlives the process. Not held here: what makes a provider
healthy, and what keeps submissions away from it (`gateway.core.health`).
"""

from __future__ import annotations

from datetime import date
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath

from gateway.api.audit import entry_of
from gateway.api.auth import operator
from gateway.api.gateway import caller_of, gateway_of
from gateway.api.problems import responses
from gateway.api.reading import read_nothing
from gateway.core.health import HoldAction, ProviderState
from gateway.engine.loop import Engine
from gateway.engine.provider import Provider
from gateway.engine.reports import told
from gateway.errors import Problem
from gateway.storage.audit import Facts, recording
from gateway.storage.rows import Hold

Circuit: TypeAlias = Literal["closed", "open"]
_ACTIONS: Final[dict[HoldAction | None, str]] = {
    "pause": "provider.paused", "drain": "provider.drained", None: "provider.resumed",
}


class Operations(msgspec.Struct, frozen=True):
    """The breaker of each kind of call; `open`: its calls fail, and nothing is submitted meanwhile."""

    submit: Circuit
    poll: Circuit


class ProviderObject(msgspec.Struct, frozen=True, kw_only=True):
    """One provider in use. `why` is what keeps submissions away, null when nothing does.

    `waiting` are the videos that could go there, `unknown` those that it may or may not have accepted. All
    replicas are counted, the worst that one has met is the `state`; what others tell is up to 2 s old.
    `held_by` is who paused or drained it, `since` when (Unix seconds). From `retires_on` (a date, midnight
    UTC) it takes nothing new; `canary` is the share of requests that it is tried first for; null: none.
    """

    object: Literal["provider"] = "provider"
    name: str
    adapter: str
    host: str
    state: ProviderState
    why: str | None
    held_by: str | None
    since: int | None
    operations: Operations
    in_flight: int
    max_in_flight: int | None
    waiting: int
    unknown: int
    last_error: str | None
    canary: float | None
    retires_on: date | None


class ProviderList(msgspec.Struct, frozen=True, kw_only=True):
    """All providers in use, in their order of priority; last those that the configuration has no more."""

    object: Literal["list"] = "list"
    data: list[ProviderObject]


@get(
    "/v1/providers", opt={"role": "operator", "scope": "providers"}, responses=responses(),
    summary="Providers and their state", tags=["operations"],
)
async def list_providers(request: Request[Any, Any, Any]) -> ProviderList:
    """State and why, jobs in flight against the limit, what waits, and the last error of each provider."""
    gateway = gateway_of(request)
    holds = {hold.provider: hold for hold in await gateway.store.holds()}
    providers = gateway.fleet.providers.values()
    return ProviderList(data=[_object(gateway.engine, one, holds.get(one.name)) for one in providers])


@post(
    "/v1/providers/{name:str}/pause", status_code=200,
    opt={"role": "operator", "scope": "providers"}, responses=responses(404, 413),
    summary="Pause a provider", tags=["operations"],
)
async def pause_provider(request: Request[Any, Any, Any], name: FromPath[str]) -> ProviderObject:
    """Submit nothing more there; what could go there waits. What it has already is followed to its end."""
    return await _order(request, name, "pause")


@post(
    "/v1/providers/{name:str}/drain", status_code=200,
    opt={"role": "operator", "scope": "providers"}, responses=responses(404, 413),
    summary="Drain a provider", tags=["operations"],
)
async def drain_provider(request: Request[Any, Any, Any], name: FromPath[str]) -> ProviderObject:
    """As pause, and no new video has it among its candidates either."""
    return await _order(request, name, "drain")


@post(
    "/v1/providers/{name:str}/resume", status_code=200,
    opt={"role": "operator", "scope": "providers"}, responses=responses(404, 413),
    summary="Resume a provider", tags=["operations"],
)
async def resume_provider(request: Request[Any, Any, Any], name: FromPath[str]) -> ProviderObject:
    """Lift a pause or drain, and forget refusals and failures: whoever says this knows that all is well."""
    return await _order(request, name, None)


async def _order(request: Request[Any, Any, Any], name: str, action: HoldAction | None) -> ProviderObject:
    """Store the order, then obey it. Raises Problem not_found, or for a body that says anything."""
    read_nothing(await request.body())
    gateway, by = gateway_of(request), operator(caller_of(request))
    store, provider = gateway.store, gateway.fleet.providers.get(name)
    if provider is None:
        raise Problem("not_found", f"There is no provider {name[:80]!r}.")
    held = next((hold for hold in await store.holds() if hold.provider == name), None)
    before: Facts = {
        "order": None if held is None else held.action, "held_by": None if held is None else held.by,
        "state": told(gateway.engine, provider).state,
    }
    also = (recording(entry_of(request, _ACTIONS[action], name, before, {"order": action})),)
    hold = None if action is None else Hold(provider=name, action=action, by=by, at=gateway.now())
    if hold is None:
        await store.hold_delete(name, also)
        gateway.fleet.resume(name)
    else:
        await store.hold_put(hold, also)
    gateway.fleet.hold(name, action)
    gateway.telemetry.log.warning("provider_ordered", provider=name, order=action or "resume", by=by)
    gateway.engine.look()
    return _object(gateway.engine, gateway.fleet.providers[name], hold)


def _object(engine: Engine, provider: Provider, hold: Hold | None) -> ProviderObject:
    settings, found = provider.settings, told(engine, provider)
    return ProviderObject(
        name=provider.name, adapter=settings.adapter.name, host=urlsplit(settings.base_url).netloc,
        state=found.state, why=found.why, held_by=None if hold is None else hold.by,
        since=None if hold is None else int(hold.at),
        operations=Operations(_circuit(is_open=found.submits_open), _circuit(is_open=found.polls_open)),
        in_flight=found.in_flight, max_in_flight=provider.gate.max_in_flight,
        waiting=found.waiting, unknown=found.unknown, last_error=found.last_error,
        canary=settings.canary, retires_on=settings.retire_on,
    )


def _circuit(*, is_open: bool) -> Circuit:
    return "open" if is_open else "closed"
