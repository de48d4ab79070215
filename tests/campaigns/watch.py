"""What a gateway uses while it runs: memory, files, the store's log, its queue, how late its polls are.

Held here: one sample, and the rules that tell a leak from a load. Linux: it reads /proc. Not held here: when
samples are taken (`soak`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

Metrics: TypeAlias = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]

MEMORY_MAX_MIB: Final = 300.0
FILES_MAX: Final = 400
WAL_MAX_MIB: Final = 32.0
WAITING_MAX: Final = 1_000
LAG_MAX_SECONDS: Final = 1.0  # for 99 of 100 polls between two samples without a stop
_GROWTH_FROM: Final = 9  # samples of one process: its first third is compared with its last
_GROWTH_MIB: Final = 16.0
_GROWTH_FILES: Final = 32
_GROWTH_SHARE: Final = 0.15
_LAG: Final = "reelgate_poll_lag_seconds_bucket"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a gateway. `lags` counts polls by the bound that they were not later than, in seconds.

    `was_still`: it was stopped since the sample before, so that its polls are late for a reason.
    """

    pid: int
    memory_mib: float
    files: int
    wal_mib: float
    waiting: int
    lags: Mapping[float, float]
    was_still: bool


def look(pid: int, store: Path, metrics: Metrics, *, was_still: bool) -> Sample:
    """A sample of the process `pid`. Raises OSError when it has ended."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    memory = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    wal = store.with_name(f"{store.name}-wal")
    return Sample(
        pid=pid, memory_mib=int(memory.split()[1]) / 1024, was_still=was_still,
        files=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        wal_mib=wal.stat().st_size / 2**20 if wal.exists() else 0.0,
        waiting=round(metrics["reelgate_videos", (("status", "queued"),)]),
        lags={float(dict(labels)["le"]): value for (name, labels), value in metrics.items() if name == _LAG},
    )


def lag_seconds(before: Sample, after: Sample) -> float | None:
    """The bound that 99 of 100 polls between two samples of a process kept to; None where it says nothing."""
    if before.pid != after.pid or after.was_still:
        return None
    polls = after.lags[math.inf] - before.lags[math.inf]
    for bound, count in sorted(after.lags.items()):
        if polls and count - before.lags[bound] >= 0.99 * polls:
            return bound
    return None


def lags(samples: Sequence[Sample]) -> list[float]:
    """Every such bound of a run."""
    return [lag for before, after in pairwise(samples) if (lag := lag_seconds(before, after)) is not None]


def leaks(samples: Sequence[Sample]) -> Iterator[str]:
    """What goes beyond its bound, and what grows in a process that has the same to do all the time."""
    bounds = (
        ("memory", max(sample.memory_mib for sample in samples), MEMORY_MAX_MIB, "MiB"),
        ("open files", max(sample.files for sample in samples), FILES_MAX, ""),
        ("WAL", max(sample.wal_mib for sample in samples), WAL_MAX_MIB, "MiB"),
        ("waiting videos", max(sample.waiting for sample in samples), WAITING_MAX, ""),
        ("poll lag p99", max(lags(samples), default=0.0), LAG_MAX_SECONDS, "s"),
    )
    for name, most, bound, unit in bounds:
        if most > bound:
            yield f"leak: {name} up to {most:.1f} {unit}, at most {bound:g} {unit}"
    for pid in dict.fromkeys(sample.pid for sample in samples):
        mine = [sample for sample in samples if sample.pid == pid]
        yield from _grown(f"memory (MiB) of {pid}", [sample.memory_mib for sample in mine], _GROWTH_MIB)
        yield from _grown(f"open files of {pid}", [sample.files for sample in mine], _GROWTH_FILES)


def _grown(name: str, values: Sequence[float], spare: float) -> Iterator[str]:
    third = len(values) // 3
    if len(values) < _GROWTH_FROM:
        return
    first, last = statistics.median(values[1:third + 1]), statistics.median(values[-third:])
    if last > first * (1 + _GROWTH_SHARE) + spare:
        yield f"leak: {name} grew from {first:.0f} to {last:.0f}"
