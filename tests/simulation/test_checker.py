"""The judge finds what it is there to find: forged histories, each with one thing wrong.

Not held here: real runs (`test_simulation`).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from gateway.core.facts import Candidate
from gateway.core.states import Event, Status, Task
from tests.simulation.checker import judge
from tests.simulation.history import Accepted, Ending, History, Life, Seen, Submission

START = 1_800_000_000.0


def event(seq: int, kind: str, status: Status, **detail: str | int) -> Event:
    return Event(
        type=kind, at=START + seq, status=status, stage=None, provider="highway", offering="slug", seq=seq,
        detail=dict(detail),
    )


def history() -> History:
    """One video, ordered, bought, made, told of, completed: nothing wrong."""
    task = Task(
        id="video_1", owner="ann", model="kling-v3", state="completed", stage="linked",
        candidates=(Candidate("highway", "slug"),), created_at=START, deadline_at=START + 600,
        completed_at=START + 4, provider="highway", offering="slug", vendor_task_id="highway-1",
        last_seq=4, charged="yes", cost_amount="0.35", cost_currency="USD", result_url="https://v", version=4,
    )
    events = (
        event(1, "accepted", "queued"), event(2, "submitting", "queued", cost="0.35 USD"),
        event(3, "accepted_by_vendor", "in_progress", vendor_task_id="highway-1"),
        event(4, "completed", "completed"),
    )
    return History(
        orders={0: 0.0}, accepted=[Accepted(0, "video_1")], videos=[Seen(order=0, task=task, events=events)],
        submissions=[bought()], lives=[Life(number=0, born_at=0.0, ended_at=700.0, end="is over")],
        is_calm=True, poll_min={"highway": 5.0}, poll_max={"highway": 30.0},
        limits={"highway": 2},
        ending=Ending(in_flight={"highway": 0}, sending={"highway": 0}),
    )


def bought(number: int = 0, **fields: object) -> Submission:
    made = Submission(
        number=number, provider="highway", order=0, at=1.0 + number, kind="fine", sent_by=0, has_left=True,
        vendor_task_id=f"highway-{number + 1}", cents=35, fate="done", ready_at=3.0, told_at=3.0, told_by=0,
        told_done_at=4.0, told_done_by=0, polls=[3.5],
    )
    return replace(made, **fields)


def change(made: History, **fields: object) -> None:
    """Replace fields of the video's task."""
    made.videos[0] = replace(made.videos[0], task=replace(made.videos[0].task, **fields))


def retell(made: History, *events: Event) -> None:
    made.videos[0] = replace(made.videos[0], events=events)
    change(made, last_seq=len(events))


def vanishes(made: History) -> None:
    made.videos.clear()
    made.submissions.clear()


def is_late(made: History) -> None:
    change(made, completed_at=START + 700)


def never_ends(made: History) -> None:
    change(made, state="rendering", completed_at=None)


def is_not_told(made: History) -> None:
    change(made, state="failed", error_code="deadline_exceeded", completed_at=START + 600)
    retell(made, *made.videos[0].events[:3], replace(event(4, "failed", "failed"), at=START + 600))


def is_never_asked_for(made: History) -> None:
    made.submissions[0].told_done_at = None
    is_not_told(made)


def is_known_to_nobody(made: History) -> None:
    made.submissions.append(bought(1))


def is_bought_twice(made: History) -> None:
    made.submissions.append(bought(1, told_at=None, told_done_at=None))


def is_accepted_twice(made: History) -> None:
    made.accepted.append(Accepted(0, "video_2"))
    made.videos.append(replace(made.videos[0], task=replace(made.videos[0].task, id="video_2")))


def is_free_and_was_charged(made: History) -> None:
    change(made, charged="no", cost_amount=None)


def costs_something_else(made: History) -> None:
    change(made, cost_amount="0.36")


def was_never_charged(made: History) -> None:
    made.submissions[0].cents = 0
    change(made, vendor_task_id="highway-9")


def has_no_cause(made: History) -> None:
    made.submissions[0].told_done_at = None


def was_ordered_by_nobody(made: History) -> None:
    made.submissions.append(bought(1, order=7, told_at=None))


