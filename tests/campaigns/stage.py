"""The stage of a campaign: vendors in one process, gateways one after the other in others, callers in ours.

Held here: the configuration, starting and ending processes, the log of all gateways in one file, and which of
its lines no campaign may bring about. Not held here: what is done to the gateways (the campaigns), the
processes themselves (`tests.kill.process`).
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from gateway.sandbox.server import SandboxSettings
from tests.campaigns.callers import Callers, Menu
from tests.campaigns.evidence import collect
from tests.campaigns.history import Verdict, check
from tests.campaigns.wire import HOST, Client, Unanswered
from tests.kill.points import Points
from tests.kill.process import KEY, ROOT, Gateway, Launcher, Line, begin_typed, launcher

END_WITHIN_SECONDS: Final = 90.0  # for the last video, once nobody orders any more
READY_WITHIN_SECONDS: Final = 30.0
SUBMIT_TIMEOUT_SECONDS: Final = 1.0
ASKS: Final = "asks.jsonl"  # in a campaign's folder: every call that the vendors saw
UNKNOWN_TIMEOUT_SECONDS: Final = 1.0
# What a gateway may never have to say, whatever is done to it.
ALARMS: Final = frozenset({"invariant_violation", "step_failed", "request_failed", "storage_failed"})

_SERVER: Final = """\
[server]
listen = "{host}:{port}"
[auth]
mode = "off"
[store]
url = "sqlite:reelgate.db"
[files]
url = "off"
[log]
format = "json"
[routing]
deadline = "60s"
strategy = "weighted"
"""
_PROVIDER: Final = """\
[providers.{name}]
adapter = "{adapter}"
base_url = "{vendors}/{adapter}"
api_key = {{ env = "REELGATE_SANDBOX_KEY" }}
offerings = ["{slug}"]
prices = {{ "{slug}" = {{ resolution = "720p", audio = false, per_second = "0.084" }} }}
on_unknown = "{on_unknown}"
max_in_flight = 20
poll_min = "50ms"
poll_max = "250ms"
submit_timeout = "{submit}s"
unknown_timeout = "{unknown}s"
"""
# Name, adapter, offering, and what is done about an unknown submission: each policy is under fire.
_PROVIDERS: Final = (
    ("highway", "highwayapi", "kling-v3.0-std-t2v", "hold"),
    ("router", "myrouter", "kling-v3.0-std-t2v", "resubmit"),
    ("united", "unified", "kling-v3-text-to-video", "fail"),
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What every campaign is told. `typed`: gateways are `reelgate serve` as typed, not forks of one.

    `say` is given a line of progress now and then; `folder` is empty, and holds what there is to look at.
    """

    folder: Path
    seed: int
    callers: int = 10
    typed: bool = False
    say: Callable[[str], None] = lambda _: None


class Logs(NamedTuple):
    """What all gateways of a campaign say: their lines of JSON, and whatever else."""

    out: TextIO
    err: TextIO


