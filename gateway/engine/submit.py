"""The paid step: commit the intent, send once, save what came of it. And what to do while nobody knows.

Not held here: who may be sent (`gateway.core.admission`), what an answer proves (`providers.http`, the
adapters).
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.core.facts import (
    REFUSALS,
    Accepted,
    Candidate,
    Cause,
    DeadlinePassed,
    Fact,
    NotSent,
    QueueTimedOut,
    Rejected,
    ResubmitAllowed,
    SubmitStarted,
    SubmitUnknown,
    UnknownTimedOut,
)
from gateway.core.pricing import as_cost
from gateway.core.states import Task
from gateway.engine.loop import Engine
from gateway.engine.poll import poll
from gateway.engine.provider import Provider
from gateway.engine.request import load_request
from gateway.storage.db import Duplicate
from providers.spec import Offering, VendorError, VideoRequest

_RESULTS: Final = {Accepted: "accepted", Rejected: "rejected", NotSent: "not_sent", SubmitUnknown: "unknown"}


async def submit(engine: Engine, task: Task, candidate: Candidate) -> None:
    """Send an admitted task. Its place at the gate was taken; it is given back here if nothing is sent."""
    found, gate = engine.fleet.find(candidate), engine.fleet.providers[candidate.provider].gate
    started = None
    try:
        if found is None:
            return  # a reload took it away since it was admitted
        request = await load_request(engine.store, task.id)
        cost = as_cost(found[0].price(found[1], request))
        started = await engine.save(task, SubmitStarted(candidate, cost))
    finally:
        if started is None:
            gate.answered()
            gate.leave()
    if started is not None:
        provider, offering = found
        try:
            fact = await _send(engine, provider, offering, request)
        finally:
            gate.answered()
        engine.telemetry.submitted(provider.name, _RESULTS[type(fact)])
        try:
            await engine.save(started, fact)
        except Duplicate:
            cause = Cause("junk", "the vendor answered with the id of another video's job")
            await engine.save(started, SubmitUnknown(cause))


async def _send(engine: Engine, provider: Provider, offering: Offering, request: VideoRequest) -> Fact:
    """Send once and say what that proves; everything that proves nothing is unknown."""
    try:
        async with asyncio.timeout(provider.settings.submit_timeout):
            submitted = await provider.adapter.submit(request, offering)
    except VendorError as error:
        cause = Cause(error.kind, error.message, error.status, error.reason)
        if error.outcome == "unknown":
            return SubmitUnknown(cause)
        is_away = error.outcome == "not_sent" or REFUSALS.get(error.kind, ("final", ""))[0] == "later"
        if is_away:
            provider.gate.close(engine.now(), error.kind, error.retry_after_seconds, engine.chance)
        return NotSent(cause) if error.outcome == "not_sent" else Rejected(cause)
    except TimeoutError:
        return SubmitUnknown(Cause("timeout", "no answer within submit_timeout"))
    except Exception as error:  # noqa: BLE001 - a fault in an adapter proves nothing about what was sent
        engine.telemetry.step_failed("", error)
        return SubmitUnknown(Cause("junk", "the adapter failed while sending; see the gateway's log"))
    provider.gate.succeeded()
    return Accepted(submitted)


async def expire(engine: Engine, task: Task) -> None:
    """The step of a waiting task whose time has come: it ends, free of charge, or is left waiting."""
    if engine.now() >= task.deadline_at:
        await engine.save(task, DeadlinePassed())
    elif engine.now() >= engine.queue_ends_at(task):
        await engine.save(task, QueueTimedOut())


async def settle_unknown(engine: Engine, task: Task) -> None:
    """The step of a submission nobody knows the outcome of: its policy, its vendor's memory, its time."""
    now = engine.now()
    provider = engine.fleet.providers.get(task.provider or "")
    policy = "hold" if provider is None else provider.settings.on_unknown
    timeout = 900.0 if provider is None else provider.settings.unknown_timeout
    ends_at = (task.unknown_at or now) + timeout
    if task.vendor_task_id is None and policy == "resubmit" and task.resubmits == 0:
        await engine.save(task, ResubmitAllowed("the policy on_unknown = resubmit"))
    elif now >= ends_at or (task.vendor_task_id is None and policy == "fail"):
        await engine.save(task, UnknownTimedOut())
    elif now >= task.deadline_at:
        await engine.save(task, DeadlinePassed())
    elif task.vendor_task_id is not None:
        await poll(engine, task)  # the vendor gave an id once: it may remember it again
    else:
        engine.due_at(task.id, min(ends_at, task.deadline_at))
