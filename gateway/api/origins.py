"""Which web pages may read answers, `[server] cors_origins`: those listed, letter for letter, and no other.

Browsers' cookies and the like are never asked for: a page brings a key. Not held here: who may ask (`auth`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from litestar.types import HTTPScope, Message, Send

_METHODS: Final = b"GET, HEAD, POST, DELETE"
_ASKED: Final = (
    b"Authorization, Content-Type, Idempotency-Key, If-None-Match, If-Range, Last-Event-ID, Prefer, Range, "
    b"X-Request-Id"
)
# Of what a page may read anyway nothing is named.
_SHOWN: Final = (
    b"Accept-Ranges, Content-Disposition, Content-Range, ETag, Idempotent-Replayed, Location, "
    b"Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id, openai-poll-after-ms"
)
_KNOWN_SECONDS: Final = b"600"  # that a browser believes what it was told


class Origins:
    """What is said to pages of the listed `origins`."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def is_preflight(self, scope: HTTPScope) -> bool:
        """Whether a browser asks for a listed page what that may send."""
        is_asked = _value(scope, b"access-control-request-method") is not None
        return scope["method"] == "OPTIONS" and is_asked and self._listed(scope) is not None

    def marked(self, scope: HTTPScope, send: Send) -> Send:
        """`send`, which lets a listed page read the answer."""
        origin = self._listed(scope)
        more = [(b"vary", b"Origin")]
        if origin is not None:
            more += [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _SHOWN),
            ]

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *more]
            await send(message)

        return sent

    def _listed(self, scope: HTTPScope) -> bytes | None:
        origin = _value(scope, b"origin")
        return origin if origin in self._origins else None


def _value(scope: HTTPScope, name: bytes) -> bytes | None:
    return next((value for known, value in scope["headers"] if known == name), None)


async def allow_preflight(send: Send) -> None:
    """Say what a listed page may send; `send` must be `marked`."""
    headers = [
        (b"access-control-allow-methods", _METHODS), (b"access-control-allow-headers", _ASKED),
        (b"access-control-max-age", _KNOWN_SECONDS),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
