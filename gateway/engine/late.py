"""After the end: a job that a vendor still has is asked for seldom, for a day, and what it brings is kept.

And the end of a parked task. Not held here: when to ask (`gateway.core.pacing`), what is kept
(`gateway.core.tasks`).
"""

from __future__ import annotations

from gateway.core.facts import DeadlinePassed, LateEnded
from gateway.core.states import Task
from gateway.engine.loop import Engine
from gateway.engine.poll import as_fact, outcome
from providers.spec import VendorError


async def look_again(engine: Engine, task: Task) -> None:
    """The step of an ended task with a job at a vendor. Its status stays whatever comes."""
    provider = engine.fleet.providers.get(task.provider or "")
    if engine.now() >= (task.late_until or 0.0):
        await engine.save(task, LateEnded())
    elif provider is not None and task.ref is not None and provider.polls.take(engine.now()):
        try:
            progress = await provider.adapter.poll(task.ref)
        except VendorError as error:
            engine.telemetry.polled(provider.name, "error", 0.0)
            provider.health.last_error = error.kind
        else:
            engine.telemetry.polled(provider.name, outcome(progress), 0.0)
            await engine.save(task, as_fact(provider, task, progress))


async def end(engine: Engine, task: Task) -> None:
    """The step of a parked task at its deadline."""
    await engine.save(task, DeadlinePassed())
