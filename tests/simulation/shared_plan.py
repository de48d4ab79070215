"""The scenario of a seed in which two or three replicas serve from one database at once, and which seeds do.

Short lives: every replica beats each virtual second. Pure. Not held here: what one process alone meets
(`plan`), what a peril does (`perils`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from tests.simulation.plan import (
    JOB_FAMILIES,
    NAMES,
    POLL_FAMILIES,
    SUBMIT_FAMILIES,
    Act,
    Command,
    DiskPlan,
    Hurdle,
    OperatorVerb,
    Order,
    Peril,
    PerilKind,
    Plan,
    ProviderName,
    ReplicaPlan,
    SharedPlan,
    VendorPlan,
    Verb,
    make_plan,
    stream,
)

ONE_IN: Final = 6  # of so many seeds one has replicas
PERIL_FAMILIES: Final[tuple[PerilKind, ...]] = (
    "kill", "stop", "freeze", "cut_off", "cut_vendors", "clock"
)
SHARED_FAMILIES: Final = (
    *PERIL_FAMILIES, "crash_point", "hurdle", "skew", "news_lost", "slow_connect", "api", "away",
    "denied", "slow_database", "database_fails", "operator", "cancel", "detach", "resend", "burst",
    "lost_answer", "reset", "not_sent", "throttle", "slow_answer", "poll_broken", "fails",
)
_VERBS: Final[tuple[Verb, ...]] = ("cancel", "detach", "resend")


def plan_of(seed: int) -> Plan:
    """The scenario of a seed, with replicas or without; the same in every process."""
    return shared_plan(seed) if seed % ONE_IN == 0 else make_plan(seed)


def shared_plan(seed: int) -> Plan:
    """The scenario of a seed with replicas."""
    chance = stream(seed, "shared plan")
    share = chance.choice((0.0, 0.1, 0.2, 0.35, 0.6))
    on = tuple(family for family in SHARED_FAMILIES if chance.random() < share)
    span = 1.0 if "burst" in on else chance.choice((5.0, 40.0))
    deadline = chance.choice((60.0, 90.0, 150.0))
    names = chance.sample(NAMES, chance.choice((1, 1, 2)))
    length = span + deadline
    count = chance.choice((2, 3))
    alone = make_plan(seed)
    return Plan(
        seed=seed, families=on, vendors=tuple(_vendor(chance, name, on) for name in names),
        orders=tuple(
            _order(chance, number, names, on, (span, deadline)) for number in range(chance.randint(2, 8))
        ),
        strategy=alone.strategy, rerun_failed=alone.rerun_failed, rerun_cost_limit=alone.rerun_cost_limit,
        happenings=(), crash_points=_points(chance, "crash_point" in on),
        commands=_commands(chance, on, names, span), disk=_disk(chance, on, length),
        shared=SharedPlan(
            replicas=tuple(_replica(chance, slot, on) for slot in range(count)),
            perils=_perils(chance, on, length, count),
            hurdles=_hurdles(chance) if "hurdle" in on else (),
            news_lost=chance.choice((0.1, 0.5)) if "news_lost" in on else 0.0,
        ),
    )


def _replica(chance: random.Random, slot: int, on: Sequence[str]) -> ReplicaPlan:
    skew = chance.choice((0.0, 0.3, -5.0, 60.0, 3600.0, -3600.0)) if "skew" in on else 0.0
    return ReplicaPlan(
        role="api" if "api" in on and slot == 1 else "all",
        place=chance.choice((f"host {slot}", f"host {slot}", "")), skew_seconds=skew,
    )


def _vendor(chance: random.Random, name: ProviderName, on: Sequence[str]) -> VendorPlan:
    submits = tuple(
        kind for family, kinds in SUBMIT_FAMILIES.items() if family in on for kind in kinds
    ) + (("slow_connect", "slow_connect") if "slow_connect" in on else ())
    quick = chance.choice((2.0, 10.0, 30.0))
    return VendorPlan(
        name=name, submits=submits, trouble=chance.choice((0.2, 0.5)),
        polls=tuple(kind for family, kinds in POLL_FAMILIES.items() if family in on for kind in kinds),
        fates=tuple(fate for fate in JOB_FAMILIES if fate in on), fate_trouble=0.3,
        latency=chance.choice((0.05, 0.4, 3.0)), render_seconds=(quick, quick * 2.0), outages=(),
        is_priced=chance.random() < 0.8, failed_is_charged=chance.choice((None, "yes", "no")),
        max_in_flight=chance.choice((None, 1, 1, 2, 3)),
        requests_per_minute=chance.choice((None, None, 2, 4)), max_queue_age=None,
        on_unknown=chance.choice(("hold", "fail", "resubmit")),
        unknown_timeout=chance.choice((10.0, 30.0, 60.0)), submit_timeout=chance.choice((12.0, 20.0)),
        poll_min=chance.choice((1.0, 5.0)), poll_max=10.0,
    )


def _order(
    chance: random.Random, number: int, names: Sequence[ProviderName], on: Sequence[str],
    times: tuple[float, float],
) -> Order:
    span, deadline = times
    acts = tuple(
        Act(verb, chance.choice((0.0, 0.3, 5.0, 30.0)))
        for verb in _VERBS if verb in on and chance.random() < 0.4
    )
    return Order(
        number=number, at=2.0 + chance.uniform(0, span), owner=chance.choice(("ann", "ben", "cem")),
        priority=chance.choice((0, 0, 0, 5, -5)), deadline=deadline, acts=acts,
        key=f"key {number}" if chance.random() < 0.7 else None,
        pins=tuple(chance.sample(names, 1)) if chance.random() < 0.2 else (),
    )


def _perils(chance: random.Random, on: Sequence[str], length: float, count: int) -> tuple[Peril, ...]:
    lasting: dict[PerilKind, tuple[float, ...]] = {
        "kill": (0.1, 3.0, 20.0), "stop": (0.1, 3.0, 20.0), "freeze": (0.1, 3.0, 7.0, 12.0, 30.0),
        "cut_off": (0.1, 3.0, 7.0, 12.0, 30.0), "cut_vendors": (1.0, 10.0, 30.0),
        "clock": (40.0, 3600.0, -3600.0),
    }
    found = [
        Peril(kind, 1.0 + length * chance.random() ** 2, chance.choice(seconds) * chance.uniform(0.8, 1.0),
              chance.randrange(count), chance.random() < 0.5)
        for kind, seconds in lasting.items() if kind in on for _ in range(chance.choice((1, 2, 3)))
    ]
    return tuple(sorted(found, key=lambda peril: peril.at))


def _hurdles(chance: random.Random) -> tuple[Hurdle, ...]:
    found = []
    for _ in range(chance.choice((1, 2, 3))):
        is_at_door = chance.random() < 0.6
        found.append(Hurdle(
            chance.randint(1, 5 if is_at_door else 40), is_at_door, chance.choice((0.5, 4.0, 7.0, 9.0, 20.0)),
            chance.random() < 0.5, chance.random() < 0.5,
        ))
    return tuple(found)


def _points(chance: random.Random, is_on: bool) -> tuple[int, ...]:
    """Crossings, while videos are still to be sent most of all."""
    return tuple(sorted(chance.randint(1, 40) for _ in range(chance.choice((1, 2, 3))))) if is_on else ()


def _commands(
    chance: random.Random, on: Sequence[str], names: Sequence[ProviderName], span: float
) -> tuple[Command, ...]:
    """Pauses come early, when there is still something to hold back."""
    if "operator" not in on:
        return ()
    name, at = chance.choice(names), chance.uniform(0.0, 2.0 + span)
    hold: OperatorVerb = chance.choice(("pause", "drain"))
    found = [Command(hold, at, name), Command("resume", at + chance.choice((5.0, 20.0, 40.0)), name)]
    verbs: tuple[OperatorVerb, ...] = ("adopt", "fail", "resubmit")
    for verb in chance.sample(verbs, 2):
        found += [Command(verb, at + later, name) for later in (8.0, 20.0, 35.0)]
    return tuple(sorted(found, key=lambda command: command.at))


def _disk(chance: random.Random, on: Sequence[str], length: float) -> DiskPlan:
    outages: tuple[tuple[float, float], ...] = ()
    if "away" in on:
        start = length * chance.random() ** 2
        outages = ((start, start + chance.choice((1.0, 5.0, 20.0, 60.0))),)
    return DiskPlan(
        slow=0.5 if "slow_database" in on else 0.1,
        slow_seconds=chance.choice((0.05, 0.3)) if "slow_database" in on else 0.01,
        fails=chance.choice((0.03, 0.15)) if "database_fails" in on else 0.0,
        lies=chance.choice((0.05, 0.2)) if "denied" in on else 0.0, outages=outages,
    )
