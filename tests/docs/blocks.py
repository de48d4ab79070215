"""The documents as their fenced blocks, and what each kind of block means.

    sh                  commands: run as they stand by `tests.docs.shell`, unless `places` says why not
    http, json, text    directly behind `sh`: what it answered, compared by `shown`; else to look at
    toml, yaml          a part of a file

Not held here: which documents are run how (`places`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
KINDS: Final = frozenset({"sh", "http", "json", "text", "toml", "yaml", "python", "mermaid"})
_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: where it stands, its kind, its text; `follows`: nothing but blank lines before it."""

    document: str
    heading: str
    line: int
    kind: str
    text: str
    follows: bool

    @property
    def first_line(self) -> str:
        """What `places` knows it by."""
        return self.text.partition("\n")[0]


def documents() -> list[str]:
    """Every document of the project, by its path from the root."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(str(path) for path in found if not path.parts[0].startswith("."))


def text_of(document: str) -> str:
    """All of a document."""
    return (ROOT / document).read_text("utf-8")


def blocks(document: str) -> list[Block]:
    """The blocks of a document in their order."""
    text, found, last = text_of(document), [], 0
    headings = [(match.start(), match.group(1)) for match in _HEADING.finditer(_without_blocks(text))]
    for match in _FENCE.finditer(text):
        above = [words for start, words in headings if start < match.start()]
        follows = bool(last) and not text[last : match.start()].strip()
        line = text.count("\n", 0, match.start()) + 1
        kind, body = match.groups()
        found.append(Block(document, above[-1] if above else "", line, kind, body, follows))
        last = match.end()
    return found


def under(document: str, heading: str, kind: str) -> Block:
    """The first block of a kind under a heading."""
    return next(one for one in blocks(document) if (one.heading, one.kind) == (heading, kind))


def table(document: str, *head: str) -> list[list[str]]:
    """The cells of the one table with this head, without backquotes around a single word."""
    lines = text_of(document).splitlines()
    heads = [number for number, line in enumerate(lines) if line == f"| {' | '.join(head)} |"]
    assert len(heads) == 1, f"{len(heads)} tables of {document} have the head {head}"
    rows = []
    for line in lines[heads[0] + 2:]:
        if not line.startswith("|"):
            break
        rows.append([re.sub(r"^`([^`]+)`$", r"\1", cell.strip()) for cell in line.strip("|").split(" |")])
    return rows


def _without_blocks(text: str) -> str:
    """The text with its blocks blanked, so that no comment of theirs is a heading."""
    return _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)
