"""What the routes work with: the parts of the running gateway, found from a request.

Not held here: any route, any rule.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.types import ASGIApp

from gateway.api.auth import Caller, Door
from gateway.api.hub import Hub
from gateway.api.rates import Rates
from gateway.api.waiting import Waiters
from gateway.engine.budget import ByteBudget
from gateway.engine.callbacks import Callbacks
from gateway.engine.collect import Links
from gateway.engine.loop import Engine
from gateway.engine.provider import Fleet
from gateway.engine.webhooks import Hooks
from gateway.errors import Problem
from gateway.storage.rows import Video
from gateway.storage.store import Store
from gateway.telemetry import Telemetry

# Of large bodies on their way in, as they arrive; and of those that are decoded at once: about three copies.
BODIES_MAX_BYTES: Final = 128 * 1024 * 1024
DECODING_MAX_BYTES: Final = 60 * 1024 * 1024


class Gateway(msgspec.Struct, kw_only=True):
    """The running parts. `now` is Unix time in seconds. `is_ready` is false while starting and draining.

    `around` is what the application that is served stands in: itself, unless requests are traced.
    """

    store: Store
    engine: Engine
    fleet: Fleet
    telemetry: Telemetry
    door: Door
    rates: Rates
    waiters: Waiters
    hub: Hub
    links: Links
    hooks: Hooks
    callbacks: Callbacks
    around: Callable[[ASGIApp], ASGIApp]
    now: Callable[[], float]
    is_ready: bool = False
    bodies: ByteBudget = msgspec.field(default_factory=lambda: ByteBudget(BODIES_MAX_BYTES))
    decoding: ByteBudget = msgspec.field(default_factory=lambda: ByteBudget(DECODING_MAX_BYTES))


def gateway_of(request: Request[Any, Any, Any]) -> Gateway:
    """The gateway that serves this request; the guard has put it there."""
    found: Gateway = request.scope["state"]["gateway"]
    return found


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """Who asks; the guard has put it there."""
    found: Caller = request.scope["state"]["caller"]
    return found


def at_rest(request: Request[Any, Any, Any]) -> None:
    """Nothing is left to be done for this request but to wait: its place among those at work is free."""
    request.scope["state"]["at_rest"]()


def in_commit(request: Request[Any, Any, Any]) -> None:
    """Until its answer begins this request waits for storage: another may work meanwhile."""
    request.scope["state"]["in_commit"]()


async def video_of(request: Request[Any, Any, Any], video_id: str) -> Video:
    """The caller's video. Raises Problem not_found, also for another caller's."""
    video = await gateway_of(request).store.video_get(video_id, caller_of(request).owner)
    if video is None:
        raise absent(video_id)
    return video


def new_video_id(now: float) -> str:
    """An id that nobody can guess, 80 random bits behind its time, in milliseconds of Unix time.

    What is stored together so stands together in every index: wholly random ids cost a commit half as much
    again once there are some ten thousand videos.
    """
    return f"video_{int(now * 1_000) % 2**48:012x}{secrets.token_hex(10)}"


def absent(video_id: str) -> Problem:
    """The answer for a video that is not there, or not the caller's."""
    return Problem("not_found", f"There is no video {video_id[:80]!r} of yours.")


def request_id_of(scope: Mapping[str, Any]) -> str:
    """The request's id, as in its X-Request-Id."""
    found: str = scope.get("state", {}).get("request_id", "")
    return found
