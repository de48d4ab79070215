"""Killed while many videos are under way at once, each somewhere else on its way: all of them go on."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

from gateway.sandbox.server import SandboxSettings
from tests.kill.lane import Lane, lane
from tests.kill.points import Points
from tests.kill.process import KEY

pytestmark = [pytest.mark.anyio, pytest.mark.long]

CROWD = 20
SETTINGS = SandboxSettings(port=0, key=KEY, render_seconds=0.2, render_spread=0.8, draw_words=False, seed=5)


async def _all_ordered(stage: Lane) -> dict[str, str]:
    """The ids of the promised videos, by prompt. What breaks off is left out."""
    words = [f"one of the crowd, number {number}" for number in range(CROWD)]
    answers = await asyncio.gather(*map(stage.create, words), return_exceptions=True)
    for answer in answers:
        if not isinstance(answer, str | httpx.TransportError):
            raise answer
    return {text: answer for text, answer in zip(words, answers, strict=True) if isinstance(answer, str)}


@pytest.mark.parametrize("deadly", [60, 200, 400, 800])
async def test_crowd_is_neither_lost_nor_bought_twice(deadly: int, tmp_path: Path) -> None:
    async with lane(SETTINGS) as stage:
        config = stage.configure(tmp_path / "store", more="max_in_flight = 6\n")
        gateway = await stage.start(config, Points(deadly))
        promised = await _all_ordered(stage)
        await gateway.ended()
        assert gateway.points.is_reached
        await stage.start(config, Points())
        again = await _all_ordered(stage)
        videos = dict(zip(again, await asyncio.gather(*map(stage.finished, again.values())), strict=True))
        found = await stage.read("/v1/videos?limit=100")
        charges = {words: len(stage.charges(words)) for words in again}
    assert len(again) == len(found) == CROWD
    assert promised.items() <= again.items(), "a promised video is gone"
    assert max(charges.values()) == 1
    for words, video in videos.items():
        if video["status"] == "completed":
            assert (video["charged"], charges[words]) == ("yes", 1)
        else:
            assert (video["error"]["code"], video["charged"]) == ("submission_unknown", "unknown")
    ends = dict(Counter(video["status"] for video in videos.values()))
    sys.stdout.write(f"{deadly:4}  promised {len(promised)}, {ends}, charged {sum(charges.values())}\n")
