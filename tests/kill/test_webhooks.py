"""kill -9 between a sending and its record: no webhook is lost, and what comes twice is the same twice."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from gateway.sandbox.server import SandboxSettings
from tests.kill.lane import Lane, lane
from tests.kill.process import KEY, PATIENCE_SECONDS, serving
from tests.providers import wire
from tests.providers.wire import End, Wire, answer

pytestmark = pytest.mark.anyio

Json: TypeAlias = dict[str, Any]

VIDEOS: Final = 12
SETTINGS: Final = SandboxSettings(port=0, key=KEY, render_seconds=1000, render_spread=0, draw_words=False)
EGRESS: Final = '[egress]\nallow = ["127.0.0.0/8"]\n'
ENDPOINTS: Final = "/v1/webhook_endpoints"


async def reached(condition: Callable[[], bool]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 (it is whatever a receiver has got, and sets no event)
            await asyncio.sleep(0.005)


async def endpoint(stage: Lane, receiver: Wire) -> str:
    """A new endpoint for what is cancelled."""
    body = {"url": f"{receiver.url}/hook", "events": ["video.cancelled"]}
    made = await stage.client.post(ENDPOINTS, json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def cancelled(stage: Lane, words: str) -> str:
    """A video that is let go; its id."""
    video_id = await stage.create(words)
    answered = await stage.client.post(f"/v1/videos/{video_id}/cancel?detach=true")
    assert answered.status_code in (200, 409), answered.text
    while answered.status_code != 200:  # it was just being submitted
        answered = await stage.client.post(f"/v1/videos/{video_id}/cancel?detach=true")
    return video_id


async def all_delivered(stage: Lane, endpoint_id: str, count: int) -> list[Json]:
    """The log once so many messages are delivered."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found: list[Json] = await stage.read(f"{ENDPOINTS}/{endpoint_id}/deliveries?limit=100")
            if [one["state"] for one in found] == ["delivered"] * count:
                return found
            await asyncio.sleep(0.02)


def letters(receiver: Wire) -> dict[str, set[bytes]]:
    """The bodies that came under each id."""
    found: dict[str, set[bytes]] = defaultdict(set)
    for request in receiver.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
        found[next(value for name, _, value in lines if name.lower() == "webhook-id")].add(body)
    return found


async def test_killed_while_the_receiver_has_it(tmp_path: Path) -> None:
    async with lane(SETTINGS) as stage, wire.serve(End.HANG) as receiver:
        config = stage.configure(tmp_path / "store", more=EGRESS)
        async with serving(config) as gateway:
            stage.gateway = gateway
            endpoint_id = await endpoint(stage, receiver)
            video_id = await cancelled(stage, "told twice")
            await receiver.request_read.wait()
            await gateway.kill()
        receiver.script = (answer(),)
        async with serving(config) as gateway:
            stage.gateway = gateway
            (logged,) = await all_delivered(stage, endpoint_id, 1)
        assert logged["video"] == video_id
        assert len(receiver.requests) == 2
        ((_, bodies),) = letters(receiver).items()
        assert len(bodies) == 1


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 5, 11])
async def test_killed_amid_many(tmp_path: Path, count: int) -> None:
    """Some are sent and not recorded then, some recorded, some not sent yet."""
    async with lane(SETTINGS) as stage, wire.serve(answer()) as receiver:
        config = stage.configure(tmp_path / "store", more=EGRESS)
        async with serving(config) as gateway:
            stage.gateway = gateway
            endpoint_id = await endpoint(stage, receiver)
            told = asyncio.gather(*(cancelled(stage, f"one of many, {number}") for number in range(VIDEOS)),
                                  return_exceptions=True)
            await reached(lambda: len(receiver.requests) >= count)
            await gateway.kill()
            await told
        async with serving(config) as gateway:
            stage.gateway = gateway
            videos = await stage.read("/v1/videos?limit=100&status=cancelled")
            logged = await all_delivered(stage, endpoint_id, len(videos))
        assert {one["video"] for one in logged} == {video["id"] for video in videos}
        found = letters(receiver)
        assert found.keys() == {one["id"] for one in logged}
        assert all(len(bodies) == 1 for bodies in found.values())
