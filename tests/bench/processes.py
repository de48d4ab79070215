"""Servers as processes of their own, pinned to a core, and what they use of the machine.

Held here: start, ready, CPU, memory, end. Not held here: which servers (`cases`). Linux: it reads /proc.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.bench.wire import exchange

ROOT: Final = Path(__file__).parents[2]
_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = _CORES[0]
LOAD_CORE: Final = _CORES[-1]  # with a single core they share it, and the report says so
READY_WITHIN_SECONDS: Final = 30.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class ServerFailed(Exception):
    """A server ended, or was not ready in time; with the end of its log."""


class Server:
    """A running server. `ready_seconds` is from the start of its process to its first `GET /readyz` 200."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.ready_seconds = 0.0

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far, in steps of 10 ms."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text("ascii")
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mib(self) -> float:
        """Resident memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def await_ready(self, began: float) -> None:
        """Return when it is. Raises ServerFailed."""
        while time.perf_counter() - began < READY_WITHIN_SECONDS and self.process.poll() is None:
            with suppress(OSError):  # nobody listens yet
                if exchange(self.port, "GET", "/readyz").status == 200:
                    self.ready_seconds = time.perf_counter() - began
                    return
            time.sleep(0.002)
        raise ServerFailed(f"{self.process.args!r}\n{self.log.read_text('utf-8', 'replace')[-2000:]}")


@contextmanager
def running(
    arguments: Sequence[str], port: int, log: Path, *, core: int, environ: dict[str, str] | None = None
) -> Iterator[Server]:
    """`python -m ARGUMENTS`, ready, alone on `core` with its output in `log`; ended on every way out."""
    os.sched_setaffinity(0, {core})  # inherited by the child and all of its threads
    with log.open("wb") as out:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT,
            env=os.environ | (environ or {}),
        )
    os.sched_setaffinity(0, {LOAD_CORE})
    server = Server(process, port, log)
    try:
        server.await_ready(began)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
