"""`python -m tests.tracing.cost [--rounds N] [--count N]`: what tracing adds to the CPU of a create.

Three gateways side by side, measured in turn, as `tests.bench` measures creates: the submit and what is
stored of its answer are in the figure. The spans are taken by a receiver on the load's core. Held here: the
cases and their table. Not held here: how a case is measured (`tests.bench`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench.cases import CPU, P50, Requests, Sample
from tests.bench.stage import NEVER_POLLED, Stage
from tests.tracing.receiver import receiver
from tests.tracing.stage import tracing_to

_SHOWN: Final = (CPU, P50)


def measured(folder: Path, rounds: int, count: int) -> dict[str, dict[str, float]]:
    """The least of each figure, by case: whatever else the machine does only adds."""
    with receiver(is_deaf=True) as got, ExitStack() as stack:
        stage = Stage(stack, folder, 1.0, print)
        vendor = stage.vendor()
        cases = {}
        for name, more in (
            ("off", ""), ("off again", ""), ("on, none", tracing_to(got.url, "sample_ratio = 0.0")),
            ("on, every one", tracing_to(got.url)),
        ):
            gateway = stage.gateway(name.replace(" ", "-"), vendor, *NEVER_POLLED, more)
            cases[name] = Requests(
                name=name, server=stage.serve(gateway), status=202, requests=gateway.creates, count=count,
                settle=gateway.settle,
            )
        samples: dict[str, list[Sample]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, case in cases.items():
                samples[name].append(case.sample())
    return {name: {figure: min(one[figure] for one in many) for figure in _SHOWN}
            for name, many in samples.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), asked.rounds, asked.count)
    sys.stdout.write(f"| tracing | {' | '.join(_SHOWN)} |\n|---|{'---|' * len(_SHOWN)}\n")
    for name, figures in found.items():
        sys.stdout.write(f"| {name} | {' | '.join(f'{figures[one]:.4g}' for one in _SHOWN)} |\n")


if __name__ == "__main__":
    main()
