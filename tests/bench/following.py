"""Groups: many tasks in flight. Polls a second, poll lag and memory by number, a vendor's budget, restarts.

The tasks are rows that were filled in; the gateway that follows them is a real one. Not held here: detection
delay (`detection`).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import Final

import msgspec

from tests.bench import filling
from tests.bench.cases import (
    BUDGET,
    BUSY,
    BYTES,
    CPU,
    FIRST_POLL,
    LAG,
    MEMORY,
    PEAK,
    RATE,
    READY,
    WIDEST,
    Case,
    Group,
    Sample,
)
from tests.bench.processes import Server, await_true
from tests.bench.stage import Gateway, Stage

_LAG: Final = "reelgate_poll_lag_seconds"
BEYOND: Final = 9_999.0  # JSON knows no infinity
_TAKE_OVER_SECONDS: Final = 400.0
_FLAT_OUT: Final = ('poll_min = "10ms"', 'poll_max = "10ms"')


class Crowd(msgspec.Struct, frozen=True):
    """So many tasks, watched for `seconds` after `settle_seconds` without being watched.

    With `turns`, the vendor's budget of polls lets each have so many in that time, which is less than the
    schedule wants. It is seen whether the budget is kept, and whether anybody starves.
    """

    name: str
    count: int
    settle_seconds: float = 20.0
    seconds: float = 30.0
    turns: float | None = None


_BUDGET: Final = 120_000
CROWDS: Final = (
    Crowd("1,000 in flight", 1_000),
    Crowd("10,000 in flight", 10_000),
    Crowd("20,000 in flight", 20_000, 60.0),
    Crowd("100,000 in flight, 2,000 polls/s", 100_000, 60.0, 120.0, 2.4),
)


def flat_out(stage: Stage) -> list[Case]:
    """As many polls as one process makes, each through the whole poller, when it could always make more."""
    vendor = stage.vendor()
    gateway = stage.gateway("polls", vendor, *_FLAT_OUT)
    filling.rendering(gateway, stage.sized(20_000, 1_000))
    server = stage.serve(gateway)
    await_true(lambda: vendor.told().polls > stage.sized(20_000, 1_000), "the first round of polls")

    def run() -> Sample:
        polls, cpu, began = vendor.told().polls, server.cpu_seconds(), time.perf_counter()
        time.sleep(stage.sized(5))
        seconds = time.perf_counter() - began
        made, used = vendor.told().polls - polls, server.cpu_seconds() - cpu
        return {RATE: made / seconds, CPU: used / made * 1e6, BUSY: used / seconds}

    return [Case("polls, flat out", run)]


def in_flight(stage: Stage) -> list[Case]:
    """Each crowd has the machine for itself, and its own vendor and gateway."""
    return [Case(crowd.name, partial(_follow, stage, crowd)) for crowd in CROWDS]


def _follow(stage: Stage, crowd: Crowd) -> Sample:
    least = 3.0 if crowd.turns is None else 15.0
    count, seconds = stage.sized(crowd.count, 100), max(least, crowd.seconds * stage.scale)
    limits, mean_seconds = _limits(crowd, count, seconds)
    with ExitStack() as stack:
        here = stage.inner(stack, f"{count}-in-flight")
        vendor = here.vendor("--exact")
        gateway = here.gateway("crowd", vendor, *limits)
        with ExitStack() as brief:
            empty_mib = here.serve(gateway, stack=brief).memory_mib()
        filling.rendering(gateway, count)
        server = here.serve(gateway)
        await_true(lambda: gateway.in_flight() >= count, f"{count} tasks to be followed")
        time.sleep(max(3.0, crowd.settle_seconds * stage.scale))
        vendor.say("forget")
        sample = _watch(gateway, server, seconds)
        told, memory_mib = vendor.told(), server.memory_mib()
        each = (memory_mib - empty_mib) * 2**20 / count
        sample |= {MEMORY: memory_mib, PEAK: server.peak_mib(), BYTES: each}
    if crowd.turns is None:
        return sample
    # One that was not asked at all was left alone for at least the whole time.
    widest = max(told.widest_seconds, 0.0 if told.distinct >= count else seconds)
    allowed = count / mean_seconds * min(60.0, seconds)
    return sample | {
        "not asked": count - told.distinct, "mean interval s": mean_seconds, "widest gap s": widest,
        WIDEST: widest / mean_seconds,
        BUDGET: told.busiest_minute / allowed,
    }


def _limits(crowd: Crowd, count: int, seconds: float) -> tuple[tuple[str, ...], float]:
    """The provider's limits, and the mean time between two polls of one task that they allow."""
    if crowd.turns is None:
        return (), 0.0
    mean_seconds = seconds / crowd.turns
    wanted = f'poll_max = "{min(30.0, 0.6 * mean_seconds):.1f}s"'
    return (f"polls_per_minute = {round(60 * count / mean_seconds)}", wanted), mean_seconds


