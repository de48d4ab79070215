"""Operators as an actor: they hold providers back, and decide about videos of which nobody knows the outcome.

What they do is what the routes do with the engine and the store, without the HTTP around it. Not held here:
what they should find (`checker`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.core.facts import Abandoned, Adopted, Fact, ResubmitAllowed
from gateway.core.health import HoldAction
from gateway.core.states import Task
from gateway.core.tasks import apply
from gateway.storage.db import Duplicate, GuardFailed, StorageError
from gateway.storage.rows import Hold
from providers.spec import MakesRefs, Submitted
from tests.simulation.plan import Command
from tests.simulation.process import ConnectionLost, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

WHO = "an operator"


async def operator(world: World) -> None:
    """Do all that is planned, in its order; what fails is not repeated, except the end of a hold."""
    for command in world.plan.commands:
        await asyncio.sleep(max(0.0, command.at - world.time()))
        while not await _does(world, command) and command.verb == "resume":  # noqa: ASYNC110 - as people do
            await asyncio.sleep(10.0)


async def _does(world: World, command: Command) -> bool:
    """Whether it was answered."""
    process = world.reached(world.chance(f"operator at {world.time()}"))
    if process is None:
        return False
    try:
        if command.verb in ("pause", "drain", "resume"):
            await process.request(_holds(process, command))
        else:
            await _resolves(world, process, command)
    except (ConnectionLost, StorageError) as error:
        world.say("operator", f"{command.verb} meets {type(error).__name__}")
        return False
    return True


async def _holds(process: Process, command: Command) -> None:
    """What POST /v1/providers/{name}/{pause,drain,resume} does: store the order, then obey it."""
    provider = process.fleet.providers[command.provider]
    if command.verb in ("pause", "drain"):
        action: HoldAction = "pause" if command.verb == "pause" else "drain"
        await process.store.hold_put(
            Hold(provider=command.provider, action=action, by=WHO, at=process.now())
        )
        process.fleet.hold(command.provider, action)
        if process.world.server is not None:
            process.world.server.promises.ordered(command.provider)
    else:
        await process.store.hold_delete(command.provider)
        provider.gate.resume()
        process.fleet.hold(command.provider, None)
    process.engine.look()
    process.world.say("operator", f"{command.verb} {command.provider}")


async def _resolves(world: World, process: Process, command: Command) -> None:
    """What POST /v1/videos/{id}/resolve does, to the oldest video that is unknown."""
    rows = world.rows(
        "select id from videos where state = 'submission_unknown' order by created_at, id limit 1"
    )
    if not rows:
        return
    video_id = str(rows[0][0])
    world.say("operator", f"{command.verb} {video_id[-6:]}")
    try:
        await process.request(_decides(world, process, command, video_id))
    except Duplicate:
        world.say("operator", "is told that the job belongs to another video")


async def _decides(world: World, process: Process, command: Command, video_id: str) -> None:
    """Save the decision; what changed meanwhile is looked at again, as long as there is one to make."""
    while True:
        task = await process.store.task_get(video_id)
        if task is None or task.state != "submission_unknown":
            return
        fact = _fact(world, process, command, task)
        if fact is None:
            return
        try:
            await process.store.task_save(apply(task, fact, process.now()))
        except GuardFailed:
            continue
        return


def _fact(world: World, process: Process, command: Command, task: Task) -> Fact | None:
    if command.verb == "fail":
        return Abandoned(WHO)
    if command.verb == "resubmit":
        return ResubmitAllowed(WHO)
    order = world.see(task.id).order
    jobs = [one.vendor_task_id for one in world.history.submissions
            if one.order == order and one.provider == task.provider and one.vendor_task_id is not None]
    adapter = process.fleet.providers[task.provider or ""].adapter
    if task.vendor_task_id is not None or not jobs or not isinstance(adapter, MakesRefs):
        return None  # there is nothing in the vendor's console either
    return Adopted(Submitted(vendor_task_id=jobs[-1], ref=adapter.ref_of(jobs[-1])), WHO)
