"""More creates than it can take: what is still served, how the rest is refused, and whether it recovers.

The measure is the whole life of a video: accept, submit, one poll, its end, each committed; the vendor costs
next to nothing and has every video done at its first poll. First the capacity, by callers that wait for their
answers; then callers that do not wait, at multiples of it. Not held here: sending (`openloop`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from tests.bench.following import lag_p99
from tests.bench.load import Load, drive
from tests.bench.openloop import Outcome, fire
from tests.bench.stage import BODY, Stage
from tests.bench.tables import table
from tests.bench.wire import request

MULTIPLES: Final = (1.0, 2.0, 5.0, 10.0, 0.5)  # of the capacity; the last shows what the spike leaves behind
SECONDS: Final = 10.0
_WAITING_CALLERS: Final = 16
_WARM_UP, _COUNTED = 500, 2_000  # creates of callers that wait
_PATIENCE_SECONDS: Final = 120.0


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One rate. `settled_seconds`: from the last request to the end of every accepted video."""

    multiple: float
    per_second: float
    outcome: Outcome
    settled_seconds: float
    poll_lag_p99: float
    memory_mib: float

    @property
    def goodput(self) -> float:
        """Videos a second, all the way to their end."""
        return len(self.outcome.accepted) / (self.outcome.seconds + self.settled_seconds)


class Overload:
    """The gateway of one run and what its callers send."""

    def __init__(self, stage: Stage) -> None:
        vendor = stage.vendor("--done-after", "0")
        self.gateway = stage.gateway("overload", vendor, 'poll_min = "1s"', 'poll_max = "1h"')
        self.server = stage.serve(self.gateway)
        self.create = request("POST", "/v1/videos", self.gateway.headers, BODY)

    def capacity(self, count: int) -> float:
        """Videos a second that callers get who wait for each answer before they ask again."""
        began = time.perf_counter()
        load = Load(requests=[self.create], connections=_WAITING_CALLERS, count=count, status=202)
        asyncio.run(drive(self.gateway.port, load, lambda: None))
        self.settle()
        return count / (time.perf_counter() - began)

    def phase(self, capacity: float, multiple: float, seconds: float) -> Phase:
        """Send at that multiple of the capacity, then wait until all that was accepted has ended."""
        before = self.gateway.metrics()
        outcome = asyncio.run(fire(self.gateway.port, self.create, capacity * multiple, seconds))
        memory_mib = self.server.memory_mib()
        settled_seconds = self.settle()
        return Phase(
            multiple=multiple, per_second=capacity * multiple, outcome=outcome, memory_mib=memory_mib,
            settled_seconds=settled_seconds, poll_lag_p99=lag_p99(before, self.gateway.metrics()),
        )

    def settle(self) -> float:
        """Return when every video has ended, and how long that took. Raises TimeoutError."""
        began = time.perf_counter()
        while (waited := time.perf_counter() - began) < _PATIENCE_SECONDS:
            shown = self.gateway.metrics()
            if not any(shown[f'reelgate_videos{{status="{name}"}}'] for name in ("queued", "in_progress")):
                return waited
            time.sleep(0.05)
        raise TimeoutError("videos are still unfinished")


def quantile_ms(seconds: Sequence[float], share: float) -> str:
    """That quantile in milliseconds, `-` of nothing."""
    ordered = sorted(seconds)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3:,.0f}" if ordered else "-"


def _row(phase: Phase, first: Phase, peak: float) -> list[str]:
    outcome = phase.outcome
    return [
        f"{phase.multiple:g}x", f"{phase.per_second:,.0f}", f"{phase.goodput:,.0f}",
        f"{phase.goodput / peak:.0%}",
        f"{quantile_ms(outcome.accepted, 0.5)} / {quantile_ms(outcome.accepted, 0.99)}",
        f"{len(outcome.refused) / outcome.seconds:,.0f}",
        f"{quantile_ms(outcome.refused, 0.5)} / {quantile_ms(outcome.refused, 0.99)}",
        f"{outcome.other} / {outcome.broken} / {outcome.unsent}",
        f"{phase.poll_lag_p99:g}", f"{phase.settled_seconds:.1f}",
        f"{phase.memory_mib:.0f} ({phase.memory_mib / first.memory_mib - 1:+.0%})",
        quantile_ms(outcome.late, 0.99),
    ]  # fmt: skip


def report(stage: Stage, seconds: float) -> str:
    """Measure, and what came of it as Markdown."""
    overload, say = Overload(stage), stage.say
    overload.capacity(_WARM_UP)
    capacity = overload.capacity(_COUNTED)
    say(f"{_WAITING_CALLERS} callers that wait get {capacity:,.0f} videos/s")
    phases: list[Phase] = []
    for multiple in MULTIPLES:
        phases.append(overload.phase(capacity, multiple, seconds))
        say(f"{multiple:g}x: {phases[-1].goodput:,.0f} videos/s")
        for answer in phases[-1].outcome.samples:
            say(f"not what was promised:\n{answer}")
    peak = max(phase.goodput for phase in phases)
    head = ["sent", "creates/s", "goodput", "of the peak", "202, ms p50 / p99", "503/s", "503, ms p50 / p99",
            "other / broken / unsent", "poll lag p99 <=, s", "settled, s", "MiB", "sent late, ms p99"]
    return f"""{seconds:g} s at each rate. Goodput: videos that were accepted and came to their end, a second,
the time in which the last of them ended counted in (settled); its peak is the best of this run. A 503 counts
only as a whole problem document with Retry-After, retryable, not charged; `other` is any other answer. Times
are the caller's, from sending to the whole answer. MiB: resident at the end of sending, and that against the
first.

{table(head, (_row(phase, phases[0], peak) for phase in phases))}"""
