"""What befalls the gateway's process from outside: kills, stops, pauses, zombies, jumps of the clock.

Not held here: deaths at a crossing (`process`), vendors' bad times (`vendor`), the disk's (`disk`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.simulation.plan import Happening

if TYPE_CHECKING:
    from tests.simulation.world import World

async def fate(world: World) -> None:
    """Let everything happen that is planned, in its order."""
    for happening in world.plan.happenings:
        await asyncio.sleep(max(0.0, happening.at - world.time()))
        await _happens(world, happening)


async def _happens(world: World, happening: Happening) -> None:
    process, seconds = world.process, happening.seconds
    if happening.kind == "wall":
        world.say("fate", f"the wall clock jumps by {seconds:.0f} s")
        world.wall_offset += seconds
        world.history.jump_seconds += abs(seconds)
        return
    world.history.trouble_seconds += seconds
    if happening.kind == "pause":
        world.say("fate", f"everything stands still for {seconds:.0f} s")
        world.loop.skew += seconds
        return
    if process is None:
        return
    if happening.kind == "stop":
        world.gone(process)
        world.say("fate", f"{process.name} is asked to stop")
        await process.stop()
        process.kill("stopped")
    elif happening.kind == "kill":
        process.kill()
    elif happening.kind == "zombie":
        # Not while it takes over: of two that do so at once, the lock on the file lets one start.
        if not process.has_claimed:
            return
        process.freeze()
        world.boot()
        await asyncio.sleep(seconds)
        process.thaw()
        await asyncio.sleep(seconds)
        process.kill("outlived")
        return
    await asyncio.sleep(seconds)
    world.boot()
