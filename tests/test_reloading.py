"""A configuration that changes while it is in force: what is noticed, what follows, what is told.

Through `Reloads` over a whole gateway, whose looks the test makes. Not held here: when a provider with jobs
may not change (`test_app`), a real process under load (`tests/campaigns/reloads.py`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.app import Running, running
from gateway.engine.provider import Provider
from gateway.logs import write_lines
from gateway.reloading import Reloads
from gateway.settings import load
from gateway.values import Marks
from providers import adapters
from providers.v3_async import V3Async
from tests.logged import logging_to

pytestmark = pytest.mark.anyio

WHOLE = """
[server]
public_url = "https://video.internal"
[store]
url = "sqlite:reelgate.db"
[log]
format = "json"
[routing]
deadline = "1h"
[providers.one]
adapter = "highwayapi"
api_key = { file = "one.key" }
max_in_flight = 3
[providers.two]
adapter = "myrouter"
api_key = { env = "KEY" }
"""
TWO = '[providers.two]\nadapter = "myrouter"\napi_key = { env = "KEY" }\n'


def write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


class Followed:
    """A gateway whose file is followed, and what it says of it."""

    def __init__(self, running: Running, path: Path, marks: Marks, log: StringIO) -> None:
        self.parts, self.path, self.log = running.parts, path, log
        self.reloads = Reloads(self.parts, path, marks)

    def write(self, text: str) -> None:
        """Write the file in its place, as an editor does that does not swap."""
        write(self.path, text)

    def provider(self, name: str = "one") -> Provider:
        """One as it is in use."""
        return self.parts.fleet.providers[name]

    async def looks(self, times: int = 2) -> list[str]:
        """Look so often; which events of reloads that brought."""
        before = len(self.lines())
        for _ in range(times):
            await self.reloads.look()
        return [line["event"] for line in self.lines()[before:]]

    def lines(self) -> list[dict[str, Any]]:
        """What was said of reloads and last days so far."""
        write_lines()
        said = map(json.loads, self.log.getvalue().splitlines())
        return [line for line in said if line["event"].startswith(("reload", "retire"))]

    def value(self, name: str, **labels: str) -> float | None:
        """A metric."""
        return self.parts.telemetry.registry.get_sample_value(f"reelgate_config_{name}", labels)


@asynccontextmanager
async def following(path: Path) -> AsyncIterator[Followed]:
    log, marks = StringIO(), Marks()
    settings = load(path, adapters(), os.environ, marks)
    with logging_to(log), redirect_stdout(log):
        async with running(settings) as found:
            found.gateway.telemetry.follow_configuration()
            yield Followed(found, path, marks, log)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KEY", "canary-of-the-environment")
    (tmp_path / "one.key").write_text("first-canary\n", "utf-8")
    path = tmp_path / "reelgate.toml"
    path.write_text(WHOLE, "utf-8")
    kept = structlog.get_config()
    yield path
    structlog.configure(**kept)


# --- what is noticed ----------------------------------------------------------------------------------

async def test_what_has_not_changed_is_not_read_anew(config: Path) -> None:
    async with following(config) as one:
        assert await one.looks(3) == []
        assert one.value("reloads_total", result="applied") == 0


async def test_a_changed_file_is_in_force_once_it_stands_still(config: Path) -> None:
    async with following(config) as one:
        one.write(WHOLE.replace("max_in_flight = 3", "max_in_flight = 4"))
        assert await one.looks(1) == []
        one.write(WHOLE.replace("max_in_flight = 3", "max_in_flight = 50"))
        assert await one.looks(1) == [], "it was written meanwhile"
        assert await one.looks(1) == ["reloaded"]
        assert one.provider().gate.max_in_flight == 50
        assert await one.looks(3) == []


async def test_a_config_map_is_followed_through_the_swap_of_its_link(config: Path) -> None:
    """Kubernetes: the file is a link to ..data/FILE, and ..data a link that is renamed over the old one."""
    folder = config.parent
    for number, limit in (("1", "3"), ("2", "50")):
        (folder / f"..2026_{number}").mkdir()
        file = folder / f"..2026_{number}" / "reelgate.toml"
        file.write_text(WHOLE.replace("max_in_flight = 3", f"max_in_flight = {limit}"), "utf-8")
        os.utime(file, ns=(10**18, 10**18))
        (folder / f"..2026_{number}" / "one.key").write_text("first-canary\n", "utf-8")
    (folder / "..data").symlink_to("..2026_1")
    for name in ("reelgate.toml", "one.key"):
        (folder / name).unlink()
        (folder / name).symlink_to(f"..data/{name}")
    async with following(config) as one:
        assert await one.looks(2) == []
        (folder / "..data_tmp").symlink_to("..2026_2")
        (folder / "..data_tmp").rename(folder / "..data")
        assert await one.looks(2) == ["reloaded"]
        assert one.provider().gate.max_in_flight == 50


async def test_a_secret_that_was_rotated_in_its_file_is_used(config: Path) -> None:
    async with following(config) as one:
        (config.parent / "one.key").write_text("second-canary\n", "utf-8")
        assert await one.looks() == ["reloaded"]
        assert one.provider().settings.api_key.reveal() == "second-canary"
        assert one.lines()[-1]["changed"] == ["providers.one.api_key"]
        (config.parent / "one.key").unlink()
        assert await one.looks() == ["reload_refused"]
        (config.parent / "one.key").write_text("third-canary\n", "utf-8")
        assert await one.looks() == ["reloaded"]
        assert one.provider().settings.api_key.reveal() == "third-canary"


# --- all of it, or nothing ----------------------------------------------------------------------------

@pytest.mark.parametrize("text", [
    "[providers.one", WHOLE.replace("max_in_flight = 3", "max_in_flight = 0"), WHOLE + "[nonsense]\n", "",
    WHOLE.replace('{ env = "KEY" }', '{ env = "NOT_SET" }'), WHOLE.replace("one.key", "no.key"),
])
async def test_of_a_bad_file_nothing_is_used_and_that_is_told_once(config: Path, text: str) -> None:
    async with following(config) as one:
        before = one.parts.fleet.settings
        assert one.value("last_reload_successful") == 1
        at = one.value("last_reload_success_timestamp_seconds")
        one.write(text.replace('deadline = "1h"', 'deadline = "2h"'))
        assert await one.looks(5) == ["reload_refused"]
        assert one.parts.fleet.settings is before
        assert one.lines()[-1]["problems"]
        told = [one.value("reloads_total", result=result) for result in ("applied", "refused")]
        assert (told, one.value("last_reload_successful")) == ([0, 1], 0)
        assert one.value("last_reload_success_timestamp_seconds") == at
        one.write(WHOLE)
        assert await one.looks() == ["reloaded"]
        assert one.value("last_reload_successful") == 1
        assert (one.value("last_reload_success_timestamp_seconds") or 0) > (at or 0)


async def test_where_an_adapter_cannot_be_built_nothing_has_changed(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(config) as one:
        before, two = one.parts.fleet.settings, one.provider("two")
        one.write(TWO + "max_in_flight = 7\n" + WHOLE.replace(TWO, "") + "requests_per_minute = 9\n")

        doors: list[object] = []

        def refuses(_: V3Async, door: object) -> None:
            doors.append(door)
            if len(doors) == 2:
                raise LookupError("a canary of an adapter's own words")

        monkeypatch.setattr(V3Async, "__init__", refuses)
        assert await one.looks() == ["reload_refused"]
        assert one.lines()[-1]["problems"] == ["providers: an adapter cannot be built: LookupError"]
        assert one.parts.fleet.settings is before
        assert (two.gate.max_in_flight, one.provider().gate.rate.per_minute) == (None, None)


@pytest.mark.parametrize("code", ["INFO = 1", "raise LookupError('a canary of an adapter')"])
async def test_an_adapter_that_was_installed_meanwhile_and_cannot_join_ends_nothing(
    config: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    async with following(config) as one:
        described = config.parent / "reelgate_acme-1.0.dist-info" / "entry_points.txt"
        described.parent.mkdir()
        described.write_text("[reelgate.providers]\nacme = reelgate_acme:INFO\n", "utf-8")
        (config.parent / "reelgate_acme.py").write_text(code, "utf-8")
        monkeypatch.syspath_prepend(config.parent)
        monkeypatch.delitem(sys.modules, "reelgate_acme", raising=False)
        one.write(WHOLE.replace("max_in_flight = 3", "max_in_flight = 4"))
        assert await one.looks(5) == ["reload_refused"]
        (problem,) = one.lines()[-1]["problems"]
        assert problem.startswith("providers: an adapter cannot join: entry point acme = reelgate_acme:INFO")
        assert "canary" not in problem
        described.unlink()
        one.write(WHOLE.replace("max_in_flight = 3", "max_in_flight = 50"))
        assert await one.looks() == ["reloaded"]
        assert one.provider().gate.max_in_flight == 50


async def test_links_of_a_provider_are_followed_to_its_own_place_also_after_it_was_removed(
    config: Path
) -> None:
    """The video that its vendor has finished is on the vendor's own machine, which may be beside ours."""
    vendor, link = "http://127.0.0.1:1", "http://127.0.0.1:1/files/v-1.mp4"
    with_it = WHOLE.replace("[providers.two]", f'base_url = "{vendor}"\n[providers.two]')
    async with following(config) as one:
        assert one.parts.wires.links.refuses(link) is not None, "it is nobody's"
        for text in (with_it, WHOLE.replace("[providers.one]", "[providers.three]")):
            one.write(text)
            assert await one.looks() == ["reloaded"]
            assert one.parts.wires.links.refuses(link) is None


