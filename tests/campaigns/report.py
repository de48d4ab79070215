"""What a campaign says at its end: a table, and what to look at if a promise was broken.

Held here: its form, and what no campaign's callers may have met. Not held here: the figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

import msgspec

from tests.campaigns.callers import Callers
from tests.campaigns.history import CLASSES, Verdict
from tests.campaigns.stage import Plan

SHOWN_MAX: Final = 20  # violations; the rest is counted
Rows: TypeAlias = Sequence[tuple[str, str]]


class Scene(Protocol):
    """Where a campaign took place. `excused`: statuses of 500 and above that callers may meet there."""

    plan: Plan
    callers: Callers
    excused: frozenset[int]


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a campaign. `text` is the table; any of `violations` means that it failed."""

    text: str
    violations: Sequence[str]


class Report(Ended, frozen=True, kw_only=True):
    """The end of one that is judged by its history."""

    verdict: Verdict


def told(rows: Rows, violations: Sequence[str]) -> Ended:
    """A table, and what was broken."""
    table = [*rows, ("violations", str(len(violations)))]
    lines = [f"{label:<27} {text}" for label, text in table]
    lines += [f"  {violation}" for violation in violations[:SHOWN_MAX]]
    return Ended(text="\n".join(lines) + "\n", violations=violations)


def reported(name: str, stage: Scene, rows: Rows, verdict: Verdict, more: Sequence[str] = ()) -> Report:
    """Put it together; `more` are violations that only this campaign knows of."""
    callers, plan = stage.callers, stage.plan
    promised = sum(bool(order.ids) for order in callers.orders)
    ends = ", ".join(f"{end} {count}" for end, count in sorted(verdict.ends.items()))
    classes = ", ".join(f"{kind} {verdict.classes[kind]}" for kind in CLASSES)
    fates = ", ".join(f"{fate} {count}" for fate, count in sorted(callers.fates.items()))
    money = f"ledger difference {verdict.difference} USD, of an outcome nobody knows {verdict.unsure} USD"
    violations = [*verdict.violations, *more, *_unfit(stage)]
    table = [
        ("campaign", f"{name}, seed {plan.seed}, {'as typed' if plan.typed else 'forked'}"), *rows,
        ("ordered, promised", f"{len(callers.orders)}, {promised}"), ("history", classes), ("ends", ends),
        ("vendors charged", f"{verdict.charges} times; {money}"),
        ("requests without an answer", fates or "none"), ("violations", str(len(violations))),
    ]
    lines = [f"{label:<27} {text}" for label, text in table]
    lines += [f"  {violation}" for violation in violations[:SHOWN_MAX]]
    if violations:
        lines.append(f"look at {plan.folder}: gateways.log, gateways.stderr, asks.jsonl, reelgate.db")
    return Report(text="\n".join(lines) + "\n", verdict=verdict, violations=violations)


def _unfit(stage: Scene) -> list[str]:
    """A caller never meets an answer of 500, nor a connection on which nothing comes."""
    statuses = stage.callers.statuses
    found = [f"answers: {statuses[status]} times {status}" for status in statuses
             if status >= 500 and status not in stage.excused]
    late = stage.callers.fates["late"]
    return found + ([f"answers: {late} never came"] if late else [])


def times(seconds: Sequence[float]) -> str:
    """Median, 99th percentile and maximum, in milliseconds."""
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    last = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    figures = {"median": statistics.median(ordered), "p99": last, "max": ordered[-1]}
    told = ", ".join(f"{name} {value * 1000:.0f}" for name, value in figures.items())
    return f"{told} ms, of {len(ordered)}"
