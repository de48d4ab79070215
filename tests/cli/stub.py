"""A stand-in for the gateway on a real socket: answers by script, and remembers what it was asked.

Held here: the server, the shapes of its answers, and a verb run against it. Not held here: any expectation.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from click.testing import CliRunner, Result

from gateway.__main__ import cli
from tests.handling import handling


class Answer(NamedTuple):
    """One scripted answer. `length` lies about the body where given; `drop` closes the connection instead."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = "application/json"
    length: int | None = None
    drop: bool = False
    retry_after: str | None = None


class Asked(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


def say(found: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(found).encode())


def problem(status: int, **members: object) -> Answer:
    return Answer(status, json.dumps({"status": status, **members}).encode(), "application/problem+json")


DROP = Answer(drop=True)


def video(status: str = "in_progress", **members: object) -> dict[str, Any]:
    """A video object with the fields that the client reads."""
    return {
        "id": "video_1", "object": "video", "model": "kling-v3", "status": status, "stage": None,
        "progress": 40, "created_at": 1795247503, "completed_at": None, "seconds": "5", "size": "1280x720",
        "provider": "highway", "offering": "kling-v3.0-std-t2v", "vendor_task_id": "t-1", "queue": None,
        "output": None, "error": None, "charged": "yes", "metadata": {},
        "cost": {"amount": "0.42", "currency": "USD", "kind": "estimate"},
        **members,
    }  # fmt: skip


class Stub:
    """Answers in order, the last one for ever; without a script, holds every request until it is closed."""

    def __init__(self) -> None:
        self.url = ""
        self.script: list[Answer] = []
        self.asked: list[Asked] = []
        self.arrived = threading.Event()
        self.closing = threading.Event()

    def next(self) -> Answer:
        if not self.script:
            self.closing.wait()
            return DROP
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@contextmanager
def stubbed() -> Iterator[Stub]:
    """A stub that listens for as long as the context lasts."""
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            target = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = dict(parse_qsl(target.query))
            body = json.loads(raw) if raw else None
            stub.asked.append(Asked(self.command, target.path, query, headers, body))
            stub.arrived.set()
            answer = stub.next()
            self.close_connection = True
            if answer.drop:
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(answer.length or len(answer.body)))
            self.send_header("X-Request-Id", "req_1")
            if answer.retry_after is not None:
                self.send_header("Retry-After", answer.retry_after)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = handle_any  # noqa: N815 - the names that http.server asks for

    with handling(Handler) as stub.url:
        try:
            yield stub
        finally:
            stub.closing.set()


def told_by(stub: Stub, *arguments: str, key: str = "k-1", said: str = "") -> Result:
    """What `reelgate` with these arguments makes of it; `said` is typed."""
    environ = {"REELGATE_URL": stub.url, "REELGATE_KEY": key}
    return CliRunner().invoke(cli, list(arguments), env=environ, input=said)
