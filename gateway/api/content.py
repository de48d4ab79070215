"""The video's bytes, in constant memory, with ranges: from our storage once stored, from the vendor before.

Held here: the route, and which of the two answers. Not held here: what a range means and what goes with it
(`ranges`), opening vendors' links safely (`gateway.engine.collect`), storing (`gateway.engine.keeping`).
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Annotated, Any, Final

from litestar import Request, Response, route
from litestar.enums import HttpMethod
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter
from litestar.response import Stream

from gateway.api.gateway import Gateway, absent, caller_of, gateway_of, video_of
from gateway.api.problems import about, responses
from gateway.api.ranges import asked_range, is_listed, span, whole_or_part
from gateway.core.states import Task
from gateway.engine.collect import LinkRefused, LinkUnreachable, Piece, open_link
from gateway.engine.copies import link_of
from gateway.errors import Problem
from gateway.storage.files import FileMissing, FileStoreError

CONTENT_TYPE: Final = "video/mp4"
PURPOSE: Final = "content"  # what a link to a file is signed for
REDIRECT_SECONDS: Final = 300.0  # how long a URL of the bucket itself lives: until the download has begun
_FILES: Final = {
    206: ResponseSpec(bytes, generate_examples=False, media_type=CONTENT_TYPE, description="A part of it"),
    302: ResponseSpec(None, generate_examples=False, description="The bucket has it (`[files] redirect`)"),
    304: ResponseSpec(None, generate_examples=False, description="The caller has it already"),
}


@route(
    "/v1/videos/{video_id:str}/content", http_method=[HttpMethod.GET, HttpMethod.HEAD],
    opt={"role": "viewer", "scope": "videos:read", "signed": PURPOSE}, media_type=CONTENT_TYPE,
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
    """The MP4, or the late one (`late_output`). 409 while there is none, 410 when it is over, or was lost.

    A link of `POST /v1/videos/{id}/links` needs no key. There is no thumbnail: other variants are 404.
    """
    task = await _task(request, video_id)
    with about(task):
        if variant != "video":
            raise Problem("not_found", f"There is no variant {variant[:40]!r} of a video here; only `video`.")
        _check_there_is_a_file(gateway_of(request), task)
        tag = _tag(task)
        headers = {
            "ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, max-age=0",
            "Content-Disposition": f'inline; filename="{video_id}.mp4"',
        }
        if is_listed(tag, if_none_match):
            return Response(b"", status_code=304, headers=headers)
        # A weak tag never matches here: parts of two files would be put together.
        asked = asked_range(range_header if if_range in (None, tag) and not _is_torn(tag, if_range) else None)
        if task.file_key is None:
            return await _from_vendor(request, task, asked, headers)
        return await _from_store(request, task, asked, headers)


def _is_torn(tag: str, if_range: str | None) -> bool:
    return if_range is not None and tag.startswith("W/")


async def _task(request: Request[Any, Any, Any], video_id: str) -> Task:
    """The video asked for: the caller's, or whose a signed link is. Raises Problem not_found."""
    if "caller" in request.scope["state"]:
        return (await video_of(request, video_id)).task
    task = await gateway_of(request).store.task_get(video_id)
    if task is None:
        raise absent(video_id)
    return task


def _tag(task: Task) -> str:
    """Strong once the bytes are known; before, the vendor may have others under the same link tomorrow."""
    return f'W/"{task.id}"' if task.file_key is None or task.file is None else f'"{task.file.sha256}"'


def check_has_file(task: Task) -> None:
    """Raises Problem not_ready unless there is, or was, a file of this video anywhere."""
    if task.result_url is None and task.late_url is None:
        extra = {"retryable": task.is_followed}
        raise Problem("not_ready", f"The video is {task.status}; there is no file.", extra=extra)


def _check_there_is_a_file(gateway: Gateway, task: Task) -> None:
    """Raises Problem while there is none, and when its time is over or it was lost."""
    now = gateway.now()
    check_has_file(task)
    if task.file is not None:
        if task.file_key is None or now >= task.file.expires_at:
            raise Problem("expired", "The time for which files are kept is over.")
    elif task.stage == "lost":
        detail = "The vendor's link died before the file could be stored."
        raise Problem("expired", detail)
    elif now >= link_of(task)[1]:
        if task.unstored_since is not None:
            detail = "The vendor's link has died; the vendor is asked for another one."
            raise Problem("vendor_unavailable", detail)
        raise Problem("expired", "The vendor's link has died, and the file was not stored.")


