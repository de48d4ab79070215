"""`python -m tests.dashboards.pictures` draws each board's data: what a running gateway showed under load.

The queries are the boards' own, as ranges, from a real Prometheus that scraped for `--seconds`. The pictures
are kept in deploy/grafana/pictures. Not held here: the load (`stage`), the queries (`deploy.grafana.panels`).
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import httpx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, PercentFormatter, ScalarFormatter

from deploy.grafana.panels import BOARDS, STATES, Board, Panel
from tests.dashboards.prometheus import DEPLOY, Json, Prometheus, prometheus
from tests.dashboards.queries import filled
from tests.dashboards.stage import TROUBLED, Load, receiver, stage

FOLDER: Final = DEPLOY / "grafana/pictures"
_RATE_INTERVAL: Final = "20s"
_STEP_SECONDS: Final = 1
_CALLERS: Final = 16
_AWAY: Final = {"fault": "unavailable", "vendor": "highwayapi", "lasts": 25.0}
_COLOURS: Final = ("#3f9c5a", "#e0b400", "#3274d9", "#8f3bb8", "#d23b3b")  # of STATES
_ROW_INCHES: Final = 3.2
_NUMBERS_INCHES: Final = 1.9
_WHOLE: Final = 24
_UNITS: Final = {
    "s": "seconds", "bytes": "bytes", "percentunit": "", "per minute": "a minute", "currency": "currency",
    "count": "", "state": "",
}


class _Line(NamedTuple):
    """A series: its name, and its values at seconds since the start."""

    name: str
    points: list[tuple[float, float]]

    @property
    def known(self) -> list[tuple[float, float]]:
        """Those that are numbers."""
        return [(at, value) for at, value in self.points if math.isfinite(value)]


def _legend(template: str, labels: Json) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: str(labels.get(found[1], "")), template)


def drawn_from(there: Prometheus, panel: Panel, start: float, end: float) -> list[_Line]:
    """Each series of a panel; what is no number is a gap."""
    found = []
    for query in panel.queries:
        expression = filled(query.expression, _RATE_INTERVAL)
        for series in there.query_range(expression, start, end, _STEP_SECONDS):
            known = {round(at - start): float(value) for at, value in series["values"]}
            points = [(float(at), known.get(at, math.nan)) for at in range(round(end - start) + 1)]
            whole = [(at, value if math.isfinite(value) else math.nan) for at, value in points]
            found.append(_Line(_legend(query.legend, series["metric"]), whole))
    return sorted(found)


def _placed(board: Board) -> list[tuple[str, list[Panel]]]:
    """The board's lines of panels from the top, each with the row's title where it begins one."""
    placed: list[tuple[str, list[Panel]]] = []
    for title, panels in board.rows:
        width = _WHOLE
        for panel in panels:
            if width + panel.width > _WHOLE:
                placed.append((title if panel is panels[0] else "", []))
                width = 0
            placed[-1][1].append(panel)
            width += panel.width
    return placed


def _states(axes: Axes, panel: Panel, found: Sequence[_Line]) -> None:
    """A band for each provider, in the colour of its state."""
    for y, line in enumerate(found):
        for at, value in line.known:
            axes.broken_barh([(at, _STEP_SECONDS)], (y - 0.4, 0.8), color=_COLOURS[int(value)])
    axes.set_yticks(range(len(found)), [line.name for line in found])
    axes.legend(
        [Patch(color=colour) for colour in _COLOURS], STATES, loc="upper center", ncols=len(STATES),
        bbox_to_anchor=(0.5, -0.12), frameon=False, fontsize=9,
    )


def _numbers(axes: Axes, panel: Panel, found: Sequence[_Line]) -> None:
    """The latest value of each series, large."""
    axes.set_axis_off()
    for index, line in enumerate(found):
        _, value = line.known[-1]
        is_high = panel.high is not None and value >= panel.high
        text, colour = f"{value:.3g}{' s' if panel.unit == 's' else ''}", _COLOURS[4 if is_high else 0]
        if panel.unit == "state":
            text, colour = f"{line.name}\n{STATES[int(value)]}", _COLOURS[int(value)]
        box = {"boxstyle": "round,pad=0.8", "facecolor": colour, "edgecolor": "none"}
        axes.text(
            (index + 0.5) / len(found), 0.5, text, ha="center", va="center", fontsize=20, color="white",
            bbox=box, transform=axes.transAxes,
        )


def _graph(axes: Axes, panel: Panel, found: Sequence[_Line]) -> None:
    """One curve a series."""
    for line in found:
        axes.plot(*zip(*line.points, strict=True), label=line.name, linewidth=1.6)
    axes.set_ylim(bottom=0, top=1.05 if panel.unit == "percentunit" else None)
    formatter: Formatter = EngFormatter(places=1) if panel.unit == "bytes" else ScalarFormatter()
    axes.yaxis.set_major_formatter(PercentFormatter(1.0) if panel.unit == "percentunit" else formatter)
    axes.set_ylabel(_UNITS[panel.unit])
    axes.legend(
        loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=min(len(found), 3), frameon=False, fontsize=8,
    )
    axes.grid(alpha=0.25)


_DRAWN: Final = {"graph": _graph, "number": _numbers, "states": _states}


def picture(board: Board, there: Prometheus, start: float, end: float) -> Figure:
    """The board as it looks at this time. Raises ValueError, naming it, for a panel without data."""
    placed = _placed(board)
    heights = [_NUMBERS_INCHES if all(one.kind == "number" for one in panels) else _ROW_INCHES
               for _, panels in placed]
    figure = Figure(figsize=(16, sum(heights)), layout="constrained")
    figure.suptitle(board.title, fontsize=16)
    bands = figure.subfigures(len(placed), 1, height_ratios=heights, squeeze=False)[:, 0]
    for band, (title, panels) in zip(bands, placed, strict=True):
        band.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        widths = [panel.width for panel in panels]
        for panel, axes in zip(panels, band.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0],
                               strict=True):
            found = drawn_from(there, panel, start, end)
            if not any(line.known for line in found):
                raise ValueError(f"{board.title} / {panel.title} has no data")
            axes.set_title(panel.title, loc="left", fontsize=11)
            _DRAWN[panel.kind](axes, panel, found)
            axes.set_xlim(0, end - start)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g} s"))
    return figure


def _post(url: str, body: Json) -> None:
    httpx.post(url, json=body, trust_env=False).raise_for_status()


def main(seconds: float) -> None:
    """Load a gateway for so long, and draw every board."""
    with (
        tempfile.TemporaryDirectory() as place, receiver() as hooks,
        stage(folder := Path(place), render_seconds=4.0, render_spread=0.7) as running,
        prometheus(folder / "prometheus", running.target) as there,
    ):
        start = time.time()
        with Load(running.url, TROUBLED, hooks).under_way(_CALLERS):
            time.sleep(seconds * 0.3)
            for phase in ("submit", "poll"):
                _post(f"{running.sandbox}/admin/faults", _AWAY | {"phase": phase})
            time.sleep(seconds * 0.3)
            _post(f"{running.url}/v1/providers/unified/pause", {})
            time.sleep(seconds * 0.15)
            _post(f"{running.url}/v1/providers/unified/resume", {})
            time.sleep(seconds * 0.25)
        end = start + int(seconds)
        for board in BOARDS:
            FOLDER.mkdir(exist_ok=True)
            picture(board, there, start, end).savefig(FOLDER / f"{board.name}.png", dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    main(parser.parse_args().seconds)
