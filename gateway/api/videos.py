"""The life of a video over HTTP: create, plan, get, list, timeline, cancel, delete.

Not held here: what a body may say (`wire`), what an answer looks like (`shapes`), the file (`content`), what
happens to a task (`gateway.core.tasks`).
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Final

from litestar import Request, Response, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter

from gateway.api.gateway import Gateway, absent, caller_of, gateway_of, video_of
from gateway.api.planning import Plan, no_route, plan_of
from gateway.api.problems import responses
from gateway.api.query import read_list_query
from gateway.api.reading import refuse
from gateway.api.shapes import (
    Deleted,
    TimelineList,
    VideoList,
    VideoObject,
    encode,
    timeline_list,
    video_list,
    video_object,
)
from gateway.api.waiting import WAIT_MAX_SECONDS, ended
from gateway.api.wire import Asked, Known, read_asked
from gateway.core.facts import Cancelled
from gateway.core.states import Event, Task, accepted_event
from gateway.core.tasks import IllegalTransition, apply
from gateway.engine.request import split_request
from gateway.errors import Problem, invalid
from gateway.storage.db import GuardFailed
from gateway.storage.rows import Idempotency, NewVideo, Page, Video

CREATE_MAX_BYTES: Final = 30 * 1024 * 1024
LOOP_MAX_BYTES: Final = 256 * 1024  # a few milliseconds' worth of decoding
KEY_MAX_CHARS: Final = 255
_UNCHANGED = {304: ResponseSpec(None, generate_examples=False, description="The caller has this version")}
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


@post(
    "/v1/videos", status_code=202, request_max_body_size=CREATE_MAX_BYTES, opt={"role": "caller"},
    responses=responses(400, 410, 413, 422),
    summary="Create a video", tags=["videos"],
)
async def create_video(
    request: Request[Any, Any, Any],
    idempotency_key: Annotated[
        str | None, HeaderParameter(name="Idempotency-Key", description="<= 255 characters")
    ] = None,
    prefer: Annotated[
        str | None, HeaderParameter(name="Prefer", description="wait=N holds the answer up to N seconds")
    ] = None,
) -> Response[VideoObject]:
    """Accept a video. The task is durable before the answer leaves; the vendor is called at once after it."""
    gateway, caller = gateway_of(request), caller_of(request)
    asked = await _read(request)
    name = _key_name(idempotency_key)
    if name is not None:
        held = await gateway.store.idempotency_get(caller.id, name)
        if held is not None:
            return await _replay(request, held, asked.fingerprint, prefer)
    refuse(asked.unknown)
    new = await _new_video(gateway, caller.id, asked)
    key = None if name is None else Idempotency(name, asked.fingerprint, new.task.id)
    held = await gateway.store.video_add(new, key)
    if held is not None:
        return await _replay(request, held, asked.fingerprint, prefer)
    return await _answer(request, new.task.id, prefer, created=Video(new.task, new.request, new.metadata))


@post(
    "/v1/videos/plan", status_code=200, request_max_body_size=CREATE_MAX_BYTES, opt={"role": "caller"},
    responses=responses(400, 413, 422), summary="Plan a video",
    tags=["videos"],
)
async def plan_video(request: Request[Any, Any, Any]) -> Plan:
    """A dry run: candidates in order, why others were refused, the exact vendor request, estimated cost."""
    gateway = gateway_of(request)
    asked = await _read(request)
    refuse(asked.unknown)
    return plan_of(gateway, asked)


@get(
    "/v1/videos/{video_id:str}", opt={"role": "viewer"}, responses=_UNCHANGED | responses(400, 404),
    summary="Get a video", tags=["videos"],
)
async def get_video(
    request: Request[Any, Any, Any],
    video_id: FromPath[str],
    wait: Annotated[
        int | None, QueryParameter(ge=0, le=WAIT_MAX_SECONDS, description="seconds to wait for the end")
    ] = None,
    prefer: Annotated[str | None, HeaderParameter(name="Prefer")] = None,
    if_none_match: Annotated[str | None, HeaderParameter(name="If-None-Match")] = None,
) -> Response[VideoObject]:
    """The video as stored; the vendor is never called for it.

    Long-polls until terminal with `wait`, or `Prefer: wait=N`.
    """
    gateway = gateway_of(request)
    asked = _prefer_wait(prefer)
    seconds = wait if wait is not None else asked
    video = await video_of(request, video_id)
    if seconds and not video.task.is_terminal:
        video = await _waited(request, video_id, seconds)
    headers = _headers(gateway, video)
    if asked is not None and wait is None:
        headers["Preference-Applied"] = f"wait={asked}"
    known_tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    if {headers["ETag"], "*"} & set(known_tags):
        return Response(content=b"", status_code=304, headers=headers)  # type: ignore[arg-type]
    return _video_response(gateway, video, 200, headers)


@get(
    "/v1/videos", opt={"role": "viewer"}, responses=responses(400),
    summary="List your videos", tags=["videos"],
)
async def list_videos(request: Request[Any, Any, Any]) -> Response[VideoList]:
    """The caller's videos, newest first, by keyset; also filtered by `metadata[key]=value`."""
    gateway, owner = gateway_of(request), caller_of(request).id
    query, filters = read_list_query(request.query_params.multi_items())
    position = None
    if query.after is not None:
        last = await gateway.store.video_get(query.after, owner)
        if last is None:
            raise invalid("?after", "after is not the id of one of your videos")
        position = (last.task.created_at, last.task.id)
    page = Page(limit=query.limit, newest_first=query.order == "desc", after=position)
    videos = await gateway.store.video_list(owner, filters, page)
    data = [video_object(video, gateway.engine.queue_place(video.task)) for video in videos[: query.limit]]
    listed = video_list(data, has_more=len(videos) > query.limit)
    return Response(content=encode(listed), media_type="application/json")  # type: ignore[arg-type]


