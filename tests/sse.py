"""A caller of an event stream who may be cut off anywhere, and comes again from where it was.

Held here: reading `text/event-stream` as its specification says. Not held here: any expectation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec


class Told(msgspec.Struct, frozen=True):
    """One event: its position, its type, and its entry of the timeline."""

    id: str
    type: str
    data: dict[str, Any]

    @property
    def key(self) -> tuple[str, int]:
        """Which event it is."""
        return str(self.data["video_id"]), int(self.data["seq"])


class Caller:
    """Reads one stream over any number of connections. `got` are all events, `last` is where it is."""

    def __init__(self, path: str, last: str | None = None) -> None:
        self.path, self.last = path, last
        self.got: list[Told] = []
        self.connections = self.beats = 0
        self.status = 0
        self.retry_ms: int | None = None
        self._rest = b""

    @asynccontextmanager
    async def connected(self, client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[bytes]]:
        """A connection from where it is; what it reads comes in parts, each to be given to `feed`."""
        headers = {} if self.last is None else {"Last-Event-ID": self.last}
        self._rest = b""
        async with client.stream("GET", self.path, headers=headers) as answer:
            self.connections += 1
            self.status = answer.status_code
            yield answer.aiter_raw()

    async def follow(self, client: httpx.AsyncClient, until: asyncio.Event | None = None) -> None:
        """Read one connection to its end, or until there was an event of a type that ends a video."""
        async with self.connected(client) as parts:
            async for part in parts:
                self.feed(part)
                if until is not None and until.is_set():
                    return

    def cut(self) -> None:
        """What is not whole will never be."""
        self._rest = b""

    def feed(self, part: bytes) -> int:
        """Take what arrived; how many events that were. What is not whole is kept for the next part."""
        *blocks, self._rest = (self._rest + part).split(b"\n\n")
        before = len(self.got)
        for block in blocks:
            self._take(block.decode())
        return len(self.got) - before

    def _take(self, block: str) -> None:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            self.beats += not name
            fields[name] = value.removeprefix(" ")
        self.last = fields.get("id", self.last)
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
        if "data" in fields:
            data = msgspec.json.decode(fields["data"], type=dict[str, Any])
            self.got.append(Told(self.last or "", fields["event"], data))
