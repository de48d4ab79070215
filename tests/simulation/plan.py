"""One seed's scenario, drawn beforehand: who orders what, which faults are on, how the gateway is configured.

Swarm testing: each seed turns a random subset of the fault families on, so that no fault always hides
another. Pure. Not held here: what a fault does (`vendor`, `disk`, `fate`). Times in virtual seconds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

from gateway.engine.replica import ReplicaRole
from providers.spec import Charged

T = TypeVar("T")
ProviderName: TypeAlias = Literal["highway", "myrouter", "unified"]
Policy: TypeAlias = Literal["hold", "fail", "resubmit"]
Strategy: TypeAlias = Literal["priority", "weighted", "cheapest", "fastest"]
HappeningKind: TypeAlias = Literal["kill", "stop", "pause", "zombie", "wall"]
PerilKind: TypeAlias = Literal["kill", "stop", "freeze", "cut_off", "cut_vendors", "clock"]
OutageKind: TypeAlias = Literal["refused", "silent", "unavailable", "auth", "credit"]
Verb: TypeAlias = Literal["cancel", "detach", "delete", "resend"]
OperatorVerb: TypeAlias = Literal["pause", "resume", "drain", "adopt", "fail", "resubmit"]

NAMES: Final[tuple[ProviderName, ...]] = ("highway", "myrouter", "unified")
CENTS_PER_SECOND: Final = {"highway": 7, "myrouter": 9, "unified": 11}
DURATION_SECONDS: Final = 5  # of every video that is ordered: all three vendors sell it

# What can come of a submit, by the family that turns it on; each kind is a row of `vendor.SUBMITS`.
SUBMIT_FAMILIES: Final = {
    "not_sent": ("no_connection", "connect_timeout"),
    "lost_answer": ("lost_before_work", "lost_after_work"),
    "reset": ("reset_before_work", "reset_after_work", "cut_after_work"),
    "server_error": ("error_before_work", "error_after_work", "gateway_timeout_after_work"),
    "throttle": ("throttled", "throttled_until_a_date", "throttled_oddly", "busy", "busy_after_work"),
    "account": ("bad_key", "no_credit", "forbidden"),
    "refusal": ("invalid", "bad_content", "gone"),
    "junk": ("html_after_work", "broken_json_after_work", "empty_before_work"),
    "bad_id": ("no_id", "odd_id", "second_hand_id"),
    "slow_answer": ("slow",),
}
# What can come of a poll; each is a row of `vendor.POLLS`.
POLL_FAMILIES: Final = {
    "poll_broken": ("reset", "silent", "refused", "cut"),
    "poll_error": ("error", "throttled", "bad_key"),
    "poll_junk": ("html", "other_task", "broken_json"),
    "odd_words": ("unknown_word", "other_case"),
    "backwards": ("backwards",),
}
JOB_FAMILIES: Final = ("fails", "stuck", "forgets", "linkless")
PROCESS_FAMILIES: Final = ("kill", "crash_point", "stop", "pause", "zombie", "wall")
DISK_FAMILIES: Final = ("disk_slow", "disk_fails", "disk_lies", "disk_outage")
OTHER_FAMILIES: Final = ("outage", "cancel", "detach", "delete", "resend", "burst", "operator")
FAMILIES: Final = (
    *SUBMIT_FAMILIES, *POLL_FAMILIES, *JOB_FAMILIES, *PROCESS_FAMILIES, *DISK_FAMILIES, *OTHER_FAMILIES,
)


class Outage(msgspec.Struct, frozen=True):
    """A vendor's bad time: from `start` to `end`, every call (for `credit`: every submit) meets `kind`."""

    kind: OutageKind
    start: float
    end: float


class VendorPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a vendor behaves, and how the gateway is configured for it.

    `submits` and `polls` are what may go wrong, `trouble` how often (0..1); `fates` likewise of a render.
    """

    name: ProviderName
    submits: tuple[str, ...]
    polls: tuple[str, ...]
    trouble: float
    fates: tuple[str, ...]
    fate_trouble: float
    latency: float
    render_seconds: tuple[float, float]
    outages: tuple[Outage, ...]
    failed_is_charged: Charged | None
    is_priced: bool
    max_in_flight: int | None
    requests_per_minute: int | None
    max_queue_age: float | None
    on_unknown: Policy
    unknown_timeout: float
    submit_timeout: float
    poll_min: float
    poll_max: float


class Act(msgspec.Struct, frozen=True):
    """What a caller does with its video, `after` seconds from the first try to order it."""

    verb: Verb
    after: float


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One video that somebody wants. `key`: it is ordered under an idempotency key, until it is accepted."""

    number: int
    at: float
    owner: str
    priority: int
    key: str | None
    deadline: float
    pins: tuple[ProviderName, ...]
    acts: tuple[Act, ...]

    @property
    def prompt(self) -> str:
        """By which the vendor's ledger and the gateway's rows are brought together."""
        return f"order {self.number}"


