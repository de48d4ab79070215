"""The composition root's own parts: the clock that everything is given, and when a reload is refused."""

from __future__ import annotations

import asyncio
import json
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
from gateway.core.facts import Cancelled, Candidate, LateEnded
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
[providers.{name}]
adapter = "{adapter}"
base_url = "{base_url}"
api_key = {{ env = "KEY" }}
[providers.two]
adapter = "highwayapi"
base_url = "http://127.0.0.1:1/two"
api_key = {{ env = "KEY" }}
"""
HERE, ELSEWHERE = "http://127.0.0.1:1/one", "http://127.0.0.1:1/elsewhere"


class Machine:
    """Its two clocks, and what is told of their steps."""

    def __init__(self) -> None:
        self.wall, self.passed = 1_800_000_000.0, 50.0
        self.told: list[tuple[float, float]] = []
        self.now = SteadyClock(
            lambda: self.wall, lambda: self.passed, told=lambda *step: self.told.append(step)
        )

    def later(self, seconds: float, step_seconds: float = 0.0) -> float:
        """How far the gateway's clock is ahead after so long, and after a step."""
        self.wall, self.passed = self.wall + seconds + step_seconds, self.passed + seconds
        return round(self.now() - self.wall, 6)


def test_the_clock_follows_steps_forward() -> None:
    machine = Machine()
    assert machine.later(10) == 0
    assert machine.later(10, 7_200) == 0
    assert machine.later(10) == 0
    assert machine.told == [(7_200, 0)]


def test_the_clock_comes_back_slowly_after_a_step_back_and_stops_no_timer() -> None:
    machine = Machine()
    before, ahead = machine.now(), machine.later(10, -3_600)
    assert (machine.now() - before, ahead) == (9, 3_599)
    for second in range(1, 35_990):
        before, ahead = machine.now(), machine.later(1)
        assert machine.now() - before == pytest.approx(0.9, abs=1e-5), second
    assert 0 < ahead < 0.2, "ten hours, and never with a jump"
    assert [machine.later(1) for _ in range(3)][1:] == [0, 0]
    assert machine.told == [(-3_600, 3_599)]


def test_a_clock_that_was_ahead_and_is_set_right_is_right_at_once_where_it_jumps_forward_again() -> None:
    machine = Machine()
    assert [machine.later(1, -600), machine.later(1, 300), machine.later(1, 400)] == [599.9, 299.8, 0]
    assert [round(step) for step, _ in machine.told] == [-600, 300, 400]


def test_what_a_synchronised_clock_is_set_by_is_followed_and_not_told() -> None:
    machine = Machine()
    assert [machine.later(10, 0.5), machine.later(10, -0.5), machine.later(10, -0.5)] == [0, 0, 0]
    assert machine.told == []


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


def write(path: Path, adapter: str = "myrouter", base_url: str = HERE, name: str = "one") -> None:
    path.write_text(CONFIGURATION.format(name=name, adapter=adapter, base_url=base_url), "utf-8")


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


@pytest.mark.anyio
@pytest.mark.parametrize("state", ["rendering", "waiting"])
async def test_each_reload_tells_of_videos_whose_provider_is_in_the_file_no_more(
    config: Path, state: str
) -> None:
    async with started(config) as parts:
        parts.gateway.fleet.hold("one", "pause")
        task = replace(left(parts, state), candidates=(Candidate("one", "kling-v3.0-pro-t2v"),))
        task = task if state == "rendering" else replace(task, provider=None, vendor_task_id=None)
        await followed(parts, task, state)
        assert await reload(parts, config, about=("provider_missing",)) == []
        write(config, name="three")
        for _ in range(2):
            (told,) = await reload(parts, config, about=("provider_missing",))
            assert (told["provider"], told["unfinished_videos"]) == ("one", 1)
        write(config)
        assert await reload(parts, config, about=("provider_missing",)) == []
