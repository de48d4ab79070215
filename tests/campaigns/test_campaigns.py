"""Every campaign in a small size: nothing lost, nothing bought twice, no answer cut."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from tests.campaigns.kills import kills
from tests.campaigns.reloads import reloads
from tests.campaigns.replicas import SHORT, replicas
from tests.campaigns.report import Report
from tests.campaigns.restarts import restarts
from tests.campaigns.soak import soak
from tests.campaigns.stage import Plan
from tests.campaigns.zombies import zombies

pytestmark = [pytest.mark.anyio, pytest.mark.long]

SMALL: Final[dict[str, Callable[[Plan], Awaitable[Report]]]] = {
    "20 kills": lambda plan: kills(plan, 20, within_seconds=0.8),
    "5 restarts": lambda plan: restarts(plan, 5),
    "4 reloads": lambda plan: reloads(plan, 4),
    "4 zombies": lambda plan: zombies(plan, 4),
    "12 disturbances of replicas": lambda plan: replicas(plan, 12, SHORT),
    "a soak": lambda plan: soak(plan, 0.2),
}


@pytest.mark.parametrize("name", SMALL)
async def test_campaign(name: str, tmp_path: Path) -> None:
    report = await SMALL[name](Plan(folder=tmp_path, seed=len(name)))
    sys.stdout.write(report.text)
    assert not report.violations, report.text
    assert report.verdict.classes["ok"] > 10
    assert report.verdict.charges > 10
