"""What counts as a leak: beyond a bound, or growing in a process that has the same to do all the time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from tests.campaigns.watch import Metrics, Sample, lag_seconds, leaks, look

CALM = Sample(
    pid=1, memory_mib=80, files=40, wal_mib=4, waiting=3, lags={0.1: 0, 1.0: 0, 2.5: 0, math.inf: 0},
    was_still=False,
)


def series(name: str, values: Iterable[float]) -> list[Sample]:
    return [msgspec.structs.replace(CALM, **{name: value}) for value in values]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("memory_mib", [80] * 12, None), ("memory_mib", [80, 90] * 6, None),
        ("memory_mib", range(80, 140, 5), "memory (MiB) of 1 grew"),
        ("memory_mib", [301], "memory up to 301"),
        ("files", range(40, 160, 10), "open files of 1 grew"), ("files", [401], "open files up to 401"),
        ("wal_mib", [33], "WAL up to 33"), ("waiting", [1001], "waiting videos up to 1001"),
    ],
)
def test_leaks_are_told(name: str, values: Iterable[float], words: str | None) -> None:
    found = list(leaks(series(name, values)))
    assert (words is None) == (not found), found
    assert words is None or any(words in leak for leak in found)


def test_each_process_begins_anew() -> None:
    samples = [msgspec.structs.replace(CALM, pid=pid, memory_mib=80 + 10 * pid) for pid in range(12)]
    assert list(leaks(samples)) == []


def test_poll_lag_is_of_the_polls_in_between() -> None:
    before = msgspec.structs.replace(CALM, lags={0.1: 0, 1.0: 0, 2.5: 50, math.inf: 50})
    after = msgspec.structs.replace(CALM, lags={0.1: 98, 1.0: 100, 2.5: 150, math.inf: 150})
    assert lag_seconds(before, after) == 1.0
    assert lag_seconds(before, msgspec.structs.replace(after, was_still=True)) is None
    assert lag_seconds(msgspec.structs.replace(before, pid=2), after) is None
    slow = msgspec.structs.replace(CALM, lags={0.1: 0, 1.0: 0, 2.5: 50, math.inf: 150})
    assert any("poll lag p99 up to inf" in leak for leak in leaks([before, slow]))


def test_a_look_at_a_process(tmp_path: Path) -> None:
    metrics: Metrics = {
        ("reelgate_videos", (("status", "queued"),)): 7.0,
        ("reelgate_poll_lag_seconds_bucket", (("le", "+Inf"),)): 3.0,
    }
    (tmp_path / "s.db-wal").write_bytes(bytes(2**20))
    sample = look(os.getpid(), tmp_path / "s.db", metrics, was_still=False)
    assert (sample.waiting, sample.wal_mib, sample.lags) == (7, 1.0, {math.inf: 3.0})
    assert 1 < sample.memory_mib < 10_000
    assert 3 <= sample.files < 10_000
