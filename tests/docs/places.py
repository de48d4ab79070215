"""Which commands of the documents are not run here, and why; which documents are run elsewhere. Data only.

Every other `sh` block of every document is run by a test of this folder, as it stands; `test_documents`
counts them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Final

import pytest


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test where one of these is not installed, and say which."""
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


_DEMO: Final = (
    "make demo   # simulators of all vendors, the gateway, five videos through five vendor endpoints, "
    "five playable files"
)
# Document, first line of the block: why it is not run.
NOT_HERE: Final[Mapping[tuple[str, str], str]] = {
    ("README.md", _DEMO): "continuous integration runs both targets themselves (.ci/run)",
    ("deploy/README.md", "sh deploy/make-secrets.sh"): "needs a Docker daemon; tests/deploy checks the file",
    ("deploy/README.md", "docker build --file deploy/Dockerfile --tag reelgate ."):
        "needs a Docker daemon; tests/deploy runs the image's steps outside of one",
}

# Documents whose commands are run by a test of another folder.
RUN_BY: Final[Mapping[str, str]] = {
    "deploy/drill.md": "tests/dashboards/test_drill.py",
    "deploy/prometheus/runbooks.md": "tests/dashboards/test_alerts.py",
}

# Documents whose commands no test can run, and which do not say `sh` either: what is done instead.
ELSEWHERE: Final[Mapping[str, str]] = {
    "deploy/kubernetes/README.md": "needs a cluster; tests/deploy renders and checks what is applied",
    "deploy/systemd/README.md": "needs systemd; tests/deploy verifies the unit, and runs its command",
}
