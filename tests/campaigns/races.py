"""A race for caps over three real replicas on one PostgreSQL, one of which dies amid it and comes back.

Held here: the processes, their configuration, and the course of the race. Not held here: who orders
(`racing`), whether a cap was kept to (`watched_purses`), the same in memory (`simulated_races`).
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Final, TextIO

import asyncpg
import httpx
from msgspec.structs import asdict, replace

from gateway.api.auth import make_key
from gateway.core.grants import Grant
from gateway.sandbox.server import SandboxSettings
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.store import Store
from tests import postgres
from tests.campaigns.purses import Caller, callers
from tests.campaigns.racing import CHEAPEST_SECONDS, Crowd, Racer
from tests.campaigns.report import Ended, told
from tests.campaigns.stage import ALARMS, ASKS, Plan, vendors
from tests.campaigns.watched_purses import KEEP, Watch, entries_of
from tests.kill.points import Points
from tests.kill.process import KEY, Gateway, Launcher, Line, launcher
from tests.serving import free_port

REPLICAS: Final = 3
CROWD: Final = 20  # callers at once, for each of the plan's
QUIET_WITHIN_SECONDS: Final = 90.0
PER_SECOND: Final = Decimal("0.084")
DEAD_SECONDS: Final = 1.0
_SERVER: Final = """\
[server]
listen = "127.0.0.1:{port}"
[auth]
mode = "keys"
[store]
url = "{store}"
[files]
url = "off"
[log]
format = "json"
[routing]
deadline = "60s"
strategy = "weighted"
rerun_failed = 1
"""
_PROVIDER: Final = """\
[providers.{vendor}]
adapter = "{vendor}"
base_url = "{vendors}/{vendor}"
api_key = {{ env = "REELGATE_SANDBOX_KEY" }}
offerings = ["kling-v3.0-std-t2v"]
prices = {{ "kling-v3.0-std-t2v" = {{ resolution = "720p", audio = false, per_second = "{price}" }} }}
on_unknown = "{on_unknown}"
failed_is_charged = "{charged}"
poll_min = "50ms"
poll_max = "250ms"
submit_timeout = "2s"
unknown_timeout = "1s"
{limits}
"""
# The vendors charge a failed render; one provider is said to, and of the other nobody knows.
_PROVIDERS: Final = (
    ("highwayapi", "hold", "yes", ""), ("myrouter", "resubmit", "unknown", "max_in_flight = 20"),
)


class _Replica:
    """One place, and the process that fills it."""

    def __init__(self, place: int, plan: Plan, starter: Launcher, log: TextIO) -> None:
        self.config = plan.folder / f"replica-{place}.toml"
        self.port, self.alarms = free_port(), Counter[str]()
        self._starter, self._log = starter, log
        self.gateway: Gateway

    async def start(self) -> None:
        """Start a process; it is ready."""
        self.gateway = await self._starter.begin(self.config, Points(), self._note)
        is_ready = await self.gateway.log.wait("ready")
        assert is_ready, f"it ended by itself: {list(self.gateway.log.lines)[-3:]}"

    def _note(self, line: Line) -> None:
        event = str(line.get("event"))
        self.alarms[event] += event in ALARMS
        self._log.write(f"{time.time():.3f} {self.port} {line}\n")


def _configuration(port: int, url: str, vendor_url: str, who: Sequence[Caller]) -> str:
    parts = [_SERVER.format(port=port, store=url)]
    teams = {one.owner.removeprefix("team:"): one.grant.team_limits for one in who if one.owner != one.key_id}
    for name, limits in teams.items():
        wanted = {key: value for key, value in asdict(limits).items() if value is not None}
        lines = [f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"'
                 for key, value in wanted.items()]
        parts.append("\n".join((f"[teams.{name}]", *lines, "")))
    for vendor, on_unknown, charged, limits_of_it in _PROVIDERS:
        parts.append(_PROVIDER.format(
            vendor=vendor, vendors=vendor_url, price=PER_SECOND, on_unknown=on_unknown, charged=charged,
            limits=limits_of_it,
        ))
    return "".join(parts)


async def _keys(url: str, who: Sequence[Caller]) -> list[Racer]:
    """The schema, these callers' keys, and the copy of every entry."""
    database = PostgresDatabase(url)
    await database.migrate()
    racers = []
    for caller in who:
        row, secret = make_key(caller.key_id, "caller", time.time())
        team = caller.owner.removeprefix("team:") if caller.owner != caller.key_id else None
        row = replace(row, team=team, grant=Grant(limits=caller.grant.limits))
        await Store(database).keys.add(row)
        owner = row.id if team is None else caller.owner
        racers.append(Racer(replace(caller, key_id=row.id, owner=owner), secret))
    await database.close()
    connection = await asyncpg.connect(url)
    await connection.execute(KEEP)
    await connection.close()
    return racers


