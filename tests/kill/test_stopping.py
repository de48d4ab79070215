"""Stopping as an orchestrator does it, and what a second process on the same store may do."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path

import httpx
import pytest

from gateway.sandbox.server import SandboxSettings
from tests.kill.lane import lane
from tests.kill.points import Points
from tests.kill.process import KEY, run, serving
from tests.serving import free_port

pytestmark = pytest.mark.anyio

DRAIN_SECONDS = 25
SETTINGS = SandboxSettings(port=0, key=KEY, render_seconds=0.05, render_spread=0, draw_words=False)


async def test_submit_in_flight_ends_before_the_process_does(tmp_path: Path) -> None:
    async with lane(SETTINGS) as stage:
        config = stage.configure(tmp_path / "store")
        async with serving(config) as gateway:
            stage.gateway = gateway

            async def stop_before_the_answer(label: str) -> None:
                if label == "submit answer before":
                    gateway.signal(signal.SIGTERM)
                    assert await gateway.log.wait("draining")

            stage.on_cross = stop_before_the_answer
            started = time.monotonic()
            video_id = await stage.create("asked to stop meanwhile")
            assert await gateway.ended() == 0
            assert time.monotonic() - started < DRAIN_SECONDS
        await stage.start(config, Points())
        video = await stage.finished(video_id)
        types = [event["type"] for event in await stage.read(f"/v1/videos/{video_id}/timeline")]
    assert (video["status"], video["attempts"], video["charged"]) == ("completed", 1, "yes")
    assert "submission_unknown" not in types
    assert len(stage.charges("asked to stop meanwhile")) == 1


async def test_who_waits_for_a_video_does_not_hold_up_the_end(tmp_path: Path) -> None:
    slow = SandboxSettings(port=0, key=KEY, render_seconds=600, render_spread=0)
    async with lane(slow) as stage, serving(stage.configure(tmp_path / "store")) as gateway:
        stage.gateway = gateway
        polled = asyncio.Event()

        async def note(label: str) -> None:
            if label == "poll answer last":
                polled.set()

        stage.on_cross = note
        order = stage.client.post("/v1/videos", json={"prompt": "a fox"}, headers={"Prefer": "wait=60"})
        waiting = asyncio.create_task(order)
        await polled.wait()
        started = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        assert time.monotonic() - started < DRAIN_SECONDS
        assert (await waiting).json()["status"] == "in_progress"


async def test_to_be_told_to_reload_while_it_ends_changes_no_end(tmp_path: Path) -> None:
    async with lane(SETTINGS) as stage, serving(stage.configure(tmp_path / "store")) as gateway:
        stage.gateway = gateway
        gateway.signal(signal.SIGTERM)
        assert await gateway.log.wait("draining")
        while not gateway.code.done():
            gateway.signal(signal.SIGHUP)
            await asyncio.sleep(0)
        assert await gateway.ended() == 0


async def test_asked_twice_it_stops_at_once_and_nobody_claims_to_know(tmp_path: Path) -> None:
    async with lane(SETTINGS) as stage:
        config = stage.configure(tmp_path / "store")
        async with serving(config) as gateway:
            stage.gateway = gateway

            async def stop_twice_before_the_answer(label: str) -> None:
                if label == "submit answer before":
                    gateway.signal(signal.SIGTERM)
                    assert await gateway.log.wait("draining")
                    gateway.signal(signal.SIGTERM)
                    await gateway.ended()  # before the answer: it did not wait for it

            stage.on_cross = stop_twice_before_the_answer
            video_id = await stage.create("asked to stop twice")
            assert await gateway.ended() == 1
        await stage.start(config, Points())
        video = await stage.finished(video_id)
    assert (video["status"], video["error"]["code"]) == ("failed", "submission_unknown")
    assert video["charged"] == "unknown"
    assert len(stage.charges("asked to stop twice")) == 1


async def test_store_is_served_by_one_process(tmp_path: Path) -> None:
    async with lane(SETTINGS) as stage:
        config = stage.configure(tmp_path / "store")
        gateway = await stage.start(config, Points())
        elsewhere = config.with_name("elsewhere.toml")
        text = config.read_text("utf-8").replace(f":{stage.port}", f":{free_port()}")
        elsewhere.write_text(text, "utf-8")
        code, _, said = await run("serve", "--config", str(elsewhere))
        assert code == 1
        store = config.parent / "reelgate.db"
        assert f"another reelgate serve (process {gateway.pid}) is using {store}" in said
        assert "Traceback" not in said
        assert (await stage.finished(await stage.create("the first goes on")))["status"] == "completed"


async def test_port_is_listened_on_by_one_process(tmp_path: Path) -> None:
    async with lane(SETTINGS) as stage:
        await stage.start(stage.configure(tmp_path / "store"), Points())
        code, _, said = await run("serve", "--config", str(stage.configure(tmp_path / "another")))
        assert code == 1
        assert f"cannot listen on 127.0.0.1:{stage.port}: Address already in use" in said
        assert "Traceback" not in said


async def test_key_made_beside_a_running_gateway_opens_it_at_once(tmp_path: Path) -> None:
    async with lane(SETTINGS) as stage:
        config = stage.configure(tmp_path / "store", auth="keys")
        await stage.start(config, Points())
        assert (await stage.client.get("/v1/videos")).status_code == httpx.codes.UNAUTHORIZED
        code, out, said = await run("keys", "create", "alice", "--json", "--config", str(config))
        assert code == 0, said
        stage.client.headers["Authorization"] = f"Bearer {json.loads(out)['key']}"
        assert (await stage.finished(await stage.create("with a key")))["status"] == "completed"
