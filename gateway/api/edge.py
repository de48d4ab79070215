"""What wraps every request, matched or not: its id, its access line, its metrics, its headers, its place.

The gateway serves as much as it can and refuses the rest at once, here, before the framework has spent
anything on it: a create waits in a short line, and where that is full it is answered 503 from ready-made
bytes. Not held here: who may ask (`auth`), routes, what other refusals look like (`problems`).
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias
from urllib.parse import unquote

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, ReceiveMessage, Scope, Send

from gateway.api.base import take_off, use_base
from gateway.api.entrance import Body, head_fault
from gateway.api.origins import Origins, allow_preflight
from gateway.api.problems import MEDIA_TYPE, opening
from gateway.errors import CODES, Code
from gateway.telemetry import Telemetry

# A create costs the loop some milliseconds, its submit and its polls counted. So few at work that one round
# of the loop stays short, and a refusal, a read or a poll has its turn in time; so many that slow commits,
# which are made together, are not the limit. Measured at 4, 8, 16: the same goodput on a fast disk, and the
# refusals' p99 doubled each time.
CREATES_AT_WORK: Final = 8
# At work or in line: so many are never refused, so many are the most. In between a newcomer is refused when
# it would wait longer than this by the pace of those before it, or those have stood still for as long.
CREATES_SURE: Final = 128
CREATES_MAX: Final = 1_024
WAIT_SECONDS: Final = 2.0
# Of the last one. Commits are made together, and creates leave in bursts: at 1/32 the pace jumped with each
# burst, and some were refused that would have been answered in time.
PACE_WEIGHT: Final = 1 / 256
# Reads and all else: a fraction of a millisecond each, so they are refused much later.
OTHERS_MAX: Final = 4_000
# Whoever watches the process needs its answer most when there is most to do.
NEVER_REFUSED: Final = frozenset({"/livez", "/readyz", "/metrics"})
RETRY_AFTER_SECONDS: Final = 1
LOG_EVERY_SECONDS: Final = 1.0

_ids: Final = random.Random()  # noqa: S311 - unlike those of videos, these need not be hard to guess
_ID: Final = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CREATE: Final = "/v1/videos"
_FULL: Final = "The gateway has as much to do as it can; nothing of this was stored or sent. Try again."


# The answer to a request, where that is at hand without the framework; None for any other request.
AtOnce: TypeAlias = Callable[[HTTPScope], Awaitable[ASGIApp | None]]


class Line:
    """Places for `at_work` at once; beyond, one waits, in order, until `at_most` are here.

    Whoever only waits for storage rests: another works meanwhile, but both are here. Of all who are here only
    `sure` may come whatever they have to wait; None: all. `now` is in seconds.
    """

    def __init__(
        self, at_work: int, at_most: int, sure: int | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_work, self._at_most, self._now = at_work, at_most, now
        self._sure = at_most if sure is None else sure
        self._working = self._resting = 0
        self._pace_seconds = self._left_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def _here(self) -> int:
        return self._working + self._resting + len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether a newcomer is to be refused."""
        here = self._here
        if here < self._sure:
            return False
        stands_seconds = self._now() - self._left_at
        return here >= self._at_most or max(here * self._pace_seconds, stands_seconds) >= WAIT_SECONDS

    async def enter(self, *, first: bool = False) -> None:
        """Return with a place. `first`: before all who wait, for one who had a place already."""
        if not self._here:
            self._left_at = self._now()
        if self._working < self._at_work:  # then nobody waits
            self._working += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.pause()  # its turn had come all the same
            raise

    def pause(self) -> None:
        """Give a place back, to who waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._working -= 1

    def rest(self) -> None:
        """Give a place back, and still be here."""
        self._resting += 1
        self.pause()

    def leave(self, *, rested: bool = False) -> None:
        """Be here no more: from a rest, or from a place."""
        if rested:
            self._resting -= 1
        else:
            self.pause()
        now = self._now()
        self._pace_seconds += (now - self._left_at - self._pace_seconds) * PACE_WEIGHT
        self._left_at = now


class Place:
    """One request's place in a line, until its answer begins; none is held while its body arrives."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._is_held = self._is_resting = self._is_over = False

    async def enter(self) -> None:
        """Wait for a place."""
        await self._line.enter()
        self._is_held = True

    def rest(self) -> None:
        """Only storage is waited for: somebody else may work meanwhile."""
        if self._is_held:
            self._is_held, self._is_resting = False, True
            self._line.rest()

    def leave(self) -> None:
        """Nothing is left to be done but to wait, or to send what there is: make room for good."""
        self._is_over = True
        if self._is_held or self._is_resting:
            self._line.leave(rested=self._is_resting)
            self._is_held = self._is_resting = False

    async def receive(self, receive: Receive) -> ReceiveMessage:
        """The next part of the body. A caller who is slow to send it must not hold up the others."""
        if self._is_held:
            self._is_held = False
            self._line.pause()
        message = await receive()
        if not (self._is_over or self._is_resting):
            await self._line.enter(first=True)
            self._is_held = True
        return message


