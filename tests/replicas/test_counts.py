"""What each replica tells of how many videos there are, whoever saved them: autoscaling goes by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Final

import msgspec
import pytest

from gateway.engine import counts
from gateway.engine.replica import ReplicaRole
from tests.logged import logging_to
from tests.replicas.house import LOOK_SECONDS, House, Replica, house, reached, read

pytestmark = pytest.mark.anyio

PRICED: Final = """
[providers.highway.prices]
"kling-v3.0-std-t2v" = { per_request = "2.5" }
"""


@pytest.fixture(autouse=True)
def _counted_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "COUNT_SECONDS", LOOK_SECONDS)
    monkeypatch.setattr(counts, "PAUSE_RATIO", 1.0)


async def test_each_replica_counts_the_videos_of_all(tmp_path: Path) -> None:
    async with house(tmp_path) as place, place.replica() as owner, place.replica() as other:
        first = await owner.create("fills the only place", "narrow")
        await owner.until(first["id"], lambda video: bool(video["status"] == "in_progress"))
        waits = [await owner.create(f"waits {number}", "narrow") for number in range(3)]
        for one in (owner, other):
            await reached(partial(_tells, one, {"queued": 3, "in_progress": 1}))
        assert (await other.post(f"/v1/videos/{waits[0]['id']}/cancel")).is_success
        for one in (owner, other):
            await reached(partial(_tells, one, {"queued": 2, "in_progress": 1, "cancelled": 1}))


async def test_what_was_accepted_where_nothing_is_followed_is_counted_at_both(tmp_path: Path) -> None:
    async with house(tmp_path) as place, place.replica() as engine, place.replica("api") as front:
        video = await front.create("a fox")
        await front.until(video["id"], lambda seen: bool(seen["status"] == "in_progress"))
        place.finish()
        assert (await front.video(video["id"], wait=30))["status"] == "completed"
        for one in (engine, front):
            await reached(partial(_tells, one, {"completed": 1}))
        accepted = [_value(one, "reelgate_videos_accepted_total") for one in (engine, front)]
        assert accepted == [0, 1]


async def test_a_job_adopted_where_nothing_is_followed_is_counted_and_logged_there(tmp_path: Path) -> None:
    """Anew, for a video that was given up before; and for one that is still unknown, which another owns."""
    lines = StringIO()
    async with _watched(lines, tmp_path) as (place, engine, front):
        video, anew = [await _unknown(front, number) for number in range(2)]
        assert (await front.post(f"/v1/videos/{anew}/resolve", {"action": "fail"})).is_success
        jobs = [entry.vendor_task_id for entry in place.sandbox.ledger]
        adopted = [
            read(await front.post(f"/v1/videos/{one}/resolve", {"action": "adopt", "vendor_task_id": job}))
            for one, job in zip((video, anew), jobs, strict=True)
        ]
        assert adopted[0]["id"] == video != adopted[1]["id"]
        place.finish()
        for video_id in (video, adopted[1]["id"]):
            assert (await front.video(video_id, wait=30))["status"] == "completed"
        for one in (engine, front):
            await reached(partial(_tells, one, {"completed": 2, "failed": 1}))
        assert [_value(one, "reelgate_videos_accepted_total") for one in (engine, front)] == [0, 3]
        costs = [_value(one, "reelgate_cost_total", provider="highway", currency="USD")
                 for one in (engine, front)]
        assert costs == [0, 2.5 * 2]
        gates = [one.gateway.fleet.providers["highway"].gate.in_flight for one in (engine, front)]
        assert gates == [0, 0]
        assert [_value(one, "reelgate_provider_in_flight", provider="highway")
                for one in (engine, front)] == [0, 0]
    assert _logged(lines, "accepted") == sorted([video, anew, adopted[1]["id"]])
    assert _logged(lines, "adopted") == sorted([video, adopted[1]["id"]])
    assert _logged(lines, "abandoned") == [anew]


@pytest.mark.parametrize("role", ["api", "all"])
async def test_what_is_changed_where_it_is_not_followed_is_logged_once(
    tmp_path: Path, role: ReplicaRole
) -> None:
    lines = StringIO()
    async with _watched(lines, tmp_path, role) as (_, engine, other):
        first = await engine.create("fills the only place", "narrow")
        await engine.until(first["id"], lambda video: bool(video["status"] == "in_progress"))
        waits = await engine.create("never bought", "narrow")
        assert (await other.post(f"/v1/videos/{waits['id']}/cancel")).is_success
        assert (await other.post(f"/v1/videos/{first['id']}/cancel?detach=true")).is_success
        await reached(lambda: not engine.owns(waits["id"]))
        ended = {"model": "kling-v3", "outcome": "cancelled"}
        await reached(lambda: _value(
            engine, "reelgate_video_duration_seconds_count", provider="narrow", **ended) == 1)
    assert _logged(lines, "cancelled") == sorted([first["id"], waits["id"]])
    assert _logged(lines, "accepted") == sorted([first["id"], waits["id"]])


@asynccontextmanager
async def _watched(
    lines: StringIO, folder: Path, role: ReplicaRole = "api"
) -> AsyncIterator[tuple[House, Replica, Replica]]:
    """A replica that follows all, and another; `lines` gets what both log."""
    async with house(folder) as place:
        place.more = PRICED
        with logging_to(lines):
            async with place.replica() as engine, place.replica(role) as other:
                yield place, engine, other


async def _unknown(front: Replica, number: int) -> str:
    """A video of which its vendor may have a job, in the order of the ledger."""
    video = await front.create(f"nobody knows {number} [[fault:reset_after_accept times=1]]")
    await front.until(video["id"], lambda video: bool(video["stage"] == "submission_unknown"))
    return str(video["id"])


def _logged(lines: StringIO, event: str) -> list[str]:
    """Of which videos a line says that, once for each line."""
    read_lines = (msgspec.json.decode(line, type=dict[str, object]) for line in lines.getvalue().splitlines())
    return sorted(str(line["video_id"]) for line in read_lines if line["event"] == event)


def _tells(one: Replica, counted: dict[str, float]) -> bool:
    """Whether its metrics tell of so many videos by status, and of no others."""
    families = one.gateway.telemetry.registry.collect()
    family = next(found for found in families if found.name == "reelgate_videos")
    return {sample.labels["status"]: sample.value for sample in family.samples if sample.value} == counted


def _value(one: Replica, name: str, **labels: str) -> float | None:
    return one.gateway.telemetry.registry.get_sample_value(name, labels)
