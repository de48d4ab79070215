"""While nobody knows whether a submission was accepted: the vendor's memory, the policy, the time.

Nothing is sent again from here without a recorded permission. Not held here: an operator's decision
(`gateway.api`), what follows from it (`gateway.core.tasks`).
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.core.facts import Adopted, DeadlinePassed, ResubmitAllowed, UnknownTimedOut
from gateway.core.pacing import poll_again
from gateway.core.states import Task
from gateway.engine.granting import granted
from gateway.engine.loop import Engine
from gateway.engine.poll import poll
from gateway.engine.submit import reference_of
from gateway.engine.watch import Watch
from gateway.storage.db import Duplicate
from providers.spec import FindsSubmission, VendorError

ANSWER_SECONDS: Final = 10.0  # an owner that was taken for dead, and lives, has this long to tell an answer
_BY_POLICY: Final = ResubmitAllowed("the policy on_unknown = resubmit")
LOOK_UP_SECONDS: Final = 120.0  # a vendor that can look a submission up has this long before a policy acts


async def settle_unknown(engine: Engine, task: Task) -> None:
    """The step of a submission nobody knows the outcome of."""
    now = engine.now()
    provider = engine.fleet.providers.get(task.provider or "")
    policy = "hold" if provider is None else provider.settings.on_unknown
    timeout = 900.0 if provider is None else provider.settings.unknown_timeout
    since = task.unknown_at or now
    ends_at = min(since + timeout, task.deadline_at)
    finder = None if provider is None else provider.finder
    patience = LOOK_UP_SECONDS if finder is not None else ANSWER_SECONDS if engine.store.is_shared else 0.0
    acts_at = min(since + patience, ends_at)
    has_no_id = task.vendor_task_id is None
    may_resubmit = has_no_id and policy == "resubmit" and task.resubmits == 0
    if may_resubmit and acts_at <= now < task.deadline_at and await granted(engine, task, _BY_POLICY):
        return
    if now >= since + timeout or (has_no_id and policy == "fail" and acts_at <= now):
        await engine.save(task, UnknownTimedOut())
    elif now >= task.deadline_at:
        await engine.save(task, DeadlinePassed())
    elif not has_no_id:
        await poll(engine, task)  # the vendor gave an id once: it may remember it again
    elif provider is not None and finder is not None:
        turn_at = provider.polls.pace.book(now)  # before all that is only asked for
        hint = await _look_up(engine, task, finder, (turn_at - now, ends_at - now))
        watch = engine.watches.get(task.id, Watch())
        watch.failures += 1
        again = poll_again(engine.now(), watch.failures, hint, provider.bounds, engine.chance)
        if watch.due is None:
            engine.due_at(task.id, min(ends_at, again.at))
    else:
        engine.due_at(task.id, acts_at if policy != "hold" and now < acts_at else ends_at)


async def _look_up(
    engine: Engine, task: Task, adapter: FindsSubmission, between_seconds: tuple[float, float]
) -> float | None:
    """Ask the vendor for the job by our reference; its hint when to ask again. "None" proves nothing."""
    try:
        async with asyncio.timeout(between_seconds[1]):
            await asyncio.sleep(between_seconds[0])
            found = await adapter.find_submission(reference_of(task))
        if found is not None:
            await engine.save(task, Adopted(found, "the vendor, asked by our reference"))
    except VendorError as error:
        return error.retry_after_seconds
    except (TimeoutError, Duplicate):
        return None  # no answer in time, or the job belongs to another video
    return None
