"""What somebody left unfinished goes on here: claimed in batches that grow, followed from where it was.

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

FIRST_BATCH: Final = 8  # tasks: their vendors are asked while the next are claimed
GROWTH: Final = 4  # of each batch over the one before
CLAIM_BATCH: Final = 250  # tasks at a time at most: others are served in between
VERSIONS_BATCH: Final = 1_000


async def take_over(engine: Engine, owner: str) -> int:
    """Own and follow all that `owner`, who is dead, left; how many tasks that were."""
    count, size, is_doubtful = 0, FIRST_BATCH, False

    async def claim() -> list[Task]:
        nonlocal is_doubtful
        missed = await _missed(engine) if is_doubtful else []
        is_doubtful = True  # until the database has answered: it may claim, and report a failure
        claimed = await engine.store.tasks_claim(engine.replica, owner, size)
        is_doubtful = False
        return [*missed, *claimed]

    while True:
        batch = await engine.insist("", claim)
        for key_id in {task.key_id for task in batch if task.state == "waiting"}:  # before they stand in line
            await engine.insist("", partial(engine.accounts.look_up, key_id))
        for task in batch:
            await adopt(engine, task)
        count += len(batch)
        if len(batch) < size:
            return count
        size = min(CLAIM_BATCH, GROWTH * size)
        await asyncio.sleep(0)


async def _missed(engine: Engine) -> list[Task]:
    """What this process owns by the database, and does not know. Raises StorageError."""
    last, missed = "", list[Task]()
    while batch := await engine.store.versions(engine.replica, last, VERSIONS_BATCH):
        last = batch[-1][0]
        for task_id, _ in batch:
            task = None if is_known(engine, task_id) else await engine.store.task_get(task_id)
            missed += [] if task is None else [task]
    return missed


def is_known(engine: Engine, task_id: str) -> bool:
    """Whether this process follows the task, or is just storing it and sends it then."""
    return task_id in engine.tasks or task_id in engine.tickets


async def adopt(engine: Engine, task: Task) -> None:
    """Go on with a task that is not known yet. One that was being sent may have been bought: who knows."""
    if task.replica != engine.replica or not task.is_followed:
        return  # this process got another name meanwhile, or the task another owner
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
    tell_missing(engine)


def tell_missing(engine: Engine) -> None:
    """Tell of unfinished tasks that no configured provider has or may get, by the one that should."""
    configured = engine.fleet.settings.providers
    homes = (_homes(task) for task in engine.tasks.values() if not task.is_terminal)
    missing = Counter(home[0] for home in homes if home and configured.keys().isdisjoint(home))
    for name, count in missing.items():
        engine.telemetry.provider_missing(name, count)


def _homes(task: Task) -> tuple[str, ...]:
    """The provider that has its job, or those that it waits for."""
    if task.is_in_flight and task.provider is not None:
        return (task.provider,)
    return tuple(candidate.provider for candidate in task.open_candidates)
