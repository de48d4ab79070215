"""`reelgate doctor` as it is called: what it prints, and with which code it leaves.

Not held here: what it finds (`tests/doctor`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.__main__ import cli
from gateway.doctor.rules import RULES
from tests.cli.stub import DROP, say, stubbed

KEY = "a-key-of-the-vendor"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "reelgate.toml"
    file.write_text(
        '[server]\nlisten = "127.0.0.1:0"\n[auth]\nmode = "off"\n[log]\nlevel = "debug"\n[providers.one]\n'
        'adapter = "highwayapi"\napi_key = { env = "KEY" }\n', "utf-8",
    )
    return file


def doctor(config: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", "--config", str(config), *options], env={"KEY": KEY})


def test_findings_are_told_with_their_reason_and_their_remedy(config: Path) -> None:
    result = doctor(config, "--offline")
    assert result.exit_code == 1
    first, *_ = (part for part in result.stdout.split("\n\n") if "log-debug" in part)
    head, found, why, what = first.strip().splitlines()
    assert head == "warning: log-debug at log.level"
    assert found.startswith("  found ")
    assert why.startswith("  why   ")
    assert what.startswith("  do    ")
    assert "warnings." in result.stderr
    assert "settings: 1 found." in result.stderr
    assert "vendors" not in result.stderr


def test_findings_for_programs(config: Path) -> None:
    result = doctor(config, "--offline", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["ok"]) == (1, False)
    (one,) = (one for one in told["findings"] if one["id"] == "log-debug")
    assert set(one) == {"id", "level", "where", "found", "why", "fix"}
    assert KEY not in result.output


@pytest.mark.parametrize("text", ["[server", "[serve]\n"])
def test_a_file_that_cannot_be_used_is_a_finding_too(config: Path, text: str) -> None:
    config.write_text(text, "utf-8")
    result = doctor(config, "--json")
    assert (result.exit_code, json.loads(result.stdout)["ok"]) == (1, False)
    assert doctor(config.with_name("none.toml")).exit_code == 1


def test_a_vendor_is_asked_and_no_video_is_ordered(config: Path) -> None:
    with stubbed() as stub:
        stub.script = [DROP, say({"reason": "INVALID_API_KEY", "message": "no"}, 401)]
        config.write_text(config.read_text("utf-8") + f'base_url = "{stub.url}"\n', "utf-8")
        assert "vendor-unreachable" in doctor(config).stdout
        stub.script = stub.script[-1:]
        assert "vendor-key-refused" in doctor(config).stdout
    assert {asked.method for asked in stub.asked} <= {"HEAD", "GET"}


def test_all_that_can_be_found_is_listed(config: Path) -> None:
    shown = doctor(config, "--list")
    assert shown.exit_code == 0
    assert {line.split()[0] for line in shown.stdout.splitlines()[1:]} == set(RULES)
    told = json.loads(doctor(config, "--list", "--json").stdout)["data"]
    assert [(one["id"], one["level"]) for one in told] == [(name, rule.level) for name, rule in RULES.items()]
