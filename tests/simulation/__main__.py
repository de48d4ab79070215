"""`make simulate`: many seeds and a report, one seed with its trace, or the planted bugs and who finds them.

Exit code 1 when a promise was broken, or a planted bug was not found. Not held here: what a run is (`run`).
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import Final

from tests.simulation.campaign import campaign, first_failing, report, stopwatch
from tests.simulation.planted import PLANTED, plant, planted
from tests.simulation.run import run_seed
from tests.simulation.shared_plan import ONE_IN

FOUND_WITHIN: Final = 1_000  # seeds


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
    reading = argparse.ArgumentParser(prog="python -m tests.simulation")
    reading.add_argument("--seeds", type=int, default=300, metavar="N", help="how many seeds")
    reading.add_argument("--first", type=int, default=0, metavar="K", help="the first of them")
    reading.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="processes")
    reading.add_argument("--seed", type=int, metavar="K", help="run this one, and print its trace")
    reading.add_argument("--replicas", action="store_true", help="only seeds with several replicas")
    reading.add_argument("--planted", action="store_true", help="look for the bugs planted on purpose")
    asked = reading.parse_args()
    if asked.seed is not None:
        return replay(asked.seed)
    if asked.planted:
        return look_for_planted(asked.jobs)
    passed = stopwatch()
    seeds = range(asked.first, asked.first + asked.seeds)
    if asked.replicas:
        seeds = range(asked.first * ONE_IN, (asked.first + asked.seeds) * ONE_IN, ONE_IN)
    totals = campaign(seeds, asked.jobs, say)
    show(report(totals, passed(), asked.jobs))
    return 1 if totals.failing else 0


def replay(seed: int) -> int:
    """One seed: its scenario, its trace, its verdict."""
    outcome = run_seed(seed)
    show(f"seed {seed}: {', '.join(outcome.plan.families) or 'no faults'}")
    show("\n".join(outcome.trace))
    show(f"classes {outcome.verdict.classes}, ledger difference {outcome.verdict.difference_cents} cents")
    show("\n".join(outcome.verdict.problems) or "every promise was kept")
    return 0 if outcome.verdict.is_good else 1


def look_for_planted(jobs: int) -> int:
    """Plant each bug, and say which seed finds it first."""
    missed = 0
    for name in PLANTED:
        with planted(name):
            show(name)  # what cannot be planted any more breaks off here, and not in every worker for ever
        found = first_failing(range(FOUND_WITHIN), jobs, partial(plant, name))
        missed += found is None
        show("    " + ("not found" if found is None else f"seed {found[0]:4}: {found[1][0]}"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
