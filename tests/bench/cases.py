"""What is measured: each case as data, the gateway that it runs against, and one measurement of one case.

Held here: configuration, requests, when a create counts as done. Not held here: rounds and ratios (`report`).
A create is done when the vendor has taken it and that is committed, so what goes on behind the 202 is in its
time and in its CPU.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from tests.bench.bare import ORDER
from tests.bench.load import Load, UnexpectedAnswer, drive
from tests.bench.processes import ROOT, Server, ServerFailed
from tests.bench.wire import HOST, Answer, exchange, request

CONNECTIONS: Final = 64
PAUSE_SECONDS: Final = 0.01  # before each request of one at a time: it meets a server that has nothing to do
_PATIENCE_SECONDS: Final = 120.0
_SLUG: Final = "kling-v3.0-std-t2v"  # what takes the order of the bench
BODY: Final = msgspec.json.encode(ORDER)
_CONFIGURATION: Final = """
[server]
listen = "{host}:{port}"

[store]
url = "sqlite:reelgate.db"

[providers.highway]
adapter = "highwayapi"
base_url = "http://{host}:{vendor}"
api_key = {{ env = "BENCH_VENDOR_KEY" }}
poll_min = "{poll_min}"
poll_max = "1h"
"""
ENVIRON: Final = {"BENCH_VENDOR_KEY": "bench-vendor-key"}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to measure: `count` requests over 64 connections, then `alone` more, one at a time.

    `settle` waits for what an answer leaves to be done; that is in the time and the CPU of the 64.
    """

    name: str
    server: Server
    requests: list[bytes]
    status: int
    count: int
    alone: int
    settle: Callable[[], None]


class Sample(msgspec.Struct, frozen=True):
    """One measurement. `busy` is the share of its core that the server used: near 1, it was the limit."""

    per_second: float
    cpu_us: float
    alone_p50_ms: float
    busy: float


class Seen(msgspec.Struct, frozen=True):
    """What the bench reads of a video, or of a list of them."""

    id: str = ""
    data: list[msgspec.Raw] = []


class Gateway:
    """`reelgate serve` in front of the bench's vendor, with its data in `folder` and one key.

    By `poll_min` no poll falls into a measurement, unless the measurement is of them too.
    """

    def __init__(self, folder: Path, port: int, vendor: Server, poll_min: str = "1h") -> None:
        self.port, self.vendor = port, vendor
        self.config = folder / "reelgate.toml"
        text = _CONFIGURATION.format(host=HOST, port=port, vendor=vendor.port, poll_min=poll_min)
        self.config.write_text(text, "utf-8")
        self.command = ["gateway", "serve", "--config", str(self.config)]
        verb = ["gateway", "keys", "create", "bench", "--config", str(self.config)]
        made = subprocess.run(
            [sys.executable, "-m", *verb], cwd=ROOT, env=os.environ | ENVIRON, check=False,
            capture_output=True,
        )
        if made.returncode != 0:
            raise ServerFailed(made.stderr.decode("utf-8", "replace"))
        self.headers = {"Authorization": f"Bearer {made.stdout.decode('ascii').strip()}"}

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """One request of the caller. Raises UnexpectedAnswer for anything but success."""
        answer = exchange(self.port, method, path, self.headers, body)
        if not 200 <= answer.status < 300:
            raise UnexpectedAnswer(f"{method} {path}: {answer.status} {answer.body[:600]!r}")
        return answer

    def settle(self) -> None:
        """Return when every video has been taken by the vendor and stored as such. Raises TimeoutError."""
        since = int(time.time()) - 60
        until = time.perf_counter() + _PATIENCE_SECONDS
        while time.perf_counter() < until:
            page = self.ask("GET", f"/v1/videos?status=queued&limit=1&created_after={since}")
            if not msgspec.json.decode(page.body, type=Seen).data:
                return
            time.sleep(0.02)
        raise TimeoutError("videos are still waiting to be submitted")

    def rendering(self) -> dict[str, str]:
        """New videos that are rendering, one for each connection: the ETag of each by its id."""
        made = [self.ask("POST", "/v1/videos", BODY) for _ in range(CONNECTIONS)]
        self.settle()
        ids = [msgspec.json.decode(answer.body, type=Seen).id for answer in made]
        return {video: self.ask("GET", f"/v1/videos/{video}").headers["etag"] for video in ids}

    def taken_by_vendor(self) -> int:
        """How many jobs of this gateway the vendor took so far."""
        return int(exchange(self.vendor.port, "GET", f"/count/{_SLUG}").body)


def _at_once() -> None:
    """Nothing is left to be done behind the answer."""


def make_cases(gateway: Gateway, served: Server, bare: Server, calling: Server, scale: float) -> list[Case]:
    """The cases of one round, floors beside what stands on them. `scale` multiplies the counts."""
    videos = gateway.rendering()
    reads = [request("GET", f"/v1/videos/{video}", gateway.headers) for video in videos]
    conditional = [
        request("GET", f"/v1/videos/{video}", gateway.headers | {"If-None-Match": etag})
        for video, etag in videos.items()
    ]
    create = [request("POST", "/v1/videos", gateway.headers, BODY)]
    bare_read = [request("GET", f"/v1/videos/{video}", gateway.headers) for video in videos]

    def case(name: str, server: Server, requests: list[bytes], status: int, count: int,
             settle: Callable[[], None] = _at_once) -> Case:
        alone = max(1, round(40 * scale))
        return Case(name=name, server=server, requests=requests, status=status, settle=settle, alone=alone,
                    count=max(1, round(count * scale)))

    return [
        case("bare accept", bare, create, 202, 6_000),
        case("bare accept + vendor call", calling, create, 202, 1_200),
        case("create", served, create, 202, 1_000, gateway.settle),
        case("bare read", bare, bare_read, 200, 6_000),
        case("status read", served, reads, 200, 3_000),
        case("status read, 304", served, conditional, 304, 3_000),
    ]  # fmt: skip


def bytes_of_reads(gateway: Gateway, bare: Server) -> tuple[int, int]:
    """How long the body of a status read is, ours and the floor's."""
    video = next(iter(gateway.rendering()))
    ours = gateway.ask("GET", f"/v1/videos/{video}").body
    theirs = exchange(bare.port, "GET", f"/v1/videos/{video}").body
    return len(ours), len(theirs)


def measure(case: Case) -> Sample:
    """Run a case once. Raises UnexpectedAnswer, TimeoutError."""
    marks: list[tuple[float, float]] = []

    def mark() -> None:
        marks.append((time.perf_counter(), case.server.cpu_seconds()))

    def send(connections: int, count: int, pause_seconds: float) -> list[float]:
        load = Load(requests=case.requests, connections=connections, count=count, status=case.status,
                    pause_seconds=pause_seconds)
        return asyncio.run(drive(case.server.port, load, mark))

    send(CONNECTIONS, case.count, 0.0)
    case.settle()
    mark()
    (began, cpu_before), (ended, cpu_after) = marks
    seconds, cpu_seconds = ended - began, cpu_after - cpu_before
    alone = send(1, case.alone, PAUSE_SECONDS)
    case.settle()
    return Sample(
        per_second=case.count / seconds, cpu_us=cpu_seconds / case.count * 1e6,
        alone_p50_ms=median(alone) * 1e3, busy=cpu_seconds / seconds,
    )
