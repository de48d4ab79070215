"""Killed at every point of a life, one after the other: nothing is lost, nothing is bought twice.

Enumerated, not random: the n-th life dies at its n-th point, until one ends without having an n-th. Lives cross the same
points in the same order, so the shards, which share the numbers among them, cover all of them together.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest

from tests.kill.lane import Story, still_lane
from tests.kill.points import LIFE, RECOVERY, WIRE, commits

pytestmark = pytest.mark.anyio

SHARDS = 4


def check(story: Story) -> str:
    """What must be true of every life, however it was cut; the status that it ended in."""
    first = story.crossed[0]
    (video,) = story.videos
    assert set(story.promised) == {video["id"]}, "a promised video is gone, or there are two for one key"
    types = [event["type"] for event in story.timeline]
    assert [event["seq"] for event in story.timeline] == list(range(1, len(types) + 1))
    assert (types[0], types[-1], types.count("submitting")) == ("accepted", video["status"], 1)
    vendor_works = "submit request last" in story.crossed[-1] or "submit request last" in first
    assert len(story.charges) == int(vendor_works), "not exactly one charge for what the vendor was asked"
    is_blind = "commit submitting after" in first and "commit accepted_by_vendor after" not in first
    if is_blind and (story.is_reached or len(story.crossed) > 1):
        assert (video["status"], video["charged"]) == ("failed", "unknown")
        assert video["error"]["code"] == "submission_unknown"
    else:
        assert (video["status"], video["charged"], video["error"]) == ("completed", "yes", None)
        assert story.content[4:8] == b"ftyp"
    return str(video["status"])


@pytest.mark.parametrize("shard", range(SHARDS))
async def test_killed_at_every_point(shard: int, tmp_path: Path) -> None:
    died: dict[int, str] = {}
    files: set[bytes] = set()
    async with still_lane() as lane:
        for number in count(shard + 1, SHARDS):
            story = await lane.live(tmp_path / f"{shard}-{number}", [number])
            status = check(story)
            files.add(story.content)
            if not story.is_reached:
                break
            died[number] = story.crossed[0][-1]
            print(f"{number:3}  {died[number]:36} {status}  charged {len(story.charges)}")
    whole = story.crossed[0]
    print(f"a whole life has {len(whole)} points")
    assert died == {number: whole[number - 1] for number in range(shard + 1, len(whole) + 1, SHARDS)}
    assert set(whole) == WIRE | commits(LIFE)
    assert len(files - {b""}) == 1
