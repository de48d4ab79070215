"""Ids of videos: later ones sort behind earlier ones, and none can be told from another."""

from __future__ import annotations

import re

from gateway.api.gateway import new_video_id


def test_ids_of_later_videos_sort_behind_those_of_earlier_ones() -> None:
    """Rows that are stored together so stand together in every index."""
    times = (0.0, 0.001, 1_795_329_581.252, 1_795_329_581.253, 4_000_000_000.0, 2.0**47 / 1_000)
    ids = [new_video_id(at) for at in times]

    assert ids == sorted(ids)
    assert all(re.fullmatch("video_[0-9a-f]{32}", found) for found in ids)


def test_ids_of_one_moment_differ_by_80_random_bits() -> None:
    """Who knows when a video was made does not know its id."""
    ids = {new_video_id(1_795_329_581.252) for _ in range(1_000)}

    assert len(ids) == 1_000
    assert {found[:18] for found in ids} == {"video_01a201fb60c4"}
    for place in range(18, 38):
        assert len({found[place] for found in ids}) == 16, place
