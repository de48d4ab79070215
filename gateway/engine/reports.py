"""How each provider is, as this process tells the other replicas, and as operators and metrics are told.

Not held here: what a report says and how several become one (`gateway.core.reports`), anything that decides:
who may submit and when a vendor is asked goes by what this process has met itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from gateway.core.lease import LEASE_SECONDS
from gateway.core.reports import Report, reported, together
from gateway.core.states import UNOWNED
from gateway.engine.loop import Engine
from gateway.engine.provider import Provider
from gateway.storage.replicas import ReplicaRow


def met(engine: Engine) -> dict[str, Report]:
    """What this process's calls have met at each provider, for the other replicas."""
    return {name: _own(engine, provider) for name, provider in engine.fleet.providers.items()}


def hear(engine: Engine, everybody: Iterable[ReplicaRow]) -> None:
    """Keep what the others tell. Who is silent for too long tells nothing, also while nobody buries it."""
    heard = [
        one for one in everybody if one.id != engine.replica and one.silent_seconds < LEASE_SECONDS
    ]
    engine.fleet.others = {name: [one.report(name) for one in heard] for name in engine.fleet.providers}


def told(engine: Engine, provider: Provider) -> Report:
    """How a provider is over all replicas: what was said of it first, then what anybody's calls have met."""
    return _said(provider, together(_own(engine, provider), engine.fleet.others.get(provider.name, ())))


def measured(engine: Engine, provider: Provider) -> Report:
    """How a provider is for metrics: as this process meets it, or as all tell it where it makes no calls."""
    return told(engine, provider) if engine.owner == UNOWNED else _said(provider, _own(engine, provider))


def _own(engine: Engine, provider: Provider) -> Report:
    name = provider.name
    return reported(provider.gate, engine.now(), engine.line.waiting_for(name), engine.fleet.unknown[name])


def _said(provider: Provider, found: Report) -> Report:
    said = provider.health.said
    return found if said is None else replace(found, state=said, why=provider.health.said_why)
