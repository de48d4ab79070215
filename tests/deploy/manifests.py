"""What deploy/ says, as data: the rendered overlays, compose.yaml, the unit.

Held here: reading. Not held here: any expectation.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from gateway.api.gateway import BODIES_MAX_BYTES, DECODING_MAX_BYTES
from gateway.engine.loop import IMAGES_MAX_BYTES

Json: TypeAlias = dict[str, Any]  # as it was written

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
OVERLAYS: Final = ("sqlite", "postgres")
UNIT: Final = DEPLOY / "systemd/reelgate.service"
# What the program lets itself use: with 100,000 videos in flight (tests/bench/RESULTS.md), and as many images
# on their way as its bounds let in, twice while they are sent.
MEMORY_BYTES: Final = (160 << 20) + BODIES_MAX_BYTES + DECODING_MAX_BYTES + 2 * IMAGES_MAX_BYTES


def tool(name: str) -> str:
    """The program of a development dependency; else that of this machine."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


@cache
def rendered(overlay: str) -> tuple[Json, ...]:
    """Every object of an overlay, as `kubectl apply -k` would send it."""
    words = [tool("kubectl"), "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def one(overlay: str, kind: str, name: str = "reelgate") -> Json:
    """The object of that kind and name."""
    named = (kind, name)
    (found,) = (each for each in rendered(overlay) if (each["kind"], each["metadata"]["name"]) == named)
    return found


def compose() -> Json:
    """compose.yaml, its anchors put in, the default in place of each variable."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text("utf-8"))
    loaded: Json = yaml.safe_load(text)
    return loaded


def unit() -> dict[str, list[str]]:
    """Every setting of the unit, in order, whatever its section."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def seconds(text: str) -> float:
    """A time as compose and systemd write it: `30s`, `5min`, `2m`."""
    number, unit_name = re.fullmatch(r"(\d+)(s|min|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60, "min": 60}[unit_name]


def size(text: str) -> int:
    """Bytes as Kubernetes and systemd write them: `192Mi`, `1G`."""
    number, unit_name = re.fullmatch(r"(\d+)([MG])i?", text).groups()  # type: ignore[union-attr]
    return int(number) << {"M": 20, "G": 30}[unit_name]
