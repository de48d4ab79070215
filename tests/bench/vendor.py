"""A vendor that costs next to nothing. It takes every job; how it behaves is told by its command line.

    POST /v3/async/{slug}              -> {"task_id": a new one}, after --delay seconds
    GET  /v3/async/task-result?...     -> processing; done --done-after seconds later, or after GET /finish
    POST /v1/videos, GET /v1/videos/id -> the same in the shape of OpenAI's videos, for the peers
    GET  /file                         -> --file-mib of zeros, what its finished videos link to
    GET  /told                         -> what it has seen, as `Told`; GET /forget: from now on anew

Not held here: strictness, money, faults; the simulators of `gateway.sandbox` have those, and their price.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections import Counter, deque
from typing import Final

import msgspec

from tests.bench.wire import HOST, message_end

_TASK_ID: Final = re.compile(rb"task_id=([0-9A-Za-z-]+)")
_CHUNK_BYTES: Final = 256 * 1024
_HEAD: Final = b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
_BUCKETS_PER_SECOND: Final = 10  # how finely polls are counted by time
_MINUTE_BUCKETS: Final = 60 * _BUCKETS_PER_SECOND


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a vendor has seen since it started, or since `GET /forget`. Times by `time.perf_counter`.

    `distinct` tasks were polled, the first of them at `first_poll_at`; `widest_seconds` is the longest time
    that any of them was, or is, left unasked, counted from the start at the earliest; `busiest_minute` the
    most polls in any sixty seconds.
    """

    taken: int
    polls: int
    distinct: int
    first_poll_at: float | None
    widest_seconds: float
    busiest_minute: int


class Book:
    """What is counted. Polls are counted by task and by time only when `is_exact`, which costs 2 us each."""

    def __init__(self, *, is_exact: bool) -> None:
        self._is_exact = is_exact
        self.taken = self.polls = 0
        self._since = time.perf_counter()
        self._asked_at: dict[bytes, float] = {}
        self._widest_seconds = 0.0
        self._first_at: float | None = None
        self._buckets: Counter[int] = Counter()

    def poll(self, task_id: bytes) -> None:
        """One question for that task."""
        self.polls += 1
        if self._first_at is None:
            self._first_at = time.perf_counter()
        if self._is_exact:
            now = time.perf_counter()
            before = self._asked_at.get(task_id, self._since)
            self._widest_seconds = max(self._widest_seconds, now - before)
            self._asked_at[task_id] = now
            self._buckets[int(now * _BUCKETS_PER_SECOND)] += 1

    def told(self) -> Told:
        """The account of it."""
        now = time.perf_counter()
        open_seconds = now - min(self._asked_at.values(), default=now)
        return Told(
            taken=self.taken, polls=self.polls, distinct=len(self._asked_at), first_poll_at=self._first_at,
            widest_seconds=max(self._widest_seconds, open_seconds), busiest_minute=self._busiest_minute(),
        )

    def _busiest_minute(self) -> int:
        most = within = 0
        last: deque[tuple[int, int]] = deque()
        for bucket, count in sorted(self._buckets.items()):
            last.append((bucket, count))
            within += count
            while last[0][0] <= bucket - _MINUTE_BUCKETS:
                within -= last.popleft()[1]
            most = max(most, within)
        return most


