"""After the end: a job that a vendor still has is asked for seldom, for a day, and what it brings is kept.

And the end of a parked task. Not held here: when to ask (`gateway.core.pacing`), what is kept
(`gateway.core.tasks`).
"""

from __future__ import annotations

from typing import Final

from gateway.core.facts import DeadlinePassed, LateEnded, Polled
from gateway.core.states import Task, ref_of
from gateway.engine.loop import Engine
from gateway.engine.poll import as_fact, outcome
from gateway.engine.probe import answered
from gateway.engine.provider import Provider
from providers.spec import Ref, VendorError

LATE_ASKING_MAX: Final = 10  # polls of one provider under way at once, from which on late ones wait


async def look_again(engine: Engine, task: Task) -> None:
    """The step of an ended task with a job at a vendor. Its status stays whatever comes."""
    provider = engine.fleet.providers.get(task.provider or "")
    if engine.now() >= (task.late_until or 0.0):
        await engine.save(task, LateEnded())
    elif provider is not None and (ref := ref_of(task)) is not None and has_time(engine, provider):
        await _look(engine, task, provider, ref)


def has_time(engine: Engine, provider: Provider) -> bool:
    """Whether nobody with a video still to come is kept waiting by a question; then it is counted."""
    is_idle = provider.asking < LATE_ASKING_MAX and not provider.health.polls.is_open
    return is_idle and provider.polls.take(engine.now())


async def _look(engine: Engine, task: Task, provider: Provider, ref: Ref) -> None:
    provider.asking += 1
    fact: Polled | LateEnded
    try:
        progress = await provider.adapter.poll(ref)
    except VendorError as error:
        engine.telemetry.polled(provider.name, "error", 0.0)
        provider.health.last_error = error.kind
        return
    except Exception as error:  # noqa: BLE001 - such as the reference of another adapter that had this name
        engine.telemetry.step_failed(task.id, error)
        fact = LateEnded()
    else:
        engine.telemetry.polled(provider.name, outcome(progress), 0.0)
        answered(engine, provider)
        fact = as_fact(engine, provider, task, progress)
    finally:
        provider.asking -= 1
    await engine.save(task, fact)


async def end(engine: Engine, task: Task) -> None:
    """The step of a parked task at its deadline."""
    await engine.save(task, DeadlinePassed())
