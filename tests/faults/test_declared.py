"""No cell of the vendor fault matrix is missing, and none is about a fault or an adapter that does not exist.

Held here: `matrix.md` against the design's list of rows, the sandbox's table of faults, and the register of
adapters. Not held here: whether the cells are true (`test_matrix`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.sandbox.catalogue import FAULTS, NOT_PLAYED
from gateway.sandbox.faults import arm
from providers import adapters, spec
from tests.contract.recorded import NoDoor
from tests.faults.declared import CALLBACKS, CELLS, DOWNLOADS, POLLS, ROWS, SUBMITS, Cell
from tests.faults.playing import BELOW

WORDS = {"S": SUBMITS, "P": POLLS, "D": DOWNLOADS}
# Everything that an adapter can do, as `providers.spec` has it. None of it asks a vendor to call back.
CAPABILITIES = {"call", "submit", "poll", "ref_of", "submit_as", "find_submission"}
PROTOCOLS = {"Adapter", "VendorDoor", "MakesRefs", "FindsSubmission", "TakesCallbacks"}


def test_the_design_has_69_rows() -> None:
    assert [row.row for row in ROWS] == list(range(1, 70))
    assert all(row.phases and set(row.phases) <= set("SPDW") for row in ROWS)


def test_every_cell_of_every_row_is_declared_for_every_adapter() -> None:
    """A new adapter has no cells, so it fails here until it has its column."""
    wanted = {
        (row.row, phase, adapter)
        for row in ROWS for phase in row.phases if phase != "W" for adapter in adapters()
    }
    declared = {(cell.row, cell.phase, cell.adapter) for cell in CELLS}
    assert wanted <= declared
    assert {cell.adapter for cell in CELLS} == set(adapters())
    assert len({cell.id for cell in CELLS}) == len(CELLS)


def test_callbacks_are_declared_for_every_adapter() -> None:
    assert any("W" in row.phases for row in ROWS)
    assert {callbacks.adapter for callbacks in CALLBACKS} == set(adapters())


@pytest.mark.parametrize("adapter", adapters())
def test_no_adapter_can_ask_for_a_callback(adapter: str) -> None:
    """Phase W is `not applicable` only as long as this is so."""
    info = adapters()[adapter]
    built = info.build(NoDoor())
    assert {name for name in dir(built) if not name.startswith("_")} <= CAPABILITIES
    assert not isinstance(built, spec.TakesCallbacks)
    full = spec.VideoRequest(model="kling-v3", prompt="a fox", aspect_ratio="16:9", negative_prompt="rain")
    bodies = [str(built.call(full, offering).body).lower() for offering in info.offerings]
    assert not any(word in body for word in ("callback", "webhook", "notify") for body in bodies)


def test_the_language_of_adapters_is_what_is_known_here() -> None:
    found = {name for name, kind in vars(spec).items() if getattr(kind, "_is_protocol", False)}
    assert found - {"Protocol"} <= PROTOCOLS


def test_cells_name_what_exists() -> None:
    problems = [(cell.id, problem) for cell in CELLS for problem in misnamed(cell)]
    assert problems == []


def misnamed(cell: Cell) -> Iterator[str]:
    """What a cell says that is not so."""
    if cell.word not in WORDS[cell.phase]:
        yield f"no word {cell.word}"
    if cell.name in BELOW:
        rows = {1, *(row for rows in NOT_PLAYED for row in rows if row < 60)}
        rows |= set(FAULTS[cell.name].rows) if cell.name in FAULTS else set()
    else:
        arm(cell.name, {name: value for name, value in cell.args.items() if "{" not in value})
        rows = set(FAULTS[cell.name].rows)
    if cell.row is not None and cell.row not in rows:
        yield f"plays rows {rows}"


def test_every_fault_of_the_sandbox_is_in_a_cell_at_every_phase_it_strikes() -> None:
    declared = {(cell.name, cell.phase) for cell in CELLS}
    letters = {"submit": "S", "poll": "P", "download": "D"}
    missing = [
        (name, phase) for name, fault in FAULTS.items() for phase in fault.phases
        if (name, letters[phase]) not in declared
    ]
    assert missing == []


def test_every_word_is_used() -> None:
    used = {(cell.phase, cell.word) for cell in CELLS}
    assert {(phase, word) for phase, words in WORDS.items() for word in words} == used
