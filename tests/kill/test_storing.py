"""Killed at every point from a video's end to its being stored: in the end it is, whole and alone.

Not held here: storing without deaths (`tests/engine/test_keeping`), deaths where files stay at their vendors
(`test_points`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.kill.lane import Story, still_lane
from tests.kill.points import BIRTH, LIFE, WIRE, commits
from tests.kill.test_points import lives

pytestmark = [pytest.mark.anyio, pytest.mark.long]
SHARDS = 2
BEYOND = 10_000  # no life has so many points


def check_files(folder: Path, story: Story) -> None:
    """Every file is the video's, or on the list of those that go; the video's is whole."""
    (video,) = story.videos
    with closing(sqlite3.connect(folder / "reelgate.db")) as database:
        named = {key for (key,) in database.execute("select file_key from videos where file_key is not null")}
        listed = {key for (key,) in database.execute("select key from file_removals")}
    kept = folder / "videos"
    there = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    assert {name.removesuffix(".partial") for name in there} - {".probe", ".reelgate"} <= named | listed
    if video["status"] != "completed":
        assert not named
        return
    (key,) = named
    assert video["stage"] == "stored"
    data = (kept / key).read_bytes()
    assert (video["output"]["bytes"], video["output"]["sha256"]) == (
        len(data), hashlib.sha256(data).hexdigest()
    )
    assert story.content == data


@pytest.mark.parametrize("shard", range(SHARDS))
async def test_killed_at_every_point_of_storing(shard: int, tmp_path: Path) -> None:
    async with still_lane() as lane:
        lane.files = "file:videos"
        (whole,) = (await lane.live(tmp_path / "whole", [BEYOND])).crossed
        assert set(whole) >= WIRE | commits((*BIRTH, *LIFE, "file_intended", "stored"))
        begins = whole.index("commit completed before") + 1
        lived = await lives(lane, tmp_path, range(begins + shard, len(whole) + 1, SHARDS))
    for number, story in lived.items():
        check_files(tmp_path / str(number), story)
    died = [story.crossed[0][-1] for story in lived.values() if story.is_reached]
    assert died == whole[begins - 1 + shard :: SHARDS]
