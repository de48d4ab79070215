"""The composition root's own parts: the clock that everything is given, and when a reload is refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog
from msgspec.structs import replace

from gateway.app import Running, running
from gateway.assembly import SteadyClock
from gateway.core.facts import Cancelled, LateEnded
from gateway.core.states import Task
from gateway.core.tasks import apply
from gateway.reloading import Reloads
from gateway.settings import load
from gateway.storage.rows import NewVideo
from providers import adapters
from tests.core.made import make_task
from tests.logged import logging_to

CONFIGURATION = """
[store]
url = "sqlite:reelgate.db"
[log]
format = "json"
[providers.one]
adapter = "{adapter}"
base_url = "{base_url}"
api_key = {{ env = "KEY" }}
[providers.two]
adapter = "highwayapi"
base_url = "http://127.0.0.1:1/two"
api_key = {{ env = "KEY" }}
"""
HERE, ELSEWHERE = "http://127.0.0.1:1/one", "http://127.0.0.1:1/elsewhere"


def test_the_clock_follows_steps_forward_and_no_step_back(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, elapsed = [1_800_000_000.0], [50.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    monkeypatch.setattr(time, "monotonic", lambda: elapsed[0])
    now = SteadyClock()
    assert now() == 1_800_000_000
    wall[0], elapsed[0] = wall[0] - 3_590, elapsed[0] + 10
    assert now() == 1_800_000_010
    wall[0], elapsed[0] = 1_800_007_200, elapsed[0] + 10
    assert now() == 1_800_007_200


@pytest.mark.anyio
@pytest.mark.parametrize(
    "what", ["gateway.app.sweep_uploads", "gateway.app.Outbox.run", "gateway.api.hub.Hub.look"]
)
async def test_what_fails_beside_the_requests_is_no_secret(
    config: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def fails(*_: object) -> None:
        raise LookupError(what)

    monkeypatch.setattr(what, fails)
    async with running(load(config, adapters(), {"KEY": "secret"})) as parts:
        with pytest.raises(LookupError, match=what):
            await parts.failing


# --- a reload -----------------------------------------------------------------------------------------

@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration with the provider `one`; the way of logging is put back afterwards."""
    monkeypatch.setenv("KEY", "secret")
    path = tmp_path / "reelgate.toml"
    write(path)
    kept = structlog.get_config()
    yield path
    structlog.configure(**kept)


def write(path: Path, adapter: str = "myrouter", base_url: str = HERE) -> None:
    path.write_text(CONFIGURATION.format(adapter=adapter, base_url=base_url), "utf-8")


async def reload(
    parts: Running, path: Path, about: tuple[str, ...] = ("reload",)
) -> list[dict[str, Any]]:
    """What SIGHUP does; what it says of that. Tasks go on meanwhile, and say their own."""
    log = StringIO()
    with logging_to(log), redirect_stdout(log):
        parts.gateway.telemetry.follow_configuration()
        await Reloads(parts.parts, path, {}).reload()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["event"].startswith(about)]


async def followed(parts: Running, task: Task, state: str) -> None:
    """Have a task followed as if it had come this far here, and wait until it is in that state."""
    store, heard = parts.gateway.store, asyncio.Event()
    store.listen(lambda told, events: heard.set() if told.state == state else None)
    await store.video_add(NewVideo(task=task, request="{}", metadata={}, inputs={}, events=()))
    await heard.wait()


@asynccontextmanager
async def started(config: Path) -> AsyncIterator[Running]:
    """A gateway whose engine runs: it has ended a task whose deadline is over."""
    async with running(load(config, adapters(), {"KEY": "secret"})) as parts:
        now, replica = parts.gateway.now(), parts.gateway.engine.replica
        await followed(parts, make_task("over", replica=replica, created_at=now, deadline_at=now), "failed")
        yield parts


def left(parts: Running, state: str, provider: str = "one") -> Task:
    """A task with a job at a provider that answers nobody. An ended one is still looked up."""
    now = parts.gateway.now()
    task = make_task(
        state=state, replica=parts.gateway.engine.replica, provider=provider, offering="kling-v3.0-pro-t2v",
        vendor_task_id="v-1", ref='{"id":null}', created_at=now, deadline_at=now + 3_600, started_at=now,
    )
    return replace(task, completed_at=now, late_until=now + 3_600) if state == "failed" else task


@pytest.mark.anyio
@pytest.mark.parametrize("state", ["rendering", "submission_unknown", "failed"])
@pytest.mark.parametrize(
    ("adapter", "base_url"), [("myrouter", ELSEWHERE), ("highwayapi", HERE)], ids=["base_url", "adapter"]
)
async def test_a_provider_with_jobs_that_are_followed_does_not_become_another_vendor(
    config: Path, state: str, adapter: str, base_url: str
) -> None:
    async with started(config) as parts:
        gateway = parts.gateway
        before = gateway.fleet.settings
        await followed(parts, left(parts, state), state)
        write(config, adapter, base_url)
        (refused,) = await reload(parts, config)
        assert (refused["event"], refused["level"]) == ("reload_refused", "error")
        assert [problem.startswith("providers.one: it has jobs") for problem in refused["problems"]] == [True]
        assert gateway.fleet.settings is before
        write(config)
        assert (await reload(parts, config))[-1]["event"] == "reloaded", "all else may change"

        task = await gateway.store.task_get("video_1")
        assert task is not None
        if not task.is_terminal:
            task = await gateway.store.task_save(apply(task, Cancelled(detach=True), gateway.now()))
            write(config, adapter, base_url)
            assert (await reload(parts, config))[-1]["event"] == "reload_refused", "it is still looked up"
        await gateway.store.task_save(apply(task, LateEnded(), gateway.now()))
        write(config, adapter, base_url)
        assert (await reload(parts, config))[-1]["event"] == "reloaded"
        assert gateway.fleet.settings.providers["one"].base_url == base_url


@pytest.mark.anyio
async def test_jobs_of_another_provider_hold_up_no_change(config: Path) -> None:
    async with started(config) as parts:
        await followed(parts, left(parts, "failed", provider="two"), "failed")
        write(config, base_url=ELSEWHERE)
        assert (await reload(parts, config))[-1]["event"] == "reloaded"
        assert parts.gateway.fleet.settings.providers["one"].base_url == ELSEWHERE


@pytest.mark.anyio
async def test_a_waiting_task_holds_up_no_change(config: Path) -> None:
    async with started(config) as parts:
        parts.gateway.fleet.hold("one", "pause")
        await followed(parts, make_task(
            replica=parts.gateway.engine.replica, created_at=parts.gateway.now(),
            deadline_at=parts.gateway.now() + 3_600,
        ), "waiting")
        write(config, base_url=ELSEWHERE)
        assert (await reload(parts, config))[-1]["event"] == "reloaded"


@pytest.mark.anyio
async def test_a_reload_tells_nothing_of_a_provider_that_is_as_it_was(config: Path) -> None:
    async with started(config) as parts:
        parts.gateway.fleet.hold("one", "pause")
        parts.gateway.telemetry.provider_is("one", "paused")  # as the engine's next turn does
        lines = await reload(parts, config, about=("provider", "reload"))
        assert [line["event"] for line in lines] == ["reloaded"]
        paused = parts.gateway.telemetry.provider_state("one", "paused")
        assert [sample.value for metric in paused.collect() for sample in metric.samples] == [1]
