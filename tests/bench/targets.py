"""What the figures must show, as data, and whether they do. One that is missed is told like one that is met.

Not held here: measuring, and how the table looks (`report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, Literal

import msgspec

from tests.bench import detection, waiting
from tests.bench.cases import (
    BUDGET,
    BYTES,
    CPU,
    ERRORS,
    FIRST_POLL,
    LAG,
    MEMORY,
    P50,
    P99,
    PEAK,
    RATE,
    RATIO,
    ROW_WRITES,
    WIDEST,
    form_of,
)
from tests.bench.groups import detected
from tests.bench.storing import FEW, MANY, PAGES

Rows = Mapping[str, Mapping[str, Sequence[float]]]
# One in `over`'s place means: not a ratio.
Verdict = Literal["met", "missed", "not measured"]


class Term(msgspec.Struct, frozen=True):
    """A figure: the row and the column of a group."""

    row: str
    column: str


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """`value`, divided by `over` where there is one, against `limit`. `point`: its number in the issue.

    With `is_worst` every round has to hold it, not the median.
    """

    point: int
    text: str
    group: str
    value: Term
    over: Term | None = None
    relation: Literal["<=", ">="]
    limit: float
    is_worst: bool = False


class Finding(msgspec.Struct, frozen=True):
    """What came of a target: the figures, one a round, and the verdict."""

    target: Target
    values: list[float]
    verdict: Verdict


def _targets() -> list[Target]:
    return [*_CREATES, *_READS, *_CROWD, *_POLLS, *_detection(), *_RESTART, *_lists(), *_MEMORY, *_WAITING]


def _ratio(group: str, text: str, value: Term, over: Term, bound: str) -> Target:
    """`bound` as in the issue: `1 >= 7` is point 1, at least 7."""
    point, relation, limit = bound.split()
    assert relation in ("<=", ">=")
    return Target(point=int(point), text=text, group=group, value=value, over=over,
                  relation="<=" if relation == "<=" else ">=", limit=float(limit))


def _plain(group: str, text: str, value: Term, bound: str, *, is_worst: bool = False) -> Target:
    point, relation, limit = bound.split()
    assert relation in ("<=", ">=")
    return Target(point=int(point), text=text, group=group, value=value, is_worst=is_worst,
                  relation="<=" if relation == "<=" else ">=", limit=float(limit))


_OURS, _THEIRS = "reelgate create", "LiteLLM create"
_CREATES: Final = (
    _ratio("peers", "creates per CPU-second / LiteLLM's", Term(_THEIRS, CPU), Term(_OURS, CPU), "1 >= 7"),
    _ratio("create", "CPU of a create / bare Litestar with the same vendor call", Term("create", CPU),
           Term("bare accept + vendor call", CPU), "1 <= 1.6"),
    _ratio("peers", "p50 of LiteLLM's create / that of our 202, one at a time", Term(_THEIRS, P50),
           Term(_OURS, P50), "1 >= 12"),
    _ratio("fsync", "accepts a second with 2 ms fsyncs / commit per row", Term("accept, 2 ms fsync", RATE),
           Term("accept, 2 ms fsync, commit per row", RATE), "1 >= 10"),
    _ratio("create", "CPU of a create, PostgreSQL / SQLite", Term("create, PostgreSQL", CPU),
           Term("create", CPU), "1 <= 1.2"),
)
_READS: Final = (
    _ratio("peers", "status reads per CPU-second / LiteLLM's", Term("LiteLLM status read", CPU),
           Term("reelgate status read", CPU), "2 >= 30"),
    _ratio("read", "status reads per CPU-second / bare Litestar's", Term("bare read", CPU),
           Term("status read", CPU), "2 >= 0.55"),
    _ratio("read", "CPU of a status read / of the same without keys (callers)", Term("status read", CPU),
           Term("status read, no keys", CPU), "6 <= 1.1"),
    _ratio("read", "CPU of a 304 / of a 200", Term("status read, 304", CPU), Term("status read", CPU),
           "2 <= 1"),
)
_SLOW = "1,000 in flight, 200 ms"
_CROWD: Final = (
    _plain("crowd", "creates a second, 1,000 in flight at a vendor that takes 200 ms", Term(_SLOW, RATE),
           "3 >= 700"),
    _plain("crowd", "errors among them", Term(_SLOW, ERRORS), "3 <= 0", is_worst=True),
    _plain("crowd", "p99 of them, ms, to the vendor's answer", Term(_SLOW, P99), "3 <= 2000"),
)
_HUGE = "100,000 in flight, 2,000 polls/s"
_POLLS: Final = (
    _plain("polls", "polls a second of one process", Term("polls, flat out", RATE), "4 >= 2500"),
    _plain("inflight", "poll lag p99, s, with 20,000 in flight",
           Term("20,000 in flight", LAG), "4 <= 1"),
    _plain("inflight", "busiest minute / budget, with 100,000 in flight",
           Term(_HUGE, BUDGET), "4 <= 1", is_worst=True),
    _plain("inflight", "oldest unpolled / mean interval, with 100,000 in flight",
           Term(_HUGE, WIDEST), "4 <= 2", is_worst=True),
    _plain("inflight", "MiB with 100,000 in flight", Term(_HUGE, PEAK), "4 <= 300", is_worst=True),
    _plain("inflight", "bytes per followed task", Term(_HUGE, BYTES), "4 <= 1536", is_worst=True),
    _plain("writes", "row writes of a task polled often", Term("polled often", ROW_WRITES), "4 <= 8"),
)
_RESTART: Final = (
    _plain("restart", "restart to the first poll, s, with 10,000 in flight",
           Term("restart with 10,000 in flight", FIRST_POLL), "6 <= 1"),
)
_WAITING: Final = (
    _ratio("fanout", "bytes of a long poll / of a bare Litestar one (delivery)", Term(waiting.POLLED, BYTES),
           Term(waiting.FLOOR, BYTES), "5 <= 1.5"),
    _ratio("fanout", "bytes of an event stream / of a bare Litestar long poll (delivery)",
           Term(waiting.STREAMED, BYTES), Term(waiting.FLOOR, BYTES), "5 <= 1.5"),
)
_MEMORY: Final = (
    _plain("starts", "idle, MiB", Term("reelgate", MEMORY), "7 <= 110", is_worst=True),
    _plain("create", "under load, MiB at its peak", Term("create", PEAK), "7 <= 150", is_worst=True),
)


def _lists() -> list[Target]:
    return [
        _ratio("list", f"p99 of a {page}, 1,000,000 rows / 1,000 rows", Term(f"{page}, {MANY}", P99),
               Term(f"{page}, {FEW}", P99), "7 <= 2")
        for page in PAGES
    ]


def _detection() -> list[Target]:
    names, most = list(detection.RENDERS), max(detection.LEARNED_FROM)
    learned = [name for name in names if name == names[0] or name.startswith("bimodal")]
    return [
        *(_plain("detection", f"delay / fixed interval's, learned: {name}",
                 Term(detected(name, most), RATIO), "5 <= 0.5") for name in learned),
        *(_plain("detection", f"delay / fixed interval's, nothing learned: {name}",
                 Term(detected(name, 0), RATIO), "5 <= 1.1") for name in names),
    ]


TARGETS: Final = tuple(_targets())


def judged(target: Target, groups: Mapping[str, Rows]) -> Finding:
    """What `groups` say of it; a ratio is taken round by round, the verdict from the median of the rounds."""
    values = _figures(groups.get(target.group, {}), target)
    if not values:
        return Finding(target, [], "not measured")
    worst = max(values) if target.relation == "<=" else min(values)
    value = worst if target.is_worst else median(values)
    is_met = value <= target.limit if target.relation == "<=" else value >= target.limit
    return Finding(target, values, "met" if is_met else "missed")


def _figures(rows: Rows, target: Target) -> list[float]:
    values = list(rows.get(target.value.row, {}).get(target.value.column, ()))
    if target.over is None:
        return values
    floors = rows.get(target.over.row, {}).get(target.over.column, ())
    return [value / floor for value, floor in zip(values, floors, strict=False)]


def form(target: Target) -> str:
    """How its figures are written."""
    return ".2f" if target.over is not None else form_of(target.value.column)
