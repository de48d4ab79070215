"""Every cell of the vendor fault matrix: what a whole gateway makes of each fault, at each adapter.

Held here: what the words of `matrix.md` mean, as assertions. Not held here: the cells (`matrix.md`), how a
fault is done (`playing`), whether none is missing (`test_declared`).
"""

from __future__ import annotations

import itertools

import msgspec
import pytest

from tests.faults import playing
from tests.faults.calling import Got
from tests.faults.declared import CELLS, DOWNLOADS, POLLS, SUBMITS, Cell, Phase, SubmitEnd
from tests.faults.playing import Played
from tests.faults.world import VENDOR_KEY, run

SENT_BYTES_MAX = 32 * 1024 * 1024  # the cap of 4 MiB, and what the kernel holds between two sockets
WINDOW_POLLS_MAX = 6 * 3600 / 30
STATUSES = ("queued", "in_progress", "completed", "failed", "cancelled")
ENDINGS = {
    "accepted_by_vendor": "accepted", "not_sent": "not_sent", "rejected": "rejected",
    "submission_unknown": "unknown",
}
# Seconds from a refusal to the next submit; to the next poll at the least. A hint counts from 1 s to 15 min.
HINTS = {
    "rate_limited": (0.0, 2.0),
    "retry_after_seconds": (3.0, 5.0),
    "retry_after_date": (1.0, 5.0),  # 3 s ahead in whole seconds, and its way counts at this clock's pace
    "retry_after_negative": (1.0, 3.0),
    "retry_after_years": (900.0, 902.0),
    "retry_after_garbage": (0.0, 2.0),
}


def _samples() -> frozenset[str]:
    """The cells for every day: of each fault in each phase one for each word, the adapters taking turns."""
    found: set[str] = set()
    for turn, (_, group) in enumerate(itertools.groupby(CELLS, lambda cell: (cell.phase, cell.fault))):
        row = list(group)
        row = row[turn % len(row):] + row[:turn % len(row)]
        found |= {cell.id for cell in {cell.word: cell for cell in row}.values()}
    return frozenset(found)


SAMPLES = _samples()


def cells(phase: Phase) -> pytest.MarkDecorator:
    """One test for each cell of a phase."""
    return pytest.mark.parametrize("cell", [
        pytest.param(cell, id=cell.id, marks=[] if cell.id in SAMPLES else [pytest.mark.long])
        for cell in CELLS if cell.phase == phase
    ])


def check_always(played: Played) -> None:
    """What holds whatever a vendor does."""
    shown = msgspec.json.encode([played.video, played.timeline]).decode()
    assert VENDOR_KEY not in shown
    for earlier, later in itertools.pairwise(played.timeline):
        assert STATUSES.index(earlier["status"]) <= STATUSES.index(later["status"]), (earlier, later)
        before, after = (event["detail"].get("progress") or 0 for event in (earlier, later))
        assert "progress" not in later["detail"] or before <= after <= 100
    assert played.sent_bytes < SENT_BYTES_MAX


def first_ending(played: Played) -> str:
    """What came of the first submit."""
    return next(ENDINGS[event["type"]] for event in played.timeline if event["type"] in ENDINGS)


def outcome(played: Played) -> tuple[str, str, str]:
    """The video's status, error code and charge."""
    code = played.video["error"]["code"] if played.video["error"] else ""
    return played.video["status"], code, played.video["charged"]


def declared(end: SubmitEnd) -> tuple[str, str, str]:
    return end.status, end.code, end.charged


@cells("S")
def test_a_submit_that_meets_a_fault(cell: Cell) -> None:
    end = SUBMITS[cell.word]
    alone = run(playing.submitted(cell))
    check_always(alone)
    assert (first_ending(alone), outcome(alone), alone.charges) == (end.kind, declared(end), end.charges)
    assert (alone.video["attempts"] > 1) == (end.again == "anywhere")
    if cell.name in HINTS:
        low, high = HINTS[cell.name]
        refused, again = (
            next(event["at"] for event in alone.timeline if event["type"] == "rejected"),
            [event["at"] for event in alone.timeline if event["type"] == "submitting"][1],
        )
        assert low <= again - refused <= high


@cells("S")
def test_beside_a_healthy_provider_it_is_bought_once_or_not_at_all(cell: Cell) -> None:
    end = SUBMITS[cell.word]
    other = next(each.adapter for each in CELLS if each.adapter != cell.adapter)
    played = run(playing.submitted(cell, spare=other))
    check_always(played)
    assert first_ending(played) == end.kind
    if end.again == "never":
        assert (outcome(played), played.charges) == (declared(end), end.charges)
        assert (played.video["provider"], played.video["attempts"]) == ("faulty", 1)
    else:
        assert (outcome(played), played.charges) == (("completed", "", "yes"), 1)
        assert (played.video["provider"], played.video["attempts"]) == ("spare", 2)


@cells("P")
def test_polls_that_meet_a_fault(cell: Cell) -> None:
    end = POLLS[cell.word]
    played = run(playing.polled(cell))
    check_always(played)
    assert (outcome(played), played.charges) == ((end.status, end.code, end.charged), 1)
    assert any(played.polls[kind.strip()] for kind in end.polls.split(","))
    assert "error" in end.polls or not played.polls["error"]
    assert played.video["attempts"] == 1
    if cell.name == "maintenance_window":
        assert played.polls["error"] < WINDOW_POLLS_MAX
    if cell.name in HINTS:
        started = next(event["at"] for event in played.timeline if event["type"] == "accepted_by_vendor")
        ended = next(event["at"] for event in played.timeline if event["type"] == "completed")
        assert ended - started >= 2 * HINTS[cell.name][0]


def told(got: Got, whole: bytes) -> str:
    """An answer to a download in the words of the matrix."""
    if got.status == 200:
        if got.is_whole:
            return "200" if got.body == whole else "200 other bytes"
        # A caller sees a file that ends too early: it counts as an answer that says "try again".
        return "200 without end" if len(got.body) >= 1_000_000 else "502 vendor_unavailable"
    problem = got.json()
    if got.status in (502, 410):
        assert problem["retryable"] == (got.status == 502)
    return f"{got.status} {problem['code']}"


@cells("D")
def test_a_download_that_meets_a_fault(cell: Cell) -> None:
    end = DOWNLOADS[cell.word]
    played = run(playing.downloaded(cell))
    check_always(played)
    first, then = played.tries
    whole = then.body if then.status == 200 else b""
    assert (told(first, whole), told(then, whole)) == (end.first, end.then)
    assert played.charges == 1
    assert played.video["charged"] == "yes"
