"""Callers in an open loop: requests leave at a fixed rate, or whenever something else makes room for them.

Held here: sending on time over many kept connections, and what came of each request. Not held here: what is
sent, at which rates, and what the figures mean (`overload`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from tests.bench.wire import HOST, message_end

CONNECTIONS: Final = 1_000  # more than are busy while answers come within 0.2 s at 5,000/s
_TICK_SECONDS: Final = 0.001
_LOOK_SECONDS: Final = 0.01
_RETRY_AFTER_SECONDS: Final = 1.0
_LATE_ANSWERS_SECONDS: Final = 30.0
_SAMPLES: Final = 3

# What every refusal must have; and what it must not: a caller may send the same create again.
_MARKS: Final = (b"application/problem+json", b'"code":"overloaded"', b'"retryable":true', b'"charged":"no"')
_PLACE: Final = re.compile(rb"(?i)\r\nlocation: */v1/videos/([0-9a-z_]+)")
_RETRY_AFTER: Final = b"\r\nretry-after: "
_FORBIDS: Final = b"\r\nx-should-retry:"


class Outcome(msgspec.Struct, kw_only=True):
    """What a run came to. Times in seconds, from the moment of sending to the whole answer.

    `unsent`: no connection was free. `broken`: connections that ended. `other`: answers that are neither a
    202 nor a refusal as it must be; `samples` has the first few of them. `late`: how much later than planned
    each burst left. `seconds`: how long requests were sent. `sent_at`: when each accepted one was, in Unix
    seconds, by the id it was given.
    """

    accepted: list[float] = []
    refused: list[float] = []
    unsent: int = 0
    broken: int = 0
    other: int = 0
    samples: list[str] = []
    late: list[float] = []
    sent_at: dict[str, float] = {}
    seconds: float = 0.0


class _Run:
    """What the callers of one run share."""

    def __init__(self) -> None:
        self.idle: deque[_Caller] = deque()
        self.outcome = Outcome()
        self.under_way = 0
        self.quiet = asyncio.Event()  # nothing is unanswered
        self.is_over = False

    def sent(self) -> None:
        self.under_way += 1
        self.quiet.clear()

    def _ended(self) -> None:
        self.under_way -= 1
        if self.under_way == 0:
            self.quiet.set()

    def answered(self, caller: _Caller, answer: bytes, seconds: float) -> None:
        self._ended()
        self.idle.append(caller)
        if answer.startswith(b"HTTP/1.1 202 "):
            self.outcome.accepted.append(seconds)
            place = _PLACE.search(answer)
            if place is not None:
                self.outcome.sent_at[place[1].decode("ascii")] = time.time() - seconds
        elif is_refusal(answer):
            self.outcome.refused.append(seconds)
        else:
            self.outcome.other += 1
            if len(self.outcome.samples) < _SAMPLES:
                self.outcome.samples.append(answer[:900].decode("utf-8", "replace"))

    def lost(self, caller: _Caller) -> None:
        if self.is_over:
            return
        self.outcome.broken += 1
        if caller in self.idle:
            self.idle.remove(caller)
        else:
            self._ended()


def is_refusal(answer: bytes) -> bool:
    """Whether it is a 503 as the contract has it: a problem document that invites to try again."""
    head = answer[: answer.find(b"\r\n\r\n") + 2].lower()
    return (
        answer.startswith(b"HTTP/1.1 503 ") and _RETRY_AFTER in head and _FORBIDS not in head
        and all(mark in answer for mark in _MARKS)
    )


class _Caller(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._run.idle.append(self)

    def send(self, request: bytes, now: float) -> None:
        self._sent_at = now
        self._run.sent()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = data = self._received + data if self._received else data
        if message_end(data) == 0:
            return
        self._received = b""
        self._run.answered(self, data, time.perf_counter() - self._sent_at)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost(self)

    def close(self) -> None:
        self._transport.abort()


async def fire(port: int, request: bytes, per_second: float, seconds: float) -> Outcome:
    """Send `request` `per_second` for `seconds`, then wait for the answers that are still to come."""
    run = _Run()
    callers = await _connected(run, port)
    began = time.perf_counter()
    sent = 0
    while (elapsed := (now := time.perf_counter()) - began) < seconds:
        due = int(elapsed * per_second) - sent
        if due > 0:
            run.outcome.late.append(elapsed - (sent + 1) / per_second)
        for _ in range(due):
            sent += 1
            if run.idle:
                run.idle.popleft().send(request, now)
            else:
                run.outcome.unsent += 1
        await asyncio.sleep(_TICK_SECONDS)
    run.outcome.seconds = time.perf_counter() - began
    await _answered(run, callers)
    return run.outcome


async def keep_in_flight(
    port: int, requests: Sequence[bytes], many: int, taken: Callable[[], int]
) -> Outcome:
    """Send all `requests`, so that always `many` of them are neither refused nor `taken`, a count so far.

    A refusal makes room only after a second, which is what its Retry-After asks for.
    """
    run = _Run()
    callers = await _connected(run, port)
    began, unsent, outcome = time.perf_counter(), deque(requests), run.outcome
    refusals, waited_out = deque[tuple[float, int]](), 0
    while unsent:
        now = time.perf_counter()
        refusals.append((now, len(outcome.refused)))
        while now - refusals[0][0] >= _RETRY_AFTER_SECONDS:
            waited_out = refusals.popleft()[1]
        over = taken() + waited_out + outcome.other + outcome.broken
        room = many - (len(requests) - len(unsent) - over)
        for _ in range(min(room, len(unsent), len(run.idle))):
            run.idle.popleft().send(unsent.popleft(), time.perf_counter())
        await asyncio.sleep(_LOOK_SECONDS)
    outcome.seconds = time.perf_counter() - began
    await _answered(run, callers)
    return outcome


async def _connected(run: _Run, port: int) -> list[_Caller]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(partial(_Caller, run), HOST, port))[1] for _ in range(CONNECTIONS)]


async def _answered(run: _Run, callers: list[_Caller]) -> None:
    """Wait for what is still to be answered, then close."""
    with suppress(TimeoutError):  # what is not answered by then is neither accepted nor refused
        async with asyncio.timeout(_LATE_ANSWERS_SECONDS):
            await run.quiet.wait()
    run.is_over = True
    for caller in callers:
        caller.close()
