"""One run from its seed: a world is made, everybody acts, time passes until all is over, the checker judges.

Not held here: many runs (`campaign`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import cache, partial
from typing import Any, Final
from unittest.mock import patch

import msgspec

from gateway.engine import learning
from gateway.storage.db import Step
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from tests.simulation.callers import caller
from tests.simulation.checker import Verdict, judge
from tests.simulation.fate import fate
from tests.simulation.frost import OWNER, FrostLoop
from tests.simulation.history import History
from tests.simulation.operators import operator
from tests.simulation.perils import perils
from tests.simulation.plan import Plan
from tests.simulation.process import Process
from tests.simulation.replica_checks import at_rest
from tests.simulation.shared_plan import plan_of
from tests.simulation.tongues import UNIFIED, V3
from tests.simulation.vendor import Vendor
from tests.simulation.world import World

HOSTS: Final = {
    "highway": "api.highwayapi.ai", "myrouter": "api.myrouter.ai", "unified": "api.aihubmax.com",
}
LOOK_SECONDS: Final = (30.0, 1800.0)  # between two looks whether all is over: the first, and at most
ON_ITS_WAY_SECONDS: Final = 180.0  # for answers, and for writes that were handed over
GRACE_SECONDS: Final = 3 * 3600.0  # after the last deadline: late answers, clocks that were set back
LEARNING_SECONDS: Final = 1_800.0
SHARED_LOOK_SECONDS: Final = 3.0
SHARED_GRACE_SECONDS: Final = 60.0
REST_SECONDS: Final = 12.0  # enough for a takeover, and for a look at all that may have been missed
LATE_SECONDS: Final = 26 * 3600.0  # for what is still looked up after its task has ended


class Outcome(msgspec.Struct):
    """What one seed came to."""

    plan: Plan
    history: History
    verdict: Verdict
    trace: list[str]


def run_seed(seed: int) -> Outcome:
    """Run the scenario of `seed`."""
    return run_plan(plan_of(seed))


def run_plan(plan: Plan) -> Outcome:
    """Run a scenario."""
    loop = FrostLoop()
    loop.set_task_factory(_make_task)  # type: ignore[arg-type]  # its type is an asyncio secret
    try:
        world = World(plan, _database(), loop, Process)
        loop.set_exception_handler(partial(_on_fault, world))
        # A day is lived to its end for what is looked up late: learning would be most of what is done in it.
        keep_seconds = learning.KEEP_SECONDS if plan.shared else LEARNING_SECONDS
        with patch.object(learning, "KEEP_SECONDS", keep_seconds):
            loop.run_until_complete(_everything(world))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return Outcome(plan, world.history, judge(world.history), world.trace)


def _on_fault(world: World, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What goes wrong in a timer of the world itself would be lost."""
    if "handle" in context:
        world.history.ending.faults.append(f"{context['message']}: {context.get('exception')!r}")
    else:
        loop.default_exception_handler(context)


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, object], **more: object
) -> asyncio.Task[object]:
    """As asyncio makes tasks; each is put down to the process that it belongs to."""
    task: asyncio.Task[object] = asyncio.Task(work, loop=loop, **more)  # type: ignore[arg-type]
    owner = OWNER.get()
    if owner is not None:
        owner.tasks.append(task)
    return task


@cache
def _database() -> SqliteDatabase:
    return SqliteDatabase(IN_MEMORY)


async def _clear(database: SqliteDatabase) -> None:
    """One database serves all runs of this operating system's process: making the schema takes long."""
    await database.migrate()
    tables = await database.read(
        "select name from sqlite_master where type = 'table' and name <> 'schema_version' order by name"
    )
    await database.write([Step(f"delete from {table}", ()) for (table,) in tables])  # noqa: S608 (names)


async def _everything(world: World) -> None:
    await _clear(world.database)
    for plan in world.plan.vendors:
        tongue = UNIFIED if plan.name == "unified" else V3
        world.vendors[HOSTS[plan.name]] = Vendor(world, plan, tongue)
    shared = world.plan.shared
    for slot in range(1 if shared is None else len(shared.replicas)):
        world.boot(slot)
    actors = [asyncio.create_task(caller(world, order)) for order in world.plan.orders]
    actors += [asyncio.create_task(actor(world)) for actor in (fate, operator, perils)]
    await asyncio.gather(*actors)
    if shared is None:
        await _until_all_is_over(world)
    else:
        await _until_all_rest(world)
    await _end(world)