async def _from_store(
    request: Request[Any, Any, Any], task: Task, asked: str | None, headers: dict[str, str]
) -> Response[Any]:
    gateway, is_head = gateway_of(request), request.method == "HEAD"
    keeping, file, key = gateway.engine.keeping, task.file, task.file_key or ""
    if keeping is None or file is None:
        raise Problem("overloaded", "The file is stored, and [files] url no longer says where.")
    if gateway.fleet.settings.files.redirect and not is_head:  # it would be signed for GET only
        with _explained_store():
            url = await keeping.store.link(key, REDIRECT_SECONDS)
        if url is not None:
            return Response(b"", status_code=302, headers={"Location": url, "Cache-Control": "no-store"})
    digest = f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:"
    status, (start, end) = whole_or_part(asked, file.bytes, headers)
    headers["Repr-Digest"] = digest
    if is_head:
        return Response(b"", status_code=status, headers=headers, media_type=CONTENT_TYPE)
    part = keeping.store.read(key, start, end)
    with _explained_store():
        first = await anext(part)
    return Stream(
        _rejoined(request, first, part), status_code=status, headers=headers, media_type=CONTENT_TYPE
    )


async def _from_vendor(
    request: Request[Any, Any, Any], task: Task, asked: str | None, headers: dict[str, str]
) -> Response[Any]:
    is_head = request.method == "HEAD"
    with _explained(task):
        piece = await _open(gateway_of(request), link_of(task)[0], "bytes=0-0" if is_head else asked)
    try:
        status, (start, end) = whole_or_part(asked, piece.total, headers)
    except Problem:
        await piece.close()
        raise
    if is_head:
        await piece.close()
        return Response(b"", status_code=status, headers=headers, media_type=CONTENT_TYPE)
    part = piece.part(start, end)
    with _explained(task):
        first = await anext(part)  # before the answer begins: until then a failure can be told
    return Stream(
        _rejoined(request, first, part), status_code=status, headers=headers, media_type=CONTENT_TYPE
    )


@contextmanager
def _explained(task: Task) -> Iterator[None]:
    """Make a Problem of what goes wrong with a link. While the file is being stored there is hope."""
    try:
        yield
    except LinkRefused as error:
        if task.unstored_since is not None:
            detail = f"{error}; the vendor is asked for another one.".capitalize()
            raise Problem("vendor_unavailable", detail) from error
        detail = f"{error}; the file was not stored.".capitalize()
        raise Problem("expired", detail) from error
    except LinkUnreachable as error:
        raise Problem("vendor_unavailable", f"{error}.".capitalize()) from error


@contextmanager
def _explained_store() -> Iterator[None]:
    """Make a Problem of what goes wrong with stored files."""
    try:
        yield
    except FileMissing as error:
        raise Problem("expired", "The file is no longer where it was stored.") from error
    except FileStoreError as error:
        raise Problem("overloaded", "The gateway's file store does not answer.") from error


async def _open(gateway: Gateway, url: str, asked: str | None) -> Piece:
    """The vendor's answer, which holds all that was asked for. Raises LinkRefused, LinkUnreachable."""
    piece = await open_link(gateway.links, url, asked)
    start, end = span(asked, piece.total)
    if start < piece.total and not (piece.start <= start and end <= piece.end):
        await piece.close()
        raise LinkUnreachable("the vendor's file server sent another part than was asked for")
    return piece


async def _rejoined(
    request: Request[Any, Any, Any], first: bytes, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """All of it, or less than was announced when the key it was asked for with ends meanwhile."""
    digest = caller_of(request).digest if "caller" in request.scope["state"] else ""
    async with aclosing(rest):
        with gateway_of(request).door.guests.stay(digest, _let_be) as guest:
            yield first
            async for chunk in rest:
                if guest.is_out:
                    return
                yield chunk


def _let_be() -> None:
    """A download goes when its next piece is to be sent."""
