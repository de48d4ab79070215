"""All documents: every command is run or has a reason why not, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.errors import CODES, TASK_ERRORS
from tests.docs.blocks import KINDS, ROOT, blocks, documents, text_of
from tests.docs.places import ELSEWHERE, NOT_HERE, RUN_BY

DOCUMENTS = documents()
RUN_HERE = {  # by which module of this folder
    "README.md": "test_readme.py",
    "openapi/README.md": "test_api.py",
    "providers/README.md": "test_adapters.py",
    "gateway/sandbox/README.md": "test_sandbox.py",
    "deploy/README.md": "test_operating.py",
}
WITH_COMMANDS = [name for name in DOCUMENTS if any(block.kind == "sh" for block in blocks(name))]
# Files that a page names although they are made, or are the reader's own.
MADE = re.compile(r"NAME|reelgate(-\w+)?\.(toml|db)|^dist/|^demo/|\.venv|mp4$")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_it_is(document: str) -> None:
    known = KINDS | {""} if document in ELSEWHERE else KINDS
    unknown = [f"line {block.line}: {block.kind or 'nothing'}" for block in blocks(document)
               if block.kind not in known]
    assert unknown == []


def test_every_document_with_commands_is_run_by_a_test() -> None:
    assert set(WITH_COMMANDS) == set(RUN_HERE) | set(RUN_BY)
    assert set(ELSEWHERE) <= set(DOCUMENTS)
    assert all((Path(__file__).parent / name).exists() for name in RUN_HERE.values())
    unrun = [name for name, test in RUN_BY.items() if Path(name).name not in (ROOT / test).read_text("utf-8")]
    assert unrun == []


def test_what_is_not_run_is_there_and_has_a_reason() -> None:
    there = {(block.document, block.first_line) for name in DOCUMENTS for block in blocks(name)}
    assert [place for place in NOT_HERE if place not in there] == []
    assert all(NOT_HERE.values())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            missing.append(link)
    assert missing == []


def _anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", path.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_files_that_are_named_exist(document: str) -> None:
    """In backquotes, with a slash and an ending: from the page's folder, its package, or the root."""
    path = r"`([\w./-]+/[\w.-]+\.(?:py|md|yml|yaml|toml|json|sh|service))`"
    named = set(re.findall(path, text_of(document)))
    folder = (ROOT / document).parent
    missing = [name for name in sorted(named) if not MADE.search(name)
               and not (folder / name).exists() and not (ROOT / name).exists()]
    assert missing == []


def test_every_public_error_code_is_explained() -> None:
    assert [code for code, info in CODES.items() if not info.title] == []
    assert [code for code, text in TASK_ERRORS.items() if not text.endswith(".")] == []
