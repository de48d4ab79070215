"""SECURITY.md's table of incidents elsewhere against the tests: every row named, every named test there.

Not held here: the tests themselves (`test_incidents_entry`, `test_incidents_reach`, `test_incidents_input`).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
ROWS: Final = 30
HEADING: Final = "## Incidents elsewhere"
ADVISORY: Final = re.compile(
    r"CVE-\d{4}-\d+|GHSA(?:-\w{4}){3}|PYSEC-\d{4}-\d+|GO-\d{4}-\d+"
    r"|issue \d+|\d+ \w+ 2026|Portkey's local page"
)


class Row(NamedTuple):
    """One row: which advisories, what follows from them, the tests' names."""

    advisories: set[str]
    rule: str
    tests: set[str]


def rows() -> list[Row]:
    """The table in SECURITY.md."""
    section = (ROOT / "SECURITY.md").read_text("utf-8").split(HEADING)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [Row(set(ADVISORY.findall(one)), rule, set(re.findall(r"`(test_\w+)`", names)))
            for one, rule, names in cells]  # fmt: skip


def incident_tests() -> dict[str, str]:
    """Every test of the suite with its docstring."""
    trees = (ast.parse(path.read_text("utf-8")) for path in Path(__file__).parent.glob("test_incidents_*.py"))
    return {
        node.name: ast.get_docstring(node) or "" for tree in trees for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_row_has_its_tests_and_every_test_its_row() -> None:
    table, found = rows(), incident_tests()
    assert len(table) == ROWS
    assert not [row.advisories for row in table if not (row.advisories and row.rule and row.tests)]
    assert set().union(*(row.tests for row in table)) == found.keys()


def test_a_test_says_which_incident_it_is_of() -> None:
    found = incident_tests()
    for row in rows():
        said = {name: set(ADVISORY.findall(found[name])) for name in row.tests}
        assert not [name for name, told in said.items() if not told & row.advisories], row.advisories
        assert set().union(*said.values()) >= row.advisories, row.advisories - set().union(*said.values())
