"""A disk that really is full: a small file system of the test's own, filled to the last byte.

Held here: the mount. Not held here: the life on it (`full_disk.py`), faults put into connections
(`test_trouble.py`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENOUGH = 60  # seconds, for a life of one
# In a mount namespace of its own: whatever happens, nothing is left mounted.
ISOLATED = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
MOUNT = 'mount -t tmpfs -o size=64m reelgate-test "$0"'
LIFE = f'{MOUNT} && exec "$1" -m tests.storage.full_disk "$0"'


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=ENOUGH)


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """An empty folder on which ISOLATED can mount a file system."""
    try:
        tried = run(*ISOLATED, MOUNT, str(tmp_path))
    except FileNotFoundError as error:
        pytest.skip(f"needs a file system of its own: {error}")
    if tried.returncode != 0:
        pytest.skip(f"needs a file system of its own: {tried.stderr.strip()}")
    return str(tmp_path)


def test_on_a_full_disk_paid_work_is_stored_and_new_work_refused(disk: str) -> None:
    life = run(*ISOLATED, LIFE, disk, sys.executable)
    assert life.returncode == 0, life.stderr
