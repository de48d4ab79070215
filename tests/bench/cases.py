"""What a measurement is: samples by column, cases that give one each round, groups of cases to compare.

Held here: the types, and the one case that most groups are made of: requests over kept connections. Not held
here: which groups there are (their modules; `groups` has the table), what becomes of the figures (`report`).

A figure's column says what it is and its unit, and `COLUMNS` how it is written. Cases of one group run in
turn, round by round, on one machine in one run: only they are compared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, TypeAlias

import msgspec

from tests.bench.load import Load, drive
from tests.bench.processes import Server
from tests.bench.stage import Stage

CONNECTIONS: Final = 64
PAUSE_SECONDS: Final = 0.01  # before each request of one at a time: it meets a server that has nothing to do

RATE: Final = "a second"
CPU: Final = "CPU us each"
P50: Final = "p50 ms, one at a time"
BUSY: Final = "of its core"
P99: Final = "p99 ms"
MIDDLE: Final = "p50 ms"
MEMORY: Final = "MiB"
PEAK: Final = "peak MiB"
BYTES: Final = "bytes each"
ERRORS: Final = "errors"
READY: Final = "ready s"
LAG: Final = "poll lag p99 <= s"
WIDEST: Final = "widest / mean"
BUDGET: Final = "busiest minute / budget"
FIRST_POLL: Final = "first poll s"
ROW_WRITES: Final = "row writes"
DATABASE: Final = "database CPU us each"
RATIO: Final = "ratio"

# How a column is written whose unit at its end does not say it; see `form_of`.
_FORMS: Final = {
    RATE: ",.0f", CPU: ",.0f", P50: ",.2f", BUSY: ".0%", MEMORY: ",.0f", PEAK: ",.0f", BYTES: ",.0f",
    ERRORS: ",.0f", "MB/s": ",.0f", "CPU ms a MB": ".2f", DATABASE: ",.0f", LAG: "g", BUDGET: ".3f",
}  # fmt: skip

Sample: TypeAlias = dict[str, float]  # one measurement of one case: a figure for each of its columns


class Case(msgspec.Struct, frozen=True):
    """One thing to measure; `run` does so once. Raises UnexpectedAnswer, TimeoutError."""

    name: str
    run: Callable[[], Sample]


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Cases that are compared with each other. `note` says how they are measured, in Markdown.

    `open` starts what they need for as long as the stage lasts. With `is_warmed` a first round is not
    counted: whatever is done only once is done then. `rounds` are counted.
    """

    name: str
    title: str
    note: str
    open: Callable[[Stage], list[Case]]
    rounds: int = 5
    is_warmed: bool = True


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """A case of requests: `count` of them over `connections`, then `alone` more, one at a time.

    `settle` waits for what the answers leave to be done; that is in the time and the CPU of the many.
    """

    name: str
    server: Server
    requests: Callable[[int], Sequence[bytes]]
    status: int
    count: int
    connections: int = CONNECTIONS
    alone: int = 40
    settle: Callable[[int], None] | None = None

    def case(self) -> Case:
        """It as a case."""
        return Case(self.name, self.sample)

    def sample(self) -> Sample:
        """One measurement. `of its core`: near 1, the server was the limit."""
        marks: list[tuple[float, float]] = []

        def mark() -> None:
            marks.append((time.perf_counter(), self.server.cpu_seconds()))

        self._send(self.connections, self.count, 0.0, mark)
        mark()
        (began, cpu_before), (ended, cpu_after) = marks
        seconds, cpu_seconds = ended - began, cpu_after - cpu_before
        found = {RATE: self.count / seconds, CPU: cpu_seconds / self.count * 1e6, BUSY: cpu_seconds / seconds}
        if self.alone:
            alone = self._send(1, self.alone, PAUSE_SECONDS, mark)
            found[P50] = median(alone) * 1e3
        return found | {PEAK: self.server.peak_mib()}

    def _send(
        self, connections: int, count: int, pause_seconds: float, mark: Callable[[], None]
    ) -> list[float]:
        load = Load(requests=self.requests(count), connections=min(connections, count), count=count,
                    status=self.status, pause_seconds=pause_seconds)
        seconds = asyncio.run(drive(self.server.port, load, mark))
        if self.settle is not None:
            self.settle(count)
        return seconds


def form_of(column: str) -> str:
    """How the figures of a column are written."""
    unit = ",.2f" if column.endswith((" s", " ms")) else ",.3g"
    return _FORMS.get(column, unit)


def quantile(values: Sequence[float], share: float) -> float:
    """That quantile of at least one value: the smallest that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
