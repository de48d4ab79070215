"""What must come of each fault, as `matrix.md` declares it. Held here: its tables as values, and no test."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")
Phase: TypeAlias = Literal["S", "P", "D", "W"]
DOCUMENT: Final = Path(__file__).parent / "matrix.md"


class Row(msgspec.Struct, frozen=True):
    """A row of the design's list of faults, and the phases that it names."""

    row: int
    fault: str
    phases: str


class Callbacks(msgspec.Struct, frozen=True):
    """What phase W means to an adapter."""

    adapter: str
    phase_w: Literal["not applicable"]
    why: str


class SubmitEnd(msgspec.Struct, frozen=True):
    """What a word of phase S means. `code` empty: no error; `charges` in the simulator's ledger."""

    word: str
    kind: Literal["accepted", "not_sent", "rejected", "unknown"]
    again: Literal["anywhere", "elsewhere", "never"]
    status: str
    code: str
    charged: str
    charges: int


class PollEnd(msgspec.Struct, frozen=True):
    """What a word of phase P means. `polls`: what one of them at least came to, separated by commas."""

    word: str
    polls: str
    status: str
    code: str
    charged: str


class DownloadEnd(msgspec.Struct, frozen=True):
    """What a word of phase D means: the first answer and the next one, each a status and a code or a note."""

    word: str
    first: str
    then: str


class Cell(msgspec.Struct, frozen=True):
    """One fault at one adapter. `row` None: the design does not name it."""

    row: int | None
    fault: str
    phase: Phase
    adapter: str
    word: str

    @property
    def name(self) -> str:
        """The fault's name."""
        return shlex.split(self.fault)[0]

    @property
    def args(self) -> dict[str, str]:
        """Its arguments, with their braces."""
        return dict(pair.partition("=")[::2] for pair in shlex.split(self.fault)[1:])

    @property
    def id(self) -> str:
        """As it is called on a command line."""
        return f"{self.phase}-{self.row or 'x'}-{'-'.join(shlex.split(self.fault))}-{self.adapter}"


def _table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, its head first."""
    text = DOCUMENT.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [found[0], *found[2:]]


def _read(heading: str, kind: type[T]) -> tuple[T, ...]:
    """A table as a tuple of `kind`, whose fields are its columns in order."""
    names = [field.name for field in msgspec.structs.fields(kind)]  # type: ignore[arg-type]  # a Struct
    lines = (dict(zip(names, line, strict=True)) for line in _table(heading)[1:])
    return tuple(msgspec.convert(line, kind, strict=False) for line in lines)


def _cells() -> tuple[Cell, ...]:
    head, *lines = _table("Cells")
    told = (
        {"row": None if row == "-" else row, "fault": fault, "phase": phase, "adapter": adapter, "word": word}
        for row, fault, phase, *words in lines
        for adapter, word in zip(head[3:], words, strict=True)
    )
    return tuple(msgspec.convert(cell, Cell, strict=False) for cell in told)


ROWS: Final = _read("Rows", Row)
CALLBACKS: Final = _read("Callbacks", Callbacks)
SUBMITS: Final[Mapping[str, SubmitEnd]] = {end.word: end for end in _read("Submits", SubmitEnd)}
POLLS: Final[Mapping[str, PollEnd]] = {end.word: end for end in _read("Polls", PollEnd)}
DOWNLOADS: Final[Mapping[str, DownloadEnd]] = {end.word: end for end in _read("Downloads", DownloadEnd)}
CELLS: Final = _cells()
