"""Commands of a document run in one shell, block after block, in an empty folder and on ports of their own.

The shell stops at the first command that fails. What a block leaves running is ended with the shell. `curl`
keeps the head of its last answer, so that a document need not ask for it. Not held here: what is compared
(`tests.docs.shown`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.docs.blocks import ROOT, Block
from tests.serving import free_port

PATIENCE_SECONDS: Final = 300.0  # only something broken takes that long
# What commands name from the root.
LINKED: Final = (".venv", "deploy", "openapi", "providers", "pyproject.toml", "tests")
PORTS: Final = ("8080", "8081", "8090", "8443", "9090", "9999")
# What stands in documents, and what is run instead: an installation takes the network, and CI runs it.
INSTEAD: Final[Mapping[str, str]] = {"make setup ": "test -x .venv/bin/reelgate "}
_DRIVER: Final = """
set -euo pipefail
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
curl() { command curl --silent --show-error --dump-header "$RUN_FOLDER/head" "$@"; }
for RUN_BLOCK in "$RUN_FOLDER"/*.sh; do
  : > "$RUN_FOLDER/head"
  exec > "${RUN_BLOCK%.sh}.out" 2> "${RUN_BLOCK%.sh}.err"
  RUN_BEGAN=$EPOCHREALTIME
  . "$RUN_BLOCK"
  cp "$RUN_FOLDER/head" "${RUN_BLOCK%.sh}.head"
  echo "$RUN_BEGAN $EPOCHREALTIME" > "${RUN_BLOCK%.sh}.done"
done
"""


class Ran(NamedTuple):
    """A block that was run: what it said on stdout, the head of the last answer to `curl`, and its time."""

    block: Block
    out: str
    head: str
    seconds: float


def elsewhere() -> dict[str, str]:
    """For each port that documents name, a free one."""
    return {port: str(free_port()) for port in PORTS}


def run(
    wanted: Sequence[Block], folder: Path, ports: Mapping[str, str], **environment: str
) -> list[Ran]:
    """Run the blocks one after another; fails with what it said at the first that does.

    `ports` are taken for those of the documents; `environment` is what a reader would have set.
    """
    place, kept = folder / "place", folder / "run"
    place.mkdir()
    kept.mkdir()
    for name in LINKED:
        (place / name).symlink_to(ROOT / name)
    for number, block in enumerate(wanted):
        text = re.sub(r"\b\d{4}\b", lambda found: ports.get(found.group(), found.group()), block.text)
        for old, new in INSTEAD.items():
            text = text.replace(old, new)
        (kept / f"{number:03}.sh").write_text(text, "utf-8")
    here = {
        "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(place),
        "REELGATE_URL": f"http://127.0.0.1:{ports['8080']}", "LC_ALL": "C.UTF-8", "RUN_FOLDER": str(kept),
    }
    status = _finished(place, kept, here | environment)
    ran = [_ran(kept / f"{number:03}", block) for number, block in enumerate(wanted)]
    done = [one for one in ran if one is not None]
    if status != 0 or len(done) != len(wanted):
        stopped = wanted[len(done)]
        streams = [kept / f"{len(done):03}.{stream}" for stream in ("out", "err")]
        said = "".join(path.read_text("utf-8")[-4000:] for path in [*streams, *place.glob("*.log")])
        where = f"{stopped.document}:{stopped.line}"
        raise AssertionError(f"{where} ended with {status}:\n{stopped.text}\n{said}")
    return done


def timetable(ran: Sequence[Ran]) -> str:
    """Each step with its seconds, and all of them, as lines of text."""
    rows = [(one.seconds, f"{one.block.document}: {one.block.heading}") for one in ran]
    rows.append((sum(one.seconds for one in ran), f"from {ran[0].block.document} to {ran[-1].block.heading}"))
    return "".join(f"{seconds:7.1f} s  {what}\n" for seconds, what in rows)


def _finished(place: Path, kept: Path, environment: Mapping[str, str]) -> int | None:
    """The shell's exit code, None when it had to be killed."""
    with (kept / "driver").open("w", encoding="utf-8") as said:
        shell = subprocess.Popen(
            ["bash", "-c", _DRIVER], cwd=place, env=dict(environment), stdin=subprocess.DEVNULL,
            stdout=said, stderr=said, start_new_session=True,
        )
    try:
        return shell.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if shell.returncode is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()


def _ran(stem: Path, block: Block) -> Ran | None:
    """What came of a block; None for one that did not come to its end."""
    done = stem.with_suffix(".done")
    if not done.exists():
        return None
    began, ended = map(float, done.read_text("utf-8").split())
    out, head = (stem.with_suffix(suffix).read_text("utf-8", "replace") for suffix in (".out", ".head"))
    return Ran(block, out, head, ended - began)
