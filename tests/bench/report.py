"""From samples to RESULTS.md: medians, ratios round by round, the machine, the size of code and installation.

Not held here: measuring (`cases`, `processes`).
"""

from __future__ import annotations

import io
import os
import platform
import tempfile
import time
import tokenize
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from tests.bench.cases import CONNECTIONS, PAUSE_SECONDS, Sample
from tests.bench.processes import LOAD_CORE, SERVER_CORE
from tests.test_project import GIVEN, closure, project
from tests.test_tidy import sources

# What stands on which floor.
COMPARED: Final = (
    ("create", "bare accept"),
    ("create", "bare accept + vendor call"),
    ("status read", "bare read"),
    ("status read, 304", "bare read"),
)
_NO_CODE: Final = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}
_LIBRARIES: Final = ("litestar", "granian", "msgspec", "aiohttp", "httpx")


class Starts(msgspec.Struct):
    """Starts of one server: seconds to ready, and MiB resident right then; later MiB after all the load."""

    ready_seconds: list[float] = []
    idle_mib: list[float] = []
    loaded_mib: float = 0.0


class Results(msgspec.Struct, kw_only=True):
    """All that was measured. `samples` has one entry a round for each case, in the order of the rounds."""

    rounds: int
    scale: float
    load_average_before: float
    fsync_us: list[float]
    samples: dict[str, list[Sample]]
    starts: dict[str, Starts]
    read_bytes: tuple[int, int]
    created: int


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], form: str) -> str:
    """The median, and in brackets the least and the greatest."""
    low, middle, high = (format(value, form) for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low}-{high})"


def measured_fsync_us(folder: Path) -> float:
    """The median of 20 times 4 KiB appended and forced to disk there, in microseconds."""
    times: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(20):
            file.write(os.urandom(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times) * 1e6


def machine(results: Results) -> str:
    """One line: what the figures hold for."""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
             if line.startswith("model name")]
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    where = f"server on core {SERVER_CORE}, load and vendor on core {LOAD_CORE}"
    if SERVER_CORE == LOAD_CORE:
        where = "everything on one core: the rates say little, CPU per request still holds"
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {libraries}; {where}; "
        f"fsync {spread(results.fsync_us, '.0f')} us; "
        f"load average before the run {results.load_average_before:.2f}."
    )


def code_lines(text: str) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    found: set[int] = set()
    begins = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_text = token.type == tokenize.STRING and begins
        if token.type not in _NO_CODE and not is_text:
            found.update(range(token.start[0], token.end[0] + 1))
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            begins = True
        elif token.type not in (tokenize.COMMENT, tokenize.NL):
            begins = False
    return len(found)


def _folders() -> list[list[str]]:
    sizes: dict[str, list[int]] = {}
    for file in sources():
        size = sizes.setdefault(f"{Path(file.path).parent.as_posix()}/", [0, 0, 0])
        for index, value in enumerate((1, len(file.text.splitlines()), code_lines(file.text))):
            size[index] += value
    rows = [[name, *(str(value) for value in size)] for name, size in sorted(sizes.items())]
    for package in ("gateway", "providers", "tests"):
        inside = [size for name, size in sizes.items() if name.split("/")[0] == package]
        sums = [str(sum(column)) for column in zip(*inside, strict=True)]
        rows.append([f"all of {package}/", *sums])
    return rows


def _installation() -> str:
    needs = project()["dependencies"]
    every, given = closure(*needs), closure(*GIVEN)
    added = sorted(every - given)
    return (
        f"The default installation is {len(every)} distributions; {len(added)} of them beyond what "
        f"{', '.join(GIVEN)} bring: {', '.join(added)}."
    )


def _cases(results: Results) -> str:
    def column(samples: Sequence[Sample], field: str, form: str) -> str:
        return spread([getattr(sample, field) for sample in samples], form)

    rows = [
        [name, *(column(samples, field, form) for field, form in (
            ("per_second", ",.0f"), ("cpu_us", ",.0f"), ("alone_p50_ms", ".2f"), ("busy", ".0%")))]
        for name, samples in results.samples.items()
    ]  # fmt: skip
    return table(["case", "requests/s", "CPU us each", "p50 ms, one at a time", "of its core"], rows)


def ratios(above: Sequence[Sample], floor: Sequence[Sample], field: str) -> list[float]:
    """What `above` has for one of `floor`, round by round."""
    return [getattr(one, field) / getattr(other, field) for one, other in zip(above, floor, strict=True)]


def _compared(results: Results) -> str:
    rows = [
        [f"{above} / {floor}", *(
            spread(ratios(results.samples[above], results.samples[floor], field), ".2f")
            for field in ("per_second", "cpu_us", "alone_p50_ms"))]
        for above, floor in COMPARED
    ]  # fmt: skip
    return table(["compared", "requests/s", "CPU", "p50"], rows)


def _starts(results: Results) -> str:
    rows = [
        [name, spread(found.ready_seconds, ".2f"), spread(found.idle_mib, ".0f"), f"{found.loaded_mib:.0f}"]
        for name, found in results.starts.items()
    ]
    return table(["process", "ready, s", "idle, MiB", "after the load, MiB"], rows)


def markdown(results: Results, command: str) -> str:
    """The whole file."""
    ours, floors = results.read_bytes
    today = time.strftime("%Y-%m-%d", time.gmtime())
    raw = msgspec.json.format(msgspec.json.encode(results), indent=0).decode()
    return f"""# What it costs, next to a bare handler

Written by `{command}` on {today}: {results.rounds} interleaved rounds, medians (least-greatest).
Only ratios within one run count, taken round by round; the machine moves.

{machine(results)}

{_cases(results)}

{_compared(results)}

Each case: {CONNECTIONS} connections that send again when answered; then one connection that pauses
{PAUSE_SECONDS * 1e3:.0f} ms before each request, for the p50. A create ends when the vendor has taken it and
that is committed: its rate and its CPU hold the accept, all its commits (SQLite, synchronous=FULL), the
vendor call on a fresh connection, and the log. Its p50 is that of the 202, which is durable but does not wait
for the vendor. The floors are Litestar handlers under the same server in processes of their own, without key,
log, metrics or database. The body of a status read has {ours} bytes, its floor's {floors}. A server that used
less than its whole core was not the limit.

{_starts(results)}

Ready: from the start of the process to `GET /readyz` 200; idle: resident memory right then. After the load
the gateway follows {results.created:,} unfinished videos.

## Size

Python files; code: lines that are neither blank nor comment nor docstring.

{table(["folder", "files", "lines", "code"], _folders())}

{_installation()}

## Raw figures

```json
{raw}
```
"""