async def _until_all_is_over(world: World) -> None:
    """Let time pass until every video has ended and nobody follows anything any more, or far too long."""
    last = max((order.at + order.deadline for order in world.plan.orders), default=0.0)
    await _until(world, lambda process: not world.unfinished(),
                 last + GRACE_SECONDS + world.history.trouble_seconds + world.history.jump_seconds)
    # What was asked of a disk that is away is known soon after it is back, and not before.
    outages = (end for start, end in world.plan.disk.outages if start < world.time() + ON_ITS_WAY_SECONDS)
    back_at = max(outages, default=0.0)
    await asyncio.sleep(max(0.0, back_at - world.time()) + ON_ITS_WAY_SECONDS)
    await _until(world, lambda process: not process.engine.tasks, world.time() + LATE_SECONDS)


async def _until_all_rest(world: World) -> None:
    """Let time pass until every video has ended, or long enough; then without faults, until all know it.

    What is still looked up after its end stays so: here nobody beats for a day.
    """
    last = max((order.at + order.deadline for order in world.plan.orders), default=0.0)
    latest = last + SHARED_GRACE_SECONDS + world.history.trouble_seconds
    while world.time() < latest and world.unfinished():
        await asyncio.sleep(SHARED_LOOK_SECONDS)
        if world.server is not None:
            world.server.promises.look()
    outages = [end for _, end in world.plan.disk.outages]
    ends = [end for life in world.history.lives for _, end in life.troubles]
    await asyncio.sleep(max(0.0, max((*outages, *ends), default=0.0) - world.time()))
    world.has_faults, world.news_lost = False, 0.0
    world.crash_points.clear()
    world.hurdles.clear()
    await asyncio.sleep(REST_SECONDS)
    world.history.notes += at_rest(world)


async def _until(world: World, is_over: Callable[[Process], bool], latest: float) -> None:
    """Look now and then whether a process serves and `is_over`; there is no event for "nothing follows"."""
    pause, longest = LOOK_SECONDS
    while world.time() < latest and (world.process is None or not is_over(world.process)):
        await asyncio.sleep(pause)
        pause = min(longest, pause * 2)


async def _end(world: World) -> None:
    """Write down what there is to see."""
    history, process = world.history, world.process
    world.is_over = True
    ending = history.ending
    if world.server is not None:
        await _all_stop(world)
    elif process is not None:
        ending.followed = [task_id[-6:] for task_id in process.engine.tasks]
        for name, provider in process.fleet.providers.items():
            ending.in_flight[name] = provider.gate.in_flight
            ending.sending[name] = provider.gate.sending
        await process.stop()
        await asyncio.sleep(ON_ITS_WAY_SECONDS)  # a write that was handed over goes on
        ending.leaked = _left_over(process)
    for other in world.processes:
        other.kill("is over")
    await asyncio.sleep(1)
    for other in world.processes:
        ending.leaked += _left_over(other)
    ids = world.rows("select id from videos order by created_at, id")
    history.videos += [world.see(str(video_id)) for (video_id,) in ids]
    _sum_up(world)


async def _all_stop(world: World) -> None:
    """Replicas end together, as on SIGTERM."""
    stopping = [process for _, process in sorted(world.serving.items())]
    await asyncio.gather(*(process.stop() for process in stopping))
    await asyncio.sleep(1)
    for process in stopping:
        world.history.ending.leaked += _left_over(process)


def _left_over(process: Process) -> list[str]:
    """What still runs there, by name."""
    return [getattr(task.get_coro(), "__qualname__", "?") for task in process.tasks if not task.done()]


def _sum_up(world: World) -> None:
    history, plan = world.history, world.plan
    history.seconds = world.time()
    world.books.close()
    history.is_shared = plan.shared is not None
    if plan.shared is not None:
        skews = [one.skew_seconds for one in plan.shared.replicas]
        history.jump_seconds += max(skews) - min(skews)
    history.crashes = sum(life.end not in ("is over", "alive", "stopped") for life in history.lives)
    disk = plan.disk
    if not disk.is_calm:
        history.disk_trouble_seconds = 120.0 + sum(end - start for start, end in disk.outages)
    for one in plan.vendors:
        history.poll_min[one.name], history.poll_max[one.name] = one.poll_min, one.poll_max
        history.has_queue_limit |= one.max_queue_age is not None
        if one.requests_per_minute is not None:
            history.limits[one.name] = one.requests_per_minute
