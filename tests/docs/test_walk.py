"""A stranger's walk: from the README to a gateway for real vendors, to the figures of a dashboard.

Each step is copied from the documents by this script, and timed; `pytest -rP tests/docs/test_walk.py` shows
the times. Not walked here: `make setup` (continuous integration runs it), and Grafana, in whose place every
expression of its first board is asked of the Prometheus that the walk has started.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs.blocks import ROOT, Block, blocks
from tests.docs.places import needs
from tests.docs.scenes import scene
from tests.docs.shell import elsewhere, run, timetable

STEPS: Final = (  # document, heading
    ("README.md", "A first request"),
    ("README.md", "A real vendor"),
    ("deploy/README.md", "Boards and alerts"),
)
BOARD: Final = "deploy/grafana/boards/overview.json"
# Nothing was counted before Prometheus came, so of a ratio it may only say that it is none.
VARIABLES: Final = {"$__rate_interval": "1m", "$provider": ".*", "$model": ".*"}


def expressions() -> list[str]:
    """What the panels of the first board ask, with their variables filled in."""
    board = json.loads((ROOT / BOARD).read_text("utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    for name, value in VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def looking() -> Block:
    """Wait for each figure of the board; the last is how many videos were accepted."""
    asked = [*expressions(), "sum(reelgate_videos_accepted_total) >= 2"]
    query = "until promtool query instant http://127.0.0.1:9090 {} | tee figure | grep '=>'; do sleep 1; done"
    return scene("the board Overview", "\n".join(query.format(shlex.quote(one)) for one in asked) + "\n")


@pytest.mark.long
@needs("bash", "curl", "prometheus", "promtool")
def test_a_stranger_gets_from_the_readme_to_a_dashboard(tmp_path: Path) -> None:
    steps = [block for document, heading in STEPS for block in blocks(document)
             if (block.heading, block.kind) == (heading, "sh")]
    assert len(steps) >= len(STEPS)
    ran = run([*steps, looking()], tmp_path, elsewhere())
    assert "https://api.highwayapi.ai" in next(one.out for one in ran if "--plan" in one.block.text)
    figures = re.findall(r"=>", ran[-1].out)
    assert len(figures) > len(expressions())
    sys.stdout.write(timetable(ran))
