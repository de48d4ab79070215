"""`gateway/README.md`: its rooms in the order of the floors, and the modules that it names.

Not held here: the state machine and the tables about it (`tests/test_state_machine.py`).
"""

from __future__ import annotations

import re
import tomllib

from tests.docs.blocks import ROOT, table, text_of

PAGE = "gateway/README.md"
HEAD = ("room, from the top", "what lives there")


def floors() -> list[set[str]]:
    """The rooms of each floor, from the top, as `make lint` has them."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    contracts = [one for one in tools["importlinter"]["contracts"] if one["type"] == "layers"]
    layers = next(one["layers"] for one in contracts if one["containers"] == ["gateway"])
    return [set(re.findall(r"\w+", layer)) for layer in layers]


def named() -> list[list[str]]:
    """The rooms of each row of the table, as modules."""
    rows = [re.findall(r"([\w./]+)", rooms) for rooms, _ in table(PAGE, *HEAD)]
    return [[room.removesuffix(".py").removesuffix("/") for room in row] for row in rows[:-1]]


def test_every_room_is_in_the_table_once_and_is_there() -> None:
    rooms = [room for row in named() for room in row]
    there = {path.stem for path in (ROOT / "gateway").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(rooms) == sorted(set(rooms))
    assert set(rooms) == there - {"__init__", "__pycache__"}


def test_no_row_stands_above_a_floor_that_lies_higher() -> None:
    height = {room: number for number, floor in enumerate(floors()) for room in floor}
    highest = [min(height[room] for room in row) for row in named()]
    lowest = [max(height[room] for room in row) for row in named()]
    pairs = zip(named()[1:], highest[1:], lowest, strict=False)
    wrong = [row for row, most, before in pairs if most < before]
    assert wrong == []


def test_modules_that_are_named_are_there() -> None:
    """Those with a folder are in it; a name alone in a row about a room is a module of that room."""
    for path in set(re.findall(r"`(\w+/\w+\.py)`", text_of(PAGE))):
        assert (ROOT / "gateway" / path).exists() or (ROOT / path).exists(), path
    rows = dict(table(PAGE, *HEAD))
    for room in ("core", "engine"):
        words = re.findall(r"`(\w+)`", rows[f"{room}/"])
        assert words
        assert [word for word in words if not (ROOT / "gateway" / room / f"{word}.py").exists()] == []
