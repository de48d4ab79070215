"""The campaign in small: nothing comes out that must not, and it is able to notice when something does.

The real size is `make fuzz`. Not held here: requests made from the document (`tests/api/test_fuzz.py`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.api.application import ROUTES
from gateway.errors import Problem
from tests.fuzz import campaign, parsers
from tests.fuzz.campaign import fuzz, input_of, is_refused
from tests.fuzz.over_http import fuzz_http
from tests.fuzz.parsers import PARSERS, Parser
from tests.fuzz.requests import ROUTED, request_of

INPUTS = 20_000
REQUESTS = 500


def test_no_input_breaks_a_parser() -> None:
    outcome = fuzz(0, range(INPUTS))
    assert not outcome.failures, outcome.failures[0]
    assert outcome.count == INPUTS
    assert INPUTS / 4 < outcome.taken < INPUTS, "inputs that are all good, or all bad, test nothing"
    assert outcome.grown_objects < INPUTS / 10


@pytest.mark.anyio
async def test_no_request_breaks_a_gateway(tmp_path: Path) -> None:
    answered = await fuzz_http(tmp_path, 0, range(REQUESTS))
    assert not answered.failures, answered.failures[0]
    assert (answered.count, answered.errors) == (REQUESTS, [])
    assert (tmp_path / "stderr").read_text() == ""
    assert answered.statuses[200] > REQUESTS / 10, answered.statuses
    assert answered.statuses[400] > REQUESTS / 10, answered.statuses


def test_inputs_and_requests_follow_from_the_seed() -> None:
    for number in range(2 * len(PARSERS)):
        assert input_of(1, number) == input_of(1, number)
    assert [input_of(1, number) for number in range(99)] != [input_of(2, number) for number in range(99)]
    assert [request_of(1, number, b"k") for number in range(99)] == [
        request_of(1, number, b"k") for number in range(99)
    ]


def test_every_good_input_gets_past_somebody() -> None:
    """A corpus that its own parser refuses as a whole would leave that parser untested."""
    for parser in PARSERS:
        with asyncio.Runner() as runner:
            taken = [data for data in parser.good if not is_refused(runner, parser, data)]
        assert taken, parser.name


def test_every_route_is_asked() -> None:
    asked = {path for _, path in ROUTED}
    assert asked == {path for route in ROUTES for path in route.paths}


def _faulty(data: bytes) -> None:
    if not data.isascii():
        raise KeyError("a parser lost its way")
    if len(data) > 8:
        raise Problem("internal_error" if len(data) % 2 else "invalid_request", "no")


def test_an_error_that_is_not_documented_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "PARSERS", (Parser("faulty", (b"12345",), _faulty, (Problem,)),))
    found = fuzz(0, range(1_000)).failures
    assert len(found) == campaign.FAILURES_MAX
    said = "".join(failure.why for failure in found)
    assert "KeyError: 'a parser lost its way'" in said
    assert "a parser answers 500" in said
    (again,) = fuzz(0, range(found[0].number, found[0].number + 1)).failures
    assert again == found[0]


@pytest.mark.parametrize("found", ["a\0b", "\ud800", {"a": ["\\\0"]}])
def test_what_cannot_be_stored_is_found(found: object) -> None:
    with pytest.raises(parsers.Unstorable):
        parsers.checked(found)
    parsers.checked("\\u0000")
