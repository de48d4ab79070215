"""The alerts and their runbooks: twelve rules that hold in promtool's unit tests, each with a page to follow.

Every command of a runbook is run against a gateway. Not held here: alerts that fire (`test_fired`).
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from click.testing import CliRunner

from gateway.__main__ import cli
from tests.dashboards.prometheus import DEPLOY, RULES, Json, needs_prometheus
from tests.dashboards.queries import selected
from tests.dashboards.test_boards import labels_by_metric
from tests.serving import Served, serving

TESTS: Final = DEPLOY / "prometheus/alerts_test.yml"
RUNBOOKS: Final = DEPLOY / "prometheus/runbooks.md"
PARTS: Final = ("Means", "How bad", "Look at", "Do", "Over when")
OF_PROMETHEUS: Final = {"up": {"job", "instance"}}


def rules() -> list[Json]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*arguments: str, folder: Path = DEPLOY / "prometheus") -> tuple[int, str]:
    ran = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def runbooks() -> dict[str, str]:
    """The text of each runbook by its heading."""
    _, *pages = RUNBOOKS.read_text("utf-8").split("\n## ")
    return {page.partition("\n")[0]: page.partition("\n")[2] for page in pages}


def test_there_are_twelve() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) == 12


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_rule_is_whole(rule: Json) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    page = f"runbooks.md#{rule['alert'].lower()}"
    assert rule["annotations"]["runbook_url"] == "{{ $externalLabels.runbooks }}" + page
    known = labels_by_metric() | OF_PROMETHEUS
    for metric, labels in selected(rule["expr"]):
        assert labels <= known[metric] | {"instance"}, metric


def test_every_alert_has_a_runbook_with_all_parts() -> None:
    assert list(runbooks()) == [rule["alert"] for rule in rules()]
    for name, page in runbooks().items():
        assert [part for part in PARTS if f"**{part}**" not in page] == [], name


@needs_prometheus
def test_promtool_takes_the_configuration_and_the_rules() -> None:
    code, said = promtool("check", "config", "prometheus.yml")
    assert (code, "12 rules found" in said) == (0, True), said


@needs_prometheus
def test_the_unit_tests_of_the_rules_hold() -> None:
    code, said = promtool("test", "rules", TESTS.name)
    assert code == 0, said


def asserted() -> Iterator[tuple[str, bool]]:
    """Each alert of the unit tests, and whether it is to fire there."""
    for test in yaml.safe_load(TESTS.read_text("utf-8"))["tests"]:
        for one in test["alert_rule_test"]:
            yield one["alertname"], bool(one["exp_alerts"])


def test_each_alert_is_tested_to_fire_and_not_to_fire() -> None:
    wanted = {(rule["alert"], fires) for rule in rules() for fires in (True, False)}
    assert set(asserted()) == wanted


@needs_prometheus
@pytest.mark.long
@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_without_a_rule_its_unit_test_fails(rule: Json, tmp_path: Path) -> None:
    for file in (RULES, TESTS):
        (tmp_path / file.name).write_text(file.read_text("utf-8"), "utf-8")
    never = {"groups": [{"name": "reelgate", "rules": [
        one | ({"expr": "vector(0) > 1"} if one["alert"] == rule["alert"] else {}) for one in rules()
    ]}]}  # fmt: skip
    (tmp_path / RULES.name).write_text(yaml.safe_dump(never), "utf-8")
    code, said = promtool("test", "rules", TESTS.name, folder=tmp_path)
    assert (code != 0, rule["alert"] in said) == (True, True), said


# --- the commands of the runbooks ---------------------------------------------------------------------------


def commands() -> list[str]:
    """Every command of the runbooks, in order, each once."""
    blocks = re.findall(r"```sh\n(.*?)```", RUNBOOKS.read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if not line.startswith("export ")))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("runbooks")
    (folder / "reelgate.toml").write_text(
        '[files]\nurl = "off"\n[providers.highway]\nadapter = "highwayapi"\napi_key = { env = "KEY" }\n'
    )
    with serving(folder, auth="keys") as started:
        yield started


@pytest.mark.parametrize("command", commands())
def test_a_runbooks_command_is_run(command: str, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    key = served.new_key("olga", "operator")
    client = served.client_with({"Authorization": f"Bearer {key}"})
    unknown = served.started(
        served.create(client, prompt="[[fault:reset_after_accept]] a fox")["id"], client
    )
    environ = {"REELGATE_URL": served.url, "REELGATE_KEY": key, "KEY": "k"}
    monkeypatch.chdir(served.database.parent)
    program, *arguments = shlex.split(command.replace("$VIDEO_ID", unknown["id"]))
    assert program == "reelgate"
    ran = CliRunner().invoke(cli, arguments, env=environ)
    assert ran.exit_code == 0, ran.output
    client.post("/v1/providers/highway/resume")
