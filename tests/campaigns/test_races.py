"""Races for caps in a small size: nobody is let beyond a cap, and whoever would be is noticed.

Held here: both races, and bugs that they must find. Not held here: each limit alone (`test_limits`,
`tests/storage/test_ledger.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.core import spending
from gateway.core.grants import Grant, Limits
from gateway.storage.allowance import Allowance
from gateway.storage.ledger import booking
from tests.campaigns.purses import Caller
from tests.campaigns.races import races
from tests.campaigns.simulated_races import simulated_races
from tests.campaigns.stage import Plan
from tests.campaigns.watched_purses import Row, Watch, taken

pytestmark = pytest.mark.anyio

SIZE = 500
RED = Limits(money_per_day=Decimal(5), money_per_month=Decimal(7))
WHO = (
    Caller("one", "team:red", Grant(limits=Limits(max_queued=2), team_limits=RED)),
    Caller("other", "team:red", Grant(limits=Limits(money_per_day=Decimal(3)), team_limits=RED)),
)


@pytest.mark.long
async def test_three_real_replicas_let_nobody_beyond_a_cap(tmp_path: Path) -> None:
    ended = await races(Plan(folder=tmp_path, seed=1, callers=2), 120)
    sys.stdout.write(ended.text)
    assert not ended.violations, ended.text


async def test_a_simulated_race_lets_nobody_beyond_a_cap(tmp_path: Path) -> None:
    ended = await simulated_races(Plan(folder=tmp_path, seed=2), SIZE)
    sys.stdout.write(ended.text)
    assert not ended.violations, ended.text


async def test_a_race_of_one_seed_is_always_the_same(tmp_path: Path) -> None:
    both = [await simulated_races(Plan(folder=tmp_path, seed=3), 100) for _ in range(2)]
    first, second = (ended.text.splitlines() for ended in both)
    assert first[:-2] == second[:-2]  # but the seconds that it took


def _without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked behind a write."""
    monkeypatch.setattr(Allowance, "after", lambda _: [])


def _without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being sent holds its own price only, and may come back to a line where it needs more."""
    monkeypatch.setattr(spending, "_worth", spending._worth.__wrapped__)  # noqa: SLF001 - it remembers
    monkeypatch.setattr(spending, "_rest", lambda _: 0)


def _without_books(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save is not told of where it settles nothing and gives back all."""
    monkeypatch.setattr("gateway.storage.store.booking", lambda before, after: (
        [] if after.state == "cancelled" else booking(before, after)
    ))


@pytest.mark.parametrize(("plant", "said"), [
    (_without_bounds, "of crowd: "), (_without_rest, "by money_per_"), (_without_books, "and it was "),
])
async def test_a_planted_bug_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: object, said: str
) -> None:
    assert callable(plant)
    plant(monkeypatch)
    ended = await simulated_races(Plan(folder=tmp_path, seed=4), SIZE)
    assert any(said in violation for violation in ended.violations), ended.text


@pytest.mark.parametrize(("rows", "over"), [
    ([("team:red", "one", "2027-01-01", 5 * 10**9, 2, 9)], []),
    ([("team:red", "one", "2027-01-01", 5 * 10**9 + 1, 0, 0)], ["team:red money_per_day 2027-01-01"]),
    ([("team:red", "one", "2027-01-01", 5 * 10**9, 0, 0), ("team:red", "one", "2027-01-03", 1, 0, 0),
      ("team:red", "other", "2027-01-02", 2 * 10**9, 0, 0)], ["team:red money_per_month 2027-01"]),
    ([("team:red", "other", "2027-01-01", 3 * 10**9 + 1, 3, 0)], ["key other money_per_day 2027-01-01"]),
    ([("team:red", "one", "", 0, 3, 0)], ["key one max_queued"]),
    ([("team:blue", "one", "2027-01-01", 10**10, 9, 9)], []),
])
def test_a_watch_sees_what_is_beyond_each_limit(rows: Sequence[Row], over: Sequence[str]) -> None:
    found = [f"{name} {limit}" for name, limit, most, had in taken(WHO, rows) if had > most]
    assert found == over
    watch = Watch("", WHO)
    watch.compare("here", rows)
    assert (watch.over, len(watch.problems)) == (len(over), len(over))


