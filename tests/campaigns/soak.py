"""A long steady load with every fault of the vendors at a low rate, and a gateway that is not left in peace.

Held here: which faults, when it is restarted, killed or stopped, and an operator who resumes what was paused.
Not held here: the promises (`history`), what counts as a leak (`watch`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final

from tests.campaigns.callers import Menu
from tests.campaigns.report import Report, reported
from tests.campaigns.restarts import restart
from tests.campaigns.stage import SUBMIT_TIMEOUT_SECONDS, Plan, Stage, staged, vendor_get
from tests.campaigns.watch import Sample, lags, leaks, look
from tests.campaigns.wire import Client, Unanswered

SAMPLE_SECONDS: Final = 5.0
SHORT_MINUTES: Final = 2.0  # below, nothing is ordered that takes long
DISTURBANCES: Final = ("restart", "kill", "still")
FAULTS_SHARE: Final = 0.15
_DISTURBED: Final = 12  # times in a run, however long it is
_DEADLINE_SECONDS: Final = {True: 5, False: 30}  # of a faulty order, by whether the run is short
# Not ordered: an id of another job is a lie that nobody can see through; the others keep a vendor away for
# longer than a run.
_LEFT_OUT: Final = frozenset({"id_duplicate", "retry_after_years", "maintenance_window"})
_SLOW: Final = frozenset({"hang", "drip", "endless_headers"})  # a poll takes the door's whole patience
_ARGUMENTS: Final = {
    "late": "seconds=0.5", "huge_body": "bytes=8000000", "gzip_bomb": "bytes=5000000",
    "drip": "seconds=0.05", "many_headers": "count=10000",
}


class _Soak:
    """A soak under way."""

    def __init__(self, stage: Stage, seconds: float) -> None:
        self.stage = stage
        self._ends_at = time.monotonic() + seconds
        self.samples: list[Sample] = []
        self.disturbances: Counter[str] = Counter()
        self.problems: list[str] = []
        self._stills = [0, 0]  # how often it had been stopped or continued when each look began
        self._turns = 0

    async def disturb(self, every_seconds: float) -> None:
        """Restart, kill or stop the gateway now and then."""
        while await self._slept(self.stage.chance.uniform(0.5, 1.5) * every_seconds):
            kind = DISTURBANCES[self.disturbances.total() % len(DISTURBANCES)]
            self.disturbances[kind] += 1
            if kind == "restart":
                stop = await restart(self.stage)
                self.problems += [f"restart: exit code {stop.code}"] if stop.code else []
            elif kind == "kill":
                await self.stage.kill()
                await self.stage.start()
            else:
                self._turns += 1
                self.stage.away()
                self.stage.gateway.signal(signal.SIGSTOP)
                await asyncio.sleep(SUBMIT_TIMEOUT_SECONDS * self.stage.chance.uniform(0.5, 2.0))
                self.stage.gateway.signal(signal.SIGCONT)
                self.stage.back()
                self._turns += 1

    async def observe(self, every_seconds: float) -> None:
        """Take a sample now and then, and resume what was paused."""
        client = Client(self.stage.port, keeps=False)
        while await self._slept(every_seconds):
            gateway = self.stage.gateway
            self._stills.append(self._turns)
            with suppress(Unanswered, OSError):  # it was ended meanwhile: there is nothing to see
                metrics = await self.stage.metrics(client)
                store = self.stage.config.with_name("reelgate.db")
                # What was late is told as late as one look after it went on.
                was_still = self._turns != self._stills[-3]
                self.samples.append(look(gateway.pid, store, metrics, was_still=was_still))
                await self._resume(client)
                self._say(self.samples[-1])

    async def _slept(self, seconds: float) -> bool:
        """Let time pass; whether there is still some left."""
        await asyncio.sleep(min(seconds, max(0.0, self._ends_at - time.monotonic())))
        return time.monotonic() < self._ends_at

    async def _resume(self, client: Client) -> None:
        """As an operator would who sees that a key or an account is fine again."""
        providers = (await client.call("GET", "/v1/providers")).json()["data"]
        for provider in providers:
            if provider["state"] == "paused":
                answer = await client.call("POST", f"/v1/providers/{provider['name']}/resume")
                if answer.status != 200:
                    self.problems.append(f"resume: {provider['name']} was answered {answer.status}")

    def _say(self, sample: Sample) -> None:
        callers = self.stage.callers
        self.stage.plan.say(
            f"{len(callers.orders):6} ordered, {sample.waiting:4} waiting, {sample.memory_mib:5.0f} MiB, "
            f"{sample.files:4} files, WAL {sample.wal_mib:4.1f} MiB, {self.disturbances.total()} disturbances"
        )


async def soak(plan: Plan, minutes: float) -> Report:
    """Run for `minutes`, then judge the whole history."""
    seconds, is_short = minutes * 60, minutes < SHORT_MINUTES
    began = time.monotonic()
    async with staged(plan) as stage:
        await stage.start()
        menu = menu_of((await vendor_get(stage, "/admin/faults"))["faults"], is_short=is_short)
        running = _Soak(stage, seconds)
        async with stage.load(menu), asyncio.TaskGroup() as group:
            group.create_task(running.observe(min(SAMPLE_SECONDS, seconds / 10)))
            group.create_task(running.disturb(max(2.0, seconds / _DISTURBED)))
        verdict = await stage.judged()
    rows = [*_rows(running), ("seconds", f"{time.monotonic() - began:.0f}")]
    return reported("soak", stage, rows, verdict, [*running.problems, *leaks(running.samples)])


def menu_of(faults: list[dict[str, Any]], *, is_short: bool) -> Menu:
    """Every fault that a prompt can choose for a submit or a poll, each once in a phase, at equal shares."""
    chosen: list[str] = []
    for fault in faults:
        name = fault["name"]
        if name in _LEFT_OUT or fault.get("armed_by") == "port":
            continue
        argument = f" {_ARGUMENTS[name]}" if name in _ARGUMENTS else ""
        # Without a number a fault strikes every submit, and nobody would ever get through.
        directives = {
            "submit": f"{name}{argument} phase=submit times=1", "poll": f"{name}{argument} phase=poll",
        }
        phases = directives.keys() & set(fault["phases"])
        if is_short and name in _SLOW:
            phases -= {"poll"}
        chosen += [directives[phase] for phase in phases]
    shares = tuple((directive, FAULTS_SHARE / len(chosen)) for directive in sorted(chosen))
    return Menu(faults=shares, deadline=_DEADLINE_SECONDS[is_short])


def _rows(running: _Soak) -> list[tuple[str, str]]:
    samples = running.samples
    kinds = ", ".join(f"{kind} {count}" for kind, count in running.disturbances.items())
    figures = {
        "memory MiB": [sample.memory_mib for sample in samples],
        "open files": [float(sample.files) for sample in samples],
        "WAL MiB": [sample.wal_mib for sample in samples],
        "waiting videos": [float(sample.waiting) for sample in samples],
        "poll lag p99 s, at most": lags(samples),
    }
    told = [
        (name, f"{min(values):.4g} to {max(values):.4g}" if values else "none")
        for name, values in figures.items()
    ]
    return [("disturbed", kinds), ("samples", str(len(samples))), *told]