class Vendor:
    """How it behaves, and what all its connections share."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.delay_seconds: float = chosen.delay
        self.done_after_seconds: float = chosen.done_after
        self.file_bytes: int = chosen.file_mib << 20
        self.is_exact: bool = chosen.exact
        self.link = f"http://{HOST}:{chosen.port}/file"
        self.book = Book(is_exact=self.is_exact)
        self.begun_at = time.perf_counter()
        self._number = 0

    def take(self, path: bytes) -> bytes:
        """A new id, which says when it was taken: no job is remembered. Those of the floors do not count."""
        self.book.taken += not path.endswith(b"/floor")
        self._number += 1
        return b"%x-%x-%x" % (int(self.begun_at * 1e6), self._age_ms(), self._number)

    def _age_ms(self) -> int:
        return int((time.perf_counter() - self.begun_at) * 1e3)

    def is_done(self, task_id: bytes) -> bool:
        """Whether that task is done; one that this vendor did not make is until told to finish all."""
        parts = task_id.split(b"-")
        taken_ms = int(parts[1], 16) if len(parts) == 3 else self._age_ms()
        return self._age_ms() - taken_ms >= self.done_after_seconds * 1e3

    def answer(self, method: bytes, path: bytes) -> bytes:
        """The JSON that answers a call."""
        if method == b"POST":
            made = self.take(path)
            return self._video(made, b"queued") if path == b"/v1/videos" else b'{"task_id":"%s"}' % made
        asked = _TASK_ID.search(path)
        if asked is not None:
            self.book.poll(asked[1])
            return self._result(asked[1])
        if path.startswith(b"/v1/videos/"):
            return self._video(path[11:], b"in_progress")
        if path == b"/forget":
            self.book = Book(is_exact=self.is_exact)
        if path == b"/finish":
            self.done_after_seconds = 0.0
        return msgspec.json.encode(self.book.told()) if path == b"/told" else b"{}"

    def _result(self, task_id: bytes) -> bytes:
        if not self.is_done(task_id):
            return b'{"task":{"task_id":"%s","status":"TASK_STATUS_PROCESSING"},"videos":[]}' % task_id
        return b'{"task":{"task_id":"%s","status":"TASK_STATUS_SUCCEED"},"videos":[{"video_url":"%s"}]}' % (
            task_id, self.link.encode(),
        )

    def _video(self, video_id: bytes, status: bytes) -> bytes:
        return (
            b'{"id":"%s","object":"video","model":"sora-2","status":"%s","progress":0,'
            b'"created_at":1795247503,"size":"1280x720","seconds":"8"}' % (video_id, status)
        )


class _Connection(asyncio.Protocol):
    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor
        self._received = bytearray()
        self._unsent_bytes = 0
        self._is_paused = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_CHUNK_BYTES)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := message_end(self._received)) > 0:
            head = bytes(self._received[: self._received.find(b"\r\n\r\n") + 2])
            del self._received[:end]
            method, path, _ = head.split(b" ", 2)
            if path == b"/file":
                self._unsent_bytes = self._vendor.file_bytes
                self._transport.write(_HEAD % (200, b"OK", b"video/mp4", self._unsent_bytes))
                self._send_more()
            elif self._vendor.delay_seconds and method == b"POST":
                delay = self._vendor.delay_seconds
                asyncio.get_running_loop().call_later(delay, self._answer, method, path, head)
            else:
                self._answer(method, path, head)

    def _answer(self, method: bytes, path: bytes, head: bytes) -> None:
        body = self._vendor.answer(method, path)
        self._transport.write(_HEAD % (200, b"OK", b"application/json", len(body)) + body)
        if b"\r\nconnection: close\r\n" in head.lower():
            self._transport.close()

    def _send_more(self) -> None:
        while self._unsent_bytes and not self._is_paused and not self._transport.is_closing():
            size = min(_CHUNK_BYTES, self._unsent_bytes)
            self._unsent_bytes -= size
            self._transport.write(bytes(size))

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._send_more()


async def _serve(chosen: argparse.Namespace) -> None:
    vendor = Vendor(chosen)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(vendor), HOST, chosen.port, backlog=8192)
    await server.serve_forever()


def main() -> None:
    """Serve by the command line until killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.vendor", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before a create is answered")
    parser.add_argument("--done-after", type=float, default=float("inf"), help="seconds that a render takes")
    parser.add_argument("--file-mib", type=int, default=1)
    parser.add_argument("--exact", action="store_true", help="count polls by task and by time")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
