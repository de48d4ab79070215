"""`gateway/sandbox/README.md`: its simulators, a gateway before them, and a fault of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, table
from tests.docs.places import needs
from tests.docs.scenes import GATEWAY, runnable, scene
from tests.docs.shell import elsewhere, run

PAGE = "gateway/sandbox/README.md"


@pytest.mark.long
@needs("bash", "curl")
def test_the_sandbox_takes_every_command_of_its_page(tmp_path: Path) -> None:
    starts, *rest = runnable(PAGE)
    # Its port is the default one, which is another here.
    starts = starts._replace(text=starts.text.replace("reelgate sandbox >", "reelgate sandbox --port 8090 >"))
    ran = run([starts, scene("gateway", GATEWAY), *rest], tmp_path, elsewhere())
    assert '"detail"' not in ran[-1].out


def test_the_files_of_the_table_are_there() -> None:
    told = {name for names, _ in table(PAGE, "file", "what lives there")
            for name in names.replace("`", "").split(", ")}
    there = {path.name for path in (ROOT / "gateway/sandbox").glob("*.py")}
    assert told <= there