class Happening(msgspec.Struct, frozen=True):
    """Something that befalls the gateway's process; `seconds`: how long it is down, still, or off."""

    kind: HappeningKind
    at: float
    seconds: float


class Command(msgspec.Struct, frozen=True):
    """Something an operator does: to a provider, or to whichever video is unknown then."""

    verb: OperatorVerb
    at: float
    provider: ProviderName


class DiskPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How the database misbehaves: shares 0..1 of calls, and windows in which nothing works."""

    slow: float = 0.0
    slow_seconds: float = 0.0
    fails: float = 0.0
    lies: float = 0.0
    outages: tuple[tuple[float, float], ...] = ()

    @property
    def is_calm(self) -> bool:
        """Whether it works at once, always."""
        return not (self.slow or self.fails or self.lies or self.outages)


class Peril(msgspec.Struct, frozen=True):
    """Something that befalls one of several replicas, at `slot`; `seconds`: how long, or how far off.

    `is_silent`: whoever is cut off hears nothing, not even a refusal.
    """

    kind: PerilKind
    at: float
    seconds: float
    slot: int
    is_silent: bool


class Hurdle(msgspec.Struct, frozen=True):
    """Where a process stands still, or is cut off from the database: at this crossing, for `seconds`.

    `is_at_door`: of crossings, only those count where a vendor is about to be connected to for a submit.
    """

    crossing: int
    is_at_door: bool
    seconds: float
    is_cut: bool
    is_silent: bool


class ReplicaPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One of several processes on one database: `skew_seconds` is how far its wall clock is off."""

    role: ReplicaRole
    place: str
    skew_seconds: float


class SharedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What there is besides where several replicas share a database.

    `hurdles`: at which crossings a process stands still or is cut off, `news_lost`: the share 0..1.
    """

    replicas: tuple[ReplicaPlan, ...]
    perils: tuple[Peril, ...]
    hurdles: tuple[Hurdle, ...]
    news_lost: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole scenario of `seed`. `crash_points` are counts of crossings at which the process dies.

    `shared`: several replicas serve at once; None: one process, then the next.
    """

    seed: int
    families: tuple[str, ...]
    vendors: tuple[VendorPlan, ...]
    orders: tuple[Order, ...]
    strategy: Strategy
    rerun_failed: int
    rerun_cost_limit: str | None
    happenings: tuple[Happening, ...]
    crash_points: tuple[int, ...]
    commands: tuple[Command, ...]
    disk: DiskPlan
    shared: SharedPlan | None = None

    @property
    def is_calm(self) -> bool:
        """Whether nothing but callers' wishes can keep a video from being finished."""
        return not set(self.families) - {"cancel", "detach", "delete", "resend", "burst"}


def stream(seed: int, name: str) -> random.Random:
    """A generator of its own for one actor: by a text, whose digest does not depend on the process."""
    return random.Random(f"{seed}/{name}")


def make_plan(seed: int) -> Plan:
    """The scenario of a seed; the same in every process."""
    chance = stream(seed, "plan")
    share = chance.choice((0.0, 0.1, 0.2, 0.35, 0.6))
    on = tuple(family for family in FAMILIES if chance.random() < share)
    span = 1.0 if "burst" in on else chance.choice((5.0, 120.0, 900.0))
    deadline = chance.choice((240.0, 900.0, 3600.0, 10_800.0))
    names = chance.sample(NAMES, chance.choice((1, 2, 2, 3)))
    vendors = tuple(_vendor(chance, name, on, span, deadline) for name in names)
    orders = tuple(
        _order(chance, number, names, on, (span, deadline)) for number in range(chance.randint(1, 7))
    )
    length = span + deadline
    return Plan(
        seed=seed, families=on, vendors=vendors, orders=orders,
        strategy=chance.choice(("priority", "priority", "weighted", "cheapest", "fastest")),
        rerun_failed=chance.choice((0, 0, 1, 2)), rerun_cost_limit=chance.choice((None, None, "0.80")),
        happenings=_happenings(chance, on, length), crash_points=_crash_points(chance, on),
        commands=_commands(chance, on, names, length), disk=_disk(chance, on, length),
    )


