"""Traced gateways as processes: their configuration, simulators whose clock stands still, who gets webhooks.

Held here: the stage. No expectation is here.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Final

import httpx

from gateway.engine.replica import ReplicaRole
from tests.handling import handling
from tests.kill.points import Points
from tests.kill.process import Gateway, Launcher
from tests.serving import free_port
from tests.tracing.receiver import PATIENCE_SECONDS

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER: Final = "00f067aa0ba902b7"
TRACEPARENT: Final = f"00-{TRACE}-{CALLER}-01"
SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PROMPT: Final = "prompt-canary"
_CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:{port}"
[auth]
mode = "off"
[store]
url = "{store}"
[log]
format = "json"
[webhooks]
secrets = [{{ file = "hook" }}]
[egress]
allow = ["127.0.0.0/8"]
[providers.highway]
adapter = "highwayapi"
base_url = "{vendor}"
api_key = {{ env = "REELGATE_SANDBOX_KEY" }}
poll_min = "10ms"
poll_max = "20ms"
{more}
"""


def tracing_to(url: str, more: str = "") -> str:
    """The section that turns tracing on."""
    return f'[tracing]\nendpoint = "{url}"\n{more}\n'


def configuration(
    folder: Path, vendor: str, more: str, store: str = "sqlite:reelgate.db"
) -> tuple[Path, str]:
    """A configuration in a file of its own, and where its gateway will be."""
    port = free_port()
    path = folder / f"{port}.toml"
    (folder / "hook").write_text(SECRET)
    text = _CONFIGURATION.format(port=port, vendor=vendor, more=more, store=store)
    path.write_text(text, "utf-8")
    return path, f"http://127.0.0.1:{port}"


@asynccontextmanager
async def started(
    starter: Launcher, place: tuple[Path, str], role: ReplicaRole = "all"
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """A gateway that is ready, asked to end when the context does, and then its spans are out."""
    path, url = place
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_SECONDS) as client:
        gateway = await starter.begin(path, Points(), role=role)
        assert await gateway.log.wait("ready"), list(gateway.log.lines)
        yield gateway, client
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended() == 0


class Calls:
    """What somebody was sent, at `url`: of each call its method, its path and its headers (small letters)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[tuple[str, str, dict[str, str]]] = []
        self._came = threading.Condition()

    def take(self, method: str, path: str, headers: dict[str, str]) -> None:
        """One call."""
        with self._came:
            self.made.append((method, path, headers))
            self._came.notify_all()

    def wait(self, count: int) -> None:
        """Return when so many came."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.made) >= count, PATIENCE_SECONDS), self.made


@contextmanager
def called(answers: dict[str, bytes], *, refused: int = 0) -> Iterator[Calls]:
    """Who answers by method, always the same; the first `refused` calls get 503."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            made.take(self.command, self.path, {name.lower(): text for name, text in self.headers.items()})
            body = answers.get(self.command, b"")
            self.send_response(503 if len(made.made) <= refused else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815 - the base class's names

    with handling(Handler) as url:
        made = Calls(url)
        yield made
