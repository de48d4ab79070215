"""Straight through: a new task that need not wait is stored as `submitting`, and sent once it is stored.

One commit then holds acceptance and intent. Held here as well: storing a new task, whether it waits or not,
and what all replicas must agree on before one more is sent. Not held here: sending (`submit`), the line of
those that wait (`line`).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from gateway.core.facts import SubmitStarted
from gateway.core.pricing import as_cost
from gateway.core.states import Change, Task
from gateway.core.tasks import apply
from gateway.engine.loop import Engine
from gateway.engine.request import image_bytes
from gateway.engine.watch import Entry, Ticket
from gateway.storage.allowance import Together
from gateway.storage.db import Bound, Duplicate, GuardFailed, StorageBusy
from gateway.storage.replicas import Room
from gateway.storage.rows import Idempotency, NewVideo
from providers.spec import VideoRequest

# A minute as the vendor sees it: of two replicas one may take longer from its commit to the vendor.
SHARED_WINDOW_SECONDS: Final = 61.0


def at_once(engine: Engine, task: Task, request: VideoRequest) -> Change | None:
    """The intent to send a new task, to be stored with it; its place at the gate is taken. None: it waits.

    Whoever could not store it has to `Engine.give_back` the place. What waits already goes first, and what
    has more image data than there is room for waits, too: stored, it takes no memory.
    """
    if not (engine.is_running and engine.may_buy and engine.has_room):
        return None
    now = engine.now()
    candidate = engine.line.straight(task, now)
    found = None if candidate is None else engine.fleet.find(candidate)
    if candidate is None or found is None or room_at(engine, candidate.provider) is not None:
        return None
    change = apply(task, SubmitStarted(candidate, as_cost(found[0].price(found[1], request))), now)
    size = image_bytes(request)
    if size and not engine.images.take(size):
        return None
    if not found[0].gate.enter(now):
        if size:
            engine.images.give(size)
        return None
    engine.entering[task.id] = Entry(candidate.provider)
    engine.accounts.take(task)
    engine.tickets[task.id] = Ticket(candidate, request, size)
    return change


async def store_new(
    engine: Engine, new: NewVideo, key: Idempotency | None, room: Bound | None = None
) -> Idempotency | None:
    """Store a new video and its idempotency key; who holds the key if another video does.

    It goes on when whoever waits for it has gone; a place that `at_once` took is given back where nothing
    was stored. Raises as `Store.video_add`.
    """
    adding = asyncio.ensure_future(engine.store.video_add(new, key, room=room))
    if new.task.id in engine.tickets:
        adding.add_done_callback(partial(_stored, engine, new))
    return await asyncio.shield(adding)


def _stored(engine: Engine, new: NewVideo, added: asyncio.Future[Idempotency | None]) -> None:
    """A video that was not stored needs no place at a gate. Where nobody can say, the engine finds out."""
    if added.cancelled():
        return  # the process ends, and the place with it
    error = added.exception()
    if error is None and added.result() is None:
        return
    if error is None or isinstance(error, GuardFailed | Duplicate | StorageBusy):
        engine.give_back(new.task.id)
    else:
        engine.find_out(new.task, new.events)


def room_at(engine: Engine, name: str) -> Room | None:
    """What must hold of a provider over all replicas when one more is sent there; None: nothing."""
    if not engine.store.is_shared:
        return None
    gate = engine.fleet.providers[name].gate
    room = Room(name, gate.max_in_flight, gate.rate.per_minute, SHARED_WINDOW_SECONDS)
    return room if room.is_bounded else None


def together(*bounds: Bound | None) -> Bound | None:
    """All of these that there are, as one; None where there is none."""
    found = tuple(bound for bound in bounds if bound is not None)
    return Together(found) if found else None
