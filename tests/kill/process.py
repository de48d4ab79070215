"""Gateways as real processes: started by the launcher or by the command as typed, killed, and waited for.

Not held here: what is asked of them, and when they die.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.kill.points import Points

ROOT: Final = Path(__file__).parents[2]
KEY: Final = "sandbox-key"
_ENVIRONMENT: Final = os.environ | {"REELGATE_SANDBOX_KEY": KEY}
PATIENCE_SECONDS: Final = 60.0  # only a broken gateway takes that long


class Log:
    """What a gateway said on stdout: an event can be waited for, whether it has come already or not."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._came = asyncio.Condition()
        self._has_ended = False

    async def take(self, line: str) -> None:
        """Note one line of JSON."""
        async with self._came:
            self.lines.append(json.loads(line))
            self._came.notify_all()

    async def end(self) -> None:
        """Nothing more will come."""
        async with self._came:
            self._has_ended = True
            self._came.notify_all()

    def has(self, event: str) -> bool:
        """Whether that event was logged."""
        return any(line.get("event") == event for line in self.lines)

    async def wait(self, event: str) -> bool:
        """Wait for an event; False when the process ended without it."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._came:
            await self._came.wait_for(lambda: self.has(event) or self._has_ended)
        return self.has(event)


class Gateway:
    """One process: its log, the points it crosses, its exit code once it has one (negative: that signal)."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.log = Log()
        self.pid = 0
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; harmless when it has ended."""
        if self.pid and not self.code.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def ended(self) -> int:
        """Wait for the end; the exit code. After that, all that the process held is free."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.shield(self.code)

    async def passed(self, label: str) -> None:
        """Come back when that point is crossed, or the process has ended."""
        crossing = asyncio.create_task(self.points.passed[label].wait())
        either: list[asyncio.Future[Any]] = [crossing, self.code]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_SECONDS)
        crossing.cancel()

    async def kill(self) -> None:
        """`kill -9`, and wait until it is dead."""
        self.signal(signal.SIGKILL)
        await self.ended()


async def _nothing() -> None:
    """What is done before a death, unless something else is."""


class Launcher:
    """Starts gateways one after the other, each a fork of a process that has imported the program already.

    `before_death` is awaited while a gateway stands at the commit at which it will die.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.gateway: Gateway | None = None
        self.before_death: Callable[[], Awaitable[None]] = _nothing

    async def start(self, config: Path, points: Points) -> Gateway:
        """Start one; it is ready, or has died at a point before that. Any other end fails the test."""
        assert self._process.stdin is not None
        self.gateway = gateway = Gateway(points)
        self._process.stdin.write(f"run {int(points.watches)} {config}\n".encode())
        if not await gateway.log.wait("ready"):
            assert points.is_reached, f"the gateway ended by itself: {gateway.log.lines}"
        return gateway

    async def read(self) -> None:
        """Take what the gateways say, until the launcher ends; one that it leaves behind counts as ended."""
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        async for line in self._process.stdout:
            word, _, rest = line.decode().rstrip("\n").partition(" ")
            gateway = self.gateway
            if gateway is None or not word:
                continue
            if word == "pid":
                gateway.pid = int(rest)
            elif word == "point":
                dies = gateway.points.cross(rest)
                if dies:
                    await self.before_death()
                self._process.stdin.write(b"d" if dies else b"g")
            elif word == "exit":
                gateway.code.set_result(int(rest))
                await gateway.log.end()
            else:
                await gateway.log.take(f"{word} {rest}")
        if self.gateway is not None and not self.gateway.code.done():
            self.gateway.code.set_result(1)
            await self.gateway.log.end()

    async def stop(self) -> None:
        """End the gateway that runs, and the launcher."""
        if self.gateway is not None:
            await self.gateway.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@asynccontextmanager
async def launcher() -> AsyncIterator[Launcher]:
    """A launcher for as long as the context lasts."""
    command = [sys.executable, "-m", "tests.kill.launcher"]
    process = await _spawn(command, stdin=PIPE)
    started = Launcher(process)
    reading = asyncio.create_task(started.read())
    try:
        yield started
    finally:
        await started.stop()
        await reading


async def _spawn(command: Sequence[str], *, stdin: int | None = None, stderr: int | None = None) -> Process:
    return await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=_ENVIRONMENT, stdin=stdin, stdout=PIPE, stderr=stderr
    )


def reelgate(*arguments: str) -> Sequence[str]:
    """The command line of a verb, as a user types it."""
    return (sys.executable, "-m", "gateway", *arguments)


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[Gateway]:
    """`reelgate serve`, ready; killed at the end of the context if it is alive then."""
    command = reelgate("serve", "--config", str(config))
    process = await _spawn(command)
    gateway = Gateway(Points())
    gateway.pid = process.pid
    reading = asyncio.create_task(_read(process, gateway))
    try:
        assert await gateway.log.wait("ready"), "the gateway did not start"
        yield gateway
    finally:
        await gateway.kill()
        await reading


async def _read(process: Process, gateway: Gateway) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        await gateway.log.take(line.decode())
    gateway.code.set_result(await process.wait())
    await gateway.log.end()


async def run(*arguments: str) -> tuple[int, str, str]:
    """Run a verb to its end: exit code, stdout, stderr."""
    command = reelgate(*arguments)
    process = await _spawn(command, stderr=PIPE)
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
