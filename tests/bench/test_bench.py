"""What the bench concludes from figures that are known. Not held here: measuring (`make bench`)."""

from __future__ import annotations

import argparse
from xml.etree import ElementTree as ET

import pytest

from tests.bench.cases import CPU, P99, RATE, quantile
from tests.bench.following import lag_p99
from tests.bench.groups import GROUPS
from tests.bench.peers import PEERS
from tests.bench.plot import Panel, svg
from tests.bench.tables import spread, table
from tests.bench.targets import TARGETS, Target, Term, Verdict, judged
from tests.bench.vendor import Book, Vendor


def _target(limit: float, *, is_worst: bool = False) -> Target:
    return Target(point=1, text="creates", group="g", value=Term("ours", CPU), over=Term("floor", CPU),
                  relation="<=", limit=limit, is_worst=is_worst)


@pytest.mark.parametrize(
    ("limit", "is_worst", "verdict"),
    [(2.0, False, "met"), (1.9, False, "missed"), (2.0, True, "missed"), (4.0, True, "met")],
)
def test_a_ratio_is_taken_round_by_round_and_judged_by_its_median_or_its_worst(
    limit: float, is_worst: bool, verdict: Verdict
) -> None:
    rows = {"g": {"ours": {CPU: [100.0, 400.0, 100.0]}, "floor": {CPU: [50.0, 100.0, 100.0]}}}
    found = judged(_target(limit, is_worst=is_worst), rows)
    assert found.values == [2.0, 4.0, 1.0]
    assert found.verdict == verdict


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    for rows in ({}, {"g": {"ours": {CPU: [1.0]}}}, {"g": {"ours": {RATE: [1.0]}, "floor": {CPU: [1.0]}}}):
        assert judged(_target(1.0), rows).verdict == "not measured"


def test_every_target_asks_a_group_that_there_is() -> None:
    assert {target.group for target in TARGETS} <= {*GROUPS, PEERS.name}


def test_a_plot_is_well_formed_and_shows_every_row_that_was_measured() -> None:
    rows = {"list": {"few & <far>": {P99: [1.0, 2.0, 3.0]}, "many": {P99: [90.0]}, "other": {CPU: [1.0]}}}
    panels = (Panel("p99", "list", P99), Panel("nothing", "absent", P99))
    tree = ET.fromstring(svg(panels, rows))  # noqa: S314 (our own text)
    texts = [element.text for element in tree.iter() if element.tag.endswith("text")]
    assert texts == ["p99 (logarithmic)", "few & <far>", "2.00", "many", "90.00"]


def test_lag_is_the_end_of_the_bucket_that_holds_99_of_100() -> None:
    name = 'reelgate_poll_lag_seconds_bucket{le="%s"}'
    total = "reelgate_poll_lag_seconds_count"
    before = {name % "0.1": 5.0, name % "1.0": 5.0, name % "+Inf": 5.0, total: 5.0}
    after = {name % "0.1": 103.0, name % "1.0": 104.0, name % "+Inf": 105.0, total: 105.0}
    assert lag_p99(before, after) == 1.0


def test_a_vendor_tells_the_widest_gap_and_the_busiest_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("tests.bench.vendor.time.perf_counter", lambda: clock[-1])
    book = Book(is_exact=True)
    for at, task in ((1001.0, b"a"), (1050.0, b"b"), (1061.0, b"a"), (1062.5, b"b")):
        clock.append(at)
        book.poll(task)
    told = book.told()
    assert (told.polls, told.distinct, told.first_poll_at) == (4, 2, 1001.0)
    assert told.widest_seconds == 60.0  # of a, between its two polls
    assert told.busiest_minute == 3  # the first and the third are sixty seconds apart
    clock.append(1200.0)
    assert book.told().widest_seconds == 139.0  # of a, which nobody asked for since


def test_a_vendor_has_a_job_done_when_its_time_is_over_and_strange_ones_when_told_to_finish() -> None:
    chosen = {"delay": 0.0, "done_after": 0.0, "file_mib": 1, "exact": False, "port": 1}
    quick = Vendor(argparse.Namespace(**chosen))
    slow = Vendor(argparse.Namespace(**chosen | {"done_after": 3600.0}))
    ours = slow.take(b"/v3/async/any")
    assert quick.is_done(quick.take(b"/v3/async/any"))
    assert not slow.is_done(ours)
    assert not slow.is_done(b"filled7")
    slow.answer(b"GET", b"/finish")
    assert slow.is_done(ours)
    assert slow.is_done(b"filled7")


def test_the_jobs_of_the_floors_are_not_counted() -> None:
    vendor = Vendor(argparse.Namespace(delay=0.0, done_after=1.0, file_mib=1, exact=False, port=1))
    vendor.answer(b"POST", b"/v3/async/floor")
    vendor.answer(b"POST", b"/v3/async/kling-v3.0-std-t2v")
    assert vendor.book.told().taken == 1


def test_figures_are_written_with_their_spread() -> None:
    assert spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0-3.0)"
    assert spread([2.01, 2.02], ".1f") == "2.0"
    assert spread([], ".1f") == "-"
    assert quantile(list(range(100)), 0.99) == 99
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
