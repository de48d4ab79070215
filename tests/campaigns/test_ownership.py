"""The checker of ownership finds what is planted, and nothing in a history that is fine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.sandbox.renders import Entry
from tests.campaigns.ownership import (
    Burial,
    Claim,
    Death,
    Limit,
    Sightings,
    Still,
    broken,
    takeovers,
    tightest,
    too_many,
)
from tests.campaigns.vendor import Ask

ONE, OTHER = 1, 2  # the ports of two processes at the vendors
NOTHING = Sightings(
    asks=(), ledger=(), timelines={}, stills=(), burials=(), deaths=(), claims=(), limits=()
)
STILL = Still(ONE, 10, 18)


def polls(*times: tuple[float, int], job: str = "j") -> list[Ask]:
    return [Ask(at, port, "poll", "unified", job) for at, port in times]


def submit(at: float, prompt: str = "p", port: int = ONE) -> Ask:
    return Ask(at, port, "submit", "unified", prompt)


def charge(at: float, prompt: str) -> Entry:
    return Entry(vendor="unified", slug="s", vendor_task_id=f"job of {prompt}", amount="1", currency="USD",
                 prompt=prompt, at=at, client_reference=None)


def event(kind: str, at: float) -> Mapping[str, Any]:
    return {"type": kind, "at": at}


def words(seen: Sightings) -> list[str]:
    return [problem.partition(":")[0] for problem in broken(seen)]


@pytest.mark.parametrize(
    ("times", "claims", "found"),
    [
        ([(0, ONE), (1, ONE), (8, OTHER), (9, OTHER)], [], []),
        ([(0, ONE), (8, OTHER), (8.5, ONE), (9, OTHER)], [], []),  # it was under way
        ([(0, ONE), (8, OTHER), (11, ONE)], [], ["owner"]),
        ([(0, ONE), (8, OTHER), (11, ONE), (12, OTHER), (13, ONE)], [], ["owner"] * 2),
        ([(0, ONE), (8, OTHER), (16, ONE), (17, ONE)], [Claim(ONE, 15.0)], []),  # it came back to it
        ([(0, ONE), (8, OTHER), (16, ONE), (18, OTHER)], [Claim(ONE, 15.0)], ["owner"]),
        ([(0, ONE), (8, OTHER), (16, ONE)], [Claim(ONE, 5.0)], ["owner"]),  # that was before
    ],
)
def test_a_job_is_polled_by_one_at_a_time(
    times: list[tuple[float, int]], claims: list[Claim], found: list[str]
) -> None:
    assert words(replace(NOTHING, asks=polls(*times), claims=claims)) == found


@pytest.mark.parametrize(
    ("stills", "burials", "intent", "sent", "found"),
    [
        ([STILL], [Burial(ONE, 16)], 9.9, 18.1, ["zombie"]),
        ([STILL], [Burial(ONE, 18)], 9.9, 18.1, ["zombie"]),
        ([STILL], [], 9.9, 18.1, []),  # nobody declared it dead: there was nobody, or no database
        ([STILL], [Burial(ONE, 30)], 9.9, 18.1, []),  # it ended in order, later
        ([STILL], [Burial(ONE, 16)], 18.05, 18.1, []),  # decided after it went on, under another name
        ([STILL], [Burial(OTHER, 16)], 9.9, 18.1, []),
        ([STILL], [Burial(ONE, 16)], 9.8, 9.9, []),
        ([], [Burial(ONE, 16)], 9.9, 16.9, []),  # it was on its way
        ([], [Burial(ONE, 16)], 9.9, 17.1, ["zombie"]),  # it was cut off, and did not stand still
        ([Still(OTHER, 10, 18)], [Burial(ONE, 16)], 9.9, 17.1, ["zombie"]),
        ([], [Burial(ONE, 16)], 16.5, 17.6, []),
    ],
)
def test_the_dead_buy_nothing(
    stills: Sequence[Still], burials: Sequence[Burial], intent: float, sent: float, found: list[str]
) -> None:
    timelines = {"p": [event("submitting", intent)]}
    seen = replace(NOTHING, asks=[submit(sent)], stills=stills, burials=burials, timelines=timelines)
    assert words(seen) == found


@pytest.mark.parametrize(
    ("events", "sent", "found"),
    [
        ([event("submitting", 1), event("submission_unknown", 8)], 1.1, []),
        ([event("submitting", 1), event("submission_unknown", 8)], 8.5, []),  # it was on its way
        ([event("submitting", 1), event("submission_unknown", 8)], 9.5, ["zombie"]),
        ([event("submitting", 1), event("submission_unknown", 8), event("submitting", 9.4)], 9.5, []),
        ([event("submitting", 1), event("submission_unknown", 8), event("submitting", 9.6)], 9.5, ["zombie"]),
    ],
)
def test_what_was_given_up_is_not_bought(
    events: Sequence[Mapping[str, Any]], sent: float, found: list[str]
) -> None:
    assert words(replace(NOTHING, asks=[submit(sent)], timelines={"p": events})) == found


@pytest.mark.parametrize(
    ("second", "ends", "found"),
    [
        (5.0, [event("completed", 4.0)], []),
        (5.0, [event("completed", 6.0)], ["cap"]),
        (5.0, [event("resubmit_allowed", 4.0)], []),
        (5.0, [], ["cap"]),  # it never ended
        (5.0, [event("failed", 0.5)], []),  # given up before the vendor got it
    ],
)
def test_a_cap_holds_over_all(second: float, ends: Sequence[Mapping[str, Any]], found: list[str]) -> None:
    seen = replace(
        NOTHING, ledger=[charge(1.0, "a"), charge(second, "b")], limits=[Limit("unified", 1, None)],
        timelines={"a": ends, "b": [event("completed", 9.0)]},
    )
    assert words(seen) == found
    assert list(too_many(replace(seen, limits=[Limit("unified", 2, None)]))) == []


def test_a_rate_holds_over_all() -> None:
    limit = Limit("unified", None, 2)
    asks = [submit(0, "a"), submit(30, "b", OTHER), submit(61, "c")]
    seen = replace(NOTHING, asks=asks, limits=[limit])
    assert (words(seen), tightest(seen, limit)) == ([], 61)
    asks[2] = submit(50, "c")
    assert (words(seen), tightest(seen, limit)) == (["rate"], 50)
    stood = replace(seen, timelines={"a": [event("submitting", -5)]}, stills=[Still(ONE, -4, -1)])
    assert (words(stood), tightest(stood, limit)) == ([], None)


def test_a_takeover_is_from_the_last_beat_to_the_first_poll() -> None:
    death = Death(ONE, at=10.0, beat_at=9.5, is_clear=True)
    asks = [*polls((9, ONE), (16, OTHER), (17, OTHER)), *polls((9, ONE), (15.5, OTHER), job="k"),
            *polls((9, OTHER), (11, OTHER), job="not its own")]
    seen = replace(NOTHING, asks=asks, deaths=[death])
    assert (takeovers(seen), words(seen)) == ([6.0], [])
    assert words(replace(seen, deaths=[replace(death, beat_at=5.0)])) == ["takeover"]
    unclear = replace(seen, deaths=[replace(death, beat_at=5.0, is_clear=False)])
    assert (takeovers(unclear), takeovers(unclear, all_deaths=True), words(unclear)) == ([], [10.5], [])
