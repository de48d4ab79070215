"""What befalls the gateway's process from outside: kills, stops, pauses, zombies, jumps of the clock.

Not held here: deaths at a crossing (`process`), vendors' bad times (`vendor`), the disk's (`disk`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tests.simulation.plan import Happening
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

KILLED: Final = 0.5  # the share of those that are taken for dead


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
        await _is_taken_for_dead(world, process, seconds)
        return
    await asyncio.sleep(seconds)
    world.boot()


async def _is_taken_for_dead(world: World, process: Process, seconds: float) -> None:
    """It stands still, and another is started, which the lock on the file keeps waiting until it has ended.

    It goes on with what it remembers, and is killed then, or found to be alive.
    """
    world.history.trouble_seconds += seconds  # it serves nobody for twice as long as it stands still
    process.stand_still(seconds)
    process.is_given_up()
    world.boot()
    await asyncio.sleep(2 * seconds)
    if world.chance(f"fate at {world.time()}").random() < KILLED:
        process.kill("taken for dead")
    elif not process.is_dead:
        world.say("fate", f"{process.name} is found again")
        process.is_found_again()
