"""The free step: ask the vendor, and save what follows if anything does. Could not ask is never "failed".

Not held here: when to ask (`gateway.core.pacing`), what an answer means (the adapters).
"""

from __future__ import annotations

import asyncio

from gateway.core.facts import Cause, DeadlinePassed, Forgotten, OutputMissing, Polled
from gateway.core.pacing import GRACE_SECONDS, OUTPUT_GRACE_SECONDS, PollPlan, no_sooner, poll_again
from gateway.core.states import Event, Task, ref_of
from gateway.engine.granting import granted
from gateway.engine.loop import Engine
from gateway.engine.probe import answered, unanswered
from gateway.engine.provider import Provider
from gateway.engine.rerun import permission
from gateway.engine.saving import NOTED_MAX
from gateway.engine.watch import Watch
from providers.spec import Failed, Progress, Succeeded, VendorError

_UNCONFIGURED_SECONDS = 60.0
_UNSURE_SECONDS = 0.5


async def poll(engine: Engine, task: Task) -> None:
    """Ask once for a task that a vendor has, if it is its turn; else it joins the line.

    Where its provider is no longer configured, it waits for it.
    """
    now = engine.now()
    if now >= task.deadline_at:
        await engine.save(task, DeadlinePassed())
        return
    provider = engine.fleet.providers.get(task.provider or "")
    watch = engine.watches.get(task.id)
    if watch is None:
        return  # it has ended since it was due
    if not engine.lease.is_held:
        engine.due_at(task.id, min(task.deadline_at, now + _UNSURE_SECONDS))  # it may be another's by now
        return
    ref = ref_of(task)
    if provider is None or ref is None:
        engine.due_at(task.id, min(task.deadline_at, now + _UNCONFIGURED_SECONDS))
        return
    if not provider.polls.go(task.id):
        engine.fleet.line_up(task, watch.polled_at, now)
        engine.due_at(task.id, _ends_at(task, provider))
        return
    lag_seconds = now - (now if watch.poll_at is None else watch.poll_at)
    if not watch.failures:
        provider.health.retries.earn()
    provider.asking += 1
    limit = asyncio.timeout(task.deadline_at - now)
    try:
        async with limit:
            progress = await provider.adapter.poll(ref)
    except TimeoutError:
        if not limit.expired():
            raise  # the adapter's own: a fault
        await engine.save(task, DeadlinePassed())  # it does not wait for a vendor that hangs
        return
    except VendorError as error:
        engine.telemetry.polled(provider.name, "error", lag_seconds)
        unanswered(engine, provider, task.id, error)
        await _could_not_ask(engine, task, provider, error)
        return
    finally:
        provider.asking -= 1
    engine.telemetry.polled(provider.name, outcome(progress), lag_seconds)
    answered(engine, provider)
    await _answered(engine, task, provider, progress)


async def hear(engine: Engine, task: Task, provider: Provider, progress: Progress) -> None:
    """Take what the vendor told of a task's job, without a poll of it, for a poll's answer."""
    if engine.now() < task.deadline_at and task.id in engine.watches:
        await _answered(engine, task, provider, progress)


async def _could_not_ask(engine: Engine, task: Task, provider: Provider, error: VendorError) -> None:
    """It says nothing of the task. Only a vendor that keeps denying its own id has forgotten it."""
    now, watch = engine.now(), engine.watches.get(task.id)
    if watch is None:
        return
    watch.failures += 1
    if error.kind != "not_found":
        watch.missing_since = None
    elif watch.missing_since is None:
        watch.missing_since = now
    elif now - watch.missing_since >= GRACE_SECONDS and task.state == "rendering":
        await engine.save(task, Forgotten(Cause(error.kind, error.message, error.status, error.reason)))
        return
    plan = poll_again(now, watch.failures, error.retry_after_seconds, provider.bounds, engine.chance)
    if not provider.health.retries.take(now):
        plan = no_sooner(plan, now, provider.bounds, engine.chance)
    watch.poll_at = plan.at
    is_as_known = engine.tasks.get(task.id) is task  # else the line is of before what was saved meanwhile
    if watch.failures == 1 and is_as_known and len(watch.noted) < NOTED_MAX:
        watch.noted += (_planned(task, plan, now, error),)
    engine.due_at(task.id, min(_ends_at(task, provider), plan.at))


def _planned(task: Task, plan: PollPlan, now: float, error: VendorError) -> Event:
    """The line of a timeline that says since when polls fail, and why; it goes with the next save."""
    return Event(
        type="next_poll", at=now, status=task.status, stage=task.stage, provider=task.provider,
        offering=task.offering,
        detail={"at": round(plan.at, 3), "why": plan.why, "error": error.kind, "http_status": error.status},
    )


def _ends_at(task: Task, provider: Provider) -> float:
    """When something else than a poll is due for the task."""
    if task.unknown_at is None:
        return task.deadline_at
    return min(task.deadline_at, task.unknown_at + provider.settings.unknown_timeout)


async def _answered(engine: Engine, task: Task, provider: Provider, progress: Progress) -> None:
    now, watch = engine.now(), engine.watches.get(task.id) or Watch()
    watch.missing_since, watch.failures = None, 0
    if isinstance(progress, Succeeded | Failed):
        engine.telemetry.detected(provider.name, now - (watch.polled_at or task.started_at or now))
    if isinstance(progress, Succeeded) and progress.url is not None and watch.poll_at is not None:
        engine.fleet.learn(task, watch.polled_at, now)  # not of one that was taken over: it may have waited
    watch.polled_at = now
    is_empty = isinstance(progress, Succeeded) and progress.url is None
    is_same = task.state == "rendering" and task.raw_status == progress.raw_status
    if is_empty and is_same and now - (task.raw_status_at or now) >= OUTPUT_GRACE_SECONDS:
        await engine.save(task, OutputMissing())
        return
    fact = as_fact(engine, provider, task, progress)
    allowed = None
    if isinstance(progress, Failed):
        allowed = await permission(engine, task, progress, fact.failed_is_charged)
    if allowed is None or not await granted(engine, task, allowed):
        await engine.save(task, fact)


def as_fact(engine: Engine, provider: Provider, task: Task, progress: Progress) -> Polled:
    """A vendor's answer, with what its offering says where the vendor does not."""
    offering, is_kept = provider.offering(task.offering or ""), engine.keeping is not None
    if offering is None:
        return Polled(progress, 3600.0, "unknown", is_kept)
    charged = provider.failed_is_charged(offering)
    return Polled(progress, float(offering.result_link_seconds), charged, is_kept)


def outcome(progress: Progress) -> str:
    """The answer in one word, for metrics."""
    return str(type(progress).__struct_config__.tag)
