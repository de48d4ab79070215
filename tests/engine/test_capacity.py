"""A process that cannot make all polls that are wished plans fewer, instead of making all of them late.

In virtual time: a model of a busy process over the real line of polls, then the real engine at a vendor that
answers slowly. Not held here: a vendor's budget and fairness within it (`test_turns`).
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Mapping
from statistics import quantiles

import pytest

from gateway.core.admission import Pace
from gateway.core.health import OPEN_AFTER, Health
from gateway.core.pacing import Bounds, next_poll
from gateway.engine.capacity import STRETCH_MAX, WINDOW_SECONDS
from gateway.engine.pulse import LATE_SECONDS, Pulse
from gateway.engine.turns import ASKING_MAX, PATIENCE, Turns
from providers.spec import Offering, Progress, Ref, Submitted, VideoRequest
from tests.core.made import NOW
from tests.engine.life import ScriptedVendor, accepted, life, pending
from tests.virtual import run_virtual

BOUNDS = Bounds(2.0, 30.0)
WISHED_SECONDS = 5.0  # between two polls of a render of which nothing is known
STEP_SECONDS = 0.02


class Busy:
    """A process that makes `capacity` polls a second; `callers` have so many tasks each, which never end."""

    def __init__(
        self, callers: Mapping[str, int], capacity: float, per_minute: int | None = None,
        bounds: Bounds = BOUNDS,
    ) -> None:
        self.turns, self.chance = Turns(Pace(per_minute), Health()), random.Random(1)
        self.capacity, self.bounds = capacity, bounds
        self.now, self.whys = NOW, Counter[str]()
        self.late: list[tuple[float, float]] = []  # when a poll began, and how much later than planned
        self.planned: dict[str, float] = {}
        self.owners = {f"{name}{number}": name for name, count in callers.items() for number in range(count)}
        self._under_way: list[str] = []
        self._due: list[tuple[float, str]] = []
        self._credit = 0.0
        for task_id, owner in self.owners.items():
            self.turns.wish(task_id, owner, WISHED_SECONDS)
            self._plan_at(task_id, NOW + self.chance.uniform(0, WISHED_SECONDS))

    def run(self, seconds: float) -> None:
        """Go on for so long."""
        until = self.now + seconds
        while self.now < until:
            self._step()
            self.now += STEP_SECONDS

    def stand_still(self, seconds: float) -> None:
        """The machine sleeps."""
        self.now += seconds

    def leave(self, count: int) -> None:
        """So many tasks end."""
        for task_id in list(self.owners)[:count]:
            self.turns.leave(task_id, self.owners.pop(task_id))

    def stretch(self, owner: str = "a") -> float:
        """By how much this caller's polls are further apart."""
        return self.turns.bounds(owner, self.bounds, self.now).stretch

    def lateness(self, since: float) -> float:
        """Seconds that 99 of 100 polls were late at most, of those since then."""
        return quantiles([late for at, late in self.late if at >= since], n=100)[-1]

    def polls(self, since: float) -> float:
        """Polls a second since then."""
        return sum(at >= since for at, _ in self.late) / (self.now - since)

    def _step(self) -> None:
        while self._due and self._due[0][0] <= self.now:
            task_id = heapq.heappop(self._due)[1]
            if task_id in self.owners:
                self.turns.line_up(task_id, self.owners[task_id], self.now, self.now)
        room = max(2, int(self.capacity / 6)) - len(self._under_way)
        for task_id in self.turns.ready(self.now, room, self.chance, is_late=True):
            self.turns.go(task_id)
            self.late.append((self.now, self.now - self.planned[task_id]))
            self._under_way.append(task_id)
        self._credit = min(self._credit, 1.0) + self.capacity * STEP_SECONDS
        count = min(len(self._under_way), int(self._credit))
        self._credit -= count
        answered, self._under_way = self._under_way[:count], self._under_way[count:]
        for task_id in answered:
            if task_id in self.owners:
                self._answered(task_id, self.owners[task_id])

    def _answered(self, task_id: str, owner: str) -> None:
        bounds = self.turns.bounds(owner, self.bounds, self.now)
        plan = next_poll(self.now, NOW - 100, bounds, self.chance)
        self.turns.wish(task_id, owner, plan.wished_seconds or 0.0)
        self.whys[plan.why] += 1
        self._plan_at(task_id, plan.at)

    def _plan_at(self, task_id: str, at: float) -> None:
        self.planned[task_id] = at
        heapq.heappush(self._due, (at, task_id))


# --- more than it can make ----------------------------------------------------------------------------

@pytest.mark.parametrize("tasks", [1_600, 2_000, 10_000])
def test_polls_that_cannot_be_made_are_not_planned_so_that_the_others_are_in_time(tasks: int) -> None:
    busy = Busy({"a": tasks}, 300)
    busy.run(75)
    since = busy.now
    busy.run(60)
    assert busy.lateness(since) < 1.0
    assert busy.polls(since) > 0.85 * 300, "and what can be made is made"
    assert busy.stretch() == pytest.approx(tasks / 300 / WISHED_SECONDS, rel=0.15)
    assert busy.whys["load"] > 100 * busy.whys["budget"]


def test_what_can_be_made_is_planned_as_it_is_wished() -> None:
    busy = Busy({"a": 1_300}, 300)
    busy.run(60)
    assert (busy.stretch(), set(busy.whys)) == (1.0, {"prior"})


