"""Killed at every point of a life, one after the other: nothing is lost, nothing is bought twice.

Enumerated, not random: the n-th life dies at its n-th point, until one ends without having an n-th. Lives
cross the same points in the same order, so the shards, which share the numbers, cover all of them together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests import postgres
from tests.kill.lane import Lane, Story, still_lane
from tests.kill.points import BIRTH, LIFE, RECOVERY, WIRE, commits

pytestmark = pytest.mark.anyio


class Store(NamedTuple):
    """A kind of store; see STORES."""

    opened: Callable[[], AbstractAsyncContextManager[str]] | None
    birth: tuple[str, ...]
    rebirth: tuple[str, ...]


SHARDS = 8
# For every day one of them is enough.
sharded = pytest.mark.parametrize("shard", [
    pytest.param(shard, marks=[pytest.mark.long] if shard else []) for shard in range(SHARDS)
])
# By kind: what opens an empty store for a life (None: the lane's own), what is committed to it before
# anything else in a first process and in a later one.
STORES: Final[dict[str, Store]] = {
    "sqlite": Store(None, BIRTH, ("schema",)),
    "postgres": Store(postgres.database, (), ()),
}
# What differs on PostgreSQL is the commits: `make crash-points` goes through everything there, too.
WHOLLY: Final = tuple(STORES) if os.environ.get("REELGATE_KILL_POINTS") == "all" else ("sqlite",)


def check(story: Story) -> str:
    """What must be true of every life, however it was cut; the status that it ended in."""
    first, last = story.crossed[0], story.crossed[-1]
    (video,) = story.videos
    assert set(story.promised) == {video["id"]}, "a promised video is gone, or one key has two"
    types = [event["type"] for event in story.timeline]
    assert [event["seq"] for event in story.timeline] == list(range(1, len(types) + 1))
    ends = "stored" if video["stage"] == "stored" else video["status"]
    assert (types[0], types[-1], types.count("submitting")) == ("accepted", ends, 1)
    vendor_worked = "submit request last" in (*first, *last)
    assert len(story.charges) == int(vendor_worked), "charged more than once, or for nothing, or not at all"
    if "commit accepted after" in first and "commit accepted_by_vendor after" not in first:
        assert (video["status"], video["charged"]) == ("failed", "unknown")
        assert video["error"]["code"] == "submission_unknown"
    else:
        assert (video["status"], video["charged"], video["error"]) == ("completed", "yes", None)
    return str(video["status"])


async def lives(
    lane: Lane, folder: Path, numbers: Iterable[int], before: Sequence[str] = ()
) -> dict[int, Story]:
    """One life for each number, checked and told of, up to the first that does not have so many points.

    `before`: the points at which it has died already when the counting begins.
    """
    lived: dict[int, Story] = {}
    for number in numbers:
        lived[number] = story = await lane.live(folder / str(number), [*before, number])
        status, where = check(story), story.crossed[len(before)][-1] if story.is_reached else "not reached"
        sys.stdout.write(f"{number:3}  {where:34} {status:9}  charged {len(story.charges)}\n")
        if not story.is_reached:
            break
    return lived


@sharded
@pytest.mark.parametrize("kind", WHOLLY)
async def test_killed_at_every_point(kind: str, shard: int, tmp_path: Path) -> None:
    of = STORES[kind]
    async with still_lane() as lane:
        lane.database = of.opened or lane.database
        lived = await lives(lane, tmp_path, count(shard + 1, SHARDS))
    whole = lived.popitem()[1].crossed[0]
    assert set(whole) == WIRE | commits((*of.birth, *LIFE))
    died = {number: story.crossed[0][-1] for number, story in lived.items()}
    assert died == {number: whole[number - 1] for number in range(shard + 1, len(whole) + 1, SHARDS)}
    assert {story.content[4:8] for story in lived.values() if story.content} == {b"ftyp"}
    assert len({story.content for story in lived.values() if story.content}) == 1, "a download was not whole"


@pytest.mark.long
async def test_killed_at_every_commit_on_postgres(tmp_path: Path) -> None:
    async with still_lane() as lane:
        lane.database = postgres.database
        for number, label in enumerate(sorted(commits(LIFE))):
            story = await lane.live(tmp_path / str(number), [label])
            assert story.is_reached, label
            sys.stdout.write(f"{label:34} {check(story):9}  charged {len(story.charges)}\n")


@pytest.mark.long
@pytest.mark.parametrize("kind", STORES)
async def test_killed_again_at_every_point_of_going_on(kind: str, tmp_path: Path) -> None:
    """The way on that has commits of its own: after a death between the vendor's answer and its commit."""
    of = STORES[kind]
    async with still_lane() as lane:
        lane.database = of.opened or lane.database
        lived = await lives(lane, tmp_path, count(1), before=["submit answer last"])
    whole = lived.popitem()[1].crossed[1]
    assert set(whole) == commits((*of.rebirth, *RECOVERY))
    assert [story.crossed[1][-1] for story in lived.values()] == whole
