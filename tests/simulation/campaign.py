"""Many seeds over the cores, and one report of them. Not held here: one run (`run`), the command line."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from tests.simulation.checker import CLASSES
from tests.simulation.run import run_seed

CHUNK: Final = 50  # seeds at a time for a worker
SHOWN: Final = 20  # failing seeds in the report


class Totals(msgspec.Struct):
    """What many runs came to. `failing`: each bad seed with its problems."""

    seeds: int = 0
    seconds: float = 0.0
    videos: int = 0
    submissions: int = 0
    charged_cents: int = 0
    crashes: int = 0
    disk_faults: int = 0
    difference_cents: int = 0
    settled_cents: int = 0
    reserved_cents: int = 0
    replicas: int = 0
    outlived: int = 0
    takeovers: int = 0
    takeover_seconds: float = 0.0
    classes: Counter[str] = msgspec.field(default_factory=Counter)
    vendor_faults: Counter[str] = msgspec.field(default_factory=Counter)
    failing: dict[int, list[str]] = {}

    def add(self, other: Totals) -> None:
        """Put the other's figures to these."""
        for name in ("seeds", "seconds", "videos", "submissions", "charged_cents", "crashes", "disk_faults",
                     "difference_cents", "settled_cents", "reserved_cents", "replicas", "outlived",
                     "takeovers"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.takeover_seconds = max(self.takeover_seconds, other.takeover_seconds)
        self.classes.update(other.classes)
        self.vendor_faults.update(other.vendor_faults)
        self.failing.update(other.failing)


def run_seeds(seeds: Iterable[int]) -> Totals:
    """Run these, one after the other, in this process. A run that cannot even end is a failing one."""
    totals = Totals()
    for seed in seeds:
        totals.seeds += 1
        try:
            outcome = run_seed(seed)
        except Exception as error:  # noqa: BLE001 - a seed that breaks the simulation is the find itself
            totals.failing[seed] = [f"unexpected: the run broke off: {error!r}"]
            continue
        history, verdict = outcome.history, outcome.verdict
        totals.seconds += history.seconds
        totals.videos += len(history.videos)
        totals.submissions += sum(one.has_left for one in history.submissions)
        totals.charged_cents += sum(one.cents for one in history.submissions)
        totals.crashes += history.crashes
        totals.disk_faults += history.disk_faults
        totals.difference_cents += verdict.difference_cents
        totals.settled_cents += history.settled_cents
        totals.reserved_cents += history.reserved_cents
        totals.replicas += history.is_shared
        totals.outlived += history.outlived
        totals.takeovers += len(history.takeover_seconds)
        totals.takeover_seconds = max((totals.takeover_seconds, *history.takeover_seconds))
        totals.classes.update(verdict.classes)
        totals.vendor_faults.update(history.vendor_faults)
        if not verdict.is_good:
            totals.failing[seed] = verdict.problems
    return totals


def campaign(seeds: Sequence[int], jobs: int, tell: Callable[[str], None]) -> Totals:
    """Run all of them over `jobs` processes; `tell` hears how far it is."""
    totals = Totals()
    chunks = [seeds[index:index + CHUNK] for index in range(0, len(seeds), CHUNK)]
    # Fresh interpreters: what one has in memory must not reach a run.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for part in pool.imap_unordered(run_seeds, chunks):
            totals.add(part)
            if totals.seeds % (20 * CHUNK) < CHUNK:
                failing = "".join(f" {seed}" for seed in sorted(totals.failing)[:SHOWN])
                tell(f"{totals.seeds} of {len(seeds)} seeds, {len(totals.failing)} failing{failing}")
    return totals


def report(totals: Totals, real_seconds: float, jobs: int) -> str:
    """The figures for people."""
    hours, ratio = totals.seconds / 3600, totals.seconds / max(real_seconds, 1e-9)
    classes = ", ".join(f"{name} {totals.classes[name]}" for name in CLASSES)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(totals.vendor_faults.items()))
    lines = [
        f"seeds                {totals.seeds}, {len(totals.failing)} failing",
        f"time                 {hours:.0f} virtual hours in {real_seconds:.0f} s: {ratio:.0f} x real time",
        f"processes            {jobs}",
        f"videos               {totals.videos}",
        f"submissions          {totals.submissions}",
        f"crashes              {totals.crashes}",
        (f"with replicas        {totals.replicas} seeds, {totals.outlived} declared dead and alive, "
        f"{totals.takeovers} taken over from, after {totals.takeover_seconds:.1f} s at most"),
        f"storage faults       {totals.disk_faults}",
        f"vendor faults        {sum(totals.vendor_faults.values())}: {faults}",
        f"classes              {classes}",
        f"ledger difference    {totals.difference_cents} cents of {totals.charged_cents}",
        f"ledger in the end    {totals.settled_cents} cents settled, {totals.reserved_cents} still in doubt",
    ]
    for seed in sorted(totals.failing)[:SHOWN]:
        lines.append(f"seed {seed} (replay: python -m tests.simulation --seed {seed})")
        lines += [f"    {problem}" for problem in totals.failing[seed]]
    return "\n".join(lines)


def first_failing(
    seeds: Sequence[int], jobs: int, prepare: Callable[[], None]
) -> tuple[int, list[str]] | None:
    """The lowest failing seed among these, in processes that were `prepare`d; None: none fails."""
    chunks = [seeds[index:index + CHUNK // 5] for index in range(0, len(seeds), CHUNK // 5)]
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=prepare) as pool:
        for part in pool.imap(run_seeds, chunks):
            if part.failing:
                seed = min(part.failing)
                return seed, part.failing[seed]
    return None


def stopwatch() -> Callable[[], float]:
    """How many real seconds have passed since now."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began
