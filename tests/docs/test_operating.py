"""`deploy/README.md`: every command in one shell, on SQLite and then on a real PostgreSQL; its figures.

Not held here: Docker, Kubernetes, systemd and the image (`tests/deploy`), the boards (`tests/dashboards`).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import postgres
from tests.docs.blocks import ROOT, table
from tests.docs.places import needs
from tests.docs.scenes import runnable
from tests.docs.shell import Ran, elsewhere, run, timetable

PAGE = "deploy/README.md"
BIGGER_IS_SAFER = ("bytes", "MiB", "polls")  # how a column is called whose figure is a cost


@pytest.mark.long
@needs("bash", "curl", "nginx", "openssl", "prometheus", "promtool")
def test_the_operating_guide_can_be_followed(tmp_path: Path) -> None:
    async def follow() -> list[Ran]:
        async with postgres.database(is_empty=True) as url:
            ports = elsewhere()
            return await asyncio.to_thread(run, runnable(PAGE), tmp_path, ports, REELGATE_STORE_URL=url)

    ran = asyncio.run(follow())
    sys.stdout.write(timetable(ran))
    told = {one.block.heading: one.out for one in ran}
    assert "All rules hold." in told["Back up and restore"]
    assert "failed" in told["Unknown submissions"]
    assert "failed" in told["PostgreSQL and several replicas"], "what SQLite knew is known at each replica"
    assert "=>" in told["Boards and alerts"]


RESULTS: dict[str, Any] = json.loads((ROOT / "tests/bench/results.json").read_text("utf-8"))
FIGURES = table(PAGE, "what one process does", "figure", "measured as")


@pytest.mark.parametrize("row", FIGURES, ids=lambda row: row[2])
def test_a_figure_is_what_was_measured_rounded_to_the_safe_side(row: list[str]) -> None:
    _, figure, source = row
    section, rest = source.split(" / ", 1)
    case, column = rest.rsplit(" / ", 1)
    measured = statistics.median(RESULTS[section]["rows"][case][column])
    ratio = float(figure) / measured
    least, most = (0.95, 3.0) if column.startswith(BIGGER_IS_SAFER) else (0.3, 1.1)
    assert least <= ratio <= most, f"{figure}, but {measured:.0f} was measured: change page and formulas"
