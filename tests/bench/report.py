"""From samples to results.json, RESULTS.md and the plot: medians with their spread, ratios round by round.

Not held here: measuring (the groups), what must be shown (`targets`), how the plot is drawn (`plot`).
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from tests.bench.cases import CPU, MEMORY, P50, P99, RATE, Group, form_of
from tests.bench.plot import Panel, svg
from tests.bench.processes import LOAD_CORE, SERVER_CORE
from tests.bench.size import sizes
from tests.bench.tables import spread, table
from tests.bench.targets import TARGETS, form, judged

_FOLDER: Final = Path(__file__).parent
JSON: Final = _FOLDER / "results.json"
_LIBRARIES: Final = ("litestar", "granian", "msgspec", "aiohttp", "httpx", "asyncpg")
# Ratios beside the figures of a group: the two rows, and the columns that are compared.
_COMPARED: Final = {
    "create": (
        ("create", "bare accept"), ("create", "bare accept + vendor call"), ("create, PostgreSQL", "create"),
        ("bare accept", "nginx proxy"),
    ),
    "read": (
        ("status read", "bare read"), ("status read, 304", "bare read"), ("status read, 304", "status read"),
        ("status read", "status read, no keys"),
    ),
    "fsync": (
        ("accept", "accept, commit per row"), ("accept, 2 ms fsync", "accept, 2 ms fsync, commit per row"),
    ),
    "peers": (
        ("LiteLLM create", "reelgate create"), ("LiteLLM with granian create", "reelgate create"),
        ("LiteLLM status read", "reelgate status read"),
        ("LiteLLM with granian status read", "reelgate status read"),
    ),
}  # fmt: skip
_RATIOS: Final = (RATE, CPU, P50)
_PLOTTED: Final = (
    Panel("CPU per create, us", "create", CPU),
    Panel("CPU per status read, us", "read", CPU),
    Panel("CPU beside a peer, us", "peers", CPU),
    Panel("One at a time beside a peer, p50 ms", "peers", P50),
    Panel("Resident by tasks in flight, MiB", "inflight", MEMORY),
    Panel("List page, p99 ms", "list", P99),
)


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one group from one run: by row and column, one a round.

    `missing`: what could not be measured; `notes`: what else is to be known of the run.
    """

    when: str
    command: str
    machine: str
    rounds: int
    scale: float
    rows: dict[str, dict[str, list[float]]]
    missing: list[str] = []
    notes: list[str] = []


def machine(folder: Path) -> str:
    """One line: what figures taken now hold for."""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
             if line.startswith("model name")]
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    where = f"server on core {SERVER_CORE}, load, vendor and database on core {LOAD_CORE}"
    if SERVER_CORE == LOAD_CORE:
        where = "everything on one core: the rates say little, CPU per request still holds"
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {libraries}; {where}; fsync {_fsync_us(folder):.0f} us; "
        f"load average before {os.getloadavg()[0]:.2f}"
    )


def _fsync_us(folder: Path) -> float:
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


def stored() -> dict[str, Section]:
    """What was measured so far, by group."""
    return msgspec.json.decode(JSON.read_bytes(), type=dict[str, Section]) if JSON.exists() else {}


def write(sections: dict[str, Section], groups: Iterable[Group]) -> None:
    """Write all three files anew."""
    JSON.write_bytes(msgspec.json.format(msgspec.json.encode(sections), indent=1) + b"\n")
    rows = {name: section.rows for name, section in sections.items()}
    (_FOLDER / "results.svg").write_text(svg(_PLOTTED, rows), "utf-8")
    (_FOLDER / "RESULTS.md").write_text(markdown(sections, groups), "utf-8")


def markdown(sections: dict[str, Section], groups: Iterable[Group]) -> str:
    """The whole report."""
    parts = "\n\n".join(_section(group, sections[group.name]) for group in groups if group.name in sections)
    return f"""# What it costs

Written by `make bench` and `make bench-peers`; each section says when and on what. Medians of interleaved
rounds, in brackets the least and the greatest. Only ratios within one section count, taken round by round:
the machine moves. The raw figures, one a round, are in `results.json`.

{verdicts(sections)}

![CPU, latency and memory of the rows below](results.svg)

{parts}

{sizes()}
"""


def verdicts(sections: dict[str, Section]) -> str:
    """The table of what must be shown, with all that is missed."""
    rows = {name: section.rows for name, section in sections.items()}
    found = [judged(target, rows) for target in TARGETS]
    lines = [
        [finding.target.text, str(finding.target.point),
         f"{finding.target.relation} {finding.target.limit:g}",
         spread(finding.values, form(finding.target)), _bold(finding.verdict)]
        for finding in found
    ]  # fmt: skip
    missed = sum(finding.verdict == "missed" for finding in found)
    told = sum(finding.verdict == "not measured" for finding in found)
    return f"""## It must show

{len(found) - missed - told} of {len(found)} targets are met, {missed} missed, {told} not measured. Point: of
the issue that set them. Replicas through kills and cuts are not measured here but in the campaigns.

{table(["target", "point", "limit", "measured", "verdict"], lines)}"""


def _bold(verdict: str) -> str:
    return verdict if verdict == "met" else f"**{verdict}**"


def section_text(group: Group, section: Section) -> str:
    """The tables of one group."""
    columns = list(dict.fromkeys(column for row in section.rows.values() for column in row))
    lines = [
        [name, *(spread(row.get(column, ()), form_of(column)) for column in columns)]
        for name, row in section.rows.items()
    ]
    text = table(["case", *columns], lines)
    compared = _ratios(section, _COMPARED.get(group.name, ()))
    return text if compared is None else f"{text}\n\n{compared}"


def _section(group: Group, section: Section) -> str:
    missing = "".join(f"\n\nNot measured here: {text}." for text in section.missing)
    known = ", ".join([*section.notes, section.machine])
    small = "" if section.scale == 1 else f", at {section.scale:g} of the usual size"
    return f"""## {group.title}

{section_text(group, section)}{missing}

{group.note}

Of {section.when}, by `{section.command}`, {section.rounds} rounds{small}: {known}."""


def _ratios(section: Section, pairs: Iterable[tuple[str, str]]) -> str | None:
    rows = section.rows
    lines = [
        [f"{above} / {floor}", *(
            spread([one / other for one, other in zip(
                rows[above].get(column, ()), rows[floor].get(column, ()), strict=False)], ".2f")
            for column in _RATIOS)]
        for above, floor in pairs if above in rows and floor in rows
    ]  # fmt: skip
    return table(["compared", *_RATIOS], lines) if lines else None
