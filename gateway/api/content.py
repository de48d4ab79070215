"""The video's bytes: streamed through from the vendor's link, in constant memory, with ranges.

Not held here: opening the link safely (`gateway.engine.collect`), storing files (a later part of the
product).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Annotated, Any, Final

from litestar import Request, Response, route
from litestar.enums import HttpMethod
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter
from litestar.response import Stream

from gateway.api.gateway import Gateway, gateway_of, video_of
from gateway.api.problems import responses
from gateway.core.states import Task
from gateway.engine.collect import LinkRefused, LinkUnreachable, Piece, open_link
from gateway.errors import Problem

CONTENT_TYPE: Final = "video/mp4"
_FILES: Final = {
    206: ResponseSpec(bytes, generate_examples=False, media_type=CONTENT_TYPE, description="A part of it"),
    304: ResponseSpec(None, generate_examples=False, description="The caller has it already"),
}
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@route(
    "/v1/videos/{video_id:str}/content", http_method=[HttpMethod.GET, HttpMethod.HEAD],
    opt={"role": "viewer"}, media_type=CONTENT_TYPE,
    responses=_FILES | responses(404, 409, 410, 416, 502),
    summary="The video file", tags=["videos"],
)
async def get_content(
    request: Request[Any, Any, Any],
    video_id: FromPath[str],
    variant: FromQuery[str] = "video",
    range_header: Annotated[str | None, HeaderParameter(name="Range")] = None,
    if_range: Annotated[str | None, HeaderParameter(name="If-Range")] = None,
    if_none_match: Annotated[str | None, HeaderParameter(name="If-None-Match")] = None,
) -> Response[Any]:
    """The MP4, or the late one (`late_output`). 409 while there is none, 410 when its link has died."""
    gateway = gateway_of(request)
    video = await video_of(request, video_id)
    if variant != "video":
        raise Problem("not_found", f"There is no variant {variant[:40]!r} of a video here; only `video`.")
    url = _link(gateway, video.task)
    tag = f'"{video_id}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, max-age=0"}
    headers["Content-Disposition"] = f'inline; filename="{video_id}.mp4"'
    if if_none_match is not None and (tag in if_none_match or if_none_match.strip() == "*"):
        return Response(b"", status_code=304, headers=headers)
    asked = _asked(range_header if if_range in (None, tag) else None)
    with _explained():
        piece = await _open(gateway, url, "bytes=0-0" if request.method == "HEAD" else asked)
    start, end = _span(asked, piece.total)
    if start >= piece.total and asked is not None:
        await piece.close()
        detail, size = f"The video has {piece.total} bytes.", {"Content-Range": f"bytes */{piece.total}"}
        raise Problem("range_not_satisfiable", detail, headers=size)
    if asked is not None:
        headers["Content-Range"] = f"bytes {start}-{end}/{piece.total}"
    headers["Content-Length"] = str(end - start + 1)
    status = 200 if asked is None else 206
    if request.method == "HEAD":
        await piece.close()
        return Response(b"", status_code=status, headers=headers, media_type=CONTENT_TYPE)
    part = piece.part(start, end)
    with _explained():
        first = await anext(part)  # before the answer begins: until then a failure can be told
    return Stream(_rejoined(first, part), status_code=status, headers=headers, media_type=CONTENT_TYPE)


def _link(gateway: Gateway, task: Task) -> str:
    """The vendor's link, be it a late one. Raises Problem while there is none, and when its time is over."""
    charged = {"charged": task.charged}
    url, expires_at = task.result_url, task.result_expires_at
    if task.late_url is not None:
        url, expires_at = task.late_url, task.late_expires_at
    if url is None:
        extra = {**charged, "retryable": task.is_followed}
        raise Problem("not_ready", f"The video is {task.status}; there is no file.", extra=extra)
    if expires_at is not None and gateway.now() >= expires_at:
        raise Problem("expired", "The vendor's link has died, and the file was not stored.", extra=charged)
    return url


@contextmanager
def _explained() -> Iterator[None]:
    """Make a Problem of what goes wrong with a link."""
    charged = {"charged": "yes"}
    try:
        yield
    except LinkRefused as error:
        detail = f"{error}; the file was not stored.".capitalize()
        raise Problem("expired", detail, extra=charged) from error
    except LinkUnreachable as error:
        raise Problem("vendor_unavailable", f"{error}.".capitalize(), extra=charged) from error


async def _open(gateway: Gateway, url: str, asked: str | None) -> Piece:
    """The vendor's answer, which holds all that was asked for. Raises LinkRefused, LinkUnreachable."""
    piece = await open_link(gateway.links, url, asked)
    start, end = _span(asked, piece.total)
    if start < piece.total and not (piece.start <= start and end <= piece.end):
        await piece.close()
        raise LinkUnreachable("the vendor's file server sent another part than was asked for")
    return piece


def _asked(header: str | None) -> str | None:
    """One well-formed range, else None: by RFC 9110 14.2 any other is ignored, and the whole file sent."""
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or not (match.group(1) or match.group(2)):
        return None
    first, last = match.groups()
    return None if first and last and int(last) < int(first) else match.group()


def _span(asked: str | None, total: int) -> tuple[int, int]:
    """First and last byte asked of a file of `total` bytes; the first is `total` when nothing is there."""
    match = _RANGE.fullmatch(asked or "")
    if match is None:
        return 0, total - 1
    first, last = match.groups()
    if not first:
        length = min(int(last), total)
        return total - length, total - 1
    return min(int(first), total), min(int(last) if last else total - 1, total - 1)


async def _rejoined(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk
