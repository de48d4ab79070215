"""The life of a video over HTTP after it was ordered: get, list, timeline, cancel, delete.

Not held here: ordering one (`creating`), operators' decisions (`resolving`), what an answer looks like
(`shapes`), the file (`content`), what happens to a task (`gateway.core.tasks`).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from litestar import Request, Response, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter
from litestar.types import ASGIApp, HTTPScope

from gateway.api.answers import (
    Ready,
    Returned,
    answer,
    hints,
    place_in_line,
    places_in_line,
    preferred_seconds,
    ready,
    waited,
)
from gateway.api.auth import LOCAL, Caller, Door, check_same_site, require
from gateway.api.edge import header_of
from gateway.api.gateway import Gateway, absent, caller_of, gateway_of, video_of
from gateway.api.held import Held, asked_seconds
from gateway.api.messages import with_tries
from gateway.api.problems import about, responses
from gateway.api.query import ListQuery, read_list_query
from gateway.api.rates import count
from gateway.api.reading import read_nothing
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
from gateway.api.waiting import WAIT_MAX_SECONDS
from gateway.core.facts import Cancelled
from gateway.core.states import Task
from gateway.core.tasks import IllegalTransition, apply
from gateway.engine.submit import BACKSTOP_SECONDS
from gateway.errors import Problem, invalid
from gateway.storage.db import GuardFailed
from gateway.storage.rows import Page, Video

SAVE_SECONDS: Final = 10.0  # in which an answer is stored once it is here, by whatever clock the replica has
SUBMIT_SECONDS: Final = 60.0  # the `submit_timeout` of a provider that nobody knows any more
_UNCHANGED: Final = {
    304: ResponseSpec(None, generate_examples=False, description="The caller has this version")
}


async def look(gateway: Gateway, app: ASGIApp, scope: HTTPScope) -> ASGIApp | None:
    """The answer to the request there are most of: how is my video? None leaves a request to the framework.

    That is every other one, and every refusal: nothing but an existing video is shown here, to a caller whose
    key was seen a moment ago. Taking such a request apart costs the framework more than all the rest.
    """
    place, _, video_id = scope["path"].rpartition("/")
    if scope["method"] != "GET" or place != "/v1/videos":
        return None
    caller = _seen(gateway.door, scope)
    prefer = header_of(scope, b"prefer")
    seconds = asked_seconds(scope["query_string"], prefer)
    if caller is None or seconds is None:
        return None
    count(gateway.rates, scope, caller)
    require(caller, get_video.opt)
    if_none_match, is_asked = header_of(scope, b"if-none-match"), bool(scope["query_string"])
    applied = _applied(preferred_seconds(prefer), is_asked=is_asked)
    show = partial(_shown, gateway, if_none_match=if_none_match, headers=applied)
    video = await gateway.store.video_get(video_id, caller.owner)
    if video is None:
        return None
    scope["path_template"] = "/v1/videos/{video_id}"
    if seconds and not video.task.is_terminal:
        return Held(gateway, app, caller, seconds, show)
    return await show(video)


def _seen(door: Door, scope: HTTPScope) -> Caller | None:
    """Who asks, if the store need not be asked for that. Raises Problem where no key is asked for, either."""
    if door.is_open:
        check_same_site(header_of(scope, b"host") or "", header_of(scope, b"origin"))
        return LOCAL
    return door.known(header_of(scope, b"authorization") or "")


def _applied(preferred: int | None, *, is_asked: bool) -> dict[str, str]:
    """What is said of a preference to wait: nothing where the query asks for another."""
    return {} if preferred is None or is_asked else {"Preference-Applied": f"wait={preferred}"}


async def _shown(
    gateway: Gateway, video: Video, if_none_match: str | None, headers: dict[str, str]
) -> Ready:
    place = await place_in_line(gateway, video.task)
    headers = headers | hints(gateway, video, place)
    if if_none_match is not None:
        known_tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
        if headers["ETag"] in known_tags or "*" in known_tags:
            return Ready(b"", 304, headers)
    return ready(video, place, 200, headers)


@get(
    "/v1/videos/{video_id:str}",
    opt={"role": "viewer", "scope": "videos:read"}, responses=_UNCHANGED | responses(404),
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
    asked = preferred_seconds(prefer)
    seconds = wait if wait is not None else asked
    video = await video_of(request, video_id)
    if seconds and not video.task.is_terminal:
        del video  # some kilobytes, which nobody needs while the caller waits
        video = await waited(request, video_id, seconds)
    applied = _applied(asked, is_asked=wait is not None)
    return Returned(await _shown(gateway_of(request), video, if_none_match, applied))


@get(
    "/v1/videos", opt={"role": "viewer", "scope": "videos:read", "query": ListQuery}, responses=responses(),
    summary="List your videos", tags=["videos"],
)
async def list_videos(request: Request[Any, Any, Any]) -> Response[VideoList]:
    """The caller's videos, newest first, by keyset; also filtered by `metadata[key]=value`."""
    gateway, owner = gateway_of(request), caller_of(request).owner
    query, filters = read_list_query(request.query_params.multi_items())
    position = None
    if query.after is not None:
        last = await gateway.store.video_get(query.after, owner)
        if last is None:
            raise invalid("?after", "after is not the id of one of your videos")
        position = (last.task.created_at, last.task.id)
    page = Page(limit=query.limit, newest_first=query.order == "desc", after=position)
    videos = await gateway.store.video_list(owner, filters, page)
    shown = videos[: query.limit]
    places = await places_in_line(gateway, [video.task for video in shown])
    data = [video_object(video, place) for video, place in zip(shown, places, strict=True)]
    listed = video_list(data, has_more=len(videos) > query.limit)
    return Returned(Ready(encode(listed)))


