"""The image's steps, run without a container, and each way of installing lived once with what they make.

What is not run: a builder, a registry, a cluster, systemd; see `image` for what differs. The commands that
fetch from a package index run as they stand in `make image-steps`, by `tests.deploy`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.image import ALONE, ROOT, Image, build, missing
from tests.deploy.ways import WAYS

reason = missing()
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(reason is not None, reason=f"the image's steps are not run: {reason}"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    build("gateway", folder)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_an_installation_lives(way: str, images: Path, tmp_path: Path) -> None:
    words = [*ALONE, sys.executable, "-m", "tests.deploy.house", way, str(tmp_path), str(images)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-4000:]}"
    assert done.stdout.splitlines()[-1] == "drained and ended"


def test_the_image_holds_the_program_and_no_installer(images: Path) -> None:
    image = Image(images / "gateway")
    programs = {file.name for file in (image.files / "opt/reelgate/bin").iterdir()}
    assert "reelgate" in programs
    assert not {name for name in programs if name.startswith(("pip", "uv"))}
    assert not list((image.files / "opt/reelgate").glob("lib/*/site-packages/pip"))
    assert not (image.files / "src").exists()
    assert not (image.files / "wheel").exists()