# --- what is told -------------------------------------------------------------------------------------

async def test_the_log_names_what_changed_and_shows_no_value(config: Path) -> None:
    async with following(config) as one:
        text = WHOLE.replace('"1h"', '"2h"').replace("max_in_flight = 3", "canary = 0.5")
        one.write(text.replace("[providers.two]", "[providers.three]") + "[teams.red]\nmax_queued = 5\n")
        assert await one.looks() == ["reloaded"]
        told = one.lines()[-1]
        assert told["changed"] == [
            "routing.deadline", "providers.one.max_in_flight", "providers.one.canary",
        ]
        assert told["added"] == ["providers.three", "teams.red"]
        assert told["removed"] == ["providers.two"]
        assert told["providers"] == 2
        assert "canary-of" not in one.log.getvalue()
        assert one.provider("two").state(one.parts.engine.now()) == "draining"
        one.write(WHOLE)
        assert await one.looks() == ["reloaded"]
        assert one.provider("two").state(one.parts.engine.now()) == "healthy"


async def test_another_order_of_the_providers_is_a_change(config: Path) -> None:
    async with following(config) as one:
        one.write(WHOLE.replace(TWO, "").replace("[providers.one]", TWO + "[providers.one]"))
        assert await one.looks() == ["reloaded"]
        assert list(one.parts.fleet.providers) == ["two", "one"]
        assert one.lines()[-1]["changed"] == ["providers"]


