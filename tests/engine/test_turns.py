"""Whose poll goes next, and how a short budget is shared: fair between callers, and nobody starves.

In virtual time, without a loop: the schedule, the line and the pace as they are. Not held here: the schedule
itself (`tests/core`), the engine that asks (`test_crowds`).
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean

import pytest

from gateway.core.admission import Pace
from gateway.core.health import OPEN_AFTER, PROBE_SECONDS, Health
from gateway.core.pacing import Bounds, next_poll
from gateway.core.render_times import NOTHING_LEARNED, RenderTimes
from gateway.engine.turns import ASKING_MAX, PATIENCE, Turns
from tests.core.made import NOW

BOUNDS = Bounds(2.0, 30.0)
ANSWER_SECONDS = 0.2


def turns(per_minute: int | None = None) -> Turns:
    return Turns(Pace(per_minute), Health())


def line_up(made: Turns, owner: str, *numbers: int, now: float = NOW) -> None:
    for number in numbers:
        made.line_up(f"{owner}{number}", owner, now, now)


def going(made: Turns, now: float = NOW, room: int = 1_000) -> list[str]:
    return made.ready(now, room, random.Random(1))


# --- the line -----------------------------------------------------------------------------------------

def test_a_callers_next_poll_stands_behind_one_of_every_other_caller() -> None:
    made = turns()
    line_up(made, "a", *range(5))
    line_up(made, "b", 0, 1)
    assert going(made, room=2) == ["a0", "b0"]
    line_up(made, "c", 0)
    assert going(made) == ["a1", "b1", "c0", "a2", "a3", "a4"]


def test_who_comes_later_does_not_overtake_by_having_waited_for_nothing() -> None:
    made = turns()
    line_up(made, "a", *range(4))
    assert going(made, room=3) == ["a0", "a1", "a2"]
    line_up(made, "b", *range(3))
    assert going(made) == ["a3", "b0", "b1", "b2"]


def test_one_that_is_in_line_keeps_its_place_and_goes_once() -> None:
    made = turns()
    line_up(made, "a", 0, 1, 0, 0)
    assert going(made) == ["a0", "a1"]
    line_up(made, "a", 0)
    assert going(made) == [], "it has its turn already"
    assert [made.go("a0"), made.go("a0"), made.go("a7")] == [True, False, False]
    line_up(made, "a", 0)
    assert going(made) == ["a0"]


def test_who_left_does_not_go_and_takes_no_turn() -> None:
    made = turns(60)
    line_up(made, "a", 0, 1, 2)
    for number in (0, 2):
        made.leave(f"a{number}", "a")
    assert going(made) == ["a1"]
    made.leave("a1", "a")
    assert (made.granted, made.go("a1")) == (0, False)
    made.leave("never seen", "nobody")
    line_up(made, "a", 0)
    assert going(made, NOW + 2) == ["a0"], "and may come again"


def test_nobody_waits_for_a_turn_where_there_is_no_budget() -> None:
    made, chance = turns(), random.Random(1)
    assert made.free_at(NOW, chance) == float("inf")
    line_up(made, "a", *range(2_000))
    assert made.free_at(NOW, chance) == NOW
    assert len(going(made, room=ASKING_MAX)) == made.granted == ASKING_MAX
    assert made.wait_seconds("a1999", NOW, chance) == 0.0
    assert made.bounds("a", BOUNDS, NOW) is BOUNDS


def test_a_budget_lets_them_go_one_after_the_other() -> None:
    made, chance = turns(60), random.Random(1)
    line_up(made, "a", *range(10))
    assert going(made) == ["a0"]
    assert made.free_at(NOW, chance) == pytest.approx(NOW + 1, abs=0.01)
    assert made.wait_seconds("a5", NOW, chance) == pytest.approx(9, abs=0.1)
    assert made.wait_seconds("a0", NOW, chance) == 0.0
    assert [going(made, NOW + second * 1.01) for second in (0.5, 1, 2)] == [[], ["a1"], ["a2"]]


def test_while_polls_fail_one_at_a_time_finds_out() -> None:
    health, chance = Health(), random.Random(1)
    made = Turns(Pace(None), health)
    for number in range(OPEN_AFTER):
        health.polls.failed(f"a{number}", NOW, chance)
    line_up(made, "a", *range(100))
    assert going(made) == ["a0"]
    assert going(made, NOW + 0.9 * PROBE_SECONDS) == []
    assert NOW + PROBE_SECONDS <= made.free_at(NOW + 1, chance) <= NOW + 2 * PROBE_SECONDS
    assert going(made, NOW + PROBE_SECONDS) == ["a1"]
    health.polls.answered()
    assert len(going(made, NOW + PROBE_SECONDS)) == 98


def test_what_is_in_no_hurry_goes_only_when_nobody_waits() -> None:
    made = turns(60)
    assert [made.take(NOW), made.take(NOW)] == [True, False]
    line_up(made, "a", 0)
    assert made.take(NOW + 5) is False
    assert going(made, NOW + 5) == ["a0"]
    assert [made.take(NOW + 5.5), made.take(NOW + 7)] == [False, True]


def test_who_ended_is_forgotten() -> None:
    made = turns(60)
    for number in range(1_000):
        made.wish(f"a{number}", "a", 10.0)
        line_up(made, "a", number)
        made.leave(f"a{number}", "a")
    kept = (made._wishes, made._waiting, made._callers, made._granted, made._line)  # noqa: SLF001 - a leak
    assert [len(each) for each in kept] == [0] * 5


# --- a budget that is short ---------------------------------------------------------------------------

class World:
    """Tasks that never end, followed in virtual time; `callers` says how many each has."""

    def __init__(self, callers: Mapping[str, int], per_minute: int | None, times: RenderTimes) -> None:
        self.turns, self.times, self.chance = turns(per_minute), times, random.Random(1)
        self.owners = {f"{name}{number}": name for name, count in callers.items() for number in range(count)}
        self.began = dict.fromkeys(self.owners, 0.0)
        self.asked: dict[str, list[float]] = {task_id: [] for task_id in self.owners}
        self.waited = 0
        self._due: list[tuple[float, str]] = []

    def run(self, seconds: float, *, spread_seconds: float = 0.0) -> None:
        """From all at once, or from beginnings spread over some seconds."""
        for task_id in self.owners:
            self.began[task_id] = self.chance.uniform(0, spread_seconds)
            heapq.heappush(self._due, (self.began[task_id], task_id))
        now = 0.0
        while now < seconds:
            while self._due and self._due[0][0] <= now:
                task_id = heapq.heappop(self._due)[1]
                self._is_due(task_id, now)
            for task_id in self.turns.ready(now, ASKING_MAX, self.chance):
                self.turns.go(task_id)
                self.asked[task_id].append(now)
                self._plan(task_id, now + ANSWER_SECONDS)
            free_at = self.turns.free_at(now, self.chance)
            now = max(now + 1e-6, min(free_at, self._due[0][0] if self._due else free_at))

    def _is_due(self, task_id: str, now: float) -> None:
        asked = self.asked[task_id]
        if asked or now > self.began[task_id]:
            asked_at = asked[-1] if asked else self.began[task_id]
            self.turns.line_up(task_id, self.owners[task_id], asked_at, now)
        else:
            self._plan(task_id, now)

    def _plan(self, task_id: str, now: float) -> None:
        owner = self.owners[task_id]
        bounds = self.turns.bounds(owner, BOUNDS, now)
        plan = next_poll(now, self.began[task_id], bounds, self.chance, times=self.times)
        self.turns.wish(task_id, owner, plan.wished_seconds or 0.0)
        heapq.heappush(self._due, (max(plan.at, now + 1e-6), task_id))

    def gaps(self, since: float, owner: str | None = None) -> list[float]:
        """Seconds between two polls of a task, of those that ended after `since`."""
        return [
            later - earlier for task_id, times in self.asked.items() if owner in (None, self.owners[task_id])
            for earlier, later in pairwise(times) if later >= since
        ]


def seen() -> RenderTimes:
    times, chance = RenderTimes(), random.Random(2)
    for _ in range(200):
        times.add(104 * chance.lognormvariate(0, 0.25))
    return times


CROWDS: dict[str, dict[str, int]] = {
    "one caller": {"a": 400},
    "ten callers": {f"caller {number} ": 40 for number in range(10)},
    "one large among small ones": {"large": 200, **{f"caller {number} ": 20 for number in range(10)}},
    "fifty callers": {f"caller {number} ": 8 for number in range(50)},
}


@pytest.mark.parametrize("spread_seconds", [0.0, 150.0], ids=["all at once", "spread"])
@pytest.mark.parametrize("times", [NOTHING_LEARNED, seen()], ids=["nothing learned", "learned"])
@pytest.mark.parametrize("crowd", list(CROWDS))
def test_under_a_binding_budget_nobody_is_left_for_twice_the_mean_interval(
    crowd: str, times: RenderTimes, spread_seconds: float
) -> None:
    world = World(CROWDS[crowd], 480, times)  # they wish eighty polls a second, and get eight
    world.run(400, spread_seconds=spread_seconds)
    asked = sorted(at for times in world.asked.values() for at in times)
    assert all(later - earlier >= 60 for earlier, later in zip(asked, asked[480:], strict=False))
    assert len([at for at in asked if at >= 250]) >= 0.7 * 150 * 8, "and the budget is used"
    unpolled = [400 - times[-1] for times in world.asked.values()]
    assert max(*world.gaps(250), *unpolled) <= 2 * len(world.owners) / 8


def test_a_small_caller_is_asked_for_as_often_as_it_wishes() -> None:
    world = World({"large": 400, "small": 3}, 480, NOTHING_LEARNED)
    world.run(400)
    assert fmean(world.gaps(100, "small")) < 12
    assert fmean(world.gaps(100, "large")) > 45


def test_intervals_stretch_and_the_line_stays_short() -> None:
    world = World({"a": 400}, 480, NOTHING_LEARNED)
    world.run(400)
    bounds = world.turns.bounds("a", BOUNDS, 400.0)
    assert 9.0 <= bounds.stretch <= 11.5, "400 wish for one every five seconds, of eight a second"
    assert bounds.max_seconds == pytest.approx(PATIENCE * 50, rel=0.1)
    assert world.turns.wait_seconds("nobody", 400.0, world.chance) == 0.0
    assert len(world.turns._waiting) < 40, "a tenth of all"  # noqa: SLF001 - a line has no public length


def test_a_budget_that_is_enough_changes_nothing() -> None:
    wide, none = World({"a": 100}, 2_400, NOTHING_LEARNED), World({"a": 100}, None, NOTHING_LEARNED)
    for world in (wide, none):
        world.run(200, spread_seconds=10)
    assert wide.turns.bounds("a", BOUNDS, 200.0) is BOUNDS
    counts = [Counter(len(times) for times in world.asked.values()).most_common(1) for world in (wide, none)]
    assert counts[0][0][0] == counts[1][0][0] in {37, 38, 39}


def test_a_budget_that_is_given_back_is_used_again() -> None:
    made = turns(60)
    for number in range(100):
        made.wish(f"a{number}", "a", 10.0)
    assert made.bounds("a", BOUNDS, NOW).stretch == pytest.approx(10, rel=0.1)
    for number in range(95):
        made.leave(f"a{number}", "a")
    assert made.bounds("a", BOUNDS, NOW + 2) is BOUNDS
    made.pace.per_minute = 10
    assert made.bounds("a", BOUNDS, NOW + 4).stretch > 3


def test_a_caller_that_just_came_is_not_stretched_by_what_others_wish() -> None:
    made = turns(60)
    for number in range(100):
        made.wish(f"a{number}", "a", 10.0)
    assert made.bounds("new", BOUNDS, NOW).stretch == 1.0


def test_what_was_taken_over_counts_before_it_was_ever_planned() -> None:
    made = turns(60)
    for number in range(200):
        made.line_up(f"a{number}", "a", NOW - number, NOW + number)
    assert made.bounds("a", BOUNDS, NOW + 300).stretch > 10
