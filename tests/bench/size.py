"""How large the code and the installation are. Not held here: what anything costs at run time."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path
from typing import Final

from tests.bench.tables import table
from tests.test_project import GIVEN, closure, project
from tests.test_tidy import sources

_NO_CODE: Final = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}


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


def sizes() -> str:
    """The section of the report."""
    return f"""## Size

Python files; code: lines that are neither blank nor comment nor docstring.

{table(["folder", "files", "lines", "code"], _folders())}

{_installation()}"""