def test_with_fewer_tasks_the_schedule_is_as_wished_at_once() -> None:
    busy = Busy({"a": 4_000}, 300)
    busy.run(60)
    assert busy.stretch() > 2.0
    busy.leave(3_000)
    busy.run(2 * WINDOW_SECONDS)
    assert busy.stretch() == 1.0
    assert busy.turns.bounds("a", BOUNDS, busy.now) is BOUNDS


def test_a_process_that_has_its_processor_back_finds_out() -> None:
    busy = Busy({"a": 1_000}, 100)
    busy.run(60)
    assert busy.stretch() > 1.7
    busy.capacity = 300
    busy.run(240)
    assert busy.stretch() == 1.0


@pytest.mark.parametrize(("tasks", "stretch"), [(1_200, 1.0), (2_000, 1.33)])
def test_a_machine_that_slept_is_not_taken_for_a_slow_one(tasks: int, stretch: float) -> None:
    busy = Busy({"a": tasks}, 300)
    busy.run(60)
    busy.stand_still(600)
    for _ in range(30):
        busy.run(1)
        assert 1.0 <= busy.stretch() <= 1.2 * stretch
    since = busy.now
    busy.run(20)
    assert busy.lateness(since) < 1.0


def test_a_caller_with_few_tasks_does_not_wait_for_one_with_many() -> None:
    busy = Busy({"many": 3_000, "few": 20}, 300)
    busy.run(30)
    assert (busy.stretch("few"), busy.stretch("many") > 1.8) == (1.0, True)


def test_the_longest_pause_grows_with_the_others() -> None:
    busy = Busy({"a": 10_000}, 300)
    busy.run(60)
    bounds = busy.turns.bounds("a", BOUNDS, busy.now)
    assert bounds == Bounds(BOUNDS.min_seconds, BOUNDS.max_seconds * bounds.stretch, bounds.stretch, "load")


def test_what_is_beyond_all_measure_is_late() -> None:
    busy = Busy({"a": 1_000}, 100, bounds=Bounds(0.01, 0.01))
    busy.run(30)
    assert busy.stretch() == pytest.approx(STRETCH_MAX, rel=0.001)
    assert busy.turns.bounds("a", busy.bounds, busy.now).max_seconds == pytest.approx(0.2, rel=0.001)


# --- what is not the process --------------------------------------------------------------------------

def test_a_budget_that_is_shorter_decides() -> None:
    busy = Busy({"a": 2_000}, 300, per_minute=6_000)
    busy.run(60)
    bounds = busy.turns.bounds("a", BOUNDS, busy.now)
    assert (bounds.scarce, busy.whys["load"]) == ("budget", 0)
    assert bounds.max_seconds == pytest.approx(PATIENCE * 20, rel=0.1)


def test_a_budget_that_is_longer_does_not() -> None:
    busy = Busy({"a": 2_000}, 300, per_minute=30_000)
    busy.run(75)
    since = busy.now
    busy.run(30)
    assert (busy.turns.bounds("a", BOUNDS, busy.now).scarce, busy.whys["budget"]) == ("load", 0)
    assert busy.lateness(since) < 1.0


def test_a_vendor_whose_polls_fail_says_nothing_of_this_process() -> None:
    health, chance = Health(), random.Random(1)
    turns = Turns(Pace(None), health)
    for number in range(OPEN_AFTER):
        health.polls.failed(f"a{number}", NOW, chance)
    for number in range(1_000):
        turns.line_up(f"a{number}", "a", NOW, NOW)
    steps = (NOW + step / 10 for step in range(9_000))
    asked = sum(len(turns.ready(now, ASKING_MAX, chance, is_late=True)) for now in steps)
    assert 40 < asked < 1_000
    assert turns.bounds("a", BOUNDS, NOW + 900) is BOUNDS


# --- in the engine ------------------------------------------------------------------------------------

class Slow(ScriptedVendor):
    """A vendor that takes ten seconds to say that it still renders."""

    def __init__(self) -> None:
        super().__init__([accepted()], [])
        self.chance, self.jobs = random.Random(3), 0

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        """Another job."""
        self.jobs += 1
        return accepted(f"v-{self.jobs}")

    async def poll(self, ref: Ref) -> Progress:
        """Still rendering."""
        await asyncio.sleep(self.chance.uniform(5, 15))
        return pending()


@pytest.mark.parametrize(
    ("setting", "is_late", "why"),
    [
        ("", True, "load"), ("polls_per_minute = 6_000", True, "load"),
        ("polls_per_minute = 600", True, "budget"), ("", False, "prior"),
    ],
)
def test_the_timeline_says_what_polls_wait_for(
    setting: str, is_late: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vendor alone that is slow changes no plan: once it is quick again, so are the polls."""
    monkeypatch.setattr(Pulse, "is_late", is_late)

    async def main() -> None:
        async with life({"one": Slow()}, one=setting) as one:
            for number in range(ASKING_MAX + 200):
                await one.create(f"video_{number}")
            await asyncio.sleep(45)
            await one.create("the last")
            await one.until(lambda task: task.state == "rendering", "the last")
            whys = [
                [event.detail["why"] for event in await one.events(name) if event.type == "next_poll"]
                for name in ("video_0", "the last")
            ]
            assert whys == [["prior"], [why]]

    run_virtual(main())


# --- the pulse ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("work_seconds", "is_late"), [(0.0, False), (4 * LATE_SECONDS, True)])
def test_rounds_in_which_much_is_done_are_felt(
    work_seconds: float, is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        pulse, now = Pulse(), NOW
        pulse.begin()
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        for _ in range(20):
            pulse.feel()
            now += work_seconds
            pulse.feel()  # once a round
            await asyncio.sleep(0)
        assert pulse.is_late is is_late

    asyncio.run(main())
