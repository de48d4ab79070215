"""Markdown tables, and how a figure with its spread is written. Not held here: which tables (`report`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], form: str) -> str:
    """The median, and in brackets the least and the greatest; `-` of nothing."""
    if not values:
        return "-"
    low, middle, high = (format(value, form) for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low}-{high})"
