"""A vendor's file server and a place for files, both in memory and in virtual time, with faults to switch on.

Held here: what the tests of keeping files stand on, and what must be true at the end of each of them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import httpx

from gateway.core.states import Task
from gateway.engine.collect import Links
from gateway.engine.keeping import Keeping
from gateway.storage.files import FileMissing, FileStoreError
from providers.egress import AddressPolicy
from providers.spec import Progress, Ref, Succeeded
from tests.engine.life import Life, SwitchedVendor, life
from tests.virtual import run_virtual

PIECE = 1000
HOUR, DAY = 3_600.0, 86_400.0
Fault: TypeAlias = Callable[[httpx.Request], httpx.Response | None]
Story: TypeAlias = "Callable[[Life, FileVendor, Host, Shelf], Awaitable[None]]"


def video(size: int = 10_000, mark: bytes = b"a") -> bytes:
    """A whole MP4 of that many bytes, as far as its boxes tell."""
    head = (24).to_bytes(4, "big") + b"ftyp" + bytes(16) + (16).to_bytes(4, "big") + b"moov" + bytes(8)
    rest = size - len(head)
    return head + rest.to_bytes(4, "big") + b"mdat" + mark * (rest - 8)


class Body(httpx.AsyncByteStream):
    """Bytes that come piece by piece, `seconds` apart, and break off after `stops_at` of them."""

    def __init__(self, data: bytes, seconds: float = 0.0, stops_at: int | None = None) -> None:
        self.data, self.seconds, self.stops_at = data, seconds, stops_at
        self.sent = 0
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        end = len(self.data) if self.stops_at is None else self.stops_at
        while self.sent < end:
            if self.seconds:
                await asyncio.sleep(self.seconds)
            piece = self.data[self.sent : min(end, self.sent + PIECE)]
            self.sent += len(piece)
            yield piece
        if end < len(self.data):
            raise httpx.ReadError("connection reset")

    async def aclose(self) -> None:
        """Note it."""
        self.is_closed = True


class Host(httpx.AsyncBaseTransport):
    """Serves `files` by URL until `dead_at` (virtual seconds); `fault` may answer in its stead."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.dead_at: dict[str, float] = {}
        self.fault: Fault = lambda request: None
        self.has_ranges = self.has_tags = True
        self.seconds = 0.001
        self.bodies: list[Body] = []
        self.asked: list[tuple[str, str | None]] = []

    @property
    def sent(self) -> int:
        """How many bytes left."""
        return sum(body.sent for body in self.bodies)

    @property
    def is_at_rest(self) -> bool:
        """Whether every answer was closed."""
        return all(body.is_closed for body in self.bodies)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One request for a file, or a part of it."""
        url = str(request.url)
        self.asked.append((url, request.headers.get("Range")))
        await asyncio.sleep(0.001)
        if asyncio.get_running_loop().time() >= self.dead_at.get(url, float("inf")):
            return httpx.Response(403, content=b"expired")
        return self.fault(request) or self.served(request)

    def served(self, request: httpx.Request, stops_at: int | None = None) -> httpx.Response:
        """The file, or the part of it that was asked for."""
        data = self.files[str(request.url)]
        tag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        headers = {"Content-Type": "video/mp4"} | ({"ETag": tag} if self.has_tags else {})
        asked, start = request.headers.get("Range"), 0
        if asked and self.has_ranges and request.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.answer(206 if start else 200, headers, data[start:], stops_at)

    def answer(
        self, status: int, headers: dict[str, str], data: bytes, stops_at: int | None = None
    ) -> httpx.Response:
        """An answer of these bytes."""
        self.bodies.append(Body(data, self.seconds, stops_at))
        headers = {"Content-Length": str(len(data))} | headers
        return httpx.Response(status, headers=headers, stream=self.bodies[-1])


class Shelf:
    """A place for files in memory. `fault` is called with a key and the bytes so far, None at the end."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fault: Callable[[str, int | None], None] = lambda key, count: None
        self.tries = self.under_way = self.most_under_way = 0
        self.order: list[str] = []

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str) -> None:
        """All of it or nothing."""
        self.tries += 1
        self.order.append(key)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            data = b""
            self.fault(key, 0)
            async for chunk in chunks:
                data += chunk
                self.fault(key, len(data))
            self.fault(key, None)
            self.files[key] = data
        finally:
            self.under_way -= 1

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes in one piece."""
        if key not in self.files:
            raise FileMissing("the file is not there")
        yield self.files[key][start : end + 1]

    async def remove(self, key: str) -> None:
        """Forget it."""
        self.fault(key, None)
        self.files.pop(key, None)

    async def link(self, key: str, seconds: float) -> str | None:
        """There is none."""
        return None

    async def trouble(self) -> str | None:
        """None."""
        return None

    async def close(self) -> None:
        """Nothing is held."""


def away(until: float) -> Callable[[str, int | None], None]:
    """A storage that fails until that virtual time."""

    def fault(key: str, count: int | None) -> None:
        if asyncio.get_running_loop().time() < until:
            raise FileStoreError("the storage is away")

    return fault


class FileVendor(SwitchedVendor):
    """Renders at once. Its links live for `link_seconds`; each poll gives another, unless it `repeats`."""

    def __init__(self, host: Host, link_seconds: float = 3_600.0, *, repeats: bool = False) -> None:
        super().__init__(renders=1.0)
        self.host, self.link_seconds, self.repeats = host, link_seconds, repeats
        self.given: dict[str, list[str]] = {}

    async def poll(self, ref: Ref) -> Progress:
        """The link of a video that is done."""
        progress = await super().poll(ref)
        if not isinstance(progress, Succeeded):
            return progress
        given = self.given.setdefault(ref["id"], [])
        if not given or not self.repeats:
            given.append(f"https://files.example/{ref['id']}/{len(given)}.mp4")
            self.host.files[given[-1]] = video(mark=ref["id"][-1:].encode())
            now = asyncio.get_running_loop().time()
            self.host.dead_at[given[-1]] = now + self.link_seconds
        seconds = max(0.0, self.host.dead_at[given[-1]] - asyncio.get_running_loop().time())
        return Succeeded(raw_status="SUCCEED", url=given[-1], expires_in_seconds=seconds)


def kept(host: Host, shelf: Shelf, retention_seconds: float = 30 * DAY) -> Keeping:
    """What an engine keeps files with."""
    policy = AddressPolicy((), frozenset())
    links = Links(policy, {"public": host, "listed": host, "origin": host})
    return Keeping(shelf, links, retention_seconds)


def is_over(task: Task) -> bool:
    """Whether nothing happens to it any more."""
    return task.is_terminal and task.unstored_since is None


def play(story: Story, link_seconds: float = HOUR, *, repeats: bool = False) -> None:
    """A story in a life of its own, at whose end nothing is half-written and no connection is open."""

    async def main() -> None:
        host, shelf = Host(), Shelf()
        vendor = FileVendor(host, link_seconds, repeats=repeats)
        async with life({"one": vendor}, keeping=kept(host, shelf)) as one:
            await story(one, vendor, host, shelf)
            await nothing_is_left_over(one, shelf)
            assert host.is_at_rest

    run_virtual(main())


async def stored(one: Life, video_id: str = "video_1") -> Task:
    """The video once it is stored."""
    task = await one.until(is_over, video_id)
    assert (task.state, task.stage, task.attempts) == ("completed", "stored", 1), task
    return task


async def nothing_is_left_over(one: Life, shelf: Shelf) -> None:
    """Every file is named by a video, or on the list of those that go; a name leads to a whole file."""
    rows = await one.database.read("select id, file_key from videos where file_key is not null")
    named = {str(key): str(video_id) for video_id, key in rows}
    listed = {str(key) for (key,) in await one.database.read("select key from file_removals")}
    assert set(shelf.files) <= set(named) | listed
    for key, video_id in named.items():
        task = await one.store.task_get(video_id)
        assert task is not None
        assert task.file is not None
        data = shelf.files[key]
        assert (task.file.bytes, task.file.sha256) == (len(data), hashlib.sha256(data).hexdigest())


async def kinds(one: Life, video_id: str = "video_1") -> list[str]:
    """The types of its events."""
    return [event.type for event in await one.events(video_id)]
