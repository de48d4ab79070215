"""`reelgate check` tries whether finished videos could be stored, and leaves no trace of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.__main__ import cli

PROVIDER = '[providers.one]\nadapter = "highwayapi"\napi_key = { env = "KEY" }\n'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEY", "k")
    file = tmp_path / "reelgate.toml"
    file.write_text(PROVIDER, "utf-8")
    return file


def test_a_place_that_can_be_written_to_is_fine(config: Path) -> None:
    told = CliRunner().invoke(cli, ["check", str(config)])
    assert (told.exit_code, "Warning" in told.stderr) == (0, False)
    found = json.loads(CliRunner().invoke(cli, ["check", str(config), "--json"]).stdout)
    assert (found["ok"], found["files_trouble"]) == (True, None)
    assert list(config.parent.iterdir()) == [config]


def test_one_that_cannot_is_told(config: Path) -> None:
    (config.parent / "videos").write_bytes(b"a file in the way")
    told = CliRunner().invoke(cli, ["check", str(config)])
    assert "finished videos cannot be stored from here" in told.stderr
    found = json.loads(CliRunner().invoke(cli, ["check", str(config), "--json"]).stdout)
    assert "videos" in found["files_trouble"]


def test_where_files_are_off_there_is_nothing_to_try(config: Path) -> None:
    config.write_text(f'[files]\nurl = "off"\n{PROVIDER}', "utf-8")
    found = json.loads(CliRunner().invoke(cli, ["check", str(config), "--json"]).stdout)
    assert found["files_trouble"] is None