def goes_backwards(made: History) -> None:
    one, two, three, four = made.videos[0].events
    retell(made, one, replace(three, seq=2), replace(two, seq=3), four)


def has_a_gap(made: History) -> None:
    made.videos[0] = replace(made.videos[0], events=made.videos[0].events[:2] + made.videos[0].events[3:])


def ends_twice(made: History) -> None:
    retell(made, *made.videos[0].events, event(5, "failed", "failed"))


def falls(made: History) -> None:
    one, two, three, four = made.videos[0].events
    retell(made, one, two, three, event(4, "vendor_status", "in_progress", progress=60),
           event(5, "vendor_status", "in_progress", progress=40), replace(four, seq=6))


def keeps_a_place(made: History) -> None:
    made.ending.in_flight["highway"] = 1


def leaks(made: History) -> None:
    made.ending.leaked.append("follow")


def is_violated(made: History) -> None:
    made.ending.faults.append("violation: progress falls")


def is_asked_too_often(made: History) -> None:
    made.submissions[0].polls = [3.0 + number for number in range(20)]


def is_too_fast(made: History) -> None:
    made.submissions += [bought(number, cents=0, vendor_task_id=None, told_at=None, told_done_at=None)
                         for number in (1, 2)]


def has_other_books(made: History) -> None:
    made.money_breaches.append("at 3.000 s 1 nanos are settled and 0 reserved, and the vendors charged 0")


WRONG: dict[Callable[[History], None], str] = {
    vanishes: "lost", is_late: "lost", never_ends: "lost", is_not_told: "lost", is_never_asked_for: "lost",
    is_known_to_nobody: "lost",
    is_bought_twice: "duplicated", is_accepted_twice: "duplicated",
    is_free_and_was_charged: "unexpected", costs_something_else: "unexpected",
    was_never_charged: "unexpected", has_no_cause: "unexpected", was_ordered_by_nobody: "unexpected",
    goes_backwards: "unexpected", has_a_gap: "unexpected", ends_twice: "unexpected", falls: "unexpected",
    keeps_a_place: "unexpected", leaks: "unexpected", is_violated: "unexpected",
    is_asked_too_often: "unexpected", is_too_fast: "unexpected",
    has_other_books: "unexpected",
}


def test_a_good_history_is_good() -> None:
    verdict = judge(history())
    assert verdict.problems == []
    assert verdict.is_good
    assert verdict.classes["ok"] == 1


@pytest.mark.parametrize("forge", WRONG)
def test_what_is_wrong_is_found(forge: Callable[[History], None]) -> None:
    made = history()
    forge(made)
    verdict = judge(made)
    assert not verdict.is_good
    assert {problem.split(":", 1)[0] for problem in verdict.problems} >= {WRONG[forge]}


def test_a_difference_is_told_in_cents() -> None:
    made = history()
    change(made, cost_amount="0.30")
    assert judge(made).difference_cents == 5


def test_a_permission_allows_a_second_sending_and_no_third() -> None:
    made = history()
    one, two, three, four = made.videos[0].events
    again = (event(3, "resubmit_allowed", "in_progress"),
             event(4, "submitting", "in_progress", cost="0.35 USD"))
    retell(made, one, two, *again, replace(three, seq=5), replace(four, seq=6))
    change(made, cost_amount="0.70")
    made.submissions.insert(0, bought(1, told_at=None, told_done_at=None))
    made.limits.clear()
    assert judge(made).problems == []
    made.submissions.append(bought(2, told_at=None, told_done_at=None))
    assert judge(made).classes["duplicated"] == 1


def test_what_went_through_the_unknown_and_ended_right_is_recovered() -> None:
    made = history()
    one, two, three, four = made.videos[0].events
    retell(made, one, two, event(3, "submission_unknown", "in_progress"), replace(three, seq=4),
           replace(four, seq=5))
    assert judge(made).classes["recovered"] == 1


def test_a_process_that_died_before_it_could_save_is_excused() -> None:
    made = history()
    is_known_to_nobody(made)
    made.lives.insert(0, Life(number=1, born_at=0.0, ended_at=3.1, end="killed"))
    made.submissions[1].told_by = 1
    assert [problem for problem in judge(made).problems if problem.startswith("lost")] == []