async def test_what_needs_a_restart_is_named_and_waits_for_it(config: Path) -> None:
    async with following(config) as one:
        text = WHOLE.replace("video.internal", "elsewhere.internal").replace('"1h"', '"2h"')
        one.write(text + '[egress]\nallow = ["10.0.0.0/8"]\n')
        assert await one.looks() == ["reload_needs_restart", "reloaded"]
        assert one.lines()[-2]["keys"] == ["server.public_url", "egress.allow"]
        settings = one.parts.fleet.settings
        assert settings.server.public_url == "https://video.internal"
        assert (settings.egress.allow, settings.routing.deadline) == ((), 7200.0)
        await one.reloads.reload()
        assert one.lines()[-2]["keys"] == ["server.public_url", "egress.allow"], "it still does"


def day(days: int) -> str:
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}"


async def test_a_last_day_is_warned_of_and_told_when_it_has_come(config: Path) -> None:
    write(config, WHOLE + f"retire_on = {day(5)}\n")
    async with following(config) as one:
        (told,) = one.lines()
        assert (told["event"], told["level"]) == ("retires", "warning")
        assert (told["provider"], told["on"], told["days"]) == ("two", day(5), 4)
        assert await one.looks(3) == [], "once is enough"
        one.write(WHOLE + f"retire_on = {day(0)}\n")
        assert await one.looks() == ["reloaded", "retired"]
        assert one.lines()[-1]["provider"] == "two"
        two = one.provider("two")
        assert two.state(one.parts.engine.now()) == "draining"
        assert two.health.why == "retired by the configuration"
        assert await one.looks(2) == []
        one.write(WHOLE + f"retire_on = {day(5)}\n")
        assert await one.looks() == ["reloaded", "retires"], "put off"
        assert two.state(one.parts.engine.now()) == "healthy"
