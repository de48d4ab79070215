"""What must be found when several replicas have come to rest: all know the same, and count the same.

Not held here: what must hold on the way (`promises`), the fate of each video (`checker`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gateway.core.states import Task
from gateway.engine.loop import Engine
from gateway.storage.rows import hold_of, task_of
from gateway.storage.store import HOLDS, TASK_GET, VERSIONS
from tests.simulation.checker import SLACK_SECONDS
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

_UNOWNED = """select v.id, v.replica from videos v
    where v.state in ('waiting', 'submitting', 'rendering', 'submission_unknown')
    and v.replica not in (select id from replicas where ended_at is null)"""


def at_rest(world: World) -> Iterator[str]:
    """What is not as it should be, of all replicas that serve."""
    living = [process for _, process in sorted(world.serving.items())]
    for process in living:
        for problem in (*_knows(world, process), *_is_in_time(process)):
            yield f"unexpected: {process.name} {problem}"
    if any(process.role != "api" for process in living):
        for video_id, owner in world.rows(_UNOWNED):
            yield f"lost: video {str(video_id)[-6:]} is left to {owner or 'nobody'}, who does not live"


def _knows(world: World, process: Process) -> Iterator[str]:
    """It knows what it owns, as it is stored, obeys what is in force, and its gates count right."""
    engine, stored = process.engine, {}
    for video_id, _ in world.rows(VERSIONS, process.engine.replica, "", 1_000):
        stored[str(video_id)] = task_of(world.rows(TASK_GET, str(video_id))[0])
    for video_id in sorted({*stored, *engine.tasks}):
        if _as_written(engine, video_id, stored.get(video_id)) != stored.get(video_id):
            yield f"does not know video {video_id[-6:]} as it is stored"
    jobs = Counter(task.provider for task in stored.values() if task.is_in_flight)
    holds = {hold.provider: hold.action for hold in map(hold_of, world.rows(HOLDS))}
    for name, provider in process.fleet.providers.items():
        counted = provider.gate.in_flight - provider.gate.entered
        if counted != jobs[name]:
            yield f"counts {counted} in flight at {name}, and there are {jobs[name]}"
        if provider.health.hold != holds.get(name):
            yield f"has {name} on {provider.health.hold}, and the order is {holds.get(name)}"


def _as_written(engine: Engine, task_id: str, stored: Task | None) -> Task | None:
    """What it knows, without a vendor's words for the same state, which the next save will write.

    While it is busy with one, the answer to a save may be on its way.
    """
    known, watch = engine.tasks.get(task_id), engine.watches.get(task_id)
    if watch is not None and watch.is_busy:
        return stored
    if known is None or stored is None or watch is None or not watch.noted:
        return known
    return replace(known, raw_status=stored.raw_status, raw_status_at=stored.raw_status_at)


def _is_in_time(process: Process) -> Iterator[str]:
    """By its own clock nothing that it has should have ended long ago."""
    if process.role == "api" or not process.engine.is_settled:
        return
    for task in process.engine.tasks.values():
        if not task.is_terminal and task.deadline_at + SLACK_SECONDS < process.now():
            yield f"has video {task.id[-6:]} as {task.state}, long after its deadline"
