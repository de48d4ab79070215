"""Webhooks of several replicas: each message has one sender; what a dead one had in hand is sent again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.engine import webhooks_outbox
from gateway.engine.callbacks import token_of
from gateway.storage import postgres_ear
from tests.providers import wire
from tests.providers.wire import End, Wire, answer
from tests.replicas import house as stage
from tests.replicas.house import House, Json, Replica, house, reached, read

pytestmark = pytest.mark.anyio

MORE = '[egress]\nallow = ["127.0.0.0/8"]\n'


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(stage, "CONFIGURATION", stage.CONFIGURATION + MORE)
    async with house(tmp_path) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Wire]:
    async with wire.serve(answer()) as server:
        yield server


async def endpoint(one: Replica, receiver: Wire) -> str:
    """A new endpoint for everything."""
    return str(read(await one.post("/v1/webhook_endpoints", {"url": receiver.url}))["id"])


async def log(one: Replica, endpoint_id: str) -> list[Json]:
    """What was sent there, as this replica tells it."""
    found: list[Json] = read(await one.client.get(f"/v1/webhook_endpoints/{endpoint_id}/deliveries"))["data"]
    return found


async def delivered(one: Replica, endpoint_id: str, count: int) -> list[Json]:
    """The log once so many are delivered."""
    async with asyncio.timeout(stage.PATIENCE_SECONDS):
        while True:
            found = await log(one, endpoint_id)
            if [each["state"] for each in found] == ["delivered"] * count:
                return found
            await asyncio.sleep(stage.LOOK_SECONDS)


def bodies(receiver: Wire) -> list[bytes]:
    return [request.partition(b"\r\n\r\n")[2] for request in receiver.requests]


async def waiting_video(owner: Replica) -> str:
    """A video that waits behind another for the only place."""
    first = await owner.create("fills the only place", "narrow")
    await owner.until(first["id"], lambda video: bool(video["status"] == "in_progress"))
    return str((await owner.create("waits", "narrow"))["id"])


async def test_what_another_replica_saves_is_told_once(place: House, receiver: Wire) -> None:
    async with place.replicas(2) as (owner, other):
        endpoint_id = await endpoint(other, receiver)
        video_id = await waiting_video(owner)
        began = time.monotonic()
        read(await other.post(f"/v1/videos/{video_id}/cancel"))
        await reached(lambda: len(receiver.requests) == 1)
        assert time.monotonic() - began < stage.PATIENCE_SECONDS
        place.finish()
        for one in (owner, other):
            found = await delivered(one, endpoint_id, 2)
            assert {each["type"] for each in found} == {"video.cancelled", "video.completed"}
    assert len(receiver.requests) == 2


async def test_many_messages_of_two_replicas_are_each_sent_once(place: House, receiver: Wire) -> None:
    async with place.replicas(2) as two:
        endpoint_id = await endpoint(two[0], receiver)
        videos = await asyncio.gather(*(two[number % 2].create(f"{number}") for number in range(12)))
        for video in videos:
            await two[0].until(video["id"], lambda video: bool(video["status"] == "in_progress"))
        place.finish()
        await delivered(two[1], endpoint_id, 12)
    assert len(receiver.requests) == len(set(bodies(receiver))) == 12


async def test_what_a_dead_replica_had_in_hand_is_sent_by_another(
    place: House, receiver: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks_outbox, "CLOSE_SECONDS", 0.01)
    receiver.script = (End.HANG,)
    async with place.replica() as heir:
        endpoint_id = await endpoint(heir, receiver)
        async with place.replica() as dying:
            video_id = await waiting_video(dying)
            read(await dying.post(f"/v1/videos/{video_id}/cancel"))
            await receiver.request_read.wait()
            claims = await heir.gateway.store._database.read(  # noqa: SLF001 - no route tells
                "select claim from webhook_messages"
            )
            assert claims == [(dying.name,)]
            monkeypatch.setattr(webhooks_outbox, "LOOK_SECONDS", 0.2)
            receiver.script = (answer(),)
        (logged,) = await delivered(heir, endpoint_id, 1)
        assert logged["video"] == video_id
    assert len(set(bodies(receiver))) == 1


async def test_a_replay_is_sent_where_nothing_is_heard(
    place: House, receiver: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_ear, "CHANNEL", "elsewhere")  # as behind a pooler that shares connections
    async with place.replicas(2) as (one, other):
        endpoint_id = await endpoint(one, receiver)
        read(await other.post(f"/v1/webhook_endpoints/{endpoint_id}/test"))
        await delivered(one, endpoint_id, 1)
        read(await one.post(f"/v1/webhook_endpoints/{endpoint_id}/replay", {"since": 0}))
        await reached(lambda: len(receiver.requests) == 2)
    assert len(set(bodies(receiver))) == 1


async def test_a_call_back_for_another_replicas_job_makes_that_one_poll(
    place: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Calling:
        """An adapter that also takes calls: their body is the id of a job."""

        def __init__(self, adapter: object) -> None:
            self._adapter = adapter

        def __getattr__(self, name: str) -> object:
            return getattr(self._adapter, name)

        def call_back_at(self, url: str) -> None:
            """Where to."""

        def read_callback(self, headers: object, body: bytes) -> str | None:
            """The job."""
            return body.decode()

    async with place.replicas(2) as (owner, other):
        video = await owner.create("called about elsewhere")
        video = await owner.until(video["id"], lambda video: bool(video["status"] == "in_progress"))
        provider = other.gateway.fleet.providers["highway"]
        provider.adapter = Calling(provider.adapter)  # type: ignore[assignment] # it has all of an adapter
        polled, callbacks = asyncio.Event(), owner.gateway.callbacks
        poll = callbacks._poll  # noqa: SLF001 - what it does by itself is seen in the life tests

        def noted(task_id: str) -> bool:
            assert task_id == video["id"]
            assert poll(task_id)
            polled.set()
            return True

        monkeypatch.setattr(callbacks, "_poll", noted)
        path = f"/v1/callbacks/highway/{token_of(provider.settings)}"
        answered = await other.client.post(path, content=video["vendor_task_id"])
        assert answered.status_code == 204
        async with asyncio.timeout(stage.PATIENCE_SECONDS):
            await polled.wait()
