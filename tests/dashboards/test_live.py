"""A real Prometheus that scrapes a running gateway under load: panels have data, and no alert is told.

Not held here: what the figures say (the tests of telemetry), alerts that fire (`test_fired`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import httpx
import pytest

from deploy.grafana.panels import BOARDS
from tests.dashboards.prometheus import Prometheus, alertmanager, needs_prometheus, prometheus
from tests.dashboards.queries import Asked, queries
from tests.dashboards.stage import PLAIN, READY_SECONDS, TROUBLED, Load, receiver, stage

VIDEOS_MOST: Final = 400  # of one caller, until every panel has had its data
CLEAN_VIDEOS: Final = 15


def empty(there: Prometheus) -> list[Asked]:
    """The expressions that have no data, or none but "not a number"."""
    return [asked for asked in queries("20s") if not there.query(asked.expression)]


@needs_prometheus
@pytest.mark.long
def test_every_panel_has_data_under_load(tmp_path: Path) -> None:
    assert {asked.panel for asked in queries()} == {panel.title for board in BOARDS for panel in board.panels}
    with (
        stage(tmp_path, render_seconds=0.1) as running, receiver() as hooks,
        prometheus(tmp_path / "prometheus", running.target) as there,
        httpx.Client(base_url=running.url, trust_env=False, timeout=READY_SECONDS) as client,
    ):
        load = Load(running.url, TROUBLED, hooks)
        with load.under_way(2):
            caller = Load(running.url, TROUBLED, hooks)
            missing = empty(there)
            while missing and caller.made < VIDEOS_MOST:
                caller.ask(client, caller.made)
                missing = empty(there)
    assert not missing, "\n".join(map(str, missing))


@needs_prometheus
@pytest.mark.long
def test_no_alert_fires_in_a_clean_run(tmp_path: Path) -> None:
    with (
        stage(tmp_path, render_seconds=0.1) as running, receiver() as hooks, alertmanager() as told,
        prometheus(tmp_path / "prometheus", running.target, told) as there,
        httpx.Client(base_url=running.url, trust_env=False, timeout=READY_SECONDS) as client,
    ):
        caller = Load(running.url, PLAIN, hooks[:1])
        seen: set[str] = set()
        with Load(running.url, PLAIN, hooks[:1]).under_way(2):
            while caller.made < CLEAN_VIDEOS:
                caller.ask(client, caller.made)
                seen |= {alert["labels"]["alertname"] for alert in there.alerts()}
        assert there.query('count_over_time(up{job="reelgate"}[1h]) > 4')
    assert (told.told, seen) == ({}, set())
