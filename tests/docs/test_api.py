"""`openapi/README.md`: every command is run against a real gateway, every answer and table compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gateway.errors import CODES, TASK_ERRORS
from tests.docs import shown
from tests.docs.blocks import ROOT, blocks, table
from tests.docs.places import needs
from tests.docs.shell import elsewhere, run

PAGE = "openapi/README.md"


@needs("bash", "curl")
@pytest.mark.long
def test_the_api_answers_what_the_page_shows(tmp_path: Path) -> None:
    every = blocks(PAGE)
    ran = run([block for block in every if block.kind == "sh"], tmp_path, elsewhere())
    compared = shown.check(ran, every)
    assert compared == len([block for block in every if block.kind in {"http", "text"}])


def test_the_fields_of_a_create_are_those_of_its_schema() -> None:
    told = [name for names, *_ in table(PAGE, "field", "values", "without it")
            for name in names.replace("`", "").split(", ")]
    schemas = yaml.safe_load((ROOT / "openapi/reelgate.yaml").read_text("utf-8"))["components"]["schemas"]
    assert sorted(told) == sorted(schemas["CreateBody"]["properties"])


def test_the_codes_are_those_of_the_code() -> None:
    told = {code: row for code, *row in table(PAGE, "code", "status", "retryable", "meaning")}
    assert told == {
        code: [str(info.status), "yes" if info.retryable else "no", info.title]
        for code, info in CODES.items()
    }


def test_the_errors_of_videos_are_those_of_the_code() -> None:
    told = dict(table(PAGE, "code of a video", "meaning"))
    assert told == dict(TASK_ERRORS)
