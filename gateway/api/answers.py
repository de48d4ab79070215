"""A stored video as an answer: its body, its headers, and held back for as long as a caller prefers to wait.

Not held here: what a video looks like (`shapes`), who waits for which (`waiting`), routes.
"""

from __future__ import annotations

import re
from typing import Any, Final

from litestar import Request, Response

from gateway.api.gateway import Gateway, at_rest, gateway_of, video_of
from gateway.api.shapes import VideoObject, encode, video_object
from gateway.api.waiting import WAIT_MAX_SECONDS, ended
from gateway.storage.rows import Video

_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


def answer(gateway: Gateway, video: Video, status: int, headers: dict[str, str]) -> Response[VideoObject]:
    """The video as it is shown now."""
    content = encode(video_object(video, gateway.engine.queue_place(video.task)))
    return Response(
        content=content,  # type: ignore[arg-type]
        status_code=status, headers=headers, media_type="application/json",
    )


def hints(gateway: Gateway, video: Video) -> dict[str, str]:
    """The version as an ETag, and when it is worth looking again."""
    task = video.task
    place = gateway.engine.queue_place(task)
    headers = {"ETag": f'"{task.version}"' if place is None else f'"{task.version}-{place[0]}"'}
    if not task.is_terminal:
        seconds = gateway.engine.seconds_to_next(task)
        headers["Retry-After"] = str(max(1, round(seconds)))
        headers["openai-poll-after-ms"] = str(max(500, round(seconds * 1000)))
    return headers


def place_of(video_id: str) -> str:
    """Where a video is."""
    return f"/v1/videos/{video_id}"


def preferred_seconds(prefer: str | None) -> int | None:
    """The seconds of `Prefer: wait=N`, clamped; anything else in it is a preference we do not have."""
    match = _WAIT.search(prefer or "")
    return None if match is None else min(int(match.group(1)), WAIT_MAX_SECONDS)


async def waited(request: Request[Any, Any, Any], video_id: str, seconds: float) -> Video:
    """The caller's video at its end, or after `seconds`. Raises Problem not_found."""
    with gateway_of(request).waiters.watch(video_id) as event:
        video = await video_of(request, video_id)
        if video.task.is_terminal:
            return video
        at_rest(request)
        await ended(event, seconds)
    return await video_of(request, video_id)
