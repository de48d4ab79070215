"""What the project says about itself holds: targets, version, licence, requirements, size of an installation.

Held here: README against Makefile, CHANGELOG against the version, the locked requirements, and how many
distributions the default installation adds.
Not held here: the style of the code (`test_tidy`), and the README's commands that are more than a target.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
GIVEN = ("litestar", "httpx", "msgspec", "structlog", "prometheus-client")
ADDED_AT_MOST = 12  # distributions beyond what the given ones bring
TARGETS = ("setup", "demo", "test", "lint", "bench", "openapi")  # contract section 1
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "deploy/README.md", ".ci/run")


def text(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads(text("pyproject.toml"))["project"]
    return loaded


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text("Makefile"), re.MULTILINE))


def pinned(path: str) -> dict[str, str]:
    """The requirements of a locked file by name: each is one entry over several lines."""
    lines = text(path).replace("\\\n", " ").splitlines()
    entries = [line for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(re.split(r"[=\[ ;]", entry)[0]): entry for entry in entries}


def closure(*roots: str) -> set[str]:
    """Every distribution that installing `roots` brings here and now, they themselves included."""
    found: set[str] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        key = f"{name}[{','.join(sorted(wanted.extras))}]"
        if key in found:
            continue
        found.add(key)
        needs = [Requirement(line) for line in distribution(name).requires or ()]
        extras = ["", *wanted.extras]
        waiting += [need for need in needs if _applies(need, extras)]
    return {key.split("[")[0] for key in found}


def _applies(need: Requirement, extras: list[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_make_commands_exist(document: str) -> None:
    named = set(re.findall(r"(?:`|^\s*(?:\$ )?)make ([a-z][a-z-]*)", text(document), re.MULTILINE))
    assert named <= make_targets(), f"{document} names {sorted(named - make_targets())}"


def test_the_contracts_targets_exist() -> None:
    assert set(TARGETS) <= make_targets()


def test_changelog_has_this_version() -> None:
    assert re.search(rf"^## \[{re.escape(project()['version'])}\]", text("CHANGELOG.md"), re.MULTILINE)


def test_licence_is_the_one_that_the_metadata_names() -> None:
    assert project()["license"] == "Apache-2.0"
    licence = text("LICENSE")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


@pytest.mark.parametrize("path", sorted(file.name for file in ROOT.glob("requirements*.txt")))
def test_requirements_are_pinned_by_hash_and_name_no_place(path: str) -> None:
    entries = pinned(path)
    assert entries
    loose = [name for name, entry in entries.items() if "==" not in entry or "--hash=sha256:" not in entry]
    assert not loose, f"{path}: without version or hash: {loose}"
    assert not re.search(r"://| @ ", text(path)), f"{path}: names a place to download from"


LOCKED = [
    ("requirements.txt", ""), ("requirements-sandbox.txt", "sandbox"),
    ("requirements-tracing.txt", "tracing"),
]


@pytest.mark.parametrize(("path", "extra"), LOCKED)
def test_requirements_hold_what_the_project_needs(path: str, extra: str) -> None:
    needs = [*project()["dependencies"], *project()["optional-dependencies"].get(extra, [])]
    missing = closure(*needs) - pinned(path).keys()
    assert not missing, f"{path} is older than pyproject.toml: make lock"


def test_default_installation_adds_few_distributions() -> None:
    added = closure(*project()["dependencies"]) - closure(*GIVEN)
    assert 0 < len(added) <= ADDED_AT_MOST, sorted(added)


def test_ci_runs_the_targets_in_order() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111, "not executable"
    assert "set -euo pipefail" in text(".ci/run")
    targets = re.findall(r"^for target in (.+); do$", text(".ci/run"), re.MULTILINE)
    assert targets == ["lint test test-long demo"]


def test_every_test_is_in_one_of_the_two_targets() -> None:
    recipes = dict(re.findall(r"^(test(?:-long)?): .*\n\t.*pytest(.*)$", text("Makefile"), re.MULTILINE))
    chosen = {target: re.findall(r"-m (?:'([^']+)'|(\S+))", options) for target, options in recipes.items()}
    assert chosen == {"test": [("not long", "")], "test-long": [("", "long")]}
    assert not re.search(r"tests/| -k |--ignore|--deselect", "".join(recipes.values()))


def test_every_file_with_tests_is_collected() -> None:
    has_tests = re.compile(r"^(?:async )?def test_", re.MULTILINE)
    found = [path for path in (ROOT / "tests").rglob("*.py") if has_tests.search(path.read_text("utf-8"))]
    assert found
    assert [path for path in found if not path.name.startswith("test_")] == []
