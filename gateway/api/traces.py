"""Where a request stands in its caller's trace: for the video that it orders, and for a span around it.

Not held here: what a `traceparent` may look like (`gateway.core.traceparent`), spans (`gateway.tracing`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeAlias, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from gateway.api.edge import NEVER_REFUSED
from gateway.core.traceparent import HEADER, Place, of_headers

STATE: Final = "traceparent"  # where a request's own span is found in its state, while it is traced
_NAME: Final = HEADER.encode()


class RequestSpan(Protocol):
    """The span of one request, while it is open."""

    @property
    def traceparent(self) -> str:
        """It, for whoever continues it elsewhere."""
        ...

    def answered(self, status: int) -> None:
        """The answer begins, with this status."""
        ...

    def matched(self, route: str) -> None:
        """The request was for this route, by its template."""
        ...


# Of the method, the scheme, and the place that the caller names: its span, around the request.
OpenSpan: TypeAlias = Callable[[str, str, Place | None], AbstractContextManager[RequestSpan]]


def traced(app: ASGIApp, open_span: OpenSpan) -> ASGIApp:
    """`app` with a span around each request, but for those of whoever watches the process."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        # By its last part alone: a base path may be before it.
        if scope["type"] != ScopeType.HTTP or f"/{scope['path'].rpartition('/')[2]}" in NEVER_REFUSED:
            await app(scope, receive, send)
        else:
            await _answer(app, open_span, scope, receive, send)

    return answer


async def _answer(
    app: ASGIApp, open_span: OpenSpan, scope: HTTPScope, receive: Receive, send: Send
) -> None:
    came_from = of_headers([value for name, value in scope["headers"] if name == _NAME])
    with open_span(scope["method"], scope["scheme"], came_from) as span:
        scope.setdefault("state", {})[STATE] = span.traceparent

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.answered(message["status"])
            await send(message)

        try:
            await app(scope, receive, marked)
        finally:
            # The path itself may hold what opens something: of an unknown one nothing is told.
            route = scope.get("path_template")
            if isinstance(route, str):
                span.matched(route)


def traceparent_of(scope: Scope) -> str | None:
    """The `traceparent` that a new video keeps: of this request's span, else the caller's own, if it is one.

    Kept without tracing, too: it goes along with the video's webhooks, and tracing may be on later.
    """
    traced = scope["state"].get(STATE)
    if traced is not None:
        return cast("str", traced)
    values = [value for name, value in scope["headers"] if name == _NAME]
    place = of_headers(values) if values else None
    return None if place is None else str(place)
