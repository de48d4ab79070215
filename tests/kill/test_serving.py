"""A real process by its configuration: the management port, and a reload while a video renders."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from gateway.sandbox.server import SandboxSettings
from tests.kill.lane import lane
from tests.kill.process import KEY, serving
from tests.serving import free_port

pytestmark = pytest.mark.anyio

RENDERING = SandboxSettings(port=0, key=KEY, render_seconds=1.5, render_spread=0, draw_words=False)


async def test_health_and_metrics_move_to_the_management_port(tmp_path: Path) -> None:
    async with lane(RENDERING) as stage:
        port = free_port()
        config = stage.configure(tmp_path / "store")
        text = config.read_text("utf-8").replace("[server]", f'[server]\nmanagement = "127.0.0.1:{port}"')
        config.write_text(text, "utf-8")
        async with serving(config):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as management:
                for path, words in (("/livez", "ok"), ("/readyz", "ok"), ("/metrics", "reelgate_videos")):
                    answer = await management.get(path)
                    assert (answer.status_code, words in answer.text) == (200, True), path
                    assert (await stage.client.get(path)).status_code == httpx.codes.NOT_FOUND
                assert (await management.get("/v1/videos")).status_code == httpx.codes.NOT_FOUND
            assert (await stage.client.get("/v1/version")).json()["name"] == "reelgate"
            assert "/livez" not in (await stage.client.get("/openapi.json")).json()["paths"]


async def test_to_be_told_to_reload_while_it_starts_ends_nothing(tmp_path: Path) -> None:
    """A sidecar does not ask whether the gateway is there yet. The file is a pipe, which it waits at."""
    config = tmp_path / "reelgate.toml"
    os.mkfifo(config)
    starting = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", "--config", str(config), stderr=asyncio.subprocess.PIPE,
    )
    with await asyncio.to_thread(config.open, "w", encoding="utf-8") as pipe:  # it is read by now
        starting.send_signal(signal.SIGHUP)
        pipe.write("[nonsense]\n")
    _, told = await starting.communicate()
    assert (starting.returncode, b"nonsense" in told) == (1, True), told


async def test_a_reload_that_removes_a_provider_loses_nothing_of_it(tmp_path: Path) -> None:
    async with lane(RENDERING) as stage:
        config = stage.configure(tmp_path / "store")
        async with serving(config) as gateway:
            stage.gateway = gateway
            body = {"prompt": "pinned", "duration": 3, "provider": "highway"}
            headers = {"Idempotency-Key": "pinned"}
            first = await stage.client.post("/v1/videos", json=body, headers=headers)
            video_id = first.json()["id"]
            whole = config.read_text("utf-8")
            config.write_text(whole.replace("[providers.highway]", "[providers.other]"), "utf-8")
            gateway.signal(signal.SIGHUP)
            assert await gateway.log.wait("reloaded")
            again = await stage.client.post("/v1/videos", json=body, headers=headers)
            assert (again.status_code, again.json()["id"]) == (202, video_id), again.text
            assert again.headers["Idempotent-Replayed"] == "true"
            new = await stage.client.post("/v1/videos", json=body)
            assert (new.status_code, new.json()["param"]) == (400, "provider")
            assert (await stage.finished(video_id))["status"] == "completed"
            config.write_text(whole.replace("adapter", "adaptor"), "utf-8")
            gateway.signal(signal.SIGHUP)
            assert await gateway.log.wait("reload_refused")
            models = (await stage.client.get("/v1/models")).json()["data"]
            assert {offering["provider"] for offering in models[0]["offerings"]} == {"other"}


async def test_without_keys_a_web_page_of_elsewhere_can_spend_nothing(tmp_path: Path) -> None:
    async with lane(RENDERING) as stage, serving(stage.configure(tmp_path / "store")) as gateway:
        stage.gateway = gateway
        body = json.dumps({"prompt": "bought by a page"})
        for headers in (
            {"Origin": "https://evil.example", "Content-Type": "text/plain"},
            {"Origin": "null"},
            {"Host": f"evil.example:{stage.port}"},
            {"Host": f"evil.example:{stage.port}", "Origin": f"http://evil.example:{stage.port}"},
            {"Host": "[::1"},
        ):
            answer = await stage.client.post("/v1/videos", content=body, headers=headers)
            assert answer.status_code in (400, 403), headers
        own = {"Origin": f"http://127.0.0.1:{stage.port}"}
        assert (await stage.client.post("/v1/videos", content=body, headers=own)).status_code == 202
        assert len(await stage.read("/v1/videos")) == 1
