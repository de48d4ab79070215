"""`make fuzz`: so many inputs through the parsers and so many requests over HTTP, or one of them again.

Exit code 1 when something came out that must not, or memory grew. Not held here: what is run (`campaign`,
`over_http`).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.fuzz.campaign import SLOW_SECONDS, Failure, fuzz, input_of
from tests.fuzz.over_http import fuzz_http
from tests.fuzz.requests import request_of

GROWN_MAX_BYTES: Final = 16 * 2**20  # after the first quarter, in which caches fill
GROWN_MAX_OBJECTS: Final = 20_000
SHOWN_MAX_BYTES: Final = 2_000


def say(text: str) -> None:
    """Tell who waits."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def show(text: str) -> None:
    """What was asked for."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Do what the command line asks for."""
    reading = argparse.ArgumentParser(prog="python -m tests.fuzz")
    reading.add_argument("--inputs", type=int, default=1_000_000, metavar="N", help="through the parsers")
    reading.add_argument("--http", type=int, default=20_000, metavar="M", help="requests to a real gateway")
    reading.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other inputs")
    reading.add_argument("--one", type=int, metavar="K", help="only the K-th input of the parsers")
    reading.add_argument("--over-http", action="store_true", help="... no, the K-th request")
    asked = reading.parse_args()
    if asked.one is not None:
        return again(asked.seed, asked.one, is_request=asked.over_http)
    problems = parsers(asked.seed, asked.inputs) if asked.inputs else []
    problems += requests(asked.seed, asked.http) if asked.http else []
    show("\n".join(problems) or "nothing was found")
    return 1 if problems else 0


def parsers(seed: int, count: int) -> list[str]:
    """Inputs through the parsers; what is wrong, in lines."""
    began = time.monotonic()
    outcome = fuzz(seed, range(count), say)
    show(f"{outcome.count} inputs in {time.monotonic() - began:.0f} s, {outcome.taken} of them taken; after "
         f"the first quarter {outcome.grown_bytes / 2**20:+.1f} MiB and {outcome.grown_objects:+} objects")
    slowest = ((seconds, name, number) for name, (seconds, number) in outcome.slowest.items())
    slow = sorted(slowest, reverse=True)
    show(f"slowest: {slow[0][0] * 1000:.0f} ms, {slow[0][1]}, --one {slow[0][2]}")
    problems = failed(seed, outcome.failures, "")
    problems += [f"slow: {name}, {seconds:.1f} s, --seed {seed} --one {number}"
                 for seconds, name, number in slow if seconds > SLOW_SECONDS]
    if outcome.memory and (
        outcome.grown_bytes > GROWN_MAX_BYTES or outcome.grown_objects > GROWN_MAX_OBJECTS
    ):
        problems.append("memory grew")
    return problems


def requests(seed: int, count: int) -> list[str]:
    """Requests to a gateway; what is wrong, in lines."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answered = asyncio.run(fuzz_http(Path(folder), seed, range(count), say))
        stderr = (Path(folder) / "stderr").read_text()
    counts = sorted(answered.statuses.items())
    statuses = ", ".join(f"{status or 'no answer'}: {count}" for status, count in counts)
    show(f"{answered.count} requests in {time.monotonic() - began:.0f} s ({statuses}); after the first "
         f"quarter {answered.grown_bytes / 2**20:+.1f} MiB")
    problems = failed(seed, answered.failures, " --over-http")
    problems += [f"logged: {line}" for line in answered.errors] + ([f"stderr: {stderr}"] if stderr else [])
    if answered.grown_bytes > GROWN_MAX_BYTES:
        problems.append("the gateway's memory grew")
    return problems


def failed(seed: int, failures: Sequence[Failure], more: str) -> list[str]:
    """Failures with how to see each again."""
    return [
        f"{each.name}: --seed {seed} --one {each.number}{more}\n{each.data[:SHOWN_MAX_BYTES]!r}\n{each.why}"
        for each in failures
    ]


def again(seed: int, number: int, *, is_request: bool) -> int:
    """One input: its bytes, and what comes of it."""
    if is_request:
        show(repr(request_of(seed, number, b"KEY")))
        with tempfile.TemporaryDirectory() as folder:
            answered = asyncio.run(fuzz_http(Path(folder), seed, range(number, number + 1), say))
        show(f"{dict(answered.statuses)} {answered.errors}")
        failures = answered.failures
    else:
        parser, data = input_of(seed, number)
        show(f"{parser.name}: {data!r}")
        failures = fuzz(seed, range(number, number + 1)).failures
    show("\n".join(failure.why for failure in failures) or "nothing was found")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
