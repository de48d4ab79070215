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
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from gateway.engine.replica import ReplicaRole
from tests import canaries
from tests.kill.points import Points

ROOT: Final = Path(__file__).parents[2]
KEY: Final = "sandbox-key"
_ENVIRONMENT: Final = os.environ | {"REELGATE_SANDBOX_KEY": KEY}
PATIENCE_SECONDS: Final = 180.0  # only a broken gateway takes that long


Line: TypeAlias = dict[str, Any]  # of a gateway's log
LINES_KEPT: Final = 1_000
_LINE_BYTES: Final = 1024 * 1024  # a traceback is one line


class Log:
    """What a gateway said on stdout: an event can be waited for, whether it has come already or not.

    `lines` are the latest; `note` is called with each. One that a death cut off is the event `cut_off`.
    """

    def __init__(self, note: Callable[[Line], None]) -> None:
        self.lines: deque[Line] = deque(maxlen=LINES_KEPT)
        self._note = note
        self._events: set[str] = set()
        self._came = asyncio.Condition()
        self._has_ended = False

    async def take(self, text: str) -> None:
        """Note one line of JSON."""
        canaries.watch(text)
        try:
            line: Line = json.loads(text)
        except json.JSONDecodeError:
            line = {"event": "cut_off", "text": text}
        async with self._came:
            self.lines.append(line)
            self._events.add(str(line.get("event")))
            self._note(line)
            self._came.notify_all()

    async def end(self) -> None:
        """Nothing more will come."""
        async with self._came:
            self._has_ended = True
            self._came.notify_all()

    def has(self, event: str) -> bool:
        """Whether that event was logged."""
        return event in self._events

    async def wait(self, event: str) -> bool:
        """Wait for an event; False when the process ended without it."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._came:
            await self._came.wait_for(lambda: self.has(event) or self._has_ended)
        return self.has(event)


def _unnoted(_: Line) -> None:
    """What is done with a line of a log, unless something else is."""


class Gateway:
    """One process: its log, the points it crosses, its exit code once it has one (negative: that signal).

    `has_begun` is set with its `pid`; a signal before that is lost.
    """

    def __init__(self, points: Points, note: Callable[[Line], None] = _unnoted) -> None:
        self.points = points
        self.log = Log(note)
        self.pid = 0
        self.has_begun = asyncio.Event()
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

    async def begin(
        self, config: Path, points: Points, note: Callable[[Line], None] = _unnoted,
        role: ReplicaRole = "all",
    ) -> Gateway:
        """Start one and come back at once; the one before it has ended."""
        assert self._process.stdin is not None
        self.gateway = gateway = Gateway(points, note)
        self._process.stdin.write(f"run {int(points.watches)} {role} {config}\n".encode())
        await asyncio.wait_for(gateway.has_begun.wait(), PATIENCE_SECONDS)
        return gateway

    async def start(self, config: Path, points: Points) -> Gateway:
        """Start one; it is ready, or has died at a point before that. Any other end fails the test."""
        gateway = await self.begin(config, points)
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
                gateway.has_begun.set()
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
async def launcher(stderr: IO[str] | None = None) -> AsyncIterator[Launcher]:
    """A launcher for as long as the context lasts; what its gateways say on `stderr` goes there."""
    command = [sys.executable, "-m", "tests.kill.launcher"]
    process = await _spawn(command, stdin=PIPE, stderr=stderr)
    started = Launcher(process)
    reading = asyncio.create_task(started.read())
    try:
        yield started
    finally:
        await started.stop()
        await reading


async def _spawn(
    command: Sequence[str], *, stdin: int | None = None, stderr: IO[str] | int | None = None
) -> Process:
    return await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=_ENVIRONMENT, stdin=stdin, stdout=PIPE, stderr=stderr, limit=_LINE_BYTES,
    )


def reelgate(*arguments: str) -> Sequence[str]:
    """The command line of a verb, as a user types it."""
    return (sys.executable, "-m", "gateway", *arguments)


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[Gateway]:
    """`reelgate serve`, ready; killed at the end of the context if it is alive then."""
    gateway, reading = await begin_typed(config)
    try:
        assert await gateway.log.wait("ready"), "the gateway did not start"
        yield gateway
    finally:
        await gateway.kill()
        await reading


async def begin_typed(
    config: Path, note: Callable[[Line], None] = _unnoted, stderr: IO[str] | None = None
) -> tuple[Gateway, asyncio.Task[None]]:
    """Begin `reelgate serve`; the task ends with the process."""
    process = await _spawn(reelgate("serve", "--config", str(config)), stderr=stderr)
    gateway = Gateway(Points(), note)
    gateway.pid = process.pid
    gateway.has_begun.set()
    return gateway, asyncio.create_task(_read(process, gateway))


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
