"""`make kills`, `make replicas`, `make races` and the others: a campaign by hand, in any size.

Progress on stderr, the table on stdout; exit code 1 if a promise was broken. Not held here: any campaign.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from tests.campaigns.kills import kills
from tests.campaigns.races import races
from tests.campaigns.reloads import reloads
from tests.campaigns.replicas import replicas
from tests.campaigns.report import Ended
from tests.campaigns.restarts import restarts
from tests.campaigns.simulated_races import simulated_races
from tests.campaigns.soak import soak
from tests.campaigns.stage import Plan
from tests.campaigns.zombies import zombies

# Name: what it does, the size it has when none is given, and the campaign.
CAMPAIGNS: Final[Mapping[str, tuple[str, float, Callable[[Plan, float], Awaitable[Ended]]]]] = {
    "kills": ("kill -9 at random moments", 300, lambda plan, size: kills(plan, round(size))),
    "restarts": ("SIGTERM, and the next one", 100, lambda plan, size: restarts(plan, round(size))),
    "reloads": ("a configuration that changes under load", 60, lambda plan, size: reloads(plan, round(size))),
    "zombies": ("SIGSTOP and SIGCONT", 50, lambda plan, size: zombies(plan, round(size))),
    "replicas": ("two and three replicas on PostgreSQL, through kills, pauses, cuts and restarts", 200,
                 lambda plan, size: replicas(plan, round(size))),
    "races": ("creates that race for caps at three replicas on PostgreSQL; the size is creates", 3_000,
              lambda plan, size: races(plan, round(size))),
    "simulated-races": ("creates that race for caps, in memory and virtual time; the size is creates",
                        100_000, lambda plan, size: simulated_races(plan, round(size))),
    "soak": ("a long load with faults; the size is minutes", 10, soak),
}


def say(text: str) -> None:
    """Tell who waits."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def main() -> int:
    """Run one campaign by the command line's wishes; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    chosen = parser.add_subparsers(dest="campaign", required=True)
    for name, (text, size, _) in CAMPAIGNS.items():
        one = chosen.add_parser(name, help=text)
        one.add_argument("--size", type=float, default=size, help="how many times, or how many minutes")
        one.add_argument("--seed", type=int, default=int(time.time()))
        one.add_argument("--callers", type=int, default=10)
        one.add_argument("--typed", action="store_true", help="start `reelgate serve` anew, no forks")
    told = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix=f"reelgate-{told.campaign}-"))
    plan = Plan(folder=folder, seed=told.seed, callers=told.callers, typed=told.typed, say=say)
    say(f"{told.campaign}, seed {told.seed}, in {folder}")
    report = asyncio.run(_run(CAMPAIGNS[told.campaign][2], plan, told.size))
    sys.stdout.write(report.text)
    if not report.violations:
        shutil.rmtree(folder)
    return 1 if report.violations else 0


async def _run(campaign: Callable[[Plan, float], Awaitable[Ended]], plan: Plan, size: float) -> Ended:
    return await campaign(plan, size)


if __name__ == "__main__":
    sys.exit(main())
