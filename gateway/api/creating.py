"""Ordering a video: create, the same once more (rerun), and the dry run.

Held here: idempotency keys, the candidates fixed at acceptance, the 202. Not held here: what a body may say
(`wire`), the plan itself (`planning`), what happens to the task (`gateway.core.tasks`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, TypeAlias

from litestar import Request, Response, post
from litestar.params import FromPath, HeaderParameter
from msgspec import Struct
from msgspec.structs import replace

from gateway.api.answers import answer, hints, place_in_line, place_of, preferred_seconds, waited
from gateway.api.forms import BODY_MAX_BYTES, Arrival, beside, read_body
from gateway.api.gateway import absent, caller_of, gateway_of, in_commit, new_video_id, video_of
from gateway.api.planning import Plan, no_route, plan_of
from gateway.api.problems import responses
from gateway.api.quotas import allowance_of, check_spending, over
from gateway.api.reading import read_nothing, refuse
from gateway.api.shapes import VideoObject
from gateway.api.traces import traceparent_of
from gateway.api.uploads import UploadGone, resolve_uploads
from gateway.api.wire import Asked, Known, read_asked
from gateway.core.pricing import as_cost
from gateway.core.routing import Route
from gateway.core.states import Change, Event, Task, accepted_event
from gateway.engine.entering import at_once, store_new
from gateway.engine.request import split_request, whole_request
from gateway.engine.webhooks import origin_of
from gateway.errors import Problem, invalid
from gateway.storage.allowance import OverFlight, OverLimit
from gateway.storage.db import GuardFailed
from gateway.storage.rows import Idempotency, NewVideo, Video

CREATE_MAX_BYTES: Final = BODY_MAX_BYTES
KEY_MAX_CHARS: Final = 255
# Whether that was charged is not known any more.
_DELETED: Final = "The video of this Idempotency-Key was deleted."
_BOUGHT: Final = (
    "This Idempotency-Key has made {id}. An upload that this request names is gone, so it cannot be told"
    " whether it is the same request; nothing more was made."
)

_Prefer: TypeAlias = Annotated[
    str | None, HeaderParameter(name="Prefer", description="wait=N holds the answer up to N seconds")
]


class _Order(Struct, frozen=True):
    """A new video as it would wait, and the intent to send it at once if it need not."""

    waiting: NewVideo
    intent: Change | None

    @property
    def first(self) -> NewVideo:
        """It as it is to be stored, if nothing is against that."""
        if self.intent is None:
            return self.waiting
        events = (*self.waiting.events, *self.intent.events)
        return replace(self.waiting, task=self.intent.task, events=events)


@post(
    "/v1/videos", status_code=202, request_max_body_size=CREATE_MAX_BYTES,
    opt={"role": "caller", "scope": "videos:write"},
    responses=responses(409, 410, 413, 422),
    summary="Create a video", tags=["videos"],
)
async def create_video(
    request: Request[Any, Any, Any], prefer: _Prefer = None
) -> Response[VideoObject]:
    """Accept a video. The task is durable before the answer leaves; the vendor is called at once after it.

    The body is JSON, or multipart/form-data with the same names, where images may be files.
    """
    video, headers = await _ordered(request)
    return await _answer(request, video, prefer, headers)


@post(
    "/v1/videos/{video_id:str}/rerun", status_code=202, opt={"role": "caller", "scope": "videos:write"},
    responses=responses(404, 410, 413, 422),
    summary="Order the same once more", tags=["videos"],
)
async def rerun_video(
    request: Request[Any, Any, Any], video_id: FromPath[str], prefer: _Prefer = None
) -> Response[VideoObject]:
    """The same request as a new video, whatever became of this one; it is bought and paid like any create.

    Providers, priority, metadata and length of the deadline are those of the original; the candidates are
    chosen anew. Takes no body.
    """
    read_nothing(await request.body())
    fingerprint = hashlib.sha256(f"rerun of {video_id}".encode()).hexdigest()
    make = partial(_rerun, request, video_id)
    video, headers = await _accept(request, fingerprint, make)
    return await _answer(request, video, prefer, headers)


@post(
    "/v1/videos/plan", status_code=200, request_max_body_size=CREATE_MAX_BYTES,
    opt={"role": "caller", "scope": "videos:write"},
    responses=responses(413, 422), summary="Plan a video",
    tags=["videos"],
)
async def plan_video(request: Request[Any, Any, Any]) -> Plan:
    """A dry run: candidates in order, why others were refused, the exact vendor request, estimated cost."""
    async with Arrival(request) as arrival:
        asked = await _read(request, arrival)
        refuse(asked.unknown)
        return plan_of(gateway_of(request), asked, caller_of(request).grant)


async def _ordered(request: Request[Any, Any, Any]) -> tuple[Video, dict[str, str]]:
    """The video of a body, and what its 202 has in its head; then nothing of the body is in memory."""
    async with Arrival(request) as arrival:
        try:
            asked = await _read(request, arrival)
        except UploadGone:
            await _check_unbought(request)
            raise

        async def make() -> _Order:
            refuse(asked.unknown)
            return await _new_video(request, asked)

        return await _accept(request, asked.fingerprint, make)


async def _check_unbought(request: Request[Any, Any, Any]) -> None:
    """Raises Problem not_resolvable or expired where this key has made a video, which a 400 would deny."""
    store, owner, name = gateway_of(request).store, caller_of(request).owner, _key_name(request)
    held = None if name is None else await store.idempotency_get(owner, name)
    if held is None:
        return
    video = await store.video_get(held.video_id, owner)
    if video is None:
        raise Problem("expired", _DELETED, extra={"charged": "unknown"})
    raise Problem(
        "not_resolvable", _BOUGHT.format(id=held.video_id), extra={"charged": video.task.charged}
    )


async def _read(request: Request[Any, Any, Any], arrival: Arrival) -> Asked:
    """The decoded body, uploads in the place of their ids."""
    fleet = gateway_of(request).fleet
    known = Known(
        tuple(fleet.models), tuple(fleet.settings.providers), fleet.settings.default_model,
        gateway_of(request).hooks.refuses_own, caller_of(request).grant,
    )
    raw = await read_body(request, arrival)
    await resolve_uploads(request, raw, arrival)
    return await beside(request, arrival.taken, partial(read_asked, raw, known))


async def _accept(
    request: Request[Any, Any, Any], fingerprint: str, make: Callable[[], Awaitable[_Order]]
) -> tuple[Video, dict[str, str]]:
    """What `make` makes, or what was made with its key before; and what the 202 has in its head."""
    store, owner = gateway_of(request).store, caller_of(request).owner
    name = _key_name(request)
    held = None if name is None else await store.idempotency_get(owner, name)
    if held is None:
        order = await make()
        taken = None if name is None else Idempotency(name, fingerprint, order.waiting.task.id)
        in_commit(request)
        made = await _stored(request, order, taken)
        if isinstance(made, NewVideo):
            return Video(made.task, made.request, made.metadata), {}
        held = made
    if held.fingerprint != fingerprint:
        detail = "This Idempotency-Key was used for a different request; use a new key for a new video."
        raise Problem("idempotency_key_reused", detail)
    video = await store.video_get(held.video_id, owner)
    if video is None:
        raise Problem("expired", _DELETED, extra={"charged": "unknown"})
    return video, {"Idempotent-Replayed": "true"}


async def _stored(
    request: Request[Any, Any, Any], order: _Order, key: Idempotency | None
) -> NewVideo | Idempotency:
    """The new video as it was stored, or who holds its key. Raises Problem quota_exceeded."""
    gateway, caller, new = gateway_of(request), caller_of(request), order.first
    try:
        try:
            held = await store_new(gateway.engine, new, key, allowance_of(caller, new.task))
        except OverFlight:  # its accounts have all they may at vendors: it waits for one of theirs to end
            new = order.waiting
            held = await store_new(gateway.engine, new, key, allowance_of(caller, new.task))
    except OverLimit as error:
        accounts = allowance_of(caller, new.task).accounts
        raise await over(gateway, accounts, new.task, error) from None
    return new if held is None else held


async def _rerun(request: Request[Any, Any, Any], video_id: str) -> _Order:
    """What was asked for with the caller's video, asked for again. Raises Problem not_found, no_route."""
    gateway = gateway_of(request)
    task = (await video_of(request, video_id)).task
    try:
        stored = await gateway.store.asked_get(video_id)
    except GuardFailed:
        raise absent(video_id) from None  # deleted since
    asked = Asked(
        request=whole_request(stored), pins=stored.pins, priority=task.priority, metadata=stored.metadata,
        deadline_seconds=task.deadline_at - task.created_at, fingerprint="", webhook_url=stored.webhook_url,
    )
    return await _new_video(request, asked, rerun_of=video_id)


