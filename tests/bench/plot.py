"""The plot of the report: panels of horizontal bars, drawn as SVG by hand. Not held here: which panels.

A bar is the median of the rounds, the line across its end their least and greatest. A panel whose greatest
median is over twenty times its least is logarithmic, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final
from xml.sax.saxutils import escape

import msgspec

from tests.bench.cases import form_of

_WIDTH: Final = 860
_LABELS: Final = 300  # where the bars begin
_BARS: Final = 440  # the longest of them
_ROW: Final = 24
_TITLE: Final = 34
_GAP: Final = 18
_LOGARITHMIC_OVER: Final = 20.0
_OTHERS: Final = ("bare", "nginx", "LiteLLM")  # how rows begin that are not ours
_COLOURS: Final = {False: "#2f6f9f", True: "#b0b7bd"}


class Panel(msgspec.Struct, frozen=True):
    """One chart: a column of the rows of a group."""

    title: str
    group: str
    column: str


class _Bar(msgspec.Struct, frozen=True):
    label: str
    low: float
    middle: float
    high: float


def svg(panels: Sequence[Panel], groups: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    """The picture of those `panels` that were measured."""
    parts: list[str] = []
    top = _GAP
    for panel in panels:
        bars = [
            _Bar(name, min(row[panel.column]), median(row[panel.column]), max(row[panel.column]))
            for name, row in groups.get(panel.group, {}).items() if row.get(panel.column)
        ]
        if bars:
            parts += _drawn(panel, bars, top)
            top += _TITLE + _ROW * len(bars) + _GAP
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}"
 viewBox="0 0 {_WIDTH} {top}" font-family="sans-serif" font-size="13" fill="#1c2126">
<rect width="100%" height="100%" fill="#ffffff"/>
{body}
</svg>
"""


def _drawn(panel: Panel, bars: Sequence[_Bar], top: int) -> list[str]:
    middles = [bar.middle for bar in bars]
    low, high = min(middles), max(bar.high for bar in bars)
    is_log = low > 0 and max(middles) / low > _LOGARITHMIC_OVER
    begin = low / 2 if is_log else 0.0

    def length(value: float) -> float:
        if is_log:
            return _BARS * max(0.0, math.log(max(value, begin) / begin)) / math.log(high / begin)
        return _BARS * value / high if high else 0.0

    scale = " (logarithmic)" if is_log else ""
    found = [f'<text x="12" y="{top + 16}" font-weight="bold">{escape(panel.title)}{scale}</text>']
    for number, bar in enumerate(bars):
        y = top + _TITLE + number * _ROW
        colour = _COLOURS[bar.label.startswith(_OTHERS)]
        wide = max(1.0, length(bar.middle))
        least, most = _LABELS + length(bar.low), _LABELS + length(bar.high)
        found += [
            f'<text x="{_LABELS - 8}" y="{y + 9}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{_LABELS}" y="{y - 3}" width="{wide:.1f}" height="15" fill="{colour}"/>',
            f'<line x1="{least:.1f}" x2="{most:.1f}" y1="{y + 4.5}" y2="{y + 4.5}" stroke="#1c2126"/>',
            f'<text x="{most + 8:.1f}" y="{y + 9}">{bar.middle:{form_of(panel.column)}}</text>',
        ]
    return found
