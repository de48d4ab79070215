"""The configurations of deploy/ make sense to our own doctor. Not held here: where they are deployed to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from gateway.doctor.settings import CHECKS
from gateway.settings import load
from providers import adapters
from tests.doctor.patient import KEY, SECRET

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
FILES: Final = sorted(DEPLOY.rglob("*.toml"))
# Inside the network of compose the one port is for callers and Prometheus alike; it is published on loopback.
KNOWN: Final = {"compose.toml": {"metrics-in-public"}}


def value_of(name: str) -> str:
    """A secret that is good for what its name says it is for."""
    if "store" in name.lower():
        return "postgresql://app:sesame@database/reelgate"
    return SECRET if "webhook" in name.lower() else f"{KEY}-{name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_a_shipped_configuration_makes_sense(file: Path, tmp_path: Path) -> None:
    def here(found: re.Match[str]) -> str:
        (tmp_path / Path(found[1]).name).write_text(value_of(found[1]), "utf-8")
        return f'file = "{Path(found[1]).name}"'

    text = re.sub(r'file = "([^"]+)"', here, file.read_text("utf-8"))
    (tmp_path / file.name).write_text(text, "utf-8")
    environ = {name: value_of(name) for name in re.findall(r'env = "(\w+)"', text)}
    settings = load(tmp_path / file.name, adapters(), environ)
    found = {finding.rule for check in CHECKS for finding in check(settings)}
    assert found <= KNOWN.get(file.name, set())