async def _new_video(
    request: Request[Any, Any, Any], asked: Asked, rerun_of: str | None = None
) -> _Order:
    """The task with its candidates, fixed now. Raises Problem no_route when there is none."""
    gateway, caller = gateway_of(request), caller_of(request)
    await check_spending(gateway)
    route = gateway.fleet.route(asked.request, asked.pins, caller.grant)
    if not route.candidates:
        raise no_route(route)
    now = gateway.now()
    deadline = asked.deadline_seconds or gateway.fleet.settings.routing.deadline
    aside = as_cost(gateway.fleet.aside(route.candidates, asked.request)) or (None, None)
    task = Task(
        id=new_video_id(now), owner=caller.owner, model=asked.request.model,
        state="waiting", stage="waiting", candidates=route.candidates, created_at=now,
        deadline_at=now + deadline,
        priority=asked.priority, replica=gateway.engine.owner, last_seq=1 + len(route.refused),
        rerun_of=rerun_of, duration=asked.request.duration, audio=asked.request.audio, key_id=caller.id,
        reserved_amount=aside[0], reserved_currency=aside[1], traceparent=traceparent_of(request.scope),
    )
    wanted = asked.request
    has_data = (wanted.image or "").startswith("data:") or (wanted.end_image or "").startswith("data:")
    more = {"provider": asked.pins or None, "priority": asked.priority, "deadline": round(deadline)}
    split = partial(split_request, wanted, more)
    text, inputs = await asyncio.to_thread(split) if has_data else split()
    events = _first_events(task, route)
    waiting = NewVideo(
        task=task, request=text, metadata=asked.metadata, inputs=inputs, pins=asked.pins, events=events,
        webhook_url=asked.webhook_url, webhook_origin=origin_of(asked.webhook_url),
    )
    gateway.engine.accounts.learn(caller.id, caller.grant.limits)
    return _Order(waiting, at_once(gateway.engine, task, wanted))


