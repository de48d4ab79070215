"""Many inputs through every parser, the same ones for the same seed, and what came out that must not.

Not held here: the parsers (`parsers`), how an input is made (`mutating`), requests (`over_http`).
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from time import thread_time
from typing import Final

import msgspec

from tests.fuzz.mutating import mutated
from tests.fuzz.parsers import PARSERS, Parser, told

QUARTERS: Final = 4
FAILURES_MAX: Final = 20  # after so many the rest would only repeat them
SLOW_SECONDS: Final = 1.0  # of CPU, for an input of at most 64 KiB
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Failure(msgspec.Struct, frozen=True):
    """An input that broke something; `number` and the seed make it again."""

    number: int
    name: str
    data: bytes
    why: str


class Memory(msgspec.Struct, frozen=True):
    """What the process had after a quarter of the run: resident bytes, and objects that are collected."""

    resident_bytes: int
    objects: int


class Outcome(msgspec.Struct):
    """A run: how many inputs, how many were taken as good, failures, memory, and the slowest inputs."""

    count: int = 0
    taken: int = 0
    failures: list[Failure] = []
    memory: list[Memory] = []
    slowest: dict[str, tuple[float, int]] = {}

    @property
    def grown_bytes(self) -> int:
        """Resident memory at the end, beyond that after the first quarter."""
        return self.memory[-1].resident_bytes - self.memory[0].resident_bytes

    @property
    def grown_objects(self) -> int:
        """Likewise, objects."""
        return self.memory[-1].objects - self.memory[0].objects


def resident_bytes(pid: int | str = "self") -> int:
    """The memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def input_of(seed: int, number: int) -> tuple[Parser, bytes]:
    """An input of a run, and who reads it. The parsers take turns."""
    parser = PARSERS[number % len(PARSERS)]
    return parser, mutated(Random(seed << 40 | number), parser.good)


def fuzz(seed: int, numbers: range, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Feed these inputs to the parsers, one after the other."""
    outcome = Outcome()
    with asyncio.Runner() as runner:
        for number in numbers:
            if len(outcome.failures) >= FAILURES_MAX:
                break
            before = len(outcome.failures)
            _one(runner, seed, number, outcome)
            for failure in outcome.failures[before:]:
                say(f"{failure.name} failed: --seed {seed} --one {number}")
            for quarter in _quarter_over(outcome.count, len(numbers)):
                outcome.memory.append(memory_now())
                say(f"{outcome.count} inputs, {len(outcome.failures)} failures, {quarter}/{QUARTERS}: "
                    f"{outcome.memory[-1].resident_bytes / 2**20:.1f} MiB")
    return outcome


def _one(runner: asyncio.Runner, seed: int, number: int, outcome: Outcome) -> None:
    parser, data = input_of(seed, number)
    began = thread_time()
    try:
        if not is_refused(runner, parser, data):
            outcome.taken += 1
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        outcome.failures.append(Failure(number, parser.name, data, traceback.format_exc(limit=-6)))
    seconds = thread_time() - began
    outcome.count += 1
    if seconds > outcome.slowest.get(parser.name, (0.0, 0))[0]:
        outcome.slowest[parser.name] = (seconds, number)


def is_refused(runner: asyncio.Runner, parser: Parser, data: bytes) -> bool:
    """Whether a parser refuses an input with an error of its own. Any other is raised."""
    try:
        found = parser.read(data)
        if inspect.iscoroutine(found):
            runner.run(found)
    except parser.errors as error:
        told(error)
        return True
    return False


def _quarter_over(count: int, total: int) -> Iterator[int]:
    """The quarter of the run that ends with this input, if one does."""
    quarter, rest = divmod(count * QUARTERS, total)
    if rest < QUARTERS and quarter:
        yield quarter


def memory_now() -> Memory:
    """What this process has, without what nobody refers to."""
    gc.collect()
    return Memory(resident_bytes(), len(gc.get_objects()))
