"""The floor: the same framework and server with handlers that do nothing. Reelgate's own part comes on top.

Held here: accept (Struct in and out, 202), read (a Struct of a video's size), wait (for an event that all
wait for, at most as long as asked), and how the server is started, as `gateway.app` starts it.
Not held here: a vendor (`calling`). No key, no log line, no metric, no database.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec
from granian.constants import Interfaces
from granian.server.embed import Server
from litestar import Litestar, get, post
from litestar.handlers import HTTPRouteHandler
from uvloop import new_event_loop

from tests.bench.wire import HOST


class Create(msgspec.Struct):
    """What the callers of the bench send."""

    prompt: str
    model: str
    resolution: str
    aspect_ratio: str
    duration: int
    audio: bool


class Accepted(msgspec.Struct):
    """What an accept answers with."""

    id: str
    object: str
    model: str
    status: str
    prompt: str
    seconds: str


class Shown(msgspec.Struct):
    """A video as a status read answers with it: as many bytes as Reelgate's."""

    id: str
    request: Create
    texts: dict[str, str]


ORDER: Final = Create(
    prompt="A red fox crosses a snowy field at dawn", model="kling-v3", resolution="720p",
    aspect_ratio="16:9", duration=5, audio=False,
)
_released: Final = asyncio.Event()
_TEXTS: Final = {f"a_field_of_it_{number}": "a value of that field" for number in range(12)}


@get("/readyz")
async def ready() -> None:
    """Answer as soon as the server does."""


@post("/v1/videos", status_code=202)
async def accept(data: Create) -> Accepted:
    """Read, check, answer."""
    return accepted(data)


@get("/v1/videos/{video_id:str}")
async def read(video_id: str) -> Shown:
    """Answer."""
    return Shown(video_id, ORDER, _TEXTS)


@get("/v1/videos/{video_id:str}/held")
async def hold(video_id: str, wait: int = 0) -> Shown:
    """Answer when `release` was asked for, or after `wait` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait):
            await _released.wait()
    return Shown(video_id, ORDER, _TEXTS)


@get("/release")
async def release() -> None:
    """Let all who are held go."""
    _released.set()


def accepted(order: Create) -> Accepted:
    """The answer to `order`, under a new id."""
    return Accepted(uuid.uuid4().hex, "video", order.model, "queued", order.prompt, str(order.duration))


def serve(port: int, handlers: Sequence[HTTPRouteHandler]) -> None:
    """Serve `handlers` until killed, with the event loop, the server and the options of `gateway.app`."""
    logging.getLogger("_granian").setLevel(logging.ERROR)
    app = Litestar(route_handlers=list(handlers), openapi_config=None, logging_config=None)
    server = Server(
        app, address=HOST, port=port, interface=Interfaces.ASGINL, log_access=False, log_enabled=False,
        websockets=False, backpressure=65_536,
    )
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(server.serve())


if __name__ == "__main__":
    serve(int(sys.argv[1]), (ready, accept, read, hold, release))
