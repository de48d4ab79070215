"""The composition root's own parts: the clock that everything is given."""

from __future__ import annotations

import time

import pytest

from gateway.app import SteadyClock


def test_the_clock_follows_steps_forward_and_no_step_back(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, elapsed = [1_800_000_000.0], [50.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    monkeypatch.setattr(time, "monotonic", lambda: elapsed[0])
    now = SteadyClock()
    assert now() == 1_800_000_000
    wall[0], elapsed[0] = wall[0] - 3_590, elapsed[0] + 10
    assert now() == 1_800_000_010
    wall[0], elapsed[0] = 1_800_007_200, elapsed[0] + 10
    assert now() == 1_800_007_200
