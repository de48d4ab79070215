"""Servers as processes of their own, pinned to a core, and what they use of the machine.

Held here: start, ready, CPU, memory, end. Not held here: which servers (the modules of the groups). Linux: it
reads /proc.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.bench.wire import exchange

ROOT: Final = Path(__file__).parents[2]
_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = _CORES[0]
LOAD_CORE: Final = _CORES[-1]  # with a single core they share it, and the report says so
READY_WITHIN_SECONDS: Final = 60.0
_REST_WITHIN_SECONDS: Final = 40.0


class ServerFailed(Exception):
    """A server ended, or was not ready in time; with the end of its log."""


class Server:
    """A running server. `began` is when its process was started, on the clock of `time.perf_counter`.

    `ready_seconds` is from then to its first `GET READY` 200.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, began: float) -> None:
        self.process, self.port, self.log, self.began = process, port, log, began
        self.ready_seconds = 0.0

    def cpu_seconds(self) -> float:
        """User and system time of all its threads, and of its living children's, so far."""
        return tree_cpu_seconds(self.process.pid)

    def memory_mib(self) -> float:
        """Resident memory; of several processes that of the largest, because they share much of it."""
        return self._status_kib("VmRSS:") / 1024

    def peak_mib(self) -> float:
        """The most resident memory that it ever had, likewise."""
        return self._status_kib("VmHWM:") / 1024

    def _status_kib(self, name: str) -> int:
        found = (Path(f"/proc/{pid}/status").read_text("ascii") for pid in _tree(self.process.pid))
        lines = (line for text in found for line in text.splitlines() if line.startswith(name))
        return max(int(line.split()[1]) for line in lines)

    def await_ready(self, path: str) -> None:
        """Return when it is. Raises ServerFailed."""
        while time.perf_counter() - self.began < READY_WITHIN_SECONDS and self.process.poll() is None:
            with suppress(OSError):  # nobody listens yet
                if exchange(self.port, "GET", path).status == 200:
                    self.ready_seconds = time.perf_counter() - self.began
                    return
            time.sleep(0.002)
        raise ServerFailed(f"{self.process.args!r}\n{self.log.read_text('utf-8', 'replace')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, and wait for its end: what a crash leaves is on disk."""
        self.process.kill()
        self.process.wait()


def python(*arguments: str) -> list[str]:
    """The command `python -m ARGUMENTS`."""
    return [sys.executable, "-m", *arguments]


def tree_cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all its living children so far, in nanosecond steps.

    By the kernel's clock of another process, as `clock_getcpuclockid(3)` makes its number.
    """
    return sum(time.clock_gettime((~one << 3) | 2) for one in _tree(pid))


def _tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:  # which grows meanwhile
        for thread in Path(f"/proc/{one}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # that thread has just ended
                found += map(int, (thread / "children").read_text("ascii").split())
    return found


def settled(server: Server, share: float) -> None:
    """Return when `server` uses less than `share` of its core over half a second. Raises TimeoutError."""
    until = time.perf_counter() + _REST_WITHIN_SECONDS
    while time.perf_counter() < until:
        before = server.cpu_seconds()
        time.sleep(0.5)
        if server.cpu_seconds() - before < share / 2:
            return
    raise TimeoutError(f"{server.process.args!r} does not come to rest")


def await_true(is_so: Callable[[], bool], what: str, patience_seconds: float = 120.0) -> None:
    """Return when `is_so`, asked every 20 ms. Raises TimeoutError, naming `what` was waited for."""
    until = time.perf_counter() + patience_seconds
    while not is_so():
        if time.perf_counter() > until:
            raise TimeoutError(f"waited {patience_seconds:g} s for {what}")
        time.sleep(0.02)


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, *, core: int, environ: dict[str, str] | None = None,
    ready: str = "/readyz",
) -> Iterator[Server]:
    """`command`, ready, alone on `core` with its output in `log`; ended on every way out."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # thousands of connections; children inherit it
    os.sched_setaffinity(0, {core})  # inherited by the child and all of its threads
    with log.open("ab") as out:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT,
            # As installed: whatever is imported is not compiled anew at each start.
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""} | (environ or {}),
        )
    os.sched_setaffinity(0, {LOAD_CORE})
    server = Server(process, port, log, began)
    try:
        server.await_ready(ready)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
