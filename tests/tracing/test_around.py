"""What goes around a part changes nothing of it: whoever watches, a letter to nowhere, the end of a process.

Held here: parts by themselves. Not held here: whole gateways (`test_told`, `test_life`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from litestar.types import Receive, Scope, Send

from gateway.api.traces import traced
from gateway.engine.webhooks import Answer, Letter
from gateway.tracing import spans
from gateway.tracing.around import Around
from gateway.tracing_settings import Tracing
from tests.handling import handling
from tests.tracing.receiver import PATIENCE_SECONDS, receiver
from tests.tracing.stage import TRACEPARENT

pytestmark = pytest.mark.anyio


class Span:
    """The span of a request, of which nothing is told."""

    traceparent = TRACEPARENT

    def answered(self, status: int) -> None:
        """Nothing."""

    def matched(self, route: str) -> None:
        """Nothing."""


@pytest.mark.parametrize(("path", "is_told"), [
    ("/metrics", False), ("/reelgate/livez", False), ("/reelgate/readyz", False),
    ("/v1/videos", True), ("/metrics/", True), ("/", True),
])
async def test_whoever_watches_the_process_is_no_request_under_a_base_path_either(
    path: str, is_told: bool
) -> None:
    served: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        served.append(scope)

    scope: Any = {"type": "http", "path": path, "method": "GET", "scheme": "http", "headers": []}
    unused: Any = None
    await traced(app, lambda *_: nullcontext(Span()))(scope, unused, unused)
    assert ["state" in one for one in served] == [is_told]


@pytest.mark.parametrize("url", ["https://a.example:99999/", "https://[::1/", "https://a.example:1_0/"])
async def test_a_letter_to_what_is_no_url_is_answered_as_without_tracing(url: str) -> None:
    async def refused(_letter: Letter, _now: float) -> Answer:
        return Answer(error="refused")

    letter = Letter(id="msg_1", url=url, body="", secrets=(), traceparent=TRACEPARENT)
    with receiver() as got:
        around = Around(Tracing(endpoint=got.url))
        try:
            assert await around.post(refused)(letter, 0.0) == Answer(error="refused")
        finally:
            await around.close()
    assert [span.facts["error.type"] for span in got.spans] == ["refused"]


@contextmanager
def trickling() -> Iterator[tuple[str, threading.Event]]:
    """Who takes spans and answers a byte at a time, for ever: its place, and an event once it was asked."""
    is_asked, is_over = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(10**9))
            self.end_headers()
            is_asked.set()
            while not is_over.wait(0.01):
                self.wfile.write(b"x")

    with handling(Handler) as url:
        try:
            yield url, is_asked
        finally:
            is_over.set()


async def test_who_takes_spans_without_an_end_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spans, "EXPORT_SECONDS", 0.2)
    monkeypatch.setattr(spans, "CLOSE_SECONDS", 0.0)
    with trickling() as (url, is_asked):
        around = Around(Tracing(endpoint=url))
        await around.post(_delivered)(
            Letter(id="msg_1", url="https://a.example/", body="", secrets=(), traceparent=TRACEPARENT), 0.0
        )
        assert await asyncio.to_thread(is_asked.wait, PATIENCE_SECONDS)
        closing = asyncio.create_task(around.close())
        # Less than what OpenTelemetry itself would wait, half a minute.
        done, _ = await asyncio.wait([closing], timeout=PATIENCE_SECONDS / 2)
    await closing
    assert done == {closing}


async def _delivered(_letter: Letter, _now: float) -> Answer:
    return Answer(status=200)