def _first_events(task: Task, route: Route) -> tuple[Event, ...]:
    """The acceptance, and why each other offering is no candidate."""
    accepted = accepted_event(task)
    if task.rerun_of is not None:
        accepted = replace(accepted, detail=accepted.detail | {"rerun_of": task.rerun_of})
    if route.canary is not None:
        accepted = replace(accepted, detail=accepted.detail | {"canary": route.canary})
    refused = (
        Event(
            type="candidate_refused", at=task.created_at, status=task.status, stage=task.stage, seq=seq,
            provider=entry.candidate.provider, offering=entry.candidate.offering,
            detail={reason.param: reason.reason for reason in entry.reasons},
        )
        for seq, entry in enumerate(route.refused, 2)
    )
    return (accepted, *refused)


async def _answer(
    request: Request[Any, Any, Any], video: Video, prefer: str | None, headers: dict[str, str]
) -> Response[VideoObject]:
    """The 202, held until the end or for as long as the caller prefers."""
    gateway, seconds = gateway_of(request), preferred_seconds(prefer)
    headers = headers | {"Location": place_of(video.task.id)}
    if seconds is not None:
        headers["Preference-Applied"] = f"wait={seconds}"
        video = await waited(request, video.task.id, seconds)
    place = await place_in_line(gateway, video.task)
    return answer(video, place, 202, headers | hints(gateway, video, place))


def _key_name(request: Request[Any, Any, Any]) -> str | None:
    """The idempotency key, bare or quoted. Raises Problem for a second one, and for one that cannot be."""
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1:
        raise invalid("Idempotency-Key", "Idempotency-Key is given twice")
    name = given[0].strip()
    if len(name) >= 2 and name[0] == name[-1] == '"':
        name = name[1:-1]
    if not 0 < len(name) <= KEY_MAX_CHARS or not name.isprintable():
        detail = f"Idempotency-Key must have 1 to {KEY_MAX_CHARS} printable characters"
        raise invalid("Idempotency-Key", detail)
    return name
