"""Timelines as they happen: server-sent events of one video, or of all of a caller's videos.

A stream begins where the caller says (`Last-Event-ID`), or a video's at its beginning and a caller's now;
each event has the position to go on from, so that a cut costs nothing. Not held here: what is new (`topics`,
`hub`).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

from litestar import Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from gateway.api.auth import Caller, require
from gateway.api.edge import header_of
from gateway.api.gateway import Gateway, absent, caller_of, gateway_of
from gateway.api.guests import Guest, Guests
from gateway.api.hub import Hub
from gateway.api.problems import responses
from gateway.api.rates import count
from gateway.api.topics import CallerFollower, VideoFollower, is_over
from gateway.core.positions import Unreadable, read_position
from gateway.errors import Problem, invalid
from gateway.storage.db import StorageError
from gateway.storage.stream import ForeignPosition

HEARTBEAT_SECONDS: Final = 15.0
RETRY_MS: Final = 1_000  # what a caller is told to wait before it comes again
SEND_SECONDS: Final = 30.0  # a caller that takes nothing for so long is cut off, and may come again
STREAM_SECONDS: Final = 3_600.0  # then it has to come again, with a key that is still good
_GONE_SECONDS: Final = 0.01  # for the server to say that the caller is gone; else the next beat asks again
_BEAT: Final = b":\n\n"
_HEADERS: Final = (
    (b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"),
)
_STREAM: Final = {
    200: ResponseSpec(
        None, generate_examples=False, media_type="text/event-stream",
        description="Events: `id`, the position to go on from; `event`, the type; `data`, the entry of the "
        "timeline as JSON with its `video_id`",
    ),
}  # fmt: skip
_OVER: Final = {204: ResponseSpec(None, generate_examples=False, description="Nothing more is to come")}


class Stream:
    """One caller's stream, an ASGI application for one request. It holds a place until it was called."""

    def __init__(
        self, hub: Hub, guests: Guests, caller: Caller, follower: VideoFollower | CallerFollower, first: bytes
    ) -> None:
        self._hub, self._guests, self._follower = hub, guests, follower
        self._owner, self._digest = caller.owner, caller.digest
        self._resting: asyncio.Future[bool] | None = None
        self._first = b"retry: %d\n\n%b%b" % (RETRY_MS, follower.opening, first)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what there is and what comes, until the end or until the caller is gone."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            with self._guests.stay(self._digest, self._rise) as guest:
                is_here = await self._run(guest, receive, send)
            if is_here:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, StorageError, ForeignPosition):
            return  # without an end: the caller sees that it was cut, and comes again
        finally:
            self._hub.leave(self._owner, self._follower.topic)

    async def _run(self, guest: Guest, receive: Receive, send: Send) -> bool:
        """Whether it came to an end, that of its key too, and the caller is still there."""
        loop, follower, text = asyncio.get_running_loop(), self._follower, self._first
        self._first = b""
        until = loop.time() + STREAM_SECONDS
        while not guest.is_out:
            if text:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": text, "more_body": True})
                text = b""
            if follower.is_over or self._hub.released or loop.time() >= until:
                return True
            if not follower.has_news and not await self._rested(loop):
                if await _is_gone(receive):
                    return False
                text = _BEAT
            text += await follower.take() if follower.has_news else b""
        return True

    async def _rested(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Wait for news; False when there were none for as long as a heartbeat."""
        topic = self._follower.topic
        resting = self._resting = topic.rest()
        beat = loop.call_later(HEARTBEAT_SECONDS, _beat, resting)
        try:
            return await resting
        finally:
            beat.cancel()
            topic.rise(resting)


    def _rise(self) -> None:
        if self._resting is not None:
            _beat(self._resting)


def _beat(resting: asyncio.Future[bool]) -> None:
    if not resting.done():
        resting.set_result(False)


async def _is_gone(receive: Receive) -> bool:
    """Whether the caller has closed its connection, as far as the server knows."""
    try:
        async with asyncio.timeout(_GONE_SECONDS):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


class _Streamed(Response[None]):
    """A stream as the framework takes it."""

    def __init__(self, stream: ASGIApp) -> None:
        super().__init__(None)
        self._stream = stream

    def to_asgi_response(self, *_: object, **__: object) -> ASGIApp:  # type: ignore[override]
        """What the framework asks for."""
        return self._stream


async def _over(scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing more is to come: by this status a client knows that it need not come again."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _of_video(gateway: Gateway, caller: Caller, video_id: str, last: str | None) -> ASGIApp:
    """The stream of one video behind the event `last`. Raises Problem, StorageError."""
    sent = _number(last)
    video = await gateway.store.video_get(video_id, caller.owner)
    if video is None:
        raise absent(video_id)
    task = video.task
    if sent > task.last_seq:
        raise invalid("?last_event_id", f"This video's last event is {task.last_seq}.")
    if sent == task.last_seq and is_over(task.state, task.stage):
        return _over
    gateway.hub.enter(caller.owner)
    follower = gateway.hub.video(video, sent)
    return await _begun(gateway, caller, follower)


async def _of_caller(gateway: Gateway, caller: Caller, last: str | None) -> ASGIApp:
    """The stream of all of a caller's videos behind the position `last`. Raises Problem, StorageError."""
    try:
        position = None if last is None else read_position(last)
    except Unreadable:
        detail = "This is no position of /v1/events. Without one a stream begins now."
        raise invalid("?last_event_id", detail) from None
    gateway.hub.enter(caller.owner)
    try:
        follower = await gateway.hub.caller(caller.owner, position)
    except BaseException:
        gateway.hub.leave(caller.owner, None)
        raise
    return await _begun(gateway, caller, follower)


async def _begun(gateway: Gateway, caller: Caller, follower: VideoFollower | CallerFollower) -> Stream:
    """The stream with its first events, which may still be refused."""
    try:
        first = await follower.take() if follower.has_news else b""
    except BaseException as error:
        gateway.hub.leave(caller.owner, follower.topic)
        if isinstance(error, ForeignPosition):
            detail = "This position is of another database, or of a time that was undone. Begin without one."
            raise Problem("expired", detail) from None
        raise
    return Stream(gateway.hub, gateway.door.guests, caller, follower, first)


def _number(last: str | None) -> int:
    if last is None:
        return 0
    if not (last.isascii() and last.isdigit() and len(last) < 16):
        raise invalid("?last_event_id", "The position in a video's stream is the number of an event.")
    return int(last)


async def look(gateway: Gateway, scope: HTTPScope) -> ASGIApp | None:
    """A stream without the framework, which keeps several kilobytes for each; None leaves it the request.

    So every refusal is the framework's.
    """
    if scope["method"] != "GET":
        return None
    caller = await gateway.door.recognised(header_of(scope, b"authorization") or "")
    if caller is None:
        return None
    count(gateway.rates, scope, caller)
    require(caller, get_events.opt)
    last = header_of(scope, b"last-event-id")
    if scope["query_string"]:
        asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if set(asked) != {"last_event_id"} or len(asked["last_event_id"]) != 1:
            return None
        last = last or asked["last_event_id"][0]
    if scope["path"] == "/v1/events":
        stream, scope["path_template"] = await _of_caller(gateway, caller, last or None), "/v1/events"
        return stream
    place, _, video_id = scope["path"].removesuffix("/events").rpartition("/")
    if place != "/v1/videos":
        return None
    stream = await _of_video(gateway, caller, video_id, last or None)
    scope["path_template"] = "/v1/videos/{video_id}/events"
    return stream


_Last = Annotated[str | None, HeaderParameter(name="Last-Event-ID")]
_LastAsked = Annotated[
    str | None, QueryParameter(description="as Last-Event-ID, for a client that cannot send headers")
]


@get(
    "/v1/videos/{video_id:str}/events", opt={"role": "viewer", "scope": "videos:read"},
    responses=_STREAM | _OVER | responses(404), summary="Follow a video", tags=["videos"],
)
async def get_video_events(
    request: Request[Any, Any, Any], video_id: FromPath[str], last: _Last = None,
    last_event_id: _LastAsked = None,
) -> Response[None]:
    """The video's timeline as it happens, from its beginning or behind `Last-Event-ID`, to its end.

    It ends when nothing more is expected: with the end, or with the storing of the file. Then 204.
    """
    gateway, caller = gateway_of(request), caller_of(request)
    return _Streamed(await _of_video(gateway, caller, video_id, last or last_event_id or None))


@get(
    "/v1/events", opt={"role": "viewer", "scope": "videos:read"}, responses=_STREAM | responses(410),
    summary="Follow all of your videos", tags=["videos"],
)
async def get_events(
    request: Request[Any, Any, Any], last: _Last = None, last_event_id: _LastAsked = None
) -> Response[None]:
    """The timelines of all your videos as they happen, from now or behind `Last-Event-ID`.

    The events of one video come in their order, all of them in the order in which they were stored.
    """
    gateway, caller = gateway_of(request), caller_of(request)
    return _Streamed(await _of_caller(gateway, caller, last or last_event_id or None))