@asynccontextmanager
async def _serving(
    plan: Plan, url: str, vendor_url: str, who: Sequence[Caller]
) -> AsyncIterator[tuple[list[_Replica], TextIO]]:
    async with AsyncExitStack() as stack:
        log = stack.enter_context((plan.folder / "gateways.log").open("w", encoding="utf-8"))
        stderr = stack.enter_context((plan.folder / "gateways.stderr").open("a+", encoding="utf-8"))
        replicas = []
        for place in range(REPLICAS):
            starter = await stack.enter_async_context(launcher(stderr))
            replica = _Replica(place, plan, starter, log)
            replica.config.write_text(_configuration(replica.port, url, vendor_url, who), "utf-8")
            replicas.append(replica)
        await asyncio.gather(*(replica.start() for replica in replicas))
        yield replicas, stderr


async def races(plan: Plan, size: int) -> Ended:
    """Race with `size` creates and more until every cap is spent; tell what came of it."""
    settings = SandboxSettings(
        port=0, key=KEY, render_seconds=0.4, render_spread=0.6, seed=plan.seed, draw_words=False,
    )
    who = [one for one in callers(round(2.5 * size)) if one.currency == "USD"]
    chance = random.Random(plan.seed)
    async with (
        postgres.database(is_empty=True) as url, vendors(settings, plan.folder / ASKS) as vendor_url,
    ):
        racers = await _keys(url, who)
        mine = [racer.caller for racer in racers]
        async with _serving(plan, url, vendor_url, mine) as (replicas, stderr):
            crowd = Crowd(racers, lambda: chance.choice(replicas).port, chance)
            watch = Watch(url, mine)
            looking = asyncio.create_task(watch.look())
            seconds = await _course(plan, crowd, watch, replicas, size)
            looking.cancel()
            await asyncio.wait([looking])
            if not looking.cancelled():
                looking.result()
            async with httpx.AsyncClient(base_url=vendor_url, trust_env=False, timeout=60) as client:
                books = (await client.get("/admin/ledger")).raise_for_status().json()["entries"]
            sums = await watch.close(entries_of(books), PER_SECOND * CHEAPEST_SECONDS)
            stderr.seek(0)
            said = stderr.read().splitlines()
    problems = [*crowd.problems, *watch.problems]
    if len(crowd.accepted) != sums["videos"]:
        problems.append(f"{len(crowd.accepted)} were accepted, and {sums['videos']} are stored")
    problems += [f"log: {count} times {name}" for replica in replicas
                 for name, count in replica.alarms.items() if count]
    problems += [f"stderr: {len(said)} lines, the last: {said[-1]}"] if said else []
    statuses = ", ".join(f"{status} {count}" for status, count in sorted(crowd.statuses.items()))
    return told([
        ("campaign", f"races, seed {plan.seed}, {CROWD * plan.callers} callers at {REPLICAS} replicas"),
        ("creates", f"{crowd.sent}, of them accepted {sums['videos']}"), ("answers", statuses),
        ("looks at all accounts", str(watch.looks)), ("over a cap", str(watch.over)),
        ("settled, still reserved", f"{sums['settled']}, {sums['reserved']} USD"),
        ("charged by vendors", f"{sums['charged']} USD; in doubt are {sums['doubts']} videos"),
        ("seconds", f"{seconds:.0f}, {crowd.sent / seconds:.0f} creates/s"),
    ], problems)


async def _course(
    plan: Plan, crowd: Crowd, watch: Watch, replicas: Sequence[_Replica], size: int
) -> float:
    """The race, a death amid it, and the spending of what is left; the seconds that creates were sent for."""
    deaths: list[asyncio.Task[None]] = []

    async def die(replica: _Replica) -> None:
        replica.gateway.signal(signal.SIGKILL)
        await replica.gateway.ended()
        await asyncio.sleep(DEAD_SECONDS)
        await replica.start()

    def on_half() -> None:
        deaths.append(asyncio.create_task(die(replicas[-1])))

    began = time.monotonic()
    await crowd.race(size, CROWD * plan.callers, on_half)
    seconds = time.monotonic() - began
    plan.say(f"{size} ordered in {seconds:.0f} s")
    await asyncio.gather(*deaths)
    async with asyncio.timeout(QUIET_WITHIN_SECONDS):
        await watch.quiet()
    plan.say("all have ended; what is left is spent")
    began = time.monotonic()
    await crowd.fill(CROWD)
    seconds += time.monotonic() - began
    async with asyncio.timeout(QUIET_WITHIN_SECONDS):
        await watch.quiet()
    return seconds