@get(
    "/v1/videos/{video_id:str}/timeline", opt={"role": "viewer"}, responses=responses(404),
    summary="What happened to a video, and when", tags=["videos"],
)
async def get_timeline(request: Request[Any, Any, Any], video_id: FromPath[str]) -> TimelineList:
    """Every event of the video, oldest first."""
    gateway, owner = gateway_of(request), caller_of(request).id
    await video_of(request, video_id)
    return timeline_list(await gateway.store.events_get(video_id, owner))


@post(
    "/v1/videos/{video_id:str}/cancel", status_code=200, opt={"role": "caller"},
    responses=responses(404, 409), summary="Cancel a video", tags=["videos"],
)
async def cancel_video(
    request: Request[Any, Any, Any], video_id: FromPath[str], *, detach: FromQuery[bool] = False
) -> Response[VideoObject]:
    """A waiting video is cancelled free of charge; any other is only no longer followed (`detach=true`)."""
    gateway = gateway_of(request)
    while True:
        video = await video_of(request, video_id)
        try:
            change = apply(video.task, Cancelled(detach), gateway.now())
        except IllegalTransition:
            raise _not_cancellable(video.task) from None
        try:
            task = await gateway.store.task_save(change)
        except GuardFailed:
            continue  # it changed meanwhile: look again
        return _video_response(gateway, Video(task, video.request, video.metadata), 200, {})


@delete(
    "/v1/videos/{video_id:str}", status_code=200, opt={"role": "caller"},
    responses=responses(404, 409), summary="Delete a finished video", tags=["videos"],
)
async def delete_video(request: Request[Any, Any, Any], video_id: FromPath[str]) -> Deleted:
    """Remove the record of a terminal video. A replay of its idempotency key is answered 410 thereafter."""
    gateway, owner = gateway_of(request), caller_of(request).id
    video = await video_of(request, video_id)
    if not video.task.is_terminal:
        raise Problem("not_ready", f"The video is {video.task.status}; only a finished one can be deleted.")
    if not await gateway.store.video_delete(video_id, owner):
        raise absent(video_id)
    gateway.telemetry.video_deleted(video.task.status)
    return Deleted(id=video_id)


def known(gateway: Gateway) -> Known:
    """What a body may name: the enabled models and the configured providers."""
    fleet = gateway.fleet
    return Known(tuple(fleet.models), tuple(fleet.settings.providers), fleet.settings.default_model)


async def _read(request: Request[Any, Any, Any]) -> Asked:
    """The decoded body. A large one, with image data in it, is decoded beside the loop, not on it."""
    body, names = await request.body(), known(gateway_of(request))
    if len(body) <= LOOP_MAX_BYTES:
        return read_asked(body, names)
    return await asyncio.to_thread(read_asked, body, names)


