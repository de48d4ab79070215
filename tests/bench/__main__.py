"""`python -m tests.bench GROUP ...`: measure these groups of cases, all of them without a name, and report.

What other groups showed before stays as it is. `--quick` is a small run that shows that everything works, and
only prints. `overload` and `peers` are measured only by name; `overload` only prints. Progress goes to
stderr. Not held here: what a group is (`groups`), what becomes of the figures (`report`).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench import overload, peers
from tests.bench.cases import Group
from tests.bench.groups import GROUPS
from tests.bench.load import UnexpectedAnswer
from tests.bench.processes import ServerFailed
from tests.bench.report import Section, machine, section_text, stored, verdicts, write
from tests.bench.stage import Stage

_EVERY: Final = GROUPS | {peers.PEERS.name: peers.PEERS}
_QUICK: Final = 0.02


def say(text: str) -> None:
    """Tell who waits."""
    print(text, file=sys.stderr, flush=True)


def measured(group: Group, chosen: argparse.Namespace) -> Section:
    """All rounds of one group, its cases in turn."""
    rounds = chosen.rounds or group.rounds
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reelgate-bench-")))
        on = machine(folder)
        stage = Stage(stack, folder, chosen.scale, say)
        say(f"{group.name}: starting")
        cases = group.open(stage)
        if group.is_warmed:
            for case in cases:
                case.run()
        rows: dict[str, dict[str, list[float]]] = {}
        for number in range(1, rounds + 1):
            for case in cases:
                sample = case.run()
                for column, value in sample.items():
                    rows.setdefault(case.name, {}).setdefault(column, []).append(value)
                figures = ", ".join(f"{column} {value:,.4g}" for column, value in sample.items())
                say(f"{group.name} {number}/{rounds}  {case.name}: {figures}")
    return Section(
        when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), machine=on,
        command=f"python -m tests.bench {group.name}", rounds=rounds, scale=chosen.scale, rows=rows,
        missing=stage.missing, notes=stage.notes,
    )


def _overload(chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="reelgate-bench-") as folder, ExitStack() as stack:
        print(overload.report(Stage(stack, Path(folder), 1.0, say), chosen.seconds))


def main() -> None:
    """Measure and report by the command line's and the environment's wishes."""
    names = [*_EVERY, "overload"]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=overload.SECONDS, help="of each rate of overload")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "0")), help="0: as usual")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every number of requests, rows")
    parser.add_argument("--quick", action="store_true", help="one round at a fiftieth; writes nothing")
    chosen = parser.parse_args()
    if unknown := set(chosen.groups) - set(names):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if chosen.quick:
        chosen.rounds, chosen.scale = 1, _QUICK
    # Ended from outside it takes its servers and folders with it, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sections, failed = {} if chosen.quick else stored(), list[str]()
    for name in chosen.groups or GROUPS:
        if name == "overload":
            _overload(chosen)
            continue
        sections.pop(name, None)  # what it showed before does not stand in for what it shows now
        try:
            sections[name] = measured(_EVERY[name], chosen)
        except (UnexpectedAnswer, ServerFailed, OSError) as error:  # a TimeoutError is one of the last
            say(f"{name} could not be measured: {type(error).__name__}: {error}")
            failed.append(name)
            continue
        print(f"\n{_EVERY[name].title}\n\n{section_text(_EVERY[name], sections[name])}", flush=True)
        if not chosen.quick:  # after each, so that a run that is broken off has not been in vain
            write(sections, _EVERY.values())
    if not chosen.quick:  # so small a run shows nothing but that it runs
        print(f"\n{verdicts(sections)}")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
