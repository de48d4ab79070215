"""What each replica tells of how many videos there are, whoever saved them: autoscaling goes by it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from gateway.engine import counts
from tests.replicas.house import LOOK_SECONDS, Replica, house, reached

pytestmark = pytest.mark.anyio


async def test_each_replica_counts_the_videos_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "COUNT_SECONDS", LOOK_SECONDS)
    async with house(tmp_path) as place, place.replica() as owner, place.replica() as other:
        first = await owner.create("fills the only place", "narrow")
        await owner.until(first["id"], lambda video: bool(video["status"] == "in_progress"))
        waits = [await owner.create(f"waits {number}", "narrow") for number in range(3)]
        for one in (owner, other):
            await reached(partial(_tells, one, {"queued": 3, "in_progress": 1}))
        assert (await other.post(f"/v1/videos/{waits[0]['id']}/cancel")).is_success
        for one in (owner, other):
            await reached(partial(_tells, one, {"queued": 2, "in_progress": 1, "cancelled": 1}))


async def test_what_was_accepted_where_nothing_is_followed_is_counted_at_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "COUNT_SECONDS", LOOK_SECONDS)
    async with house(tmp_path) as place, place.replica() as engine, place.replica("api") as front:
        video = await front.create("a fox")
        await front.until(video["id"], lambda seen: bool(seen["status"] == "in_progress"))
        place.finish()
        assert (await front.video(video["id"], wait=30))["status"] == "completed"
        for one in (engine, front):
            await reached(partial(_tells, one, {"completed": 1}))
        accepted = [_value(one, "reelgate_videos_accepted_total") for one in (engine, front)]
        assert accepted == [0, 1]


def _tells(one: Replica, counted: dict[str, float]) -> bool:
    """Whether its metrics tell of so many videos by status, and of no others."""
    families = one.gateway.telemetry.registry.collect()
    family = next(found for found in families if found.name == "reelgate_videos")
    return {sample.labels["status"]: sample.value for sample in family.samples if sample.value} == counted


def _value(one: Replica, name: str) -> float | None:
    return one.gateway.telemetry.registry.get_sample_value(name)
