"""`providers/README.md`: an adapter is written, joins, passes the contract suite and plans; its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from providers import spec
from tests.docs.blocks import ROOT, table
from tests.docs.places import needs
from tests.docs.scenes import runnable
from tests.docs.shell import elsewhere, run

PAGE = "providers/README.md"


@pytest.mark.long
@needs("bash", "curl")
def test_the_walk_ends_in_a_plan_by_the_new_adapter(tmp_path: Path) -> None:
    ran = run(runnable(PAGE), tmp_path, elsewhere())
    suite = next(one.out for one in ran if "pytest" in one.block.text)
    assert " passed" in suite
    assert "skipped" not in suite
    (candidate,) = json.loads(ran[-1].out.removeprefix(ran[-1].out.partition("{")[0]))["candidates"]
    assert candidate["request"]["url"] == "https://api.acme.example/jobs"
    assert candidate["request"]["body"] == {
        "film": "film-1", "text": "A boat", "seconds": 10, "shape": "16:9", "sound": False,
    }


def test_the_optional_protocols_are_those_of_the_code() -> None:
    told = {name: set(methods.replace("`", "").split(", ")) for name, methods, _ in
            table(PAGE, "protocol", "methods", "what the gateway does with it")}
    optional = {
        name: {method for method in vars(kind) if not method.startswith("_")}
        for name, kind in vars(spec).items() if getattr(kind, "_is_runtime_protocol", False)
    }
    assert told == optional


def test_every_file_of_the_folder_is_in_the_table() -> None:
    told = {name for names, _ in table(PAGE, "file", "holds") for name in names.replace("`", "").split(", ")}
    assert told == {path.name for path in (ROOT / "providers").glob("*.py")}
