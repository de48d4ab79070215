"""A long poll without the framework: it keeps several kilobytes for each request that it has taken apart.

Whatever does not go well is left to the framework, from the beginning, so every refusal is told in one place.
Not held here: who waits for which (`waiting`), what a video looks like (`shapes`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.api.answers import preferred_seconds
from gateway.api.auth import Caller
from gateway.api.gateway import Gateway
from gateway.api.waiting import WAIT_MAX_SECONDS, ended
from gateway.storage.rows import Video

_WAIT: Final = re.compile(rb"wait=(0|[1-9][0-9]?)")


def asked_seconds(query: bytes, prefer: str | None) -> int | None:
    """How long a request for a video asks to wait; None when its query is not as plain as that."""
    if not query:
        return preferred_seconds(prefer) or 0
    found = _WAIT.fullmatch(query)
    seconds = None if found is None else int(found[1])
    return None if seconds is None or seconds > WAIT_MAX_SECONDS else seconds


class Held:
    """An answer that waits for the end of a video, `seconds` at most; an ASGI application for one request.

    `show` makes the answer of the video as it is then; `app` serves the request if that cannot be.
    """

    __slots__ = ("_app", "_caller", "_gateway", "_seconds", "_show")

    def __init__(
        self, gateway: Gateway, app: ASGIApp, caller: Caller, seconds: int,
        show: Callable[[Video], Awaitable[ASGIApp]],
    ) -> None:
        self._gateway, self._app, self._caller = gateway, app, caller
        self._seconds, self._show = seconds, show

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait, and answer."""
        answer = await self._answer(scope)
        await (answer or self._app)(scope, receive, send)

    async def _answer(self, scope: Scope) -> ASGIApp | None:
        video_id = str(scope["path"]).rpartition("/")[2]
        try:
            with self._gateway.waiters.watch(video_id) as event:
                if await self._is_unfinished(video_id):
                    scope["state"]["at_rest"]()
                    guests, digest = self._gateway.door.guests, self._caller.digest
                    if not await ended(event, self._seconds, guests, digest):
                        return None
            video = await self._gateway.store.video_get(video_id, self._caller.owner)
            return None if video is None else await self._show(video)
        except Exception:  # noqa: BLE001 - the framework meets the same and tells it as it tells all others
            return None

    async def _is_unfinished(self, video_id: str) -> bool:
        """In a call of its own, so that nothing of the video is kept while the caller waits."""
        video = await self._gateway.store.video_get(video_id, self._caller.owner)
        return video is not None and not video.task.is_terminal