class Stage:
    """The processes, and who orders. `alarms` counts lines of the log that no campaign may bring about."""

    def __init__(self, plan: Plan, port: int, vendor_url: str, starter: Launcher, logs: Logs) -> None:
        self.plan, self.port, self.vendor_url = plan, port, vendor_url
        self.url = f"http://{HOST}:{port}"
        self.config = plan.folder / "reelgate.toml"
        self.chance = random.Random(plan.seed)
        self.excused: frozenset[int] = frozenset()
        self.alarms: Counter[str] = Counter()
        self.absences: list[tuple[float, float]] = []
        self._away_since: float | None = None
        self.gateway: Gateway
        self.callers: Callers
        self._starter, self._logs = starter, logs
        self._readings: set[asyncio.Task[None]] = set()

    async def begin(self) -> Gateway:
        """Start a gateway and come back at once; the one before it has ended."""
        if self.plan.typed:
            self.gateway, reading = await begin_typed(self.config, self._note, self._logs.err)
            self._readings.add(reading)
            reading.add_done_callback(self._readings.discard)
        else:
            self.gateway = await self._starter.begin(self.config, Points(), self._note)
        return self.gateway

    def away(self) -> None:
        """From now on there is no gateway that could do anything."""
        self._away_since = self._away_since or time.time()

    def back(self) -> None:
        """There is one again."""
        if self._away_since is not None:
            self.absences.append((self._away_since, time.time()))
            self._away_since = None

    async def kill(self) -> None:
        """`kill -9` the gateway, and wait until it is dead."""
        self.away()
        await self.gateway.kill()

    async def start(self) -> Gateway:
        """Start a gateway; it is ready. Any other end fails the campaign."""
        gateway = await self.begin()
        assert await gateway.log.wait("ready"), f"the gateway ended by itself: {list(gateway.log.lines)}"
        return gateway

    def _note(self, line: Line) -> None:
        event = str(line.get("event"))
        if event == "ready":
            self.back()
        if event in ALARMS:
            self.alarms[event] += 1
        self._logs.out.write(f"{self.gateway.pid} {line}\n")

    @asynccontextmanager
    async def load(self, menu: Menu) -> AsyncIterator[Callers]:
        """Callers that order for as long as the context lasts, and then until each has its answer."""
        chance = random.Random(self.plan.seed + 1)
        self.callers = Callers(lambda: self.port, chance, menu)
        running = asyncio.create_task(self.callers.run(self.plan.callers))
        try:
            yield self.callers
            self.callers.close()
            async with asyncio.timeout(END_WITHIN_SECONDS):
                await running
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def judged(self) -> Verdict:
        """Wait for the end of every video, and judge."""
        self._logs.out.flush()
        evidence = await collect(self.url, self.vendor_url, self.callers.orders, END_WITHIN_SECONDS)
        verdict = check(msgspec.structs.replace(evidence, absences=self.absences))
        alarms = [f"log: {count} times {name}" for name, count in self.alarms.items()]
        self._logs.err.seek(0)
        lines = self._logs.err.read().splitlines()
        # What goes there, past the log, is what nobody thought of.
        said = [f"stderr: {len(lines)} lines, the last: {lines[-1]}"] if lines else []
        return msgspec.structs.replace(verdict, violations=[*verdict.violations, *alarms, *said])

    async def metrics(self, client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample of /metrics by its name and labels. Raises Unanswered."""
        text = (await client.call("GET", "/metrics")).body.decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples
        }

    async def first_poll(self, gateway: Gateway) -> float | None:
        """When a gateway had its first answer to a poll, on `time.monotonic`; None if it ended before."""
        client = Client(self.port, keeps=True)
        try:
            while not gateway.code.done():
                with suppress(Unanswered):
                    found = await self.metrics(client)
                    if any(value for (name, _), value in found.items() if name == "reelgate_polls_total"):
                        return time.monotonic()
                await asyncio.sleep(0.02)
            return None
        finally:
            client.close()

    async def close(self) -> None:
        """End whatever still runs."""
        await self.gateway.kill()
        if self._readings:
            await asyncio.wait(self._readings)


@asynccontextmanager
async def staged(plan: Plan, render_seconds: float = 0.4) -> AsyncIterator[Stage]:
    """A stage for as long as the context lasts; no gateway runs yet."""
    settings = SandboxSettings(
        port=0, key=KEY, render_seconds=render_seconds, render_spread=0.6, seed=plan.seed, draw_words=False,
    )
    out, err = (plan.folder / f"gateways.{name}" for name in ("log", "stderr"))
    with (
        socket.socket() as reserved, out.open("w", encoding="utf-8") as log,
        err.open("a+", encoding="utf-8") as said,
    ):
        # Bound but never listened on: nobody else gets the port, and every gateway of this stage may bind it.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((HOST, 0))
        async with vendors(settings, plan.folder / ASKS) as vendor_url, launcher(said) as starter:
            stage = Stage(plan, reserved.getsockname()[1], vendor_url, starter, Logs(log, said))
            _configure(stage)
            try:
                yield stage
            finally:
                await stage.close()


def _configure(stage: Stage) -> None:
    parts = [_SERVER.format(host=HOST, port=stage.port)]
    for name, adapter, slug, on_unknown in _PROVIDERS:
        parts.append(_PROVIDER.format(
            name=name, adapter=adapter, vendors=stage.vendor_url, slug=slug, on_unknown=on_unknown,
            submit=SUBMIT_TIMEOUT_SECONDS, unknown=UNKNOWN_TIMEOUT_SECONDS,
        ))
    stage.config.write_text("".join(parts), "utf-8")


@asynccontextmanager
async def vendors(settings: SandboxSettings, asks: Path) -> AsyncIterator[str]:
    """The simulators' process; its URL. Every call is noted in the file `asks`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.campaigns.vendor", msgspec.json.encode(settings).decode(), str(asks),
        stdin=PIPE, stdout=PIPE, cwd=ROOT, env=os.environ,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_WITHIN_SECONDS):
            url = (await process.stdout.readline()).decode().strip()
        assert url, "the vendors did not start"
        yield url
    finally:
        process.stdin.close()
        await process.wait()


async def vendor_get(stage: Stage, path: str) -> Any:  # noqa: ANN401 - bytes enter here
    """What the simulators' own routes say."""
    async with httpx.AsyncClient(base_url=stage.vendor_url, trust_env=False) as client:
        return (await client.get(path)).raise_for_status().json()