def _watch(gateway: Gateway, server: Server, seconds: float) -> Sample:
    before, cpu, began = gateway.metrics(), server.cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    used, lasted, after = server.cpu_seconds() - cpu, time.perf_counter() - began, gateway.metrics()
    polls = after[f"{_LAG}_count"] - before[f"{_LAG}_count"]
    return {
        RATE: polls / lasted, CPU: used / max(1.0, polls) * 1e6, BUSY: used / lasted,
        LAG: lag_p99(before, after),
    }


def lag_p99(before: dict[str, float], after: dict[str, float]) -> float:
    """The upper end, in seconds, of the histogram's bucket that 99 % of the polls between fall into.

    BEYOND for the last, which has no end, and of no polls at all.
    """
    wanted = 0.99 * (after[f"{_LAG}_count"] - before[f"{_LAG}_count"])
    for name, value in after.items():
        if name.startswith(f"{_LAG}_bucket") and value - before[name] >= wanted:
            end = name.split('"')[1]
            return BEYOND if end == "+Inf" else float(end)
    return BEYOND


def restarting(stage: Stage) -> list[Case]:
    """A gateway with many in flight is killed, and started again on what it left."""
    cases: list[Case] = []
    for count in (10_000, 100_000):
        vendor = stage.vendor("--exact")
        gateway = stage.gateway(f"restart-{count}", vendor, f"polls_per_minute = {_BUDGET}")
        number = stage.sized(count, 500)
        filling.rendering(gateway, number)
        _end(stage, gateway, number)  # from now on the tasks are those of a process that was killed
        cases.append(Case(f"restart with {count:,} in flight", partial(_end, stage, gateway, number)))
    return cases


def _end(stage: Stage, gateway: Gateway, count: int) -> Sample:
    """Start, follow all, and be killed."""
    gateway.vendor.say("forget")
    with ExitStack() as brief:
        server = stage.serve(gateway, stack=brief)
        await_true(lambda: gateway.vendor.told().polls > 0, "the first poll")
        cpu = server.cpu_seconds()
        first = (gateway.vendor.told().first_poll_at or 0.0) - server.began
        await_true(lambda: gateway.in_flight() >= count, f"{count} tasks to be followed", _TAKE_OVER_SECONDS)
        followed = time.perf_counter() - server.began
        server.kill()
        return {
            READY: server.ready_seconds, FIRST_POLL: first,
            "ready to first poll s": first - server.ready_seconds, "all followed s": followed,
            "CPU to ready s": cpu,
        }


POLLS: Final = Group(
    name="polls", title="Polls, flat out", open=flat_out, rounds=3, is_warmed=False,
    note="""20,000 tasks, each due again 10 ms after its answer: the poller is never without one that is
due. The vendor's count, the whole process's CPU.""",
)
INFLIGHT: Final = Group(
    name="inflight", title="In flight", open=in_flight, rounds=1, is_warmed=False,
    note="""Tasks of one caller, filled in as rendering for 100 s, a vendor that never finishes; the default
`poll_min` and `poll_max`. Nothing is known of such renders, so each is asked every five seconds: of
20,000 that is more than one process makes, which finds out what it makes and asks so much less often
(they are watched from a minute after their start); a schedule that has learned asks about half as
often anyway. Lag: the upper end of the histogram's
bucket that holds 99 % of the polls, 9999 where that is the last, which has none. Bytes: resident
memory less that of the same gateway without a task, by task. Under the budget: the vendor's own clock;
the widest gap is the longest that any task was left unasked, the mean interval that of a perfectly
even turn, the busiest minute the most polls in any 60 s (in a shorter run: that share of a minute).""",
)
RESTART: Final = Group(
    name="restart", title="Restart", open=restarting, rounds=3, is_warmed=False,
    note="""SIGKILL with so many in flight, then the same command again: seconds from the start of the
process to `GET /readyz` 200, to the first poll at the vendor, and until all are followed.""",
)
