"""A stored video as an answer: its body, its headers, and held back for as long as a caller prefers to wait.

Not held here: what a video looks like (`shapes`), who waits for which (`waiting`), routes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar, cast

from litestar import Request, Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from gateway.api.auth import no_key
from gateway.api.base import under_base
from gateway.api.gateway import Gateway, at_rest, caller_of, gateway_of, video_of
from gateway.api.shapes import VideoObject, encode, video_object
from gateway.api.waiting import WAIT_MAX_SECONDS, ended
from gateway.core.states import Task
from gateway.storage.rows import Video

T = TypeVar("T")
Place: TypeAlias = tuple[int, float | None] | None

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


class Ready(ASGIResponse):
    """An answer as the bytes that are sent, JSON or nothing at all: nothing is left to be done for it."""

    __slots__ = ("_headers",)

    def __init__(self, body: bytes, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS) -> None:
        shown = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        if body:
            shown += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self.status_code, self.body, self._headers = status, body, shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self._headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


class Returned(Response[T]):
    """One that shows a `T`, as what a route returns."""

    def __init__(self, ready: Ready) -> None:
        super().__init__(cast("T", ready.body), status_code=ready.status_code)
        self._ready = ready

    def to_asgi_response(self, *_: object, **__: object) -> ASGIResponse:
        """What the framework asks for."""
        return self._ready


def ready(video: Video, place: Place, status: int, headers: Mapping[str, str]) -> Ready:
    """The video as it is now, with its place in the line."""
    return Ready(encode(video_object(video, place)), status, headers)


def answer(video: Video, place: Place, status: int, headers: Mapping[str, str]) -> Returned[VideoObject]:
    """It as what a route returns."""
    return Returned(ready(video, place, status, headers))


async def place_in_line(gateway: Gateway, task: Task) -> Place:
    """Which place a waiting video has, from 1, and when it may start if that can be told.

    One that waits at another replica is counted among all that wait.
    """
    if task.state != "waiting":
        return None
    known = gateway.engine.queue_place(task)
    if known is None and gateway.store.is_shared:
        return 1 + await gateway.store.waiting_before(task), None
    return known


async def places_in_line(gateway: Gateway, tasks: Sequence[Task]) -> list[Place]:
    """`place_in_line` of each of a page's tasks, with one statement for all that wait elsewhere."""
    found = [gateway.engine.queue_place(task) if task.state == "waiting" else None for task in tasks]
    if gateway.store.is_shared:
        elsewhere = [index for index, task in enumerate(tasks)
                     if task.state == "waiting" and found[index] is None]
        before = await gateway.store.waiting_before_each([tasks[index] for index in elsewhere])
        for index, count in zip(elsewhere, before, strict=True):
            found[index] = 1 + count, None
    return found


def hints(gateway: Gateway, video: Video, place: Place) -> dict[str, str]:
    """The version as an ETag, and when it is worth looking again."""
    task = video.task
    headers = {"ETag": f'"{task.version}"' if place is None else f'"{task.version}-{place[0]}"'}
    if not task.is_terminal:
        seconds = gateway.engine.seconds_to_next(task)
        headers["Retry-After"] = str(max(1, round(seconds)))
        headers["openai-poll-after-ms"] = str(max(500, round(seconds * 1000)))
    return headers


def place_of(video_id: str) -> str:
    """Where a video is."""
    return under_base(f"/v1/videos/{video_id}")


def preferred_seconds(prefer: str | None) -> int | None:
    """The seconds of `Prefer: wait=N`, clamped; anything else in it is a preference we do not have."""
    match = _WAIT.search(prefer or "")
    return None if match is None else min(int(match.group(1)), WAIT_MAX_SECONDS)


async def waited(request: Request[Any, Any, Any], video_id: str, seconds: float) -> Video:
    """The caller's video at its end, or after `seconds`, or when its key ends. Raises Problem."""
    with gateway_of(request).waiters.watch(video_id) as event:
        video = await video_of(request, video_id)
        if video.task.is_terminal:
            return video
        del video  # it would be kept for as long as the caller waits
        at_rest(request)
        guests, digest = gateway_of(request).door.guests, caller_of(request).digest
        is_good = await ended(event, seconds, guests, digest)
    if not is_good and request.method == "GET":  # who ordered something is told of it
        raise no_key()
    return await video_of(request, video_id)
