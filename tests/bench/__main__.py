"""`make bench`: start the servers, measure round by round, write RESULTS.md and print it; progress on stderr.

ROUNDS=n sets the number of rounds. `python -m tests.bench overload` measures that instead, and only prints.
Not held here: what a case is (`cases`, `overload`), what becomes of the figures (`report`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench.cases import ENVIRON, Gateway, Sample, bytes_of_reads, make_cases, measure
from tests.bench.overload import SECONDS, report
from tests.bench.processes import LOAD_CORE, SERVER_CORE, Server, running
from tests.bench.report import Results, Starts, markdown, measured_fsync_us
from tests.bench.wire import free_port

ROUNDS: Final = 5
STARTS: Final = 3
RESULTS: Final = Path(__file__).with_name("RESULTS.md")


def say(text: str) -> None:
    """Tell who waits."""
    print(text, file=sys.stderr, flush=True)


class Bench:
    """The servers of one run, each in `folder` with its log."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        vendor_port = free_port()
        command = ["tests.bench.vendor", str(vendor_port)]
        vendor = stack.enter_context(running(command, vendor_port, folder / "vendor.log", core=LOAD_CORE))
        self.gateway = Gateway(folder, free_port(), vendor)
        bare, calling = free_port(), free_port()
        self.commands = {
            "reelgate": (self.gateway.command, self.gateway.port),
            "bare Litestar": (["tests.bench.bare", str(bare)], bare),
            "bare Litestar + vendor call": (["tests.bench.calling", str(calling), str(vendor_port)], calling),
        }

    def start(self, stack: ExitStack, name: str) -> Server:
        """Start one of the servers for as long as `stack` lasts."""
        command, port = self.commands[name]
        log = self.folder / f"{port}.log"
        return stack.enter_context(running(command, port, log, core=SERVER_CORE, environ=ENVIRON))

    def starts(self, times: int) -> dict[str, Starts]:
        """Start each server that many times, in turn."""
        found = {name: Starts() for name in self.commands}
        for name in list(self.commands) * times:
            with ExitStack() as brief:
                server = self.start(brief, name)
                found[name].ready_seconds.append(server.ready_seconds)
                found[name].idle_mib.append(server.memory_mib())
        return found

    def run(self, rounds: int, scale: float) -> Results:
        """Measure everything."""
        load_average = os.getloadavg()[0]
        say(f"starting each server {STARTS} times")
        starts = self.starts(STARTS)
        servers = {name: self.start(self.stack, name) for name in self.commands}
        ours, bare, calling = servers.values()
        read_bytes = bytes_of_reads(self.gateway, bare)
        for case in make_cases(self.gateway, ours, bare, calling, scale / 5):
            measure(case)  # not counted: whatever is done only once is done
        samples: dict[str, list[Sample]] = {}
        fsync_us: list[float] = []
        cases = make_cases(self.gateway, ours, bare, calling, scale)
        for number in range(1, rounds + 1):
            fsync_us.append(measured_fsync_us(self.folder))
            for case in cases:
                sample = measure(case)
                samples.setdefault(case.name, []).append(sample)
                figures = f"{sample.per_second:8,.0f}/s {sample.cpu_us:6,.0f} us"
                say(f"round {number}/{rounds}  {case.name:<26} {figures}")
        for name, server in servers.items():
            starts[name].loaded_mib = server.memory_mib()
        return Results(
            rounds=rounds, scale=scale, load_average_before=load_average, fsync_us=fsync_us, samples=samples,
            starts=starts, read_bytes=read_bytes, created=self.gateway.taken_by_vendor(),
        )


def main() -> None:
    """Measure and report by the command line's and the environment's wishes."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("cost", "overload"), default="cost")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each rate of the overload")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", ROUNDS)))
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of requests")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reelgate-bench-") as folder, ExitStack() as stack:
        if chosen.what == "overload":
            print(report(stack, Path(folder), chosen.seconds, say))
            return
        results = Bench(stack, Path(folder)).run(chosen.rounds, chosen.scale)
    text = markdown(results, f"make bench ROUNDS={chosen.rounds}")
    chosen.out.write_text(text, "utf-8")
    print(text.partition("\n## Raw figures")[0])


if __name__ == "__main__":
    main()
