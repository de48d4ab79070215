"""What a replica takes over, and has no provider for, is told by that one.

Not held here: what is told at a start (`tests/engine/test_taking_over.py`) and at a reload
(`tests/test_app.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.replicas.house import house, reached

pytestmark = pytest.mark.anyio


async def test_who_takes_over_tells_of_providers_that_it_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    async with house(tmp_path) as stage, stage.replica() as two:
        fleet = two.gateway.fleet
        kept = {"narrow": fleet.settings.providers["narrow"]}
        fleet.use(replace(fleet.settings, providers=kept), [fleet.providers["narrow"]])
        monkeypatch.setattr(two.gateway.telemetry, "provider_missing", lambda *missing: told.append(missing))
        async with stage.replica() as one:
            ids = [(await one.create(f"fox {number}"))["id"] for number in range(3)]
            for video_id in ids:
                await one.until(video_id, lambda video: video["status"] == "in_progress")
            assert told == []
        await reached(lambda: all(map(two.owns, ids)))
        await reached(lambda: bool(told))
        assert told[-1] == ("highway", 3)
