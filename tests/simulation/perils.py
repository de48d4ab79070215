"""What befalls one of several replicas: killed, stopped, frozen, cut off from the database or the vendors.

Not held here: deaths and freezes at a crossing (`process`), what befalls the database (`shared_database`),
a process that is alone (`fate`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.simulation.plan import Peril
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World


async def perils(world: World) -> None:
    """Let everything happen that is planned, each in its own time."""
    shared = world.plan.shared
    if shared is not None:
        await asyncio.gather(*(_comes(world, peril) for peril in shared.perils))


async def _comes(world: World, peril: Peril) -> None:
    await asyncio.sleep(max(0.0, peril.at - world.time()))
    process = world.serving.get(peril.slot)
    if process is None:
        return
    if peril.kind == "clock":
        world.say("perils", f"the clock of {process.name} jumps by {peril.seconds:.0f} s")
        process.skew_seconds += peril.seconds
        world.history.jump_seconds += abs(peril.seconds)
        return
    world.history.trouble_seconds += peril.seconds
    if peril.kind in ("kill", "stop"):
        await _ends(world, process, peril)
    elif peril.kind == "freeze":
        process.stand_still(peril.seconds)
    elif peril.kind == "cut_off":
        process.is_cut_off(peril.seconds, is_silent=peril.is_silent)
    else:
        _cut_from_vendors(world, process, peril.seconds)


async def _ends(world: World, process: Process, peril: Peril) -> None:
    """It ends, and after a while another begins at its slot."""
    if peril.kind == "stop" and not process.is_frozen:
        world.gone(process)
        world.say("perils", f"{process.name} is asked to stop")
        await process.stop()
        process.kill("stopped")
    else:
        process.kill()
    await asyncio.sleep(peril.seconds)
    world.boot(peril.slot)


def _cut_from_vendors(world: World, process: Process, seconds: float) -> None:
    world.say("perils", f"{process.name} is cut off from the vendors for {seconds:.1f} s")
    process.cut_from_vendors_until = world.time() + seconds