@get(
    "/v1/videos/{video_id:str}/timeline",
    opt={"role": "viewer", "scope": "videos:read"}, responses=responses(404),
    summary="What happened to a video, and when", tags=["videos"],
)
async def get_timeline(request: Request[Any, Any, Any], video_id: FromPath[str]) -> TimelineList:
    """Every event of the video, oldest first."""
    gateway, owner = gateway_of(request), caller_of(request).owner
    await video_of(request, video_id)
    timeline = timeline_list(await gateway.store.events_get(video_id, owner))
    return with_tries(timeline, await gateway.store.endpoints.tries_of(video_id, owner))


@post(
    "/v1/videos/{video_id:str}/cancel", status_code=200, opt={"role": "caller", "scope": "videos:write"},
    responses=responses(404, 409, 413), summary="Cancel a video", tags=["videos"],
)
async def cancel_video(
    request: Request[Any, Any, Any], video_id: FromPath[str], *, detach: FromQuery[bool] = False
) -> Response[VideoObject]:
    """A waiting video is cancelled free of charge; any other is only no longer followed (`detach=true`)."""
    read_nothing(await request.body())
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
        return answer(Video(task, video.request, video.metadata), None, 200, {})


@delete(
    "/v1/videos/{video_id:str}", status_code=200, opt={"role": "caller", "scope": "videos:write"},
    responses=responses(404, 409), summary="Delete a finished video", tags=["videos"],
)
async def delete_video(request: Request[Any, Any, Any], video_id: FromPath[str]) -> Deleted:
    """Remove the record and the file of a terminal video.

    A replay of its idempotency key is answered 410 thereafter.
    """
    gateway, owner = gateway_of(request), caller_of(request).owner
    video = await video_of(request, video_id)
    with about(video.task):
        _check_deletable(gateway, video.task)
    if not await gateway.store.video_delete(video_id, owner):
        raise absent(video_id)
    gateway.telemetry.video_deleted(video.task.status)
    keeping, key = gateway.engine.keeping, video.task.file_key
    if keeping is not None and key is not None:  # whatever is cut off here is done by the next sweep
        await keeping.remove(gateway.store, gateway.telemetry, key)
    return Deleted(id=video_id)


def _check_deletable(gateway: Gateway, task: Task) -> None:
    """Raises Problem not_ready while something may still become known of the video that has to be kept."""
    if not task.is_terminal:
        raise Problem("not_ready", f"The video is {task.status}; only a finished one can be deleted.")
    if task.id in gateway.engine.sending or _is_awaited(gateway, task):
        raise Problem("not_ready", "The vendor's answer to this video is still to come; delete it then.")


def _is_awaited(gateway: Gateway, task: Task) -> bool:
    """Whether another replica may still be sending the video: without its record the job would be lost."""
    if not gateway.store.is_shared:
        return False  # nobody else sends
    if task.charged_now != "unknown" or task.vendor_task_id is not None or task.submitted_at is None:
        return False
    providers = gateway.fleet.providers
    asked = [providers[task.tried.provider]] if task.tried.provider in providers else providers.values()
    patience = max((one.settings.submit_timeout for one in asked), default=SUBMIT_SECONDS)
    return gateway.now() < task.submitted_at + patience + BACKSTOP_SECONDS + SAVE_SECONDS


def _not_cancellable(task: Task) -> Problem:
    detail = f"The video is {task.status} already." if task.is_terminal else (
        f"The video is {task.stage}, and its vendor has no way to cancel. "
        "With ?detach=true it is only no longer followed."
    )
    return Problem("not_cancellable", detail, extra={"charged": task.charged})
