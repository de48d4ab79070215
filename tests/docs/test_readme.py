"""`README.md`: its commands in one shell, as a newcomer would run them, and what they come to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.places import needs
from tests.docs.scenes import runnable
from tests.docs.shell import elsewhere, run


@needs("bash", "curl")
@pytest.mark.long
def test_the_readme_makes_videos_and_plans_one_at_a_real_vendor(tmp_path: Path) -> None:
    ran = run(runnable("README.md"), tmp_path, elsewhere())
    told = {one.block.text.splitlines()[-1]: one.out for one in ran}
    video = json.loads(told["cat video.json"].removeprefix("ok\n"))
    assert (video["status"], video["provider"], video["charged"]) == ("completed", "highway", "yes")
    plan = next(out for line, out in told.items() if "--plan" in line)
    assert "https://api.highwayapi.ai/v3/async/kling-v3.0-std-t2v" in plan
    assert "your-key" not in plan
