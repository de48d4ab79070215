"""What one replica saves or is ordered takes effect at the others, as if there were only one."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gateway.api import waiting
from gateway.core.states import Event, Task
from gateway.engine import replica as engine_replica
from gateway.storage import postgres_ear
from tests.replicas.house import House, Replica, house, reached, read, since

pytestmark = pytest.mark.anyio

NEVER_SECONDS = 3_600.0


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


async def _answered_elsewhere(place: House, two: list[Replica], patch: pytest.MonkeyPatch) -> float:
    """Seconds from the save of an end at its owner to the answer to a long poll at another replica."""
    saved_at: list[float] = []
    waits, watch = asyncio.Event(), two[1].gateway.waiters.watch

    @contextmanager
    def watching(video_id: str) -> Iterator[asyncio.Event]:
        with watch(video_id) as event:
            waits.set()
            yield event

    def note(task: Task, _events: tuple[Event, ...]) -> None:
        if task.is_terminal:
            saved_at.append(time.monotonic())

    owner, other = two
    patch.setattr(other.gateway.waiters, "watch", watching)
    owner.gateway.store.listen(note)
    video = await owner.create("watched from elsewhere")
    held = [asyncio.create_task(one.video(video["id"], wait=60)) for one in (other, other, owner)]
    await waits.wait()
    place.finish()
    assert [(await one)["status"] for one in held] == ["completed"] * 3
    took = time.monotonic() - saved_at[0]
    sys.stdout.write(f"answered {took * 1000:.0f} ms after the save\n")
    return took


async def test_a_long_poll_is_answered_by_what_another_saves(
    place: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", NEVER_SECONDS)  # not by looking again
    async with place.replicas(2) as two:
        assert await _answered_elsewhere(place, two, monkeypatch) < NEVER_SECONDS


@pytest.mark.parametrize("backstop", ["looking at the rows", "the probe"])
async def test_a_long_poll_is_answered_where_nothing_is_heard(
    place: House, monkeypatch: pytest.MonkeyPatch, backstop: str
) -> None:
    monkeypatch.setattr(postgres_ear, "CHANNEL", "elsewhere")  # as behind a pooler that shares connections
    looks = (0.1, NEVER_SECONDS) if backstop == "looking at the rows" else (NEVER_SECONDS, 0.4)
    monkeypatch.setattr(waiting, "LOOK_SECONDS", looks[0])
    monkeypatch.setattr(postgres_ear, "PROBE_SECONDS", looks[1])
    async with place.replicas(2) as two:
        await _answered_elsewhere(place, two, monkeypatch)


async def test_a_waiting_video_is_cancelled_at_a_replica_that_does_not_own_it(place: House) -> None:
    async with place.replicas(2) as (owner, other):
        first = await owner.create("fills the only place", "narrow")
        await owner.until(first["id"], lambda video: bool(video["status"] == "in_progress"))
        waits = await owner.create("never bought", "narrow")
        assert owner.owns(waits["id"])
        told = read(await other.post(f"/v1/videos/{waits['id']}/cancel"))
        assert (told["status"], told["charged"]) == ("cancelled", "no")
        await reached(lambda: not owner.owns(waits["id"]))
        last = await owner.create("comes after it", "narrow")
        place.finish()
        await owner.until(last["id"], lambda video: bool(video["status"] == "in_progress"))
    assert place.prompts() == ["fills the only place", "comes after it"]


async def test_a_rendering_video_is_let_go_at_a_replica_that_does_not_own_it(place: House) -> None:
    async with place.replicas(2) as (owner, other):
        video = await owner.create("let go elsewhere", "narrow")
        await owner.until(video["id"], lambda video: bool(video["status"] == "in_progress"))
        told = read(await other.post(f"/v1/videos/{video['id']}/cancel?detach=true"))
        assert told["status"] == "cancelled"
        assert (await owner.video(video["id"]))["status"] == "cancelled"
        gate = owner.gateway.fleet.providers["narrow"].gate
        await reached(lambda: gate.in_flight == 0)  # its place is free where it is counted
        following = await owner.create("takes its place", "narrow")
        await owner.until(following["id"], lambda video: bool(video["status"] == "in_progress"))


@pytest.mark.parametrize("action", ["adopt", "fail", "resubmit"])
async def test_an_unknown_submission_is_decided_at_a_replica_that_does_not_own_it(
    place: House, action: str
) -> None:
    async with place.replicas(2) as (owner, other):
        video = await owner.create("nobody knows [[fault:reset_after_accept times=1]]")
        await owner.until(video["id"], lambda video: bool(video["stage"] == "submission_unknown"))
        job = place.sandbox.ledger[0].vendor_task_id
        body = {"action": action} | ({"vendor_task_id": job} if action == "adopt" else {})
        told = read(await other.post(f"/v1/videos/{video['id']}/resolve", body))
        if action == "fail":
            assert (told["status"], told["charged"]) == ("failed", "unknown")
            await reached(lambda: owner.gateway.engine.tasks.get(video["id"]) is None)
            return
        if action == "resubmit":
            await reached(lambda: len(place.sandbox.ledger) == 2)
        await owner.until(video["id"], lambda video: bool(video["stage"] != "submission_unknown"))
        place.finish()
        assert (await other.video(video["id"], wait=30))["status"] == "completed"
        timeline = read(await other.client.get(f"/v1/videos/{video['id']}/timeline"))["data"]
    assert len(place.sandbox.ledger) == {"adopt": 1, "resubmit": 2}[action]
    assert timeline[-1]["type"] == "completed"


async def test_an_order_is_obeyed_by_every_replica(place: House) -> None:
    async with place.replicas(2) as (one, other):
        began = time.monotonic()
        assert read(await one.post("/v1/providers/highway/pause"))["state"] == "paused"
        await _is(other, "highway", "paused")
        sys.stdout.write(f"paused elsewhere within {since(began)}\n")
        video = await other.create("waits for an operator")
        assert (video["status"], video["stage"]) == ("queued", "waiting")
        assert place.prompts() == []
        assert (await one.post("/v1/providers/highway/resume")).status_code == httpx.codes.OK
        place.finish()
        assert (await other.until(video["id"], _is_sent))["provider"] == "highway"


async def test_an_order_is_obeyed_where_it_was_not_heard(
    place: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_ear, "CHANNEL", "elsewhere")
    monkeypatch.setattr(postgres_ear, "PROBE_SECONDS", 0.4)
    monkeypatch.setattr(engine_replica, "MISSED_SECONDS", NEVER_SECONDS)  # the probe alone has to tell
    async with place.replicas(2) as (one, other):
        await one.post("/v1/providers/highway/pause")
        await _is(other, "highway", "paused")
        await one.post("/v1/providers/highway/resume")
        await _is(other, "highway", "healthy")


def _is_sent(video: dict[str, object]) -> bool:
    return video["status"] != "queued"


async def _is(replica: Replica, provider: str, state: str) -> None:
    async with asyncio.timeout(30):
        while True:
            if (await replica.provider(provider))["state"] == state:
                return
            await asyncio.sleep(0.01)
