"""Saving what a fact makes of a task, until it is stored, whatever happened to the task meanwhile.

What is known of money must not be lost: not to a database that is away, not to another process that took the
task over. Not held here: what follows from a fact (`gateway.core.tasks`), who is told of it (`loop`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from gateway.core.facts import ANSWERS, Accepted, Adopted, Fact, OtherJob, Polled
from gateway.core.states import Change, Task, is_minor, with_event, with_noted
from gateway.core.tasks import IllegalTransition, InvariantViolation, apply, came_late
from gateway.engine.watch import Watch
from gateway.storage.db import Bound, GuardFailed, NoRoom
from gateway.storage.file_rows import FileGone
from providers.spec import Pending

if TYPE_CHECKING:
    from gateway.engine.loop import Engine

NOTED_MAX: Final = 16  # words of a vendor for the same state, before they are written without another reason


async def save(engine: Engine, task: Task, fact: Fact, room: Bound | None = None) -> Task | None:
    """Apply `fact` and save what follows, until it is stored: what is known of money must not be lost.

    Returns the task after it, or None when the task has gone another way meanwhile and the fact no longer
    counts. Raises NoRoom, FileGone, and Duplicate when the vendor's id already belongs to another video.
    """
    sent, said, is_late = task, fact, False
    while True:
        try:
            change = _with_plan(engine, apply(task, fact, engine.now()), fact)
        except IllegalTransition:
            return None
        except InvariantViolation as error:
            engine.park(task.id, str(error))
            return None
        if not change.is_saved:
            return _unsaved(engine, change.task)
        change = with_noted(change, engine.watches.get(task.id, Watch()).noted)
        await engine.lease.held()
        try:
            if is_late or task.replica == engine.replica:
                return await engine.insist(task.id, partial(engine.store.task_save, change, room))
        except (NoRoom, FileGone):
            raise
        except GuardFailed:
            is_late = False  # it is not as it was known
        fresh = await engine.insist(task.id, partial(engine.store.task_get, task.id))
        if fresh == replace(change.task, version=task.version + 1):
            engine.store.tell(fresh, change.events)  # it was stored although the database said otherwise
            return fresh
        answer = await _answer(engine, fresh, said, sent)
        is_late = answer is not None
        if fresh is None or (fresh.replica != engine.replica and not is_late):
            engine.forget(task.id)
            return None
        if fresh.replica == engine.replica and fresh != engine.tasks.get(task.id):
            engine.saved(fresh, ())
        if answer is None and (isinstance(said, ANSWERS) or fresh.attempts != sent.attempts):
            return None  # it tells nothing more, or is of the sending before
        task, fact = fresh, answer or said


async def _answer(engine: Engine, fresh: Task | None, said: Fact, sent: Task) -> Fact | None:
    """What still counts of `said`, now that the task is `fresh`, None: deleted.

    A job is told of once, and of one video.
    """
    if fresh is None:
        if isinstance(said, Accepted):
            engine.telemetry.job_of_nobody(sent.id, sent.provider or "", said.submitted.vendor_task_id)
        return None
    answer = came_late(fresh, said, sent)
    if not isinstance(answer, OtherJob):
        return answer
    job_id, provider = answer.vendor_task_id, answer.candidate.provider
    if await engine.insist(fresh.id, partial(engine.store.task_of_job, provider, job_id)) is not None:
        return None
    events = await engine.insist(fresh.id, partial(engine.store.events_get, fresh.id, fresh.owner))
    told = {(event.provider, event.detail.get("vendor_task_id")) for event in events}
    return None if (provider, job_id) in told else answer


def _with_plan(engine: Engine, change: Change, fact: Fact) -> Change:
    """Plan the next poll of a rendering task; the plan is written only if a change is written anyway."""
    task, watch = change.task, engine.watches.get(change.task.id)
    if task.state != "rendering" or not isinstance(fact, Accepted | Adopted | Polled) or watch is None:
        return change
    if engine.tasks[task.id].is_terminal:
        return change  # it ended while its vendor was asked: it wishes for no poll any more
    eta = task.estimate_seconds
    if isinstance(fact, Polled):
        eta = fact.progress.eta_seconds if isinstance(fact.progress, Pending) else None
    plan = engine.fleet.plan(task, engine.now(), eta)
    if plan is None:
        return change
    watch.poll_at, watch.failures = plan.at, 0
    if is_minor(change) and engine.tasks.get(task.id) is change.before and len(watch.noted) < NOTED_MAX:
        watch.noted += change.events
        engine.tasks[task.id] = quiet = replace(task, last_seq=change.before.last_seq)
        return Change(change.before, quiet, ())
    if not change.is_saved:
        return change
    return with_event(change, "next_poll", {"at": round(plan.at, 3), "why": plan.why})


def _unsaved(engine: Engine, task: Task) -> Task:
    """Nothing to write: the task goes on as it is, at its next planned time."""
    if task.id in engine.tasks:
        engine.schedule(engine.tasks[task.id])
    return task
