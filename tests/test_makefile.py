"""What `make setup` says where no `.venv` can be made: the missing package, or venv's own words.

Not held here: that the targets exist and are documented (`test_project.py`).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.places import needs

OWN_WORDS = "Error: [Errno 28] No space left on device: '.venv'"
# A Python that is new enough and makes no .venv, with or without what Debian has in a package of its own.
PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv"*) echo "{own_words}" >&2; exit 1 ;;
  *ensurepip*) exit {has_ensurepip} ;;
esac
"""


@needs("make")
@pytest.mark.parametrize(
    ("has_ensurepip", "said", "unsaid"), [(0, OWN_WORDS, "python3-venv"), (1, "python3-venv", OWN_WORDS)]
)
def test_only_a_missing_package_is_called_one(
    tmp_path: Path, has_ensurepip: int, said: str, unsaid: str
) -> None:
    for name in ("Makefile", "requirements-bootstrap.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON.format(own_words=OWN_WORDS, has_ensurepip=has_ensurepip), "utf-8")
    python.chmod(0o755)
    ran = subprocess.run(
        ["make", ".venv/.bootstrap", f"PYTHON={python}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )
    assert ran.returncode == 2
    assert said in ran.stdout + ran.stderr
    assert unsaid not in ran.stdout + ran.stderr
