"""What is learned of render times, and what it is worth: ends are seen sooner, with no more polls.

The comparison with a fixed interval is that of `tests/bench/detection.py`, on fewer renders. Not held here:
the bounds of a pause (`test_pacing`), the rows in a database (`tests/contract`).
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.facts import Candidate
from gateway.core.render_times import (
    COUNT_MAX,
    EDGES,
    NOTHING_LEARNED,
    POLL_COST_SECONDS,
    PRIOR_SECONDS,
    PRIOR_STEADY_SECONDS,
    STORED_MAX,
    WIDE_SECONDS,
    Kind,
    Learned,
    RenderTimes,
    TimesRow,
    bin_of,
    row_kind,
)
from tests.bench.detection import RENDERS, figures

SIX_HOURS = 21_600.0
ONE, TWO = Candidate("one", "pro"), Candidate("two", "pro")
FIVE, TEN = Kind(5, False), Kind(10, False)


def learned(seconds: Iterable[float]) -> RenderTimes:
    """What these renders teach."""
    times = RenderTimes()
    for each in seconds:
        times.add(each)
    return times


def lognormal(count: int, middle: float = 104.0, spread: float = 0.2) -> list[float]:
    chance = random.Random(1)
    return [middle * chance.lognormvariate(0, spread) for _ in range(count)]


# --- what it is worth ---------------------------------------------------------------------------------

TARGETS = [
    "lognormal, 104 s, within 83-253 s", "83 s and a lognormal rest, to 253 s", "bimodal, 60 s or 240 s",
]
LONG = "lognormal, 600 s, spread 0.3"


@pytest.mark.parametrize("name", TARGETS)
def test_half_the_delay_of_a_fixed_interval_with_as_many_polls(name: str) -> None:
    assert figures(name, 100, measured=600, repeats=3).ratio <= 0.5


@pytest.mark.parametrize("name", RENDERS)
def test_never_worse_than_a_fixed_interval_before_anything_is_learned(name: str) -> None:
    assert figures(name, 0, measured=800, repeats=3).ratio <= 1.1


@pytest.mark.parametrize("name", [name for name in RENDERS if name != LONG])
def test_five_renders_are_enough_to_gain_by(name: str) -> None:
    assert figures(name, 5, measured=400, repeats=3).ratio <= 0.85


def test_five_long_renders_are_enough_to_ask_much_less() -> None:
    unknown, five, twenty = (figures(LONG, count, measured=400, repeats=3) for count in (0, 5, 20))
    assert (five.polls <= 0.6 * unknown.polls, twenty.polls <= 0.5 * unknown.polls) == (True, True)
    assert twenty.ratio <= 0.85


# --- the hazard ---------------------------------------------------------------------------------------

def test_with_nothing_learned_the_hazard_is_that_of_a_steady_interval() -> None:
    steady = 2 * POLL_COST_SECONDS / PRIOR_SECONDS**2
    hazards = [NOTHING_LEARNED.hazard(age) for age in (0, 1, 50, 150)]
    assert hazards == pytest.approx([steady] * 4, rel=1e-3)
    assert NOTHING_LEARNED.until(77.0) == pytest.approx(PRIOR_SECONDS, rel=1e-3)
    assert NOTHING_LEARNED.hazard(10 * PRIOR_STEADY_SECONDS) == pytest.approx(steady / 100, rel=0.1)


def test_a_few_renders_are_believed_a_little_and_twenty_are_believed() -> None:
    pauses = [learned([100.0] * count).until(30.0) for count in (0, 1, 5, 20, 100)]
    assert pauses == sorted(pauses), "the more end at 100 s, the less is looked for at 30 s"
    assert pauses[1] < 2 * PRIOR_SECONDS
    assert pauses[3] > 3.5 * PRIOR_SECONDS
    hazards = [learned([100.0] * count).hazard(102.0) for count in (0, 1, 5, 20, 100)]
    assert hazards == sorted(hazards)
    assert hazards[4] > 10 * hazards[0]


def test_beyond_the_longest_seen_it_is_as_if_nothing_were_known() -> None:
    times = learned(lognormal(300))
    for age in (600.0, 1_000.0, 5_000.0):
        assert times.hazard(age) == pytest.approx(NOTHING_LEARNED.hazard(age), rel=0.01)


def test_the_next_look_is_due_when_the_delay_to_be_expected_has_grown_to_what_a_look_costs() -> None:
    times, step = learned([*lognormal(100, 45.0, 0.2), *lognormal(100, 150.0, 0.15)]), 0.01
    for age in (0.0, 20.0, 44.0, 70.0, 100.0, 149.5, 300.0):
        at, ending, delay = age, 0.0, 0.0
        while delay < POLL_COST_SECONDS:
            ending, delay, at = ending + times.hazard(at) * step, delay + ending * step, at + step
        assert times.until(age) == pytest.approx(at - age, abs=3 * step)


def test_a_sharp_end_is_known_the_better_the_more_were_seen() -> None:
    few, many = (learned([100.0] * count) for count in (20, 300))
    before = EDGES[bin_of(100.0)] - 1.0
    assert many.hazard(before) / many.hazard(100.0) < 0.5 * few.hazard(before) / few.hazard(100.0)


def test_between_two_kinds_of_renders_there_is_little_to_look_for() -> None:
    times = learned([*lognormal(100, 60.0, 0.1), *lognormal(100, 240.0, 0.1)])
    assert times.hazard(130.0) < 0.1 * min(times.hazard(65.0), times.hazard(250.0))


def test_one_that_took_hours_changes_little() -> None:
    usual = lognormal(100)
    times, without = learned([*usual, 9_000.0]), learned(usual)
    for age in (0.0, 40.0, 80.0, 110.0):
        assert times.until(age) == pytest.approx(without.until(age), rel=0.1)
    assert times.until(5_000.0) > 0.5 * NOTHING_LEARNED.until(5_000.0)
    assert times.until(12_000.0) == pytest.approx(NOTHING_LEARNED.until(12_000.0), rel=0.01)


def test_recent_renders_count_more() -> None:
    times = learned([100.0] * 2_000)
    assert times.total < COUNT_MAX
    for _ in range(int(COUNT_MAX)):
        times.add(300.0)
    assert times.median() == pytest.approx(300.0, rel=0.08)
    assert times.hazard(102.0) < 0.4 * times.hazard(305.0)


@given(st.lists(st.floats(0, 1e7), max_size=80), st.floats(0, 1e7), st.floats(0.5, 50))
def test_a_longer_pause_holds_more_polls_whatever_was_seen(
    seen: list[float], age: float, polls: float
) -> None:
    times = learned(seen)
    pause, longer = times.until(age, polls), times.until(age, 2 * polls)
    assert 0 < pause <= longer
    assert not math.isnan(pause)
    assert 0 <= times.hazard(age) < math.inf


# --- bins ---------------------------------------------------------------------------------------------

@given(st.floats(0, SIX_HOURS))
def test_a_bin_is_narrow(seconds: float) -> None:
    low, high = EDGES[bin_of(seconds)], EDGES[bin_of(seconds) + 1]
    assert low <= seconds < high
    assert high <= max(1.0, low * 1.0801)


@pytest.mark.parametrize("seconds", [SIX_HOURS * 2, 1e12, math.inf, -5.0])
def test_what_is_beyond_all_bins_is_counted_at_the_end(seconds: float) -> None:
    assert bin_of(seconds) in {0, len(EDGES) - 2}
    assert learned([seconds]).total == 1


def test_one_kind_of_render_takes_two_kilobytes() -> None:
    times = learned(lognormal(5_000))
    times.until(5.0)
    times.unsaved.clear()  # as after each save
    size = sum(sys.getsizeof(getattr(times, name)) for name in RenderTimes.__slots__)
    assert size + sys.getsizeof(times) <= 2_048


# --- medians ------------------------------------------------------------------------------------------

def test_the_median_is_that_of_the_renders() -> None:
    assert RenderTimes().median() is None
    assert learned(lognormal(300)).median() == pytest.approx(104.0, rel=0.06)
    assert learned([1e9]).median() == pytest.approx(EDGES[-1], rel=0.08)


def test_a_kind_that_was_never_seen_is_taken_for_the_best_known_of_its_offering() -> None:
    known = Learned()
    assert known.seconds(ONE, FIVE) is None
    known.learn(ONE, TEN, 199, 201)
    for _ in range(3):
        known.learn(ONE, Kind(15, True), 299, 301)
    assert known.seconds(ONE, FIVE) == pytest.approx(300, rel=0.08)
    assert known.seconds(ONE, TEN) == pytest.approx(200, rel=0.08)
    assert known.seconds(TWO, TEN) is None


def test_kinds_do_not_mix() -> None:
    known = Learned()
    for _ in range(50):
        known.learn(ONE, FIVE, 99, 101)
    assert known.times(ONE, FIVE).total == 50
    assert known.times(ONE, TEN) is known.times(TWO, FIVE) is NOTHING_LEARNED
    assert NOTHING_LEARNED.total == 0


# --- what polls show ----------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("at_least", "at_most", "is_known"),
    [(90, 100, True), (0, 10, True), (0, WIDE_SECONDS, True), (0, WIDE_SECONDS + 1, False), (40, 100, True),
     (100, 3_700, False), (300, 600, True), (290, 600, False), (100, 90, False), (-5, 10, False)],
)
def test_an_end_counts_in_the_middle_between_two_polls_if_they_are_close(
    at_least: float, at_most: float, *, is_known: bool
) -> None:
    known = Learned()
    assert known.learn(ONE, FIVE, at_least, at_most) is is_known
    rows = [TimesRow("one", "pro", 5, 0, bin_of((at_least + at_most) / 2), 1.0)]
    assert known.unsaved() == (rows if is_known else [])


# --- rows ---------------------------------------------------------------------------------------------

def test_what_was_learned_is_saved_once_and_read_back() -> None:
    known, again = Learned(), Learned()
    unknown = Kind(None, None)
    for kind, seconds in ((FIVE, 100.0), (FIVE, 100.0), (Kind(10, True), 200.0), (unknown, 50.0)):
        known.learn(ONE, kind, seconds, seconds)
    rows = known.unsaved()
    assert sorted((row.duration, row.audio, row.count) for row in rows) == [(0, -1, 1), (5, 0, 2), (10, 1, 1)]
    assert {row_kind(ONE, kind) for kind in (FIVE, Kind(10, True), unknown)} == {
        (row.provider, row.offering, row.duration, row.audio) for row in rows
    }
    known.learn(ONE, FIVE, 100, 100)  # while they are being saved
    known.stored(rows)
    assert [(row.duration, row.count) for row in known.unsaved()] == [(5, 1)]
    again.load(rows)
    assert again.unsaved() == []
    for kind in (FIVE, Kind(10, True), unknown):
        assert again.times(ONE, kind).median() == known.times(ONE, kind).median()


def test_two_replicas_learn_from_each_other_and_lose_nothing() -> None:
    table: dict[tuple[str, str, int, int, int], float] = {}

    def save(known: Learned) -> list[TimesRow]:
        rows = known.unsaved()
        for row in rows:
            key = (row.provider, row.offering, row.duration, row.audio, row.bin)
            table[key] = table.get(key, 0.0) + row.count
        known.stored(rows)
        return [TimesRow(*key, count) for key, count in table.items()]

    one, two = Learned(), Learned()
    for _ in range(30):
        one.learn(ONE, FIVE, 60, 60)
        two.learn(ONE, FIVE, 240, 240)
    save(one)
    rows = save(two)
    two.learn(ONE, FIVE, 240, 240)  # not saved yet
    for known in (one, two):
        known.load(rows)
    assert (one.times(ONE, FIVE).total, two.times(ONE, FIVE).total) == (60, 61)
    assert one.times(ONE, FIVE).hazard(62.0) > 0.01


def test_stored_counts_that_have_grown_old_are_to_be_halved_and_count_less() -> None:
    known = Learned()
    counts = ((100, STORED_MAX), (50, 1))
    rows = [TimesRow("one", "pro", 5, 0, bin_of(seconds), count) for seconds, count in counts]
    assert known.load(rows) == [(ONE, FIVE)]
    assert known.times(ONE, FIVE).total < COUNT_MAX
    assert known.load(rows[1:]) == []
    assert known.times(ONE, FIVE).total == 1


def test_rows_of_another_version_do_no_harm() -> None:
    known = Learned()
    known.load([TimesRow("one", "pro", 5, 0, number, count) for number, count in
                ((-1, 5.0), (10_000, 5.0), (40, -3.0), (41, 2.5))])
    assert known.times(ONE, FIVE).total == 2.5
