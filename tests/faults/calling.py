"""One request over ASGI, as a server carries it, and what its caller got.

Not held here: the gateway that is called (`world`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]  # an answer's body, as it came


class Got(msgspec.Struct, frozen=True):
    """What a caller got. `is_whole`: the answer ended as it should, with as many bytes as it announced."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool

    def json(self) -> Json:
        """The body as an object."""
        return msgspec.json.decode(self.body, type=dict[str, Any])


class _CallerGone(OSError):
    """The caller has enough."""


class Exchange:
    """One request; its caller goes away after `enough_bytes`, if that is given."""

    def __init__(self, content: bytes, enough_bytes: int | None) -> None:
        self._content: bytes | None = content
        self._enough_bytes = enough_bytes
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._over = asyncio.Event()
        self.status = 0

    async def receive(self) -> Any:  # noqa: ANN401 - the framework's own types
        """The request, whole; then nothing, until the answer is over."""
        if self._content is None:
            await self._over.wait()
            return {"type": "http.disconnect"}
        content, self._content = self._content, None
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(self, message: Any) -> None:  # noqa: ANN401 - likewise
        """A part of the answer. Raises OSError once the caller has gone."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            self._over.set()
        if self._enough_bytes is not None and len(self._body) >= self._enough_bytes:
            raise _CallerGone

    def got(self) -> Got:
        """What came of it."""
        length = int(self._headers.get("content-length", len(self._body)))
        is_whole = self._over.is_set() and len(self._body) == length
        return Got(self.status, self._headers, bytes(self._body), is_whole)


def scope(method: str, path: str) -> Any:  # noqa: ANN401 - likewise
    """Who asks for what, as ASGI has it."""
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080), "state": {},
    }