async def _new_video(gateway: Gateway, owner: str, asked: Asked) -> NewVideo:
    """The task with its candidates, fixed now. Raises Problem no_route when there is none."""
    route = gateway.fleet.route(asked.request, asked.pins)
    if not route.candidates:
        raise no_route(route)
    now = gateway.now()
    deadline = asked.deadline_seconds
    task = Task(
        id=f"video_{gateway.chance.getrandbits(128):032x}", owner=owner, model=asked.request.model,
        state="waiting", stage="waiting", candidates=route.candidates, created_at=now,
        deadline_at=now + (gateway.fleet.settings.routing.deadline if deadline is None else deadline),
        priority=asked.priority, replica=gateway.engine.replica, last_seq=1 + len(route.refused),
    )
    refused = (
        Event(
            type="candidate_refused", at=now, status="queued", stage="waiting", seq=seq,
            provider=entry.candidate.provider, offering=entry.candidate.offering,
            detail={reason.param: reason.reason for reason in entry.reasons},
        )
        for seq, entry in enumerate(route.refused, 2)
    )
    wanted = asked.request
    has_data = (wanted.image or "").startswith("data:") or (wanted.end_image or "").startswith("data:")
    text, inputs = await asyncio.to_thread(split_request, wanted) if has_data else split_request(wanted)
    events = (accepted_event(task), *refused)
    return NewVideo(task=task, request=text, metadata=asked.metadata, inputs=inputs, events=events)


async def _replay(
    request: Request[Any, Any, Any], held: Idempotency, fingerprint: str, prefer: str | None
) -> Response[VideoObject]:
    if held.fingerprint != fingerprint:
        detail = "This Idempotency-Key was used for a different request; use a new key for a new video."
        raise Problem("idempotency_key_reused", detail)
    return await _answer(request, held.video_id, prefer, replayed=True)


async def _answer(
    request: Request[Any, Any, Any], video_id: str, prefer: str | None, *,
    replayed: bool = False, created: Video | None = None,
) -> Response[VideoObject]:
    """The 202, held until the end or for as long as the caller prefers."""
    gateway, owner = gateway_of(request), caller_of(request).id
    video = created or await gateway.store.video_get(video_id, owner)
    if video is None:
        raise Problem("expired", "The video of this Idempotency-Key was deleted.")
    seconds = _prefer_wait(prefer)
    headers = {"Location": f"/v1/videos/{video_id}"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if seconds is not None:
        headers["Preference-Applied"] = f"wait={seconds}"
        video = await _waited(request, video_id, seconds)
    return _video_response(gateway, video, 202, headers | _headers(gateway, video))


async def _waited(request: Request[Any, Any, Any], video_id: str, seconds: float) -> Video:
    with gateway_of(request).waiters.watch(video_id) as event:
        video = await video_of(request, video_id)
        if video.task.is_terminal:
            return video
        await ended(event, seconds)
    return await video_of(request, video_id)


def _prefer_wait(prefer: str | None) -> int | None:
    """The seconds of `Prefer: wait=N`, clamped; anything else in it is a preference we do not have."""
    match = _WAIT.search(prefer or "")
    return None if match is None else min(int(match.group(1)), WAIT_MAX_SECONDS)


def _key_name(value: str | None) -> str | None:
    """An idempotency key, bare or quoted. Raises Problem for one that is empty, too long or not printable."""
    if value is None:
        return None
    name = value.strip()
    if len(name) >= 2 and name[0] == name[-1] == '"':
        name = name[1:-1]
    if not 0 < len(name) <= KEY_MAX_CHARS or not name.isprintable():
        detail = f"Idempotency-Key must have 1 to {KEY_MAX_CHARS} printable characters"
        raise invalid("Idempotency-Key", detail)
    return name


def _headers(gateway: Gateway, video: Video) -> dict[str, str]:
    """The version as an ETag, and when it is worth looking again."""
    task = video.task
    place = gateway.engine.queue_place(task)
    headers = {"ETag": f'"{task.version}"' if place is None else f'"{task.version}-{place[0]}"'}
    if not task.is_terminal:
        seconds = gateway.engine.seconds_to_next(task)
        headers["Retry-After"] = str(max(1, round(seconds)))
        headers["openai-poll-after-ms"] = str(max(500, round(seconds * 1000)))
    return headers


def _video_response(
    gateway: Gateway, video: Video, status: int, headers: dict[str, str]
) -> Response[VideoObject]:
    content = encode(video_object(video, gateway.engine.queue_place(video.task)))
    return Response(
        content=content,  # type: ignore[arg-type]
        status_code=status, headers=headers, media_type="application/json",
    )


def _not_cancellable(task: Task) -> Problem:
    if task.is_terminal:
        return Problem("not_cancellable", f"The video is {task.status} already.")
    detail = (
        f"The video is {task.stage}, and its vendor has no way to cancel. "
        "With ?detach=true it is only no longer followed."
    )
    return Problem("not_cancellable", detail, extra={"charged": task.charged})
