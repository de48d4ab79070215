"""How late the end of a render is seen: the gateway's schedule against a fixed interval with as many polls.

`python -m tests.bench.detection`: in virtual time, no socket, half a minute; prints a table, then JSON.
What is learned is only what polls show: that an end lies between two of them. Not held here: the schedule
(`gateway.core.pacing`), any limit (`tests/core/test_render_times.py`).
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Final, TypeAlias

import msgspec

from gateway.core.pacing import Bounds, next_poll
from gateway.core.render_times import RenderTimes

Draw: TypeAlias = Callable[[random.Random], float]

BOUNDS: Final = Bounds(2.0, 30.0)  # the defaults of poll_min and poll_max
LEARNED_FROM: Final = (0, 5, 20, 100, 400)
MEASURED: Final = 2_000  # renders, of which nothing is learned
REPEATS: Final = 5  # histories, each learned anew


def _within(draw: Draw, low: float, high: float) -> Draw:
    """The same distribution, cut off at both ends."""

    def drawn(chance: random.Random) -> float:
        while not low <= (seconds := draw(chance)) <= high:
            continue
        return seconds

    return drawn


def _lognormal(middle: float, spread: float) -> Draw:
    return lambda chance: middle * chance.lognormvariate(0.0, spread)


def _either(share: float, first: Draw, second: Draw) -> Draw:
    return lambda chance: (first if chance.random() < share else second)(chance)


# Seconds. The first two are two ways to read "lognormal, median 104 s, range 83 to 253 s".
RENDERS: Final[Mapping[str, Draw]] = {
    "lognormal, 104 s, within 83-253 s": _within(_lognormal(104.0, 0.35), 83.0, 253.0),
    "83 s and a lognormal rest, to 253 s": _within(
        lambda chance: 83.0 + 21.0 * chance.lognormvariate(0.0, 0.9), 83.0, 253.0
    ),
    "lognormal, 104 s, spread 0.3": _lognormal(104.0, 0.3),
    "bimodal, 60 s or 240 s": _either(0.6, _lognormal(60.0, 0.1), _lognormal(240.0, 0.1)),
    "bimodal, 45 s or 150 s": _either(0.5, _lognormal(45.0, 0.2), _lognormal(150.0, 0.15)),
    "lognormal, 40 s, spread 0.4": _lognormal(40.0, 0.4),
    "lognormal, 600 s, spread 0.3": _lognormal(600.0, 0.3),
}


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One row: medians over the histories. `ratio`: of our median delay to that of the fixed interval."""

    renders: str
    learned_from: int
    polls: float
    delay_seconds: float
    fixed_interval_seconds: float
    fixed_delay_seconds: float
    ratio: float


def followed(
    seconds: float, times: RenderTimes, chance: random.Random, bounds: Bounds = BOUNDS
) -> tuple[list[float], float]:
    """The ages of the polls of one render up to the one that finds its end, and how late that is."""
    asked: list[float] = []
    while not asked or asked[-1] < seconds:
        asked.append(next_poll(asked[-1] if asked else 0.0, 0.0, bounds, chance, times=times).at)
    return asked, asked[-1] - seconds


def learn(draw: Draw, count: int, chance: random.Random, bounds: Bounds = BOUNDS) -> RenderTimes:
    """What so many renders teach, each seen by its polls only."""
    times = RenderTimes()
    for _ in range(count):
        asked, _ = followed(draw(chance), times, chance, bounds)
        times.add((asked[-1] + (asked[-2] if len(asked) > 1 else 0.0)) / 2)
    return times


def fixed(renders: Sequence[float], polls: float) -> tuple[float, float]:
    """The interval that needs as many polls a render, at its first poll from the start; its median delay."""
    low, high = 0.01, max(renders)
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        if fmean(math.ceil(seconds / middle) for seconds in renders) > polls:
            low = middle
        else:
            high = middle
    return high, median(math.ceil(seconds / high) * high - seconds for seconds in renders)


def compared(draw: Draw, count: int, seed: int, measured: int) -> tuple[float, float, float, float]:
    """Polls a render and median delay after so much was learned; interval and delay of the fixed one."""
    chance = random.Random(seed)
    times = learn(draw, count, chance)
    renders = [draw(chance) for _ in range(measured)]
    seen = [followed(seconds, times, chance) for seconds in renders]
    polls = fmean(len(asked) for asked, _ in seen)
    return polls, median(late for _, late in seen), *fixed(renders, polls)


def figures(name: str, count: int, measured: int = MEASURED, repeats: int = REPEATS) -> Figures:
    """One row of the table."""
    rows = [compared(RENDERS[name], count, seed, measured) for seed in range(repeats)]
    polls, delay, interval, fixed_delay = (median(column) for column in zip(*rows, strict=True))
    ratio = median(row[1] / row[3] for row in rows)
    return Figures(
        renders=name, learned_from=count, polls=round(polls, 2), delay_seconds=round(delay, 2),
        fixed_interval_seconds=round(interval, 2), fixed_delay_seconds=round(fixed_delay, 2),
        ratio=round(ratio, 3),
    )


def main() -> None:
    """Measure and print."""
    rows = [figures(name, count) for name in RENDERS for count in LEARNED_FROM]
    print("| renders | learned from | polls | median delay s | fixed interval s | its delay s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in msgspec.structs.astuple(row))} |")
    sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")


if __name__ == "__main__":
    main()
