"""SIGSTOP and SIGCONT under load: a gateway that was not there for a while buys nothing twice (T12).

Held here: how long it stands still (longer than a submit may take, and than polls lie apart), what another
process may do meanwhile, and that deadlines that passed count at once. Not held here: the promises
(`history`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

import msgspec

from tests.campaigns.callers import Menu
from tests.campaigns.history import TERMINAL
from tests.campaigns.report import Report, reported, times
from tests.campaigns.stage import SUBMIT_TIMEOUT_SECONDS, Plan, Stage, staged
from tests.campaigns.wire import Client
from tests.kill.process import run
from tests.serving import free_port

STILL_SECONDS: Final = (SUBMIT_TIMEOUT_SECONDS * 1.3, SUBMIT_TIMEOUT_SECONDS * 2.5)
AT_ONCE_SECONDS: Final = 3.0  # after it goes on, on a machine that has other things to do
_DEADLINE_SECONDS: Final = 1  # shorter than it stands still
_RIVALS_EVERY: Final = 5  # rounds: another process tries to serve the same store
_DEATHS_EVERY: Final = 4  # rounds: killed while it stands
MENU: Final = Menu(deadline=20, faults=(
    ("late seconds=0.1", 0.3), ("late seconds=0.7", 0.1), ("reset_after_accept", 0.01), ("failed", 0.02),
))


class Stills(msgspec.Struct):
    """What was measured: seconds from going on to the first answer, and to the end of an overdue video."""

    answered: list[float] = []
    overdue: list[float] = []
    problems: list[str] = []


async def zombies(plan: Plan, count: int) -> Report:
    """Stop and continue a gateway `count` times and judge the whole history."""
    began, stills = time.monotonic(), Stills()
    async with staged(plan) as stage:
        await stage.start()
        async with stage.load(MENU) as callers:
            for number in range(1, count + 1):
                await asyncio.sleep(stage.chance.uniform(0.1, 1.0))
                await _stand_still(stage, number, stills)
                if number % 10 == 0 or number == count:
                    plan.say(f"{number:5} of {count} stopped, {len(callers.orders)} ordered")
        verdict = await stage.judged()
    rows = [
        ("stops", str(count)), ("going on to an answer", times(stills.answered)),
        ("to an overdue video's end", times(stills.overdue)), ("seconds", f"{time.monotonic() - began:.0f}"),
    ]
    return reported("zombies", stage, rows, verdict, stills.problems)


async def _stand_still(stage: Stage, number: int, stills: Stills) -> None:
    """One round: order what will be overdue, stop, wait, and see what comes after it goes on, or dies."""
    client, gateway = Client(stage.port, keeps=False), stage.gateway
    order, body = stage.callers.next_order("stuck", _DEADLINE_SECONDS)
    await stage.callers.create(client, order, body, is_alone=True)
    stage.away()
    gateway.signal(signal.SIGSTOP)
    goes_on_at = time.monotonic() + stage.chance.uniform(*STILL_SECONDS)
    if number % _RIVALS_EVERY == 1:
        stills.problems += await _rival(stage)
    await asyncio.sleep(max(0.0, goes_on_at - time.monotonic()))
    began = time.monotonic()
    if number % _DEATHS_EVERY == 0:
        await stage.kill()
        await stage.start()
        began = time.monotonic()
    else:
        gateway.signal(signal.SIGCONT)
        stage.back()
        await client.call("GET", "/readyz")
        stills.answered.append(time.monotonic() - began)
    video = (await client.call("GET", f"/v1/videos/{order.ids[0]}?wait=10")).json()
    took = time.monotonic() - began
    stills.overdue.append(took)
    if video["status"] not in TERMINAL or took > AT_ONCE_SECONDS:
        stills.problems.append(f"deadline: {order.ids[0]} is {video['status']} {took:.1f} s after going on")


async def _rival(stage: Stage) -> list[str]:
    """Another process does not get the store, though its owner stands still."""
    elsewhere = stage.config.with_name("elsewhere.toml")
    text = stage.config.read_text("utf-8").replace(f":{stage.port}", f":{free_port()}")
    elsewhere.write_text(text, "utf-8")
    code, _, said = await run("serve", "--config", str(elsewhere))
    if code == 1 and "another reelgate serve" in said:
        return []
    return [f"rival: it ended with {code}: {said[-300:]}"]
