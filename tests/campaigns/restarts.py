"""Rolling restarts by SIGTERM under load: no caller loses an answer, and no submission its outcome (T8).

Held here: what a caller may meet while a gateway ends and the next one starts: nobody who listens, or a
connection that is reset before any byte of an answer, if the request left after the signal. Not held here:
the promises that hold in every campaign (`history`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from tests.campaigns.callers import Menu
from tests.campaigns.report import Report, reported, times
from tests.campaigns.stage import Plan, Stage, staged
from tests.campaigns.wire import Unanswered

EXIT_WITHIN_SECONDS: Final = 25.0
LIVES_SECONDS: Final = 1.5  # at most, once it is ready
# A request that left so shortly before the signal may have got there after it. One that was taken and not
# answered is found all the same: sent again, it is a replay.
_ON_ITS_WAY_SECONDS: Final = 0.25
# Slow answers, so that a signal finds submits under way; nothing that goes wrong by itself.
MENU: Final = Menu(doomed=0.0, deadline=30, faults=(("late seconds=0.4", 0.4),))


class Stop(msgspec.Struct, frozen=True):
    """One restart, on `time.monotonic`, and the exit code."""

    asked_at: float
    ended_at: float
    ready_at: float
    code: int


async def restarts(plan: Plan, count: int) -> Report:
    """Restart `count` times and judge the whole history."""
    began = time.monotonic()
    stops: list[Stop] = []
    async with staged(plan) as stage:
        await stage.start()
        async with stage.load(MENU) as callers:
            for number in range(1, count + 1):
                await asyncio.sleep(stage.chance.uniform(0.1, LIVES_SECONDS))
                stops.append(await restart(stage))
                if number % 10 == 0 or number == count:
                    plan.say(f"{number:5} of {count} restarted, {len(callers.orders)} ordered")
        verdict = await stage.judged()
    lost_answers = verdict.classes["recovered"]
    found = [*_badly_ended(stops), *unfair(callers.failures, stops)]
    found += [f"answers: {lost_answers} videos were made whose 202 never arrived"] if lost_answers else []
    found += [f"unknown: {verdict.doubts} submissions lost their outcome"] if verdict.doubts else []
    rows = [
        ("restarts", str(count)),
        ("signal to exit", times([stop.ended_at - stop.asked_at for stop in stops])),
        ("exit to ready", times([stop.ready_at - stop.ended_at for stop in stops])),
        ("seconds", f"{time.monotonic() - began:.0f}"),
    ]
    return reported("restarts", stage, rows, verdict, found)


async def restart(stage: Stage) -> Stop:
    """One SIGTERM, the end, and the next gateway, ready."""
    asked_at, gateway = time.monotonic(), stage.gateway
    stage.away()
    gateway.signal(signal.SIGTERM)
    code = await gateway.ended()
    ended_at = time.monotonic()
    await stage.start()
    return Stop(asked_at, ended_at, time.monotonic(), code)


def _badly_ended(stops: Sequence[Stop]) -> Iterator[str]:
    for number, stop in enumerate(stops, 1):
        if stop.code != 0:
            yield f"restart {number}: exit code {stop.code}"
        if stop.ended_at - stop.asked_at > EXIT_WITHIN_SECONDS:
            yield f"restart {number}: it took {stop.ended_at - stop.asked_at:.1f} s to end"


def unfair(failures: Sequence[Unanswered], stops: Sequence[Stop]) -> Iterator[str]:
    """The failures that a restart does not excuse."""
    for failure in failures:
        excused = failure.fate == "reset" and any(
            stop.asked_at - _ON_ITS_WAY_SECONDS <= failure.sent_at <= stop.ready_at for stop in stops
        )
        if not excused:
            before = min((stop.asked_at - failure.sent_at for stop in stops
                          if stop.asked_at >= failure.sent_at), default=0.0)
            yield f"answers: {failure.what}: {failure.fate}, sent {before:.3f} s before the next signal"
