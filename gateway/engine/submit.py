"""The paid step: commit the intent, send once, save what came of it.

Not held here: who may be sent (`gateway.core.admission`), what an answer proves (`providers.http`, the
adapters), what to do while nobody knows (`unknown`).
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
    SubmitStarted,
    SubmitUnknown,
)
from gateway.core.health import DOWN, REFUSES_US
from gateway.core.pricing import as_cost
from gateway.core.states import Task
from gateway.engine import handing
from gateway.engine.counting import withdraw
from gateway.engine.entering import room_at, together
from gateway.engine.granting import dearer, put_off
from gateway.engine.loop import Engine
from gateway.engine.provider import Provider
from gateway.engine.request import held_request
from gateway.engine.watch import Ticket
from gateway.storage.allowance import OverFlight, OverMoney
from gateway.storage.db import Duplicate, NoRoom, StorageError
from providers.spec import Offering, Submitted, VendorError, VideoRequest

# Of the event loop, from a commit to the 202 that waits for it. A call to a vendor begins with half a
# millisecond of work, which the caller need not wait for.
ANSWER_TURNS: Final = 4
BACKSTOP_SECONDS: Final = 0.5  # past submit_timeout, at which the vendor's door gives up and counts a timeout

_RESULTS: Final = {Accepted: "accepted", Rejected: "rejected", NotSent: "not_sent", SubmitUnknown: "unknown"}


async def submit(engine: Engine, task: Task, candidate: Candidate) -> None:
    """Send an admitted task. Its place at the gate was taken; it is given back here if nothing is sent."""
    found, gate = engine.fleet.find(candidate), engine.fleet.providers[candidate.provider].gate
    entry = engine.entering[task.id]
    engine.sending.add(task.id)
    try:
        if found is None:
            return  # a reload took it away since it was admitted
        async with held_request(engine.store, engine.images, task.id) as request:
            if await engine.spending.look() or not engine.may_buy:
                return  # it waited for room, and nothing new is to be bought any more
            cost = as_cost(found[0].price(found[1], request))
            if await engine.accounts.look_up(task.key_id):
                engine.line.regroup(engine.tasks.values())
            if engine.accounts.is_over(task):
                return
            room = together(
                room_at(engine, candidate.provider), await engine.accounts.flight(task),
                await dearer(engine, task, cost),
            )
            started = await engine.save(task, SubmitStarted(candidate, cost), room)
            if started is not None:
                await _send_and_save(engine, *found, request, started)
    except OverMoney:
        put_off(engine, task.id)
    except OverFlight as error:
        engine.accounts.crowded((task.owner if error.kind == "team" else task.key_id,), engine.chance)
    except NoRoom:
        gate.crowded(engine.now(), engine.chance)
    finally:
        engine.sending.discard(task.id)
        gate.answered()
        withdraw(engine, task.id, gate, entry)


async def send(engine: Engine, task: Task, ticket: Ticket) -> None:
    """Send a task that was stored with the intent to; its caller is answered meanwhile."""
    gate = engine.fleet.providers[ticket.candidate.provider].gate
    engine.sending.add(task.id)
    try:
        for _ in range(ANSWER_TURNS):
            await asyncio.sleep(0)
        found = engine.fleet.find(ticket.candidate)
        if found is None:  # a reload took it away while it was stored
            await engine.save(task, NotSent(Cause("not_sent", "its provider is no longer configured")))
        else:
            await _send_and_save(engine, *found, ticket.request, task)
    finally:
        engine.sending.discard(task.id)
        engine.images.give(ticket.image_bytes)
        gate.answered()


async def _send_and_save(
    engine: Engine, provider: Provider, offering: Offering, request: VideoRequest, started: Task
) -> None:
    found = await _handed(engine, offering, request, started)
    fact = found if isinstance(found, Fact) else await _send(engine, provider, offering, found, started)
    engine.telemetry.submitted(provider.name, _RESULTS[type(fact)])
    try:
        await engine.save(started, fact)
    except Duplicate:
        cause = Cause("junk", "the vendor answered with the id of another video's job")
        await engine.save(started, SubmitUnknown(cause))


async def _handed(
    engine: Engine, offering: Offering, request: VideoRequest, task: Task
) -> VideoRequest | Fact:
    """The request with its images in a form that the vendor takes, or why nothing is sent."""
    fields = handing.by_url(request, offering)
    if not fields:
        return request
    public_url, now = engine.fleet.settings.server.public_url, engine.now()
    if public_url is None:  # no more, since it was accepted
        return Rejected(Cause("unsupported", handing.BY_URL))
    try:
        return await handing.handed(engine.signer, request, fields, public_url, video_id=task.id, now=now)
    except StorageError as error:
        engine.telemetry.storage_failed(task.id, error)
        return NotSent(Cause("not_sent", "the key to sign image URLs with was out of reach"))


def reference_of(task: Task) -> str:
    """What a vendor that keeps references of ours can find this very sending by."""
    return f"{task.id}-{task.attempts}"


async def _call(provider: Provider, offering: Offering, request: VideoRequest, task: Task) -> Submitted:
    if provider.finder is not None:
        return await provider.finder.submit_as(request, offering, reference_of(task))
    return await provider.adapter.submit(request, offering)


async def _send(
    engine: Engine, provider: Provider, offering: Offering, request: VideoRequest, task: Task
) -> Fact:
    """Send once and say what that proves; everything that proves nothing is unknown."""
    if engine.now() >= task.deadline_at:  # the process stood still since it was admitted
        return NotSent(Cause("not_sent", "its deadline passed before it was sent"))
    engine.lease.sends()
    if task.replica != engine.replica or not engine.lease.is_held:  # likewise, or it is cut off
        return NotSent(Cause("not_sent", "this replica may have been replaced before it was sent"))
    try:
        async with asyncio.timeout(provider.settings.submit_timeout + BACKSTOP_SECONDS):
            submitted = await _call(provider, offering, request, task)
    except VendorError as error:
        return _unaccepted(engine, provider, task, error)
    except TimeoutError:
        late = VendorError("timeout", "unknown", "no answer within submit_timeout")
        return _unaccepted(engine, provider, task, late)
    except Exception as error:  # noqa: BLE001 - a fault in an adapter proves nothing about what was sent
        engine.telemetry.step_failed(task.id, error)
        fault = VendorError("junk", "unknown", "the adapter failed while sending; see the gateway's log")
        return _unaccepted(engine, provider, task, fault)
    provider.gate.succeeded()
    provider.health.accepted()
    provider.last_ref, provider.last_task = submitted.ref, task.id
    return Accepted(submitted)


def _unaccepted(engine: Engine, provider: Provider, task: Task, error: VendorError) -> Fact:
    """What a submit without an acceptance says of the provider, and what it proves of the task."""
    now, gate, health = engine.now(), provider.gate, provider.health
    cause = Cause(error.kind, error.message, error.status, error.reason)
    is_known = health.refusals > 0 and error.kind in REFUSES_US
    health.last_error = error.kind
    if error.kind in DOWN:
        health.submits.failed(task.id, now, engine.chance)
    else:
        health.submits.answered()
    if error.kind in REFUSES_US:
        health.refused(now, engine.chance)
    if health.is_open or error.kind in REFUSES_US:
        gate.slow()
    if error.outcome == "unknown":
        return SubmitUnknown(cause)
    if error.outcome == "not_sent" or REFUSALS.get(error.kind, ("final", ""))[0] == "later":
        gate.close(now, error.retry_after_seconds, engine.chance)
    return NotSent(cause) if error.outcome == "not_sent" else Rejected(cause, is_known=is_known)


async def expire(engine: Engine, task: Task) -> None:
    """The step of a task without a job whose time has come: it ends, or is left waiting."""
    if engine.now() >= task.deadline_at:
        await engine.save(task, DeadlinePassed())
    elif task.state == "waiting" and engine.now() >= engine.line.ends_at(task):
        await engine.save(task, QueueTimedOut())
