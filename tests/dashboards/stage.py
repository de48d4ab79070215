"""Simulators and a gateway as processes, as an operator starts them, and callers who want videos.

Held here: the configuration, the processes, the load: files, webhooks, and faults where they are wanted. No
expectation is here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from tests.handling import handling
from tests.serving import free_port

ROOT: Final = Path(__file__).parents[2]
READY_SECONDS: Final = 60.0  # only a broken process takes that long
PROVIDERS: Final = ("highway", "myrouter", "unified")
_KEY: Final = "sandbox-key"
_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:{port}"
[auth]
mode = "off"
[webhooks]
secrets = [{{ file = "hook" }}]
[egress]
allow = ["127.0.0.0/8"]
[providers.highway]
adapter = "highwayapi"
base_url = "{sandbox}/highwayapi"
api_key = {{ env = "SANDBOX_KEY" }}
max_in_flight = 12
poll_min = "100ms"
poll_max = "1s"
prices."kling-v3.0-std-t2v" = {{ per_second = "0.084" }}
[providers.myrouter]
adapter = "myrouter"
base_url = "{sandbox}/myrouter"
api_key = {{ env = "SANDBOX_KEY" }}
max_in_flight = 2
poll_min = "100ms"
poll_max = "1s"
offerings = ["kling-v3.0-std-t2v"]
prices."kling-v3.0-std-t2v" = {{ per_second = "0.07" }}
[providers.unified]
adapter = "unified"
base_url = "{sandbox}/unified"
api_key = {{ env = "SANDBOX_KEY" }}
poll_min = "100ms"
poll_max = "1s"
prices."kling-v3-text-to-video" = {{ per_request = "0.45" }}
"""
PLAIN: Final = ("",)
# What callers' prompts ask the simulators for, in turn; most of it goes well.
TROUBLED: Final = (
    "", "", "", "[[fault:failed]]", "", "[[fault:rate_limited times=1]]", "", "", "[[fault:unknown_status]]",
    "",
    "[[fault:unavailable phase=poll times=2]]", "", "[[fault:server_error phase=download times=3]]", "",
    "[[fault:reset_after_accept]]", "[[fault:late seconds=1.5]]", "", "[[fault:invalid]]",
    "[[fault:late phase=poll seconds=0.7]]",
)
_HELD: Final = "reset_after_accept"  # nobody waits for such a video: an operator has to look


class Stage(NamedTuple):
    """Both, ready."""

    url: str
    sandbox: str

    @property
    def target(self) -> str:
        """Where Prometheus asks."""
        return self.url.removeprefix("http://")


@contextmanager
def _process(command: Sequence[str], folder: Path, until: str, *, name: str) -> Iterator[str]:
    """A process, once it has written a line with `until`: that line. Its output goes to a file."""
    ready = threading.Event()
    found: list[str] = []
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"SANDBOX_KEY": _KEY},
    )

    def read() -> None:
        with (folder / f"{name}.log").open("w") as log:
            for line in process.stdout or ():
                log.write(line)
                if until in line and not found:
                    found.append(line.strip())
                    ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(READY_SECONDS), command
        assert found, f"{command} ended: {process.wait()}"
        yield found[0]
    finally:
        process.terminate()
        reader.join()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def stage(folder: Path, render_seconds: float, render_spread: float = 0.5) -> Iterator[Stage]:
    """Simulators that render for so long, and a gateway before them with its data in `folder`."""
    times = ("--render-seconds", str(render_seconds), "--render-spread", str(render_spread))
    with _process(("sandbox", "--port", "0", *times), folder, "http://", name="sandbox") as sandbox:
        port, file = free_port(), folder / "reelgate.toml"
        (folder / "hook").write_text(_SECRET)
        file.write_text(_CONFIGURATION.format(port=port, sandbox=sandbox), "utf-8")
        with _process(("serve", "--config", str(file)), folder, '"ready"', name="gateway"):
            yield Stage(f"http://127.0.0.1:{port}", sandbox)


class Load:
    """Callers who each want one video after the other. `made`: how many they have had."""

    def __init__(self, url: str, prompts: Sequence[str], hooks: Sequence[str]) -> None:
        self._url, self._prompts, self._hooks = url, prompts, hooks
        self._turns = count()
        self._over = threading.Event()
        self.made = 0

    def ask(self, client: httpx.Client, turn: int) -> None:
        """One video, waited for where it will come."""
        prompt = self._prompts[turn % len(self._prompts)]
        hook = self._hooks[turn % len(self._hooks)]
        body = {
            "prompt": f"{prompt} a paper boat", "provider": PROVIDERS[turn % len(PROVIDERS)],
            "webhook_url": hook,
        }
        wait = {} if _HELD in prompt else {"Prefer": "wait=20"}
        answer = client.post("/v1/videos", json=body, headers=wait)
        assert answer.is_success, answer.text
        self.made += 1

    def _call(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=READY_SECONDS) as client:
            while not self._over.is_set():
                self.ask(client, next(self._turns))

    @contextmanager
    def under_way(self, callers: int) -> Iterator[None]:
        """So many callers at once, until the context ends."""
        with ThreadPoolExecutor(callers) as pool:
            calls = [pool.submit(self._call) for _ in range(callers)]
            try:
                yield
            finally:
                self._over.set()
            for call in calls:
                call.result()


@contextmanager
def receiver() -> Iterator[tuple[str, ...]]:
    """Where callers want to be told, in turn: every tenth place answers with an error."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(500 if self.path == "/bad" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with handling(Handler) as url:
        yield (*(f"{url}/good",) * 9, f"{url}/bad")
