"""Random `kill -9` under load: what was promised is kept, and nothing is bought twice (T2).

Held here: when a gateway dies, and how soon the next one follows what the dead one left. Not held here: the
promises (`history`).
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from tests.campaigns.callers import Menu
from tests.campaigns.report import Report, reported, times
from tests.campaigns.stage import Plan, Stage, staged
from tests.kill.process import Gateway

WITHIN_SECONDS: Final = 3.0  # of being ready a gateway dies
_EARLY_SHARE: Final = 0.2  # die while they start or take over: within this of their start
_EARLY_SECONDS: Final = 0.4
# Vendors that are a little slow and a little bad: a death should find tasks in every state.
MENU: Final = Menu(deadline=20, faults=(
    ("late seconds=0.1", 0.30), ("rate_limited times=1", 0.02), ("capacity times=2", 0.02),
    ("reset_after_accept", 0.01), ("server_error_after_accept", 0.01), ("reset_before_work", 0.01),
    ("failed", 0.02), ("policy", 0.02), ("not_found", 0.02), ("unknown_status", 0.02),
))


class Starts(msgspec.Struct):
    """How long after its start each gateway was ready, and had its first answer to a poll; in seconds."""

    ready: list[float] = []
    followed: list[float] = []

    async def watch(self, stage: Stage, gateway: Gateway, began: float) -> None:
        """Note both for one gateway, or none of what it did not live to."""
        polled = asyncio.create_task(stage.first_poll(gateway))
        if await gateway.log.wait("ready"):
            self.ready.append(time.monotonic() - began)
        polled_at = await polled
        if polled_at is not None:
            self.followed.append(polled_at - began)


async def kills(plan: Plan, count: int, within_seconds: float = WITHIN_SECONDS) -> Report:
    """Kill `count` gateways, one after the other, and judge the whole history."""
    began, starts = time.monotonic(), Starts()
    async with staged(plan) as stage:
        async with stage.load(MENU) as callers:
            for number in range(1, count + 1):
                await _one_life(stage, within_seconds, starts)
                if number % 10 == 0 or number == count:
                    plan.say(f"{number:5} of {count} killed, {len(callers.orders)} ordered")
            await stage.start()
        verdict = await stage.judged()
    rows = [
        ("kills", f"{count}, {count - len(starts.ready)} of them before it was ready"),
        ("restart to ready", times(starts.ready)), ("restart to first poll", times(starts.followed)),
        ("seconds", f"{time.monotonic() - began:.0f}"),
    ]
    return reported("kills", stage, rows, verdict)


async def _one_life(stage: Stage, within_seconds: float, starts: Starts) -> None:
    """Start a gateway and kill it at some moment, of its start or of its work."""
    is_early = stage.chance.random() < _EARLY_SHARE
    lives_seconds = stage.chance.uniform(0, _EARLY_SECONDS if is_early else within_seconds)
    began = time.monotonic()
    gateway = await stage.begin()
    watching = asyncio.create_task(starts.watch(stage, gateway, began))
    if not is_early:
        assert await gateway.log.wait("ready"), f"it ended by itself: {list(gateway.log.lines)}"
    await asyncio.sleep(lives_seconds)
    await stage.kill()
    await watching
