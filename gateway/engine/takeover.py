"""The start: every unfinished task of a dead process is taken over, in batches, and goes on where it was.

Not held here: the loop that runs them afterwards (`loop`).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Final

from gateway.core.admission import WINDOW_SECONDS
from gateway.core.facts import Cause, SubmitUnknown
from gateway.core.states import Task
from gateway.engine.loop import Engine

CLAIM_BATCH: Final = 500  # tasks at a time


async def follow(engine: Engine) -> None:
    """Take over what is unfinished, then run every task when it is due, until the engine is stopped."""
    for hold in await engine.insist("", engine.store.holds):
        engine.fleet.hold(hold.provider, hold.action)
    await _take_over(engine)
    await engine.run()


async def _take_over(engine: Engine) -> None:
    """Own and follow what an earlier process left unfinished; say what cannot be followed."""
    store = engine.store
    while await engine.insist("", partial(store.tasks_claim, engine.replica, CLAIM_BATCH)):
        pass
    position = (0.0, "")
    while batch := await engine.insist("", partial(store.tasks_owned, engine.replica, position, CLAIM_BATCH)):
        position = (batch[-1].created_at, batch[-1].id)
        for task in batch:
            if task.id not in engine.tasks:
                await _adopt(engine, task)
    await _look_around(engine)


async def _adopt(engine: Engine, task: Task) -> None:
    """Go on with a task. One that was being sent may have been bought: nobody can know."""
    engine.saved(task, ())
    if task.state == "submitting":
        await engine.save(task, SubmitUnknown(Cause("broken", "the gateway ended while it was sending this")))


async def _look_around(engine: Engine) -> None:
    """Count the submits of the last minute against each rate, and tell of tasks without a provider."""
    providers = engine.fleet.providers
    since = engine.now() - WINDOW_SECONDS
    for name, at in await engine.insist("", partial(engine.store.submitted_since, since)):
        if name in providers:
            providers[name].gate.rate.remember([at])
    unfinished = (task.provider for task in engine.tasks.values() if not task.is_terminal)
    for missing, count in Counter(unfinished).items():
        if missing is not None and missing not in providers:
            engine.telemetry.provider_missing(missing, count)
