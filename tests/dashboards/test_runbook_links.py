"""Where an alert's runbook is to be read: one external label, as `prometheus.yml` shows it.

The links themselves, with the label and without, are promtool's part (`alerts_test.yml`). Not held here: the
runbooks (`test_alerts`).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.dashboards.prometheus import DEPLOY, RULES, Json, needs_prometheus
from tests.dashboards.test_alerts import TESTS, promtool

CONFIGURATION = DEPLOY / "prometheus/prometheus.yml"


def uncommented() -> str:
    """The configuration with what it proposes switched on."""
    text = CONFIGURATION.read_text("utf-8")
    return re.sub(r"^( *)# ?((?:external_labels|alerting| *alert_relabel| *alertmanagers).*)$", r"\1\2", text,
                  flags=re.MULTILINE)


def groups() -> list[Json]:
    found: list[Json] = yaml.safe_load(TESTS.read_text("utf-8"))["tests"]
    return found


@needs_prometheus
def test_what_the_configuration_proposes_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(RULES.read_text("utf-8"), "utf-8")
    (tmp_path / "prometheus.yml").write_text(uncommented(), "utf-8")
    code, said = promtool("check", "config", "prometheus.yml", folder=tmp_path)
    assert code == 0, said


def test_the_label_it_proposes_is_the_one_that_links_begin_with_and_alerts_do_not_carry_it() -> None:
    proposed = yaml.safe_load(uncommented())
    (label,) = proposed["global"]["external_labels"]
    assert proposed["global"]["external_labels"][label].endswith("/")
    assert RULES.read_text("utf-8").count(f"{{{{ $externalLabels.{label} }}}}") == 12
    assert proposed["alerting"]["alert_relabel_configs"] == [{"action": "labeldrop", "regex": label}]


@pytest.mark.parametrize("is_set", [True, False])
def test_links_are_tested_with_the_label_and_without(*, is_set: bool) -> None:
    links = [
        alert["exp_annotations"]["runbook_url"]
        for group in groups() if ("runbooks" in group.get("external_labels", {})) is is_set
        for one in group["alert_rule_test"] for alert in one["exp_alerts"]
    ]
    assert links
    begins = "https://git.example/deploy/prometheus/" if is_set else ""
    assert {link.partition("#")[0] for link in links} == {f"{begins}runbooks.md"}
