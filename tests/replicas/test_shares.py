"""Who shares what: polls and places are shared by those that follow tasks, requests by those that answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import running
from tests.replicas.house import house, reached

pytestmark = pytest.mark.anyio


async def test_a_replica_that_only_answers_shares_the_requests_and_nothing_else(tmp_path: Path) -> None:
    async with house(tmp_path) as place, place.replica() as whole:
        engine = whole.gateway.engine
        async with running(place.settings(), "api") as doors, running(place.settings(), "engine") as engines:
            api, other = doors.parts.engine, engines.parts.engine
            await reached(lambda: [one.doors for one in (engine, api, other)] == [2, 2, 2])
            await reached(lambda: [one.peers for one in (engine, other)] == [1, 1])
            assert api.replica not in {engine.replica, other.replica}
        await reached(lambda: (engine.doors, engine.peers) == (1, 0))