class Edge:
    """The outermost layer of the application. A caller's own X-Request-Id is kept if it is harmless."""

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, at_once: AtOnce | None = None, *, base: str = "",
        origins: Origins | None = None,
    ) -> None:
        """`at_once` is asked first; where it has no answer or fails, `app` serves the request.

        `base`: the path before all paths; `origins`: the pages that may read answers; None: no page may.
        """
        self._app, self._telemetry, self._at_once = app, telemetry, at_once
        self._base, self._origins = base, origins
        self._refusal = opening("overloaded", _FULL, base)
        self._creates = Line(CREATES_AT_WORK, CREATES_MAX, CREATES_SURE)
        self._others = Line(OTHERS_MAX, OTHERS_MAX)
        self._endless = Line(sys.maxsize, sys.maxsize)
        self._unsaid = 0
        self._is_saying = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        if self._origins is not None:
            send = self._origins.marked(scope, send)
        use_base(self._base)
        turned_away = self._turned_away(scope)
        if turned_away is not None:
            await self._turn_away(scope, send, *turned_away, started)
            return
        if self._origins is not None and self._origins.is_preflight(scope):
            await allow_preflight(send)
            self._answered(scope, 204, started)
            return
        line = self._line(scope)
        if line.is_full:
            await _refuse(scope, send, "overloaded", self._refusal)
            self._count_refusal("unmatched" if line is self._others else _CREATE, _method(scope), started)
            return
        place = Place(line)
        await place.enter()
        try:
            await self._serve(scope, receive, send, place, started)
        finally:
            place.leave()

    def _turned_away(self, scope: HTTPScope) -> tuple[Code, str] | None:
        """Why a request goes no further than here; None lets it in."""
        fault = head_fault(scope, NEVER_REFUSED)
        if fault is not None:
            return "invalid_request", fault
        if not self._base or take_off(scope, self._base) or scope["path"] in NEVER_REFUSED:
            return None
        return "not_found", f"All paths are under {self._base}."

    async def _turn_away(
        self, scope: HTTPScope, send: Send, code: Code, detail: str, started: float
    ) -> None:
        """Whatever else such a connection brings is not heard."""
        await _refuse(scope, send, code, opening(code, detail, self._base))
        self._answered(scope, CODES[code].status, started)

    def _answered(self, scope: HTTPScope, status: int, started: float) -> None:
        seconds = time.perf_counter() - started
        self._telemetry.request_answered("unmatched", _method(scope), status, seconds, _request_id(scope))

    def _line(self, scope: HTTPScope) -> Line:
        path = scope["path"]
        if scope["method"] == "POST" and (path.rstrip("/") == _CREATE or path.endswith("/rerun")):
            return self._creates
        return self._endless if path in NEVER_REFUSED else self._others

    async def _serve(
        self, scope: HTTPScope, receive: Receive, send: Send, place: Place, started: float
    ) -> None:
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"], state["at_rest"], state["in_commit"] = request_id, place.leave, place.rest
        self._telemetry.in_request(request_id)
        status, body = 500, Body()

        async def received() -> ReceiveMessage:
            return await place.receive(partial(body.receive, receive))

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                place.leave()
                body.stop()
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff"),
                    *state.get("rate", ()),
                ]
            await send(message)

        try:
            answer = await self._ready(scope) or self._app
            await answer(scope, received, marked)
        finally:
            template = scope.get("path_template") or "unmatched"
            seconds = time.perf_counter() - started
            self._telemetry.request_answered(template, _method(scope), status, seconds, request_id)

    async def _ready(self, scope: HTTPScope) -> ASGIApp | None:
        if self._at_once is None:
            return None
        try:
            return await self._at_once(scope)
        except Exception:  # noqa: BLE001 - the application meets the same and tells it as it tells all others
            return None

    def _count_refusal(self, route: str, method: str, started: float) -> None:
        self._telemetry.http(route, method, "503").observe(time.perf_counter() - started)
        self._unsaid += 1
        if not self._is_saying:
            self._is_saying = True
            self._say_refusals()

    def _say_refusals(self) -> None:
        """A line about those refused, the first at once, then one a second while there are any."""
        self._is_saying = self._unsaid > 0
        if self._is_saying:
            self._telemetry.log.warning("overloaded", refused=self._unsaid)
            self._unsaid = 0
            asyncio.get_running_loop().call_later(LOG_EVERY_SECONDS, self._say_refusals)


async def _refuse(scope: HTTPScope, send: Send, code: Code, begun: bytes) -> None:
    """Answer with the document that has `begun`: surely nothing was stored."""
    request_id = _request_id(scope).encode()
    path = msgspec.json.encode(unquote(scope["raw_path"].decode("latin-1")))
    body = b'%b,"instance":%b,"request_id":"%b"}' % (begun, path, request_id)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id), (b"x-content-type-options", b"nosniff"),
    ]
    if CODES[code].retryable:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
    else:
        headers.append((b"connection", b"close"))  # where its next request begins is not sure
    await send({"type": "http.response.start", "status": CODES[code].status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def header_of(scope: Scope, name: bytes) -> str | None:
    """A request's header, the first of that name; `name` in small letters, as they come."""
    for known, value in scope["headers"]:
        if known == name:
            return value.decode("latin-1")
    return None


def _method(scope: HTTPScope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "OTHER"


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return value.decode()
    return f"req_{_ids.getrandbits(96):024x}"
