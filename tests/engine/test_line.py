"""The line of waiting tasks by itself: priority, fairness between callers, places, who goes to which gate.

Not held here: the gates' own rules (`tests/core`), the loop that asks (`test_life`, `test_crowds`).
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.facts import Candidate
from gateway.core.states import Task
from gateway.engine.accounts import Accounts
from gateway.engine.line import Line
from gateway.engine.provider import Fleet, make_provider
from gateway.storage.keys import Keys
from tests.blank import blank
from tests.core.made import NOW, make_task
from tests.engine.life import ScriptedVendor, accepted, configured, done

SLUG = "kling-v3.0-pro-t2v"
ONE, TWO = Candidate("one", SLUG), Candidate("two", SLUG)


def fleet(one: str = "", two: str = "") -> Fleet:
    """The two providers of the life tests, with these lines of TOML."""
    made = Fleet(random.Random(1))
    settings = configured(one=one, two=two)
    vendor = ScriptedVendor([accepted()], [done()])
    made.use(settings, [make_provider(entry, vendor) for entry in settings.providers.values()])
    return made


def lined(providers: Fleet) -> Line:
    """An empty line before these providers, where no account has limits."""
    return Line(providers, Accounts(Keys(blank()), providers, lambda: NOW))


def waiting(task_id: str, owner: str = "a", *candidates: Candidate, **fields: object) -> Task:
    return make_task(task_id, owner=owner, candidates=candidates or (ONE,), **fields)


def filled(line: Line, tasks: Sequence[Task]) -> Line:
    for task in tasks:
        line.add(task)
    return line


def goes(line: Line, room: int = 1_000) -> list[str]:
    """Who goes now, in order; they leave the line, as they do once they are being sent."""
    going = [task_id for task_id, _ in line.ready(NOW, room, lambda _: True)]
    for task_id in going:
        line.remove(task_id)
    return going


# --- fairness -----------------------------------------------------------------------------------------

def test_who_comes_after_a_thousand_of_another_caller_goes_second() -> None:
    line = lined(fleet())
    filled(line, [waiting(f"a{number}", created_at=NOW + number) for number in range(1_000)])
    line.add(waiting("b0", "b", created_at=NOW + 5_000))
    assert line.place("b0", NOW) == (2, NOW)
    assert line.place("a1", NOW) == (3, NOW)
    assert goes(line)[:3] == ["a0", "b0", "a1"]


def test_callers_take_turns_however_many_each_has() -> None:
    line = lined(fleet())
    filled(line, [waiting(f"{owner}{number}", owner, created_at=NOW + number)
                  for owner, count in (("a", 50), ("b", 3), ("c", 10)) for number in range(count)])
    going = goes(line)
    assert going[:9] == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]
    assert going[9:11] == ["a3", "c3"]
    assert Counter(task_id[0] for task_id in going) == {"a": 50, "b": 3, "c": 10}


def test_whoever_begins_anew_stands_behind_one_of_each_other_and_saves_up_no_turns() -> None:
    line = lined(fleet())
    filled(line, [waiting(f"a{number}", created_at=NOW + number) for number in range(20)])
    assert len(goes(line, room=10)) == 10
    filled(line, [waiting(f"b{number}", "b", created_at=NOW + 100 + number) for number in range(5)])
    assert goes(line, room=6) == ["a10", "b0", "a11", "b1", "a12", "b2"]


def test_whoever_had_many_turns_owes_nothing_once_nobody_waits() -> None:
    line = lined(fleet())
    filled(line, [waiting(f"a{number}") for number in range(500)])
    assert len(goes(line)) == 500
    line.add(waiting("b0", "b", created_at=NOW + 1))
    line.add(waiting("a500", created_at=NOW + 2))
    assert goes(line) == ["b0", "a500"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 2)), max_size=40), st.integers(1, 5))
def test_nobody_waits_longer_than_one_turn_of_each_other_caller(
    crowd: list[tuple[str, int]], room: int
) -> None:
    """Of each priority, between two tasks of one caller at most one of any other caller goes."""
    line = lined(fleet())
    filled(line, [waiting(f"v{number}", owner, priority=priority, created_at=NOW + number)
                  for number, (owner, priority) in enumerate(crowd)])
    order: list[str] = []
    while going := goes(line, room):
        order += going
    assert sorted(order) == sorted(f"v{number}" for number in range(len(crowd)))
    went = [crowd[int(task_id[1:])] for task_id in order]
    assert [priority for _, priority in went] == sorted((level for _, level in crowd), reverse=True)
    for level in {priority for _, priority in went}:
        owners = [owner for owner, priority in went if priority == level]
        for owner in set(owners):
            first, last = owners.index(owner), len(owners) - 1 - owners[::-1].index(owner)
            for other in set(owners) - {owner}:
                ours, theirs = owners.count(owner), owners[first:last + 1].count(other)
                assert theirs <= ours, (owner, other, owners)


def test_who_waits_in_vain_elsewhere_owes_no_turns_here() -> None:
    providers = fleet(one="max_in_flight = 1", two="max_in_flight = 1")
    gate = providers.providers["one"].gate
    providers.providers["two"].gate.in_flight = 1
    line = filled(lined(providers), [waiting(f"a{n}", "a", TWO, created_at=NOW + n) for n in range(500)])
    line.add(waiting("a one", created_at=NOW + 500))
    filled(line, [waiting(f"b{n}", "b", created_at=NOW + 501 + n) for n in range(2)])
    went: list[str] = []
    for number in range(2, 5):
        went += goes(line)
        gate.answered()
        gate.leave()
        line.add(waiting(f"b{number}", "b", created_at=NOW + 501 + number))
    assert went == ["a one", "b0", "b1"]


# --- priority -----------------------------------------------------------------------------------------

def test_a_higher_priority_goes_first_and_turns_are_counted_within_one() -> None:
    line = lined(fleet())
    filled(line, [
        waiting("low", priority=-10), waiting("a0"), waiting("a1"), waiting("b0", "b", created_at=NOW + 1),
        waiting("high", "b", priority=10, created_at=NOW + 9), waiting("high too", "b", priority=10,
                                                                     created_at=NOW + 10),
    ])
    assert goes(line) == ["high", "high too", "a0", "b0", "a1", "low"]


def test_what_came_earlier_goes_first_within_one_callers_tasks() -> None:
    line = lined(fleet())
    filled(line, [waiting(f"v{number}", created_at=NOW + number) for number in range(10)])
    assert goes(line) == [f"v{number}" for number in range(10)]


def test_a_returned_task_goes_before_all_that_were_not_sent_yet() -> None:
    line = lined(fleet())
    filled(line, [waiting(f"a{number}", created_at=NOW + number) for number in range(10)])
    filled(line, [waiting(f"b{number}", "b", created_at=NOW + 50 + number) for number in range(10)])
    assert goes(line, room=5) == ["a0", "b0", "a1", "b1", "a2"]
    line.add(waiting("a1", created_at=NOW + 1, attempts=1))
    line.add(waiting("a2", created_at=NOW + 2, attempts=1))
    assert goes(line, room=3) == ["a1", "a2", "b2"]


def test_a_returned_task_costs_its_caller_no_turn() -> None:
    line = lined(fleet())
    filled(line, [waiting("a0"), waiting("b0", "b", created_at=NOW + 1)])
    assert goes(line, room=1) == ["a0"]
    for _ in range(100):
        line.add(waiting("a0", attempts=1))
        assert goes(line, room=1) == ["a0"]
    line.add(waiting("a1", created_at=NOW + 2))
    assert goes(line) == ["b0", "a1"]


# --- the gates ----------------------------------------------------------------------------------------

def test_each_goes_to_its_first_free_candidate() -> None:
    providers = fleet(one="max_in_flight = 1", two="max_in_flight = 2")
    line = filled(lined(providers), [waiting(f"v{number}", "a", ONE, TWO, created_at=NOW + number)
                                    for number in range(5)])
    going = line.ready(NOW, 1_000, lambda _: True)
    assert going == [("v0", ONE), ("v1", TWO), ("v2", TWO)]
    assert [providers.providers[name].gate.in_flight for name in ("one", "two")] == [1, 2]


def test_who_can_only_go_where_it_is_full_does_not_hold_up_the_others() -> None:
    line = filled(lined(fleet(one="max_in_flight = 1")), [
        *(waiting(f"one{number}", "a", ONE, created_at=NOW + number) for number in range(5)),
        waiting("two", "a", TWO, created_at=NOW + 9),
    ])
    assert [task_id for task_id, _ in line.ready(NOW, 1_000, lambda _: True)] == ["one0", "two"]


def calls_to_go(crowd: int) -> int:
    """How many functions are called to find the two that go, among so many that cannot."""
    providers = fleet(one="max_in_flight = 2", two="max_in_flight = 1")
    providers.providers["two"].gate.in_flight = 1
    line = filled(lined(providers), [waiting(f"two{n}", f"owner{n % 7}", TWO) for n in range(crowd)])
    filled(line, [waiting(f"one{n}", f"owner{n % 7}", ONE, priority=-1) for n in range(crowd)])
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: calls.append(event) if event == "call" else None)
    try:
        going = line.ready(NOW, 1_000, lambda _: True)
    finally:
        sys.setprofile(None)
    assert [candidate for _, candidate in going] == [ONE, ONE]
    return len(calls)


def test_however_many_wait_where_it_is_full_they_cost_the_others_nothing() -> None:
    assert calls_to_go(3_000) == calls_to_go(30)


def test_a_candidate_that_was_ruled_out_or_is_gone_is_passed_over() -> None:
    providers = fleet()
    gone = Candidate("one", "no-such-slug")
    line = filled(lined(providers), [
        waiting("ruled out", "a", ONE, TWO, ruled_out=(ONE,)), waiting("gone", "a", gone, TWO),
        waiting("nowhere", "a", gone), waiting("no provider", "a", Candidate("three", SLUG)),
    ])
    assert line.ready(NOW, 1_000, lambda _: True) == [("gone", TWO), ("ruled out", TWO)]


def test_who_may_not_go_yet_takes_no_place() -> None:
    providers = fleet(one="max_in_flight = 1")
    line = filled(lined(providers), [waiting("busy"), waiting("free", created_at=NOW + 1)])
    assert line.ready(NOW, 1_000, lambda task_id: task_id == "free") == [("free", ONE)]
    assert providers.providers["one"].gate.in_flight == 1


@pytest.mark.parametrize("room", [0, 1, 3])
def test_no_more_go_than_there_is_room_for(room: int) -> None:
    providers = fleet()
    line = filled(lined(providers), [waiting(f"v{number}") for number in range(5)])
    assert len(line.ready(NOW, room, lambda _: True)) == room
    assert providers.providers["one"].gate.in_flight == room


def test_it_says_when_a_gate_opens_by_itself() -> None:
    providers = fleet(one="requests_per_minute = 1", two="max_in_flight = 1")
    line = filled(lined(providers), [waiting(f"v{number}", "a", ONE, TWO) for number in range(3)])
    assert len(line.ready(NOW, 1_000, lambda _: True)) == 2
    assert line.gates_at == providers.providers["one"].gate.free_at(NOW)
    assert NOW + 60 <= line.gates_at < NOW + 61
    providers.providers["one"].gate.health.hold = "pause"
    line.ready(NOW, 1_000, lambda _: True)
    assert line.gates_at == float("inf"), "only news can tell"


# --- what is told of a place --------------------------------------------------------------------------

def test_a_place_and_when_it_may_start() -> None:
    providers = fleet(one="requests_per_minute = 1")
    line = filled(lined(providers), [waiting(f"v{number}", created_at=NOW + number) for number in range(4)])
    assert goes(line) == ["v0"]
    place = line.place("v2", NOW)
    assert place is not None
    assert place[0] == 2
    assert place[1] == providers.providers["one"].gate.free_at(NOW)
    assert line.place("v0", NOW) is None


def test_when_it_may_start_is_not_told_where_only_news_can_tell() -> None:
    providers = fleet(one="max_in_flight = 1")
    line = filled(lined(providers), [waiting("v0"), waiting("v1", "a", ONE, Candidate("three", SLUG))])
    assert goes(line) == ["v0"]
    assert line.place("v1", NOW) == (1, None)
    line.add(waiting("v2", "b", ONE, TWO))
    assert line.place("v2", NOW) == (2, NOW), "the other candidate is free"


def test_how_many_could_go_where() -> None:
    line = filled(lined(fleet()), [
        waiting("v0"), waiting("v1", "a", ONE, TWO), waiting("v2", "a", ONE, Candidate("one", "another")),
        waiting("v3", "a", ONE, TWO, ruled_out=(ONE,)),
    ])
    assert [line.waiting_for(name) for name in ("one", "two", "three")] == [3, 2, 0]
    for task_id in ("v0", "v1", "v2", "v3"):
        line.remove(task_id)
    assert [line.waiting_for(name) for name in ("one", "two")] == [0, 0]


def test_what_was_allowed_to_be_sent_again_waits_to_its_deadline() -> None:
    line = lined(fleet(one='max_queue_age = "5m"'))
    assert line.ends_at(waiting("v0", resubmits=1)) == float("inf")
    assert line.ends_at(waiting("v0", reruns=1)) == float("inf")


def test_who_does_not_wait_is_left_alone() -> None:
    line = filled(lined(fleet()), [waiting("v0")])
    line.remove("v1")
    line.remove("v0")
    line.remove("v0")
    assert goes(line) == []
    assert line.place("v0", NOW) is None


@pytest.mark.parametrize(
    ("one", "two", "candidates", "seconds"),
    [
        ('max_queue_age = "5m"', "", (ONE,), 300),
        ('max_queue_age = "5m"', 'max_queue_age = "9m"', (ONE, TWO), 540),
        ('max_queue_age = "5m"', "", (ONE, TWO), float("inf")),
        ('max_queue_age = "5m"', "", (ONE, Candidate("three", SLUG)), float("inf")),
        ("", "", (ONE,), float("inf")),
    ],
)
def test_a_task_has_waited_long_enough_when_it_has_at_every_candidate(
    one: str, two: str, candidates: tuple[Candidate, ...], seconds: float
) -> None:
    line = lined(fleet(one, two))
    assert line.ends_at(waiting("v0", "a", *candidates)) == NOW + seconds


def test_a_candidate_that_was_ruled_out_does_not_prolong_the_wait() -> None:
    line = lined(fleet(one='max_queue_age = "5m"'))
    task = waiting("v0", "a", ONE, TWO)
    assert line.ends_at(replace(task, ruled_out=(TWO,))) == NOW + 300
    assert line.ends_at(replace(task, ruled_out=(ONE, TWO))) == float("inf")
