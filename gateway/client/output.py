"""What the command line shows: JSON or text on stdout, work on its way on stderr.

Held here: cells, tables, a video for people, bars. Not held here: when any of it is shown, help and what is
said of misspelt words (`gateway.client.words`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Self, TypeAlias

import click

Json: TypeAlias = dict[str, Any]
Verb: TypeAlias = Callable[..., None]


def json_option(verb: Verb) -> Verb:
    """Give a verb --json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(verb)


def print_json(found: object) -> None:
    """`found` on stdout, for people and programs alike."""
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    """`text` without what could steer a terminal: it may come from a vendor."""
    return "".join(char if char.isprintable() else " " for char in text)


def said(value: object) -> str:
    """A value for a person: nothing for None, compact JSON for what has parts."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return "" if value is None else printable(text)


def money(video: Json) -> str:
    """`0.42 USD`, or nothing where no price is configured."""
    cost = video.get("cost")
    return f"{cost['amount']} {cost['currency']}" if cost else ""


def clock(seconds: float | None) -> str:
    """A Unix time as UTC."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


def state(video: Json) -> str:
    """Status and stage in one."""
    return f"{video['status']} {video.get('stage') or ''}".strip()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns under a head, plain enough for `awk`."""
    cells = [list(head), *([said(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def described(video: Json) -> str:
    """A video for a person, one fact a line, without those that are not known yet."""
    parts = ("error", "output", "late_output", "queue")
    error, output, late, queue = (video.get(name) or {} for name in parts)
    facts = {
        "id": video["id"], "status": state(video), "progress": f"{video.get('progress') or 0} %",
        "queue": f"position {queue.get('position')}" if queue else None, "model": video.get("model"),
        "provider": video.get("provider"), "offering": video.get("offering"),
        "vendor id": video.get("vendor_task_id"), "seconds": video.get("seconds"), "size": video.get("size"),
        "created": clock(video.get("created_at")), "completed": clock(video.get("completed_at")),
        "charged": video.get("charged"), "cost": money(video), "output": output.get("url"),
        "late output": late.get("url"), "rerun of": video.get("rerun_of"),
        "adopted": video.get("adopted_from"),
        "error": f"{error.get('code')}: {error.get('message')}" if error else None,
    }  # fmt: skip
    return "\n".join(f"{name:<12}{said(value)}" for name, value in facts.items() if value)


class Board:
    """Work on its way, on stderr: a bar each on a terminal, elsewhere a line per change. Heeds NO_COLOR."""

    def __init__(self) -> None:
        from rich import progress  # noqa: PLC0415 - only those who watch pay for it
        from rich.console import Console  # noqa: PLC0415

        console = Console(stderr=True)
        live = console.is_terminal and not console.is_dumb_terminal
        name = progress.TextColumn("{task.description}", markup=False)
        state = progress.TextColumn("{task.fields[state]}", markup=False)
        columns = (name, progress.BarColumn(), progress.TaskProgressColumn(), state)
        self._bars = progress.Progress(*columns, console=console) if live else None
        self._rows: dict[str, tuple[progress.TaskID | None, str]] = {}

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, name: str, state: str, done: int, total: int | None = 100) -> None:
        """Where `name` stands: `done` of `total`, None where nobody knows."""
        row, before = self._rows.get(name, (None, ""))
        if self._bars is None:
            if state != before:
                click.echo(f"{name}: {state}", err=True)
        elif row is None:
            row = self._bars.add_task(name, completed=done, total=total, state=state)
        else:
            self._bars.update(row, completed=done, total=total, state=state)
        self._rows[name] = (row, state)
