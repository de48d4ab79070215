"""What somebody left unfinished goes on here: claimed in batches, followed from where it was.

Not held here: who counts as dead (`replica`), the loop that runs the tasks afterwards (`loop`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Final

from gateway.core.admission import WINDOW_SECONDS
from gateway.core.facts import Cause, SubmitUnknown
from gateway.core.states import Task
from gateway.engine.loop import Engine

CLAIM_BATCH: Final = 250  # tasks at a time: others are served in between


async def take_over(engine: Engine, owner: str) -> int:
    """Own and follow all that `owner`, who is dead, left; how many tasks that were."""
    count = 0
    while True:
        claim = partial(engine.store.tasks_claim, engine.replica, owner, CLAIM_BATCH)
        batch = await engine.insist("", claim)
        for task in batch:
            if task.replica == engine.replica:  # or this process got another name meanwhile
                await _adopt(engine, task)
        count += len(batch)
        if len(batch) < CLAIM_BATCH:
            return count
        await asyncio.sleep(0)


async def _adopt(engine: Engine, task: Task) -> None:
    """Go on with a task. One that was being sent may have been bought: nobody can know."""
    engine.saved(task, ())
    if task.state == "submitting":
        await engine.save(task, SubmitUnknown(Cause("broken", "the gateway ended while it was sending this")))


async def look_around(engine: Engine) -> None:
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
