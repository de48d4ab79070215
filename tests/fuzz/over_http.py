"""A real gateway process under requests that nobody would write, over raw sockets, and what it made of them.

The vendor refuses every create, so nothing is rendered. Not held here: the requests (`requests`).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from gateway.sandbox.admin import ArmRequest
from gateway.sandbox.server import SandboxSettings
from gateway.sandbox.server import running as sandbox_running
from tests.fuzz.campaign import FAILURES_MAX, QUARTERS, Failure, resident_bytes
from tests.fuzz.requests import request_of
from tests.kill.process import KEY, Gateway, Line, begin_typed, run
from tests.serving import free_port

AT_ONCE: Final = 8
ANSWER_SECONDS: Final = 0.5  # of silence, after which the rest of a request is not coming
END_SECONDS: Final = 30.0  # after which a connection that stays open is a failure
_EXPECTED: Final = frozenset({"provider_state"})  # what orders bring about is logged as an error
_ORDERED: Final = b'"code":"spending_stopped"'  # a request of ours has ordered so, until another lifts it
_ENDLESS: Final = b"\ncontent-type: text/event-stream"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LAST: Final = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:{port}"
[log]
format = "json"
[files]
url = "off"
[providers.highway]
adapter = "highwayapi"
base_url = "{sandbox}/highwayapi"
api_key = {{ env = "REELGATE_SANDBOX_KEY" }}
[providers.idle]
adapter = "myrouter"
base_url = "{sandbox}/myrouter"
api_key = {{ env = "REELGATE_SANDBOX_KEY" }}
"""


class Answered(msgspec.Struct):
    """A run: answers by status (0: none), failures, errors in the log, memory after each quarter."""

    count: int = 0
    statuses: Counter[int] = msgspec.field(default_factory=Counter)
    failures: list[Failure] = []
    errors: list[Line] = []
    memory: list[int] = []

    @property
    def grown_bytes(self) -> int:
        """Resident memory at the end, beyond that after the first quarter."""
        return self.memory[-1] - self.memory[0] if self.memory else 0


async def fuzz_http(
    folder: Path, seed: int, numbers: range, say: Callable[[str], None] = lambda _: None
) -> Answered:
    """Send these requests to a gateway with its data in `folder`."""
    answered = Answered()
    async with _gateway(folder, answered) as (gateway, port, key):
        told = 0
        for quarter in range(QUARTERS):
            share = numbers[len(numbers) * quarter // QUARTERS : len(numbers) * (quarter + 1) // QUARTERS]
            waiting = iter(share)
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(_send_each(waiting, seed, (port, key), answered))
            if gateway.code.done():
                break
            for failure in answered.failures[told:]:
                say(f"{failure.name}: --seed {seed} --one {failure.number} --over-http")
            told = len(answered.failures)
            answered.memory.append(resident_bytes(gateway.pid))
            say(f"{answered.count} requests, {len(answered.failures)} failures, {quarter + 1}/{QUARTERS}: "
                f"{answered.memory[-1] / 2**20:.1f} MiB")
        if not answered.failures:
            assert b" 200 " in await _exchange(port, _LAST), "it does not answer any more"
    return answered


@asynccontextmanager
async def _gateway(folder: Path, answered: Answered) -> AsyncIterator[tuple[Gateway, int, bytes]]:
    """A gateway, its port, and an admin's key."""
    vendors = SandboxSettings(port=0, key=KEY, render_seconds=1, render_spread=0, draw_words=False)
    async with sandbox_running(vendors) as sandbox:
        sandbox.arm(ArmRequest(fault="invalid", phase="submit", times="always"))
        port, config = free_port(), folder / "reelgate.toml"
        config.write_text(_CONFIGURATION.format(port=port, sandbox=sandbox.url), "utf-8")
        code, key, said = await run("keys", "create", "fuzz", "--role", "admin", "--config", str(config))
        assert code == 0, said

        def note(line: Line) -> None:
            is_bad = line.get("level") in ("error", "critical") or "exception" in line
            if is_bad and line.get("event") not in _EXPECTED:
                answered.errors.append(line)

        with (folder / "stderr").open("w") as stderr:
            gateway, reading = await begin_typed(config, note, stderr)
            try:
                assert await gateway.log.wait("ready"), "the gateway did not start"
                yield gateway, port, key.strip().encode()
            finally:
                await gateway.kill()
                await reading


async def _send_each(
    numbers: Iterator[int], seed: int, to: tuple[int, bytes], answered: Answered
) -> None:
    """Take one after the other, as others do who take from the same."""
    port, key = to
    for number in numbers:
        if len(answered.failures) >= FAILURES_MAX:
            return
        data = request_of(seed, number, key)
        try:
            answer = await _exchange(port, data)
        except (TimeoutError, ConnectionRefusedError) as error:
            answered.failures.append(Failure(number, "no end", data, repr(error)))
            continue
        found = [int(status) for status in _STATUS.findall(answer) if status != b"100"] or [0]
        answered.count += 1
        answered.statuses[found[0]] += 1
        if any(status >= 500 for status in found) and _ORDERED not in answer:
            why = answer[-2_000:].decode("latin-1")
            answered.failures.append(Failure(number, f"HTTP {max(found)}", data, why))


async def _exchange(port: int, data: bytes) -> bytes:
    """All that is answered. After a silence the connection is closed on our side, and must end.

    Not so a stream: who sends no more may still read on.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = bytearray()
    try:
        with suppress(ConnectionError):  # refused before all of it was sent, or dropped as malformed
            writer.write(data)
            await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await _read(reader, answer)
            if _ENDLESS in answer:
                return bytes(answer)
            with suppress(OSError):  # it is gone already
                writer.write_eof()
            async with asyncio.timeout(END_SECONDS):
                await _read(reader, answer)
    finally:
        writer.close()
    return bytes(answer)


async def _read(reader: asyncio.StreamReader, answer: bytearray) -> None:
    """Until the end, or until it is known that there is none."""
    while _ENDLESS not in answer and (piece := await reader.read(65_536)):
        answer += piece
