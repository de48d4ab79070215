"""Whether an answer is the one that a document shows: all of it has to be so, but for what is never twice.

Ids, times, hashes, ports and sizes are compared by their kind only. `"..."` stands for any value, as a member
for more members, as the last item for more items, and as a line of text for more lines. Not held here: how
the answer was got (`tests.docs.shell`).
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any, Final

from tests.docs.blocks import Block
from tests.docs.shell import Ran

ANY: Final = "..."
_CHANGES: Final = (  # what is never twice, and what is compared in its place
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b((?:rg|whsec|video|file|key|we|msg|req)_)[\w+/=-]+"), r"\1ID"),
    (re.compile(r"\d{4}-\d\d-\d\d(?:[T ][\d:.]+(?:Z|\+00:00)?)?"), "TIME"),
    (re.compile(r"\b1[6-9]\d{8}(?:\.\d+)?\b"), "TIME"),
    (re.compile(r"(signature=)[\w-]+"), r"\1SIGNED"),
    (re.compile(r"\b[0-9a-f]{32,64}\b"), "HASH"),
    (re.compile(r"127\.0\.0\.1:\d+"), "HERE"),
    (re.compile(r"\bt=\d+"), "t=SECONDS"),
)
_SIZES: Final = frozenset({"bytes", "ms", "content-length", "content-range", "etag"})


def check(ran: list[Ran], every: list[Block]) -> int:
    """Compare each block that was run with what the document shows behind it; how many were."""
    shown = {
        before.line: block for before, block in pairwise(every)
        if before.kind == "sh" and block.follows and block.kind in _CHECKS
    }
    pairs = [(one, shown[one.block.line]) for one in ran if one.block.line in shown]
    for one, block in pairs:
        wrong = _CHECKS[block.kind](block.text, one)
        said = f"{one.block.text}\nsaid:\n{one.head}{one.out}"
        assert not wrong, f"{block.document}:{block.line}: {'; '.join(wrong)}\n{said}"
    return len(pairs)


def _http(shown: str, ran: Ran) -> list[str]:
    head, _, body = shown.partition("\n\n")
    (status, *headers), told = head.splitlines(), ran.head.replace("\r\n", "\n").strip().splitlines()
    if not told or told[0].strip() != status:
        return [f"the status is {told[:1]}, not {status}"]
    sent = {name.lower(): value for name, _, value in (line.partition(": ") for line in told[1:])}
    wrong = []
    for name, _, value in (line.partition(": ") for line in headers):
        found = sent.get(name.lower())
        if found is None or (name.lower() not in _SIZES and _settled(found) != _settled(value)):
            wrong.append(f"{name} is {found}, not {value}")
    return wrong + (_json(body, ran) if body.strip() else [])


def _json(shown: str, ran: Ran) -> list[str]:
    return _differences(json.loads(shown), json.loads(ran.out), "the answer")


def _text(shown: str, ran: Ran) -> list[str]:
    lines, wanted = ([" ".join(_settled(line).split()) for line in text.splitlines() if line.strip()]
                     for text in (ran.out, shown))
    if absent := [line for line in wanted if line != ANY and line not in lines]:
        return [f"{absent} is not there"]
    return [] if ANY in wanted or lines == wanted else [f"there are {len(lines)} lines, or in another order"]


_CHECKS: Final = {"http": _http, "json": _json, "text": _text}


def _settled(text: str) -> str:
    for pattern, word in _CHANGES:
        text = pattern.sub(word, text)
    return text


def _differences(shown: Any, told: Any, where: str) -> list[str]:  # noqa: ANN401 - JSON enters here
    """Where an answer is not what is shown."""
    if shown == ANY:
        return []
    if isinstance(shown, dict) and isinstance(told, dict):
        return _members(shown, told, where)
    if isinstance(shown, list) and isinstance(told, list):
        has_more = shown[-1:] == [ANY]
        wanted = shown[:-1] if has_more else shown
        wrong = [] if has_more or len(wanted) == len(told) else [f"{where} has {len(told)} items"]
        return wrong + [
            each for at, (one, other) in enumerate(zip(wanted, told, strict=False))
            for each in _differences(one, other, f"{where}[{at}]")
        ]
    if type(shown) is not type(told):
        return [f"{where} is {told!r}, not {shown!r}"]
    if where.rpartition(".")[2] in _SIZES or _settled(str(shown)) == _settled(str(told)):
        return []
    return [f"{where} is {told!r}, not {shown!r}"]


def _members(shown: dict[str, Any], told: dict[str, Any], where: str) -> list[str]:
    wrong = [f"{where} has no {name}" for name in shown if name not in told and name != ANY]
    if ANY not in shown:
        wrong += [f"{where} has {name}, too" for name in told if name not in shown]
    return wrong + [
        each for name, value in shown.items() if name in told
        for each in _differences(value, told[name], f"{where}.{name}")
    ]