def _some(chance: random.Random, on: Sequence[str], families: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(kind for family, kinds in families.items() if family in on for kind in kinds)


def _vendor(
    chance: random.Random, name: ProviderName, on: Sequence[str], span: float, deadline: float
) -> VendorPlan:
    poll_min = chance.choice((5.0, 20.0, 60.0))
    quick = chance.choice((5.0, 60.0, 300.0))
    return VendorPlan(
        name=name, submits=_some(chance, on, SUBMIT_FAMILIES), polls=_some(chance, on, POLL_FAMILIES),
        trouble=chance.choice((0.1, 0.3, 0.7)), fates=tuple(fate for fate in JOB_FAMILIES if fate in on),
        fate_trouble=chance.choice((0.2, 0.5)), latency=chance.choice((0.05, 0.4, 3.0)),
        render_seconds=(quick, quick * chance.choice((1.5, 4.0))),
        outages=_outages(chance, on, span + deadline), is_priced=chance.random() < 0.8,
        failed_is_charged=chance.choice((None, "yes", "no", "unknown")),
        max_in_flight=chance.choice((None, 1, 2, 4)), requests_per_minute=chance.choice((None, None, 2, 6)),
        max_queue_age=chance.choice((None, None, 60.0, 600.0)),
        on_unknown=chance.choice(("hold", "hold", "fail", "resubmit")),
        unknown_timeout=chance.choice((30.0, 300.0, 900.0)), submit_timeout=chance.choice((20.0, 60.0)),
        poll_min=poll_min, poll_max=max(poll_min, deadline / chance.choice((8, 15))),
    )


def _outages(chance: random.Random, on: Sequence[str], length: float) -> tuple[Outage, ...]:
    if "outage" not in on:
        return ()
    kind: OutageKind = chance.choice(("refused", "silent", "unavailable", "auth", "credit"))
    start = chance.uniform(0, length / 2)
    return (Outage(kind, start, start + chance.choice((60.0, 600.0, 3600.0))),)


def _order(
    chance: random.Random, number: int, names: Sequence[ProviderName], on: Sequence[str],
    times: tuple[float, float],
) -> Order:
    span, deadline = times
    acts = tuple(
        Act(verb, chance.choice((0.0, 0.3, 5.0, 60.0, deadline * 1.5)) if verb != "delete" else deadline)
        for verb in _verbs(on) if chance.random() < 0.4
    )
    return Order(
        number=number, at=chance.uniform(0, span), owner=chance.choice(("ann", "ben", "cem")),
        priority=chance.choice((0, 0, 0, 5, -5)), deadline=deadline, acts=acts,
        key=f"key {number}" if chance.random() < 0.7 else None,
        pins=tuple(chance.sample(names, 1)) if chance.random() < 0.2 else (),
    )


def _verbs(on: Sequence[str]) -> tuple[Verb, ...]:
    verbs: tuple[Verb, ...] = ("cancel", "detach", "delete", "resend")
    return tuple(verb for verb in verbs if verb in on)


def _happenings(chance: random.Random, on: Sequence[str], length: float) -> tuple[Happening, ...]:
    found: list[Happening] = []
    lasting: dict[HappeningKind, tuple[float, ...]] = {
        "kill": (0.1, 3.0, 400.0), "stop": (0.1, 3.0, 60.0), "pause": (30.0, 300.0, 1800.0),
        "zombie": (20.0, 200.0), "wall": (3600.0, -3600.0, 40.0),
    }
    for kind, seconds in lasting.items():
        times = chance.choice((1, 1, 2)) if kind in on else 0
        # Most of what matters is near the beginning, when much is under way.
        found += [Happening(kind, length * chance.random() ** 3, chance.choice(seconds))
                  for _ in range(times)]
    return tuple(sorted(found, key=lambda happening: happening.at))


def _crash_points(chance: random.Random, on: Sequence[str]) -> tuple[int, ...]:
    if "crash_point" not in on:
        return ()
    return tuple(sorted(chance.randint(1, 40) for _ in range(chance.choice((1, 1, 2)))))


def _commands(
    chance: random.Random, on: Sequence[str], names: Sequence[ProviderName], length: float
) -> tuple[Command, ...]:
    if "operator" not in on:
        return ()
    found: list[Command] = []
    verbs: tuple[OperatorVerb, ...] = ("pause", "drain", "adopt", "fail", "resubmit", "adopt")
    for verb in chance.sample(verbs, 3):
        at = length * chance.random() ** 2
        name = chance.choice(names)
        found.append(Command(verb, at, name))
        if verb in ("pause", "drain"):
            found.append(Command("resume", at + chance.choice((5.0, 120.0, 900.0)), name))
        else:
            found += [Command(verb, at + later, name) for later in (30.0, 150.0)]
    return tuple(sorted(found, key=lambda command: command.at))


def _disk(chance: random.Random, on: Sequence[str], length: float) -> DiskPlan:
    outages: tuple[tuple[float, float], ...] = ()
    if "disk_outage" in on:
        start = length * chance.random() ** 3
        outages = ((start, start + chance.choice((2.0, 60.0, 300.0))),)
    # A process that dies at a moment must be able to die between a commit and the news of it.
    dies = {"kill", "crash_point", "zombie"} & set(on)
    is_slow = "disk_slow" in on or bool(dies)
    return DiskPlan(
        slow=chance.choice((0.2, 0.8)) if is_slow else 0.0,
        slow_seconds=chance.choice((0.01, 0.2, 2.0)) if is_slow else 0.0,
        fails=chance.choice((0.05, 0.2)) if "disk_fails" in on else 0.0,
        lies=chance.choice((0.05, 0.2)) if "disk_lies" in on else 0.0, outages=outages,
    )
