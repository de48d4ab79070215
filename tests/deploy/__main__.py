"""`python -m tests.deploy`: both images by the very commands of deploy/Dockerfile, and every way lived once.

Needs root, a package index, and some minutes. Not held here: what is done (`image`, `house`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.deploy.image import ALONE, ROOT, build, missing
from tests.deploy.ways import WAYS


def main() -> str | None:
    """Build and live, saying how long each took; why it was not done, if it was not."""
    if (why := missing()) is not None:
        return f"not run: {why}"
    folder = Path(tempfile.mkdtemp(prefix="reelgate-image-"))
    try:
        for name in ("gateway", "sandbox"):
            begun = time.monotonic()
            files = build(name, folder, exactly=True).files / "opt/reelgate"
            took, size = time.monotonic() - begun, sum(file.lstat().st_size for file in files.rglob("*"))
            print(f"image {name}: {size / 2**20:.0f} MiB above its base, {took:.0f} s")  # noqa: T201
        for way in WAYS:
            print(f"== {way}", flush=True)  # noqa: T201
            place = folder / f"way-{way}"
            place.mkdir()
            words = [*ALONE, sys.executable, "-m", "tests.deploy.house", way, str(place), str(folder)]
            if subprocess.run(words, cwd=ROOT, check=False).returncode:
                return f"{way} failed"
    finally:
        shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    sys.exit(main())
