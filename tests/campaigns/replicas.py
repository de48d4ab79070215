"""Replicas on a real PostgreSQL through kills, pauses, cuts, restarts and lost commits.

Two of them for the first half, then a third joins. Held here: what happens, how long, and how much of it at
once. Not held here: the promises (`history` for callers and money, `ownership` for replicas), the processes
(`crew`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import asyncpg
import msgspec

from tests.campaigns.cable import CUTS, LOSSES
from tests.campaigns.callers import Menu
from tests.campaigns.crew import LIMITS, Crew, Replica, manned
from tests.campaigns.ownership import Sightings, Still, broken, takeovers, tightest
from tests.campaigns.report import Report, reported, times
from tests.campaigns.stage import Plan
from tests.serving import free_port

EXIT_WITHIN_SECONDS: Final = 25.0
_LOST_WITHIN_SECONDS: Final = 5.0  # a COMMIT comes along at least with each beat
_CROWDED_SHARE: Final = 0.25  # of the disturbances may leave nobody undisturbed
# Twelve at a time, in a random order: each kind of disturbance is in every dozen.
_DOZEN: Final = (*["kill"] * 3, *["pause"] * 2, *["cut"] * 2, *["commit"] * 2, "term", "terminate", "restart")
MENU: Final = Menu(deadline=15, twice=0.1, faults=(
    ("late seconds=0.1", 0.2), ("rate_limited times=1", 0.02), ("capacity times=2", 0.02),
    ("reset_after_accept", 0.01), ("server_error_after_accept", 0.01), ("failed", 0.02), ("policy", 0.02),
))


class Pace(msgspec.Struct, frozen=True):
    """How long each lasts at most, and how long it is between two beginnings; in seconds."""

    still: tuple[float, float] = (0.2, 12.0)
    cut: tuple[float, float] = (0.2, 15.0)
    dead: tuple[float, float] = (0.0, 10.0)
    down: tuple[float, float] = (0.0, 3.0)
    between: tuple[float, float] = (0.5, 4.0)


SHORT: Final = Pace(still=(0.2, 8.0), cut=(0.2, 8.0), dead=(0.0, 3.0), down=(0.0, 1.0), between=(0.1, 1.5))


class _Campaign:
    """A campaign under way."""

    def __init__(self, crew: Crew, pace: Pace) -> None:
        self.crew, self.pace, self.chance = crew, pace, crew.chance
        self.done: Counter[str] = Counter()
        self._free = asyncio.Event()
        self._database = asyncio.Lock()  # one thing at a time is done to it

    async def run(self, count: int, third: Replica) -> None:
        """So many disturbances; a third replica joins amid them. Everything runs again at the end."""
        crew = self.crew
        kinds: list[str] = []
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                if number == count // 2:
                    await crew.start(third)
                    crew.replicas.append(third)
                if not kinds:
                    kinds = self.chance.sample(_DOZEN, len(_DOZEN))
                kind = kinds.pop()
                await asyncio.sleep(self.chance.uniform(*self.pace.between))
                if kind in _TO_THE_DATABASE:
                    group.create_task(self._to_the_database(kind))
                else:
                    group.create_task(self._to_one(kind, await self._chosen()))
                if (number + 1) % 10 == 0 or number + 1 == count:
                    crew.plan.say(f"{number + 1:5} of {count} disturbed, {len(crew.callers.orders)} ordered")

    async def _chosen(self) -> Replica:
        """A replica that is left alone just now; mostly another one is, too. It is disturbed from here on."""
        spare = 0 if self.chance.random() < _CROWDED_SHARE else 1
        while True:
            calm = [one for one in self.crew.replicas if not one.is_disturbed]
            if len(calm) > spare:
                chosen = self.chance.choice(calm)
                chosen.is_disturbed = True
                return chosen
            self._free.clear()
            await self._free.wait()

    async def _to_one(self, kind: str, replica: Replica) -> None:
        with self.crew.disturbing(replica):
            await _TO_ONE[kind](self, replica)
        self.done[kind] += 1
        self._free.set()

    async def _to_the_database(self, kind: str) -> None:
        async with self._database:
            await _TO_THE_DATABASE[kind](self)
        self.done[kind] += 1

    # --- one replica --------------------------------------------------------------------------------

    async def kill(self, replica: Replica) -> None:
        """`kill -9`, and another process after a while, there or elsewhere."""
        self.crew.kill(replica)
        await replica.gateway.ended()
        await self._begin_again(replica)

    async def term(self, replica: Replica) -> None:
        """SIGTERM: it ends in order, and another begins."""
        asked_at = time.monotonic()
        replica.gateway.signal(signal.SIGTERM)
        code = await replica.gateway.ended()
        took = time.monotonic() - asked_at
        if code != 0 or took > EXIT_WITHIN_SECONDS:
            self.crew.problems.append(f"SIGTERM: exit code {code} after {took:.1f} s")
        await self._begin_again(replica)

    async def _begin_again(self, replica: Replica) -> None:
        await asyncio.sleep(self.chance.uniform(*self.pace.dead))
        if self.chance.random() < 0.5:
            replica.port = free_port()
        await self.crew.start(replica)

    async def pause(self, replica: Replica) -> None:
        """SIGSTOP, and SIGCONT before or after its lease has ended."""
        replica.gateway.signal(signal.SIGSTOP)
        began = time.time()
        await asyncio.sleep(self.chance.uniform(*self.pace.still))
        self.crew.stills.append(Still(replica.asks_at, began, time.time()))
        replica.gateway.signal(signal.SIGCONT)

    async def cut(self, replica: Replica) -> None:
        """No way to the database for a while, though the vendors are there."""
        how = self.chance.choice(CUTS)
        replica.cable.cut(how)
        await asyncio.sleep(self.chance.uniform(*self.pace.cut))
        replica.cable.heal()
        self.done[f"cut: {how}"] += 1

    async def commit(self, replica: Replica) -> None:
        """The answer to one COMMIT never comes."""
        how = self.chance.choice(LOSSES)
        replica.cable.lose(how)
        try:
            async with asyncio.timeout(_LOST_WITHIN_SECONDS):
                await replica.cable.lost.wait()
            self.done[f"commit: {how}"] += 1
        except TimeoutError:
            replica.cable.lose(None)  # the database was away

    # --- the database -------------------------------------------------------------------------------

    async def restart(self) -> None:
        """The server stops, in order or as in a crash, and starts again."""
        crew = self.crew
        with crew.disturbing(None):
            crew.is_down, began = True, time.time()
            await crew.ask_server("stop", self.chance.choice((signal.SIGINT, signal.SIGQUIT)))
            await asyncio.sleep(self.chance.uniform(*self.pace.down))
            await crew.ask_server("start")
            crew.is_down = False
            crew.downs.append((began, time.time()))

    async def terminate(self) -> None:
        """Some of the replicas' connections are ended by the server."""
        with self.crew.disturbing(None):
            connection = await asyncpg.connect(self.crew.server.url())
            await connection.execute("""select pg_terminate_backend(pid) from pg_stat_activity
                where application_name = 'reelgate' and random() < 0.7""")
            await connection.close()
            self.crew.jolts.append(time.time())


