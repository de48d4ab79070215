"""The stage of the replicas' campaign: several gateways on one PostgreSQL, each behind a cable of its own.

Every process gets a port of its own at the vendors, so that they know who asks. Held here: starting and
ending processes and the database, who is disturbed just now, what there is to see at the end. Not held here:
what is done to them, and when (`replicas`).
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TextIO

import asyncpg
import httpx
import msgspec

from gateway.core.lease import LEASE_SECONDS
from gateway.engine.replica import BEAT_SECONDS
from gateway.sandbox.server import SandboxSettings
from tests.campaigns.cable import Cable
from tests.campaigns.callers import Callers, Menu
from tests.campaigns.evidence import collect
from tests.campaigns.history import Evidence, Verdict, check
from tests.campaigns.ownership import TAKEOVER_SECONDS, Burial, Claim, Death, Limit, Sightings, Still
from tests.campaigns.stage import ASKS, END_WITHIN_SECONDS, Plan, vendors
from tests.campaigns.vendor import read_asks
from tests.kill.points import Points
from tests.kill.process import KEY, Gateway, Launcher, Line, launcher
from tests.postgres import Server
from tests.serving import free_port

SUBMIT_TIMEOUT_SECONDS: Final = 2.0
CROWD: Final = 3  # times the callers of one gateway: some always wait for a replica that is cut off
LIMITS: Final = (Limit("highwayapi", 6, 120), Limit("myrouter", 20, None), Limit("unified", 10, 300))
# What a replica may never have to say, unless the reason is the database: that does fail.
ALARMS: Final = frozenset({"invariant_violation", "step_failed", "request_failed"})
EXCUSED: Final = frozenset({"StorageError", "StorageBusy", "StorageShort"})
_ON_UNKNOWN: Final = {"highwayapi": "hold", "myrouter": "resubmit", "unified": "fail"}
_SLUGS: Final = {"unified": "kling-v3-text-to-video"}
CALM_SECONDS: Final = 2.5  # who takes over must be left alone for so long after a lease has ended
_RETRY_SECONDS: Final = 0.3  # between tries to start while there is no database
_SERVER: Final = """\
[server]
listen = "127.0.0.1:{port}"
[auth]
mode = "off"
[store]
url = "postgresql://postgres@127.0.0.1:{database}/postgres"
[files]
url = "off"
[log]
format = "json"
[routing]
deadline = "60s"
strategy = "weighted"
"""
_PROVIDER: Final = """\
[providers.{vendor}]
adapter = "{vendor}"
base_url = "http://127.0.0.1:{port}/{vendor}"
api_key = {{ env = "REELGATE_SANDBOX_KEY" }}
offerings = ["{slug}"]
prices = {{ "{slug}" = {{ resolution = "720p", audio = false, per_second = "0.084" }} }}
on_unknown = "{on_unknown}"
{limits}
poll_min = "50ms"
poll_max = "250ms"
submit_timeout = "{submit}s"
unknown_timeout = "1s"
"""


class Replica:
    """One place in the crew and the process that fills it. `asks_at`: that process's port at the vendors."""

    def __init__(self, number: int, folder: Path, cable: Cable, starter: Launcher) -> None:
        self.config = folder / f"replica-{number}.toml"
        self.number, self.cable, self.starter = number, cable, starter
        self.port, self.asks_at = free_port(), 0
        self.is_disturbed = False
        self.gateway: Gateway

    @property
    def place(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"


class Crew:
    """The replicas, the database, the vendors, and who orders. `server` is PostgreSQL."""

    def __init__(self, plan: Plan, vendor_url: str, server: Server, log: TextIO) -> None:
        self.plan, self.vendor_url, self.server = plan, vendor_url, server
        self.chance = random.Random(plan.seed)
        self.excused = frozenset({503})  # there is no database now and then
        self.callers: Callers
        self.replicas: list[Replica] = []
        self.alarms: Counter[str] = Counter()
        self.problems: list[str] = []
        self.vain_starts = 0  # there was no database
        self.is_down = False  # the database
        self.downs: list[tuple[float, float]] = []
        self.jolts: list[float] = []  # when connections were ended
        self.disturbances: list[tuple[float, float, int | None]] = []  # from, to, which replica; None: all
        self.stills: list[Still] = []
        self.deaths: list[tuple[int, int, float, str]] = []  # who, its port at the vendors, when, place
        self.begun: list[tuple[int, str, float]] = []  # each process: its port at the vendors, place, when
        self.joined: dict[int, float] = {}  # when each replica was first ready
        self.claims: list[Claim] = []
        self._log = log
        # One thread for the server's life: the server is told to end when the thread that started it ends.
        self._thread = ThreadPoolExecutor(1)

    # --- processes ----------------------------------------------------------------------------------

    async def start(self, replica: Replica) -> None:
        """Start a process there; it is ready. Where there is no database it is tried again."""
        while True:
            replica.asks_at = await self._port_at_vendors()
            replica.config.write_text(self._configuration(replica), "utf-8")
            note = partial(self._note, replica.asks_at)
            self.begun.append((replica.asks_at, replica.place, time.time()))
            replica.gateway = await replica.starter.begin(replica.config, Points(), note)
            began = time.time()
            if await replica.gateway.log.wait("ready"):
                self.joined.setdefault(replica.number, time.time())
                return
            if not self._was_down(began):
                said = list(replica.gateway.log.lines)[-3:]
                self.problems.append(f"start: a replica ended by itself: {said}")
            self.vain_starts += 1
            await asyncio.sleep(_RETRY_SECONDS)

    def kill(self, replica: Replica) -> None:
        """`kill -9`."""
        self.deaths.append((replica.number, replica.asks_at, time.time(), replica.place))
        replica.gateway.signal(signal.SIGKILL)

    async def ask_server(self, what: str, *arguments: object) -> None:
        """Have the database server do something slow, beside the loop."""
        work = partial(getattr(self.server, what), *arguments)
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @contextmanager
    def disturbing(self, replica: Replica | None) -> Iterator[None]:
        """For as long as the context lasts something is wrong there; None: with the database."""
        began = time.time()
        if replica is not None:
            replica.is_disturbed = True
        try:
            yield
        finally:
            self.disturbances.append((began, time.time(), None if replica is None else replica.number))
            if replica is not None:
                replica.is_disturbed = False

    def _was_down(self, since: float) -> bool:
        ends = [ended for _, ended in self.downs]
        return self.is_down or any(at >= since - 1.0 for at in (*ends, *self.jolts))

    async def _port_at_vendors(self) -> int:
        async with httpx.AsyncClient(base_url=self.vendor_url, trust_env=False) as client:
            answer = await client.post("/admin/ports", json={"fault": "none"})
            return int(answer.raise_for_status().json()["port"])

    def _configuration(self, replica: Replica) -> str:
        parts = [_SERVER.format(port=replica.port, database=replica.cable.port)]
        for limit in LIMITS:
            lines = [f"max_in_flight = {limit.max_in_flight}"]
            lines += [f"requests_per_minute = {limit.per_minute}"] if limit.per_minute else []
            parts.append(_PROVIDER.format(
                vendor=limit.vendor, port=replica.asks_at, limits="\n".join(lines),
                slug=_SLUGS.get(limit.vendor, "kling-v3.0-std-t2v"), on_unknown=_ON_UNKNOWN[limit.vendor],
                submit=SUBMIT_TIMEOUT_SECONDS,
            ))
        return "".join(parts)

    def _note(self, asks_at: int, line: Line) -> None:
        event = str(line.get("event"))
        if event in ALARMS and line.get("error") not in EXCUSED:
            self.alarms[event] += 1
        if event == "took_over":
            self.claims.append(Claim(asks_at, time.time()))
        self._log.write(f"{time.time():.3f} {asks_at} {line}\n")

    # --- callers, and the end -----------------------------------------------------------------------

    def door(self) -> int:
        """The port of any replica, whether it is there or not."""
        return self.chance.choice(self.replicas).port

    @asynccontextmanager
    async def load(self, menu: Menu) -> AsyncIterator[Callers]:
        """Callers that order for as long as the context lasts, and then until each has its answer."""
        self.callers = Callers(self.door, random.Random(self.plan.seed + 1), menu)
        running = asyncio.create_task(self.callers.run(CROWD * self.plan.callers))
        try:
            yield self.callers
            self.callers.close()
            async with asyncio.timeout(END_WITHIN_SECONDS):
                await running
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def judged(self, stderr: TextIO) -> tuple[Verdict, Sightings]:
        """Wait for the end of every video; the history's verdict, and what there is to see of ownership."""
        url = f"http://127.0.0.1:{self.replicas[0].port}"
        evidence = await collect(url, self.vendor_url, self.callers.orders, END_WITHIN_SECONDS)
        verdict = check(msgspec.structs.replace(evidence, absences=self._absences()))
        alarms = [f"log: {count} times {name}" for name, count in self.alarms.items()]
        stderr.seek(0)
        lines = stderr.read().splitlines()
        said = [f"stderr: {len(lines)} lines, the last: {lines[-1]}"] if lines else []
        found = [*verdict.violations, *alarms, *said]
        return msgspec.structs.replace(verdict, violations=found), await self._sightings(evidence)

    def _absences(self) -> list[tuple[float, float]]:
        """When some of the videos may have had nobody: during a disturbance and until others took over."""
        merged: list[tuple[float, float]] = []
        for began, ended, _ in sorted(self.disturbances, key=lambda one: one[0]):
            if merged and began <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], ended + TAKEOVER_SECONDS))
            else:
                merged.append((began, ended + TAKEOVER_SECONDS))
        return merged

    async def _sightings(self, evidence: Evidence) -> Sightings:
        prompts = {video["id"]: video["prompt"] for video in evidence.videos}
        rows = await self._names()
        return Sightings(
            asks=read_asks(self.plan.folder / ASKS), ledger=evidence.ledger, stills=self.stills,
            timelines={prompts[video_id]: events for video_id, events in evidence.timelines.items()},
            burials=self._burials(rows), deaths=self._deaths(rows), claims=self.claims, limits=LIMITS,
        )

    async def _names(self) -> list[asyncpg.Record]:
        """The names that processes had, as the database knows them, oldest first."""
        connection = await asyncpg.connect(self.server.url())
        rows = await connection.fetch(
            "select place, started_at, beat_at, ended_at from replicas order by started_at"
        )
        await connection.close()
        return rows

    def _burials(self, rows: Sequence[asyncpg.Record]) -> list[Burial]:
        """When each name ended, and whose it was."""
        found = []
        for row in rows:
            had = [port for port, place, began in self.begun
                   if row["place"].endswith(place) and began <= row["started_at"]]
            if had and row["ended_at"] is not None:
                found.append(Burial(had[-1], row["ended_at"]))
        return found

    def _deaths(self, rows: Sequence[asyncpg.Record]) -> list[Death]:
        """Each kill with its last beat, as the database knows it."""
        found = []
        for who, port, at, place in self.deaths:
            beats = [row["beat_at"] for row in rows
                     if row["place"].endswith(place) and row["started_at"] <= at]
            beat_at = min(at, beats[-1]) if beats else at
            # One that was cut off before had not beaten for a while.
            is_clear = at - beat_at <= 2 * BEAT_SECONDS and self._is_clear(who, at)
            found.append(Death(port, at, beat_at, is_clear))
        return found

    def _is_clear(self, dead: int, at: float) -> bool:
        """Whether somebody else was left alone when the lease of a dead one ended, and the database too."""
        if any(began < at + TAKEOVER_SECONDS and at < ended + 1.0 for began, ended in self.downs):
            return False
        begins, ends = at + LEASE_SECONDS - 1.0, at + LEASE_SECONDS + CALM_SECONDS
        troubled = {who for began, ended, who in self.disturbances
                    if began < ends and begins < ended + 1.0 and who is not None}
        there = {who for who, joined in self.joined.items() if joined < at and who != dead}
        return bool(there - troubled)


@asynccontextmanager
async def manned(plan: Plan, most: int) -> AsyncIterator[tuple[Crew, TextIO]]:
    """A crew of `most` places of which none is filled yet, and what is said on stderr in it."""
    settings = SandboxSettings(
        port=0, key=KEY, render_seconds=0.6, render_spread=0.8, seed=plan.seed, draw_words=False,
    )
    server = Server()
    async with AsyncExitStack() as stack:
        stack.callback(server.close)
        log = stack.enter_context((plan.folder / "gateways.log").open("w", encoding="utf-8"))
        stderr = stack.enter_context((plan.folder / "gateways.stderr").open("a+", encoding="utf-8"))
        vendor_url = await stack.enter_async_context(vendors(settings, plan.folder / ASKS))
        crew = Crew(plan, vendor_url, server, log)
        await crew.ask_server("start")
        for number in range(most):
            cable = await stack.enter_async_context(Cable(server.port).laid())
            starter = await stack.enter_async_context(launcher(stderr))
            crew.replicas.append(Replica(number, plan.folder, cable, starter))
        yield crew, stderr
