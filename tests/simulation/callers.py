"""Callers as actors: they order videos, again if they heard nothing, and cancel, leave or delete them.

What they do is what the routes do with the engine and the store, in the same order of steps
(`gateway.api.videos`), without the HTTP around it. Not held here: what they should find (`checker`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from gateway.core.facts import Cancelled
from gateway.core.pricing import as_cost
from gateway.core.states import Event, Task, accepted_event
from gateway.core.tasks import IllegalTransition, apply
from gateway.engine.entering import at_once, store_new
from gateway.engine.request import split_request
from gateway.storage.db import GuardFailed, StorageError
from gateway.storage.rows import Idempotency, NewVideo
from providers.spec import VideoRequest
from tests.simulation.history import Accepted
from tests.simulation.plan import DURATION_SECONDS, Act, Order
from tests.simulation.process import ConnectionLost, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

AGAIN_SECONDS: Final = (2.0, 60.0)  # between two tries to order: the first time, and at most
TRIES: Final = 20  # of one with an idempotency key: about a quarter of an hour


class NoRoute(Exception):
    """Nobody takes the request: refused, and nothing is stored."""


async def caller(world: World, order: Order) -> None:
    """One caller with one wish."""
    await asyncio.sleep(order.at)
    world.history.orders[order.number] = world.time()
    video_id = await _orders(world, order)
    if video_id is None:
        return
    for act in sorted(order.acts, key=lambda act: act.after):
        await asyncio.sleep(max(0.0, order.at + act.after - world.time()))
        await _acts(world, order, act, video_id)


async def _orders(world: World, order: Order) -> str | None:
    """Order it; who has a key asks until there is an answer, who has none asks once."""
    pause, longest = AGAIN_SECONDS
    chance = world.chance(f"caller of order {order.number}")
    for _ in range(TRIES if order.key is not None else 1):
        process = world.reached(chance)
        if process is not None:
            try:
                video_id = await _asks(world, process, order)
            except NoRoute:
                return None
            except (ConnectionLost, StorageError) as error:
                world.say("caller", f"order {order.number} meets {type(error).__name__}")
            else:
                world.say("caller", f"order {order.number} is accepted as {video_id[-6:]}")
                world.history.accepted.append(Accepted(order.number, video_id))
                return video_id
        await asyncio.sleep(pause)
        pause = min(longest, pause * 2)
    return None


async def _asks(world: World, process: Process, order: Order) -> str:
    """The answer to a request. Some callers send each of theirs twice at once, under one key."""
    if order.key is None or not any(act.verb == "resend" for act in order.acts):
        return await process.request(create(process, order))
    work = (process.request(create(process, order)), process.request(create(process, order)))
    answers = await asyncio.gather(*work, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, str):
            world.history.accepted.append(Accepted(order.number, answer))
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return str(answers[0])


async def create(process: Process, order: Order) -> str:
    """What POST /v1/videos does. Raises NoRoute, StorageError."""
    store, fleet = process.store, process.fleet
    if order.key is not None:
        held = await store.idempotency_get(order.owner, order.key)
        if held is not None:
            return held.video_id
    request = VideoRequest(
        model="kling-v3", prompt=order.prompt, resolution="720p", aspect_ratio="16:9",
        duration=DURATION_SECONDS,
    )
    route = fleet.route(request, order.pins)
    if not route.candidates:
        raise NoRoute
    now = process.now()
    aside = as_cost(fleet.aside(route.candidates, request)) or (None, None)
    task = Task(
        id=f"video_{process.chance.getrandbits(128):032x}", owner=order.owner, model="kling-v3",
        state="waiting", stage="waiting", candidates=route.candidates, created_at=now,
        deadline_at=now + order.deadline, priority=order.priority, replica=process.engine.owner, last_seq=1,
        duration=request.duration, audio=request.audio, key_id=order.owner,
        reserved_amount=aside[0], reserved_currency=aside[1],
    )
    text, inputs = split_request(request)
    events: tuple[Event, ...] = (accepted_event(task),)
    intent = at_once(process.engine, task, request)
    if intent is not None:
        task, events = intent.task, (*events, *intent.events)
    new = NewVideo(task=task, request=text, metadata={}, inputs=inputs, events=events)
    key = None if order.key is None else Idempotency(order.key, order.prompt, task.id)
    taken = await store_new(process.engine, new, key)
    return task.id if taken is None else taken.video_id


async def _acts(world: World, order: Order, act: Act, video_id: str) -> None:
    """Do it once; whether it succeeds or not, nobody repeats it."""
    process = world.reached(world.chance(f"{act.verb} of order {order.number}"))
    if process is None:
        return
    try:
        if act.verb == "resend" and order.key is not None:
            world.history.accepted.append(
                Accepted(order.number, await process.request(create(process, order)))
            )
        elif act.verb == "delete":
            await _deletes(process, order, video_id)
        elif act.verb in ("cancel", "detach"):
            world.history.cancelled.add(video_id)  # it may be done although the answer is lost
            await process.request(_cancel(process, order, video_id, detach=act.verb == "detach"))
    except (ConnectionLost, StorageError, NoRoute) as error:
        world.say("caller", f"{act.verb} of {video_id[-6:]} meets {type(error).__name__}")
    else:
        world.say("caller", f"{act.verb} of {video_id[-6:]} is answered")


async def _cancel(process: Process, order: Order, video_id: str, *, detach: bool) -> None:
    """What POST /v1/videos/{id}/cancel does."""
    while True:
        video = await process.store.video_get(video_id, order.owner)
        if video is None:
            return
        try:
            change = apply(video.task, Cancelled(detach), process.now())
        except IllegalTransition:
            return
        try:
            await process.store.task_save(change)
        except GuardFailed:
            continue
        return


async def _deletes(process: Process, order: Order, video_id: str) -> None:
    """What DELETE /v1/videos/{id} does; what was there is kept for the checker."""
    world = process.world
    video = await process.request(process.store.video_get(video_id, order.owner))
    if video is None or not video.task.is_terminal:
        return
    seen = replace(world.see(video_id), deleted_at=world.time())
    world.history.videos.append(seen)
    try:
        await process.request(process.store.video_delete(video_id, order.owner))
    finally:
        if world.is_stored(video_id):
            world.history.videos.remove(seen)