_TO_ONE: Final[Mapping[str, Callable[[_Campaign, Replica], Awaitable[None]]]] = {
    "kill": _Campaign.kill, "term": _Campaign.term, "pause": _Campaign.pause, "cut": _Campaign.cut,
    "commit": _Campaign.commit,
}
_TO_THE_DATABASE: Final[Mapping[str, Callable[[_Campaign], Awaitable[None]]]] = {
    "restart": _Campaign.restart, "terminate": _Campaign.terminate,
}


async def replicas(plan: Plan, count: int, pace: Pace | None = None) -> Report:
    """Disturb two and then three replicas `count` times and judge the whole history."""
    began = time.monotonic()
    async with manned(plan, 3) as (crew, stderr):
        running, third = _Campaign(crew, pace or Pace()), crew.replicas.pop()
        await asyncio.gather(*map(crew.start, crew.replicas))
        async with crew.load(MENU):
            await running.run(count, third)
        verdict, seen = await crew.judged(stderr)
        (plan.folder / "sightings.json").write_bytes(msgspec.json.encode(seen))
        found = [*crew.problems, *broken(seen)]
        rows = _rows(crew, running, seen)
        spans = [(limit, tightest(seen, limit)) for limit in LIMITS if limit.per_minute]
        rows += [(f"{limit.per_minute + 1} submits to {limit.vendor}", f"never within {span:.2f} s")
                 for limit, span in spans if span is not None and limit.per_minute]
        rows.append(("seconds", f"{time.monotonic() - began:.0f}"))
        return reported("replicas", crew, rows, verdict, found)


def _rows(crew: Crew, running: _Campaign, seen: Sightings) -> list[tuple[str, str]]:
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(running.done.items()))
    buried = sum(burial.found_still(seen.stills) for burial in seen.burials)
    return [
        ("disturbed", kinds), ("last beat to a poll", times(takeovers(seen))),
        ("  with others in trouble", times(takeovers(seen, all_deaths=True))),
        ("paused, and declared dead", f"{buried} of {len(seen.stills)}"),
        ("takeovers told", str(len(crew.claims))), ("starts without database", str(crew.vain_starts)),
    ]
