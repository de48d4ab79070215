"""What becomes of a finished video's file, as its task and its timeline tell it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.core.facts import (
    Cancelled,
    DeadlinePassed,
    Fact,
    FileExpired,
    KeepingEnded,
    Lost,
    Polled,
    Stored,
)
from gateway.core.states import Task
from gateway.core.tasks import IllegalTransition, apply
from providers.spec import Pending, Succeeded
from tests.core.made import FAILED, FILE, NOW, RENDERING, life

LINK, FRESH = "https://files.example/v.mp4", "https://files.example/w.mp4"
STORED = Stored(FILE, "60/video_1-0.mp4")


def found(url: str = LINK, *, is_kept: bool = True) -> Polled:
    return Polled(Succeeded(raw_status="SUCCEED", url=url), 600, "unknown", is_kept)


DONE = (*RENDERING, found())
LATE = (*RENDERING, Cancelled(detach=True), found())


def told(task: Task) -> tuple[object, ...]:
    return task.status, task.stage, task.is_followed, task.file_key


def test_a_finished_video_is_followed_until_its_file_is_stored() -> None:
    done = life(*DONE)
    assert told(done) == ("completed", "storing", True, None)
    assert done.unstored_since == done.completed_at
    change = apply(done, STORED, NOW + 60)
    assert told(change.task) == ("completed", "stored", False, STORED.key)
    assert (change.task.file, change.task.file_until) == (FILE, FILE.expires_at)
    (event,) = change.events
    assert (event.type, event.detail["bytes"], event.detail["sha256"]) == ("stored", 1000, "ab" * 32)


def test_without_a_place_for_files_the_link_is_all_there_is() -> None:
    assert told(life(*RENDERING, found(is_kept=False))) == ("completed", "linked", False, None)


@pytest.mark.parametrize(
    ("fact", "stage"), [(Lost("dead"), "lost"), (KeepingEnded(), "linked")], ids=["lost", "off"]
)
def test_without_a_file_it_is_over_too(fact: Fact, stage: str) -> None:
    change = apply(life(*DONE), fact, NOW + 60)
    assert told(change.task) == ("completed", stage, False, None)
    assert [event.type for event in change.events] == [stage]


def test_a_late_video_is_stored_and_its_task_stays_as_it_ended() -> None:
    late = life(*LATE)
    assert told(late) == ("cancelled", None, True, None)
    assert late.late_url == LINK
    for fact in (STORED, Lost("dead"), KeepingEnded()):
        after = apply(late, fact, NOW + 60).task
        assert (after.status, after.stage, after.is_followed) == ("cancelled", None, False)
    assert apply(late, STORED, NOW + 60).task.file_key == STORED.key


@pytest.mark.parametrize(("facts", "name"), [(DONE, "result"), (LATE, "late")])
def test_another_link_takes_the_place_of_a_dead_one(facts: tuple[Fact, ...], name: str) -> None:
    task = life(*facts)
    change = apply(task, found(FRESH), NOW + 1000)
    after = change.task
    assert (getattr(after, f"{name}_url"), getattr(after, f"{name}_expires_at")) == (FRESH, NOW + 1600)
    assert after.unstored_since == task.unstored_since
    assert [event.type for event in change.events] == ["link_renewed"]
    assert FRESH not in str(change.events)


@pytest.mark.parametrize("progress", [Pending(raw_status="PROCESSING"), FAILED])
def test_whatever_else_the_vendor_says_by_then_changes_nothing(progress: Pending) -> None:
    task = life(*DONE)
    change = apply(task, Polled(progress, 600, "no"), NOW + 60)
    assert (change.task, change.is_saved) == (task, False)


def test_a_stored_file_expires_once() -> None:
    stored = apply(life(*DONE), STORED, NOW + 60).task
    change = apply(stored, FileExpired(), NOW + 90_000)
    assert (change.task.file_key, change.task.file_until, change.task.file) == (None, None, FILE)
    assert (change.task.stage, change.events[0].type) == ("stored", "file_expired")
    with pytest.raises(IllegalTransition):
        apply(change.task, FileExpired(), NOW + 90_001)


@pytest.mark.parametrize("fact", [STORED, Lost("dead"), KeepingEnded(), FileExpired()])
def test_none_of_it_happens_to_a_task_without_a_file_to_store(fact: Fact) -> None:
    tasks = [
        life(*RENDERING), life(*RENDERING, found(is_kept=False)), life(*RENDERING, DeadlinePassed()),
        replace(life(*DONE), unstored_since=None),
    ]
    for task in tasks:
        with pytest.raises(IllegalTransition):
            apply(task, fact, NOW + 60)
