"""Canaries and last days: who goes first by its share, and from when on somebody takes nothing new.

Held here: `choose` with `Listing.canary` and `retires_on`. Not held here: the strategies (`test_routing`),
what becomes of tasks that wait (`tests/engine/test_retiring.py`).
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import date
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.grants import Grant
from gateway.core.routing import (
    STRATEGIES,
    Knowledge,
    Listing,
    Route,
    Strategy,
    choose,
    retired,
    retires_next,
)
from tests.core.made import make_offering, make_request

REQUEST = make_request()
DRAWS = 4_000
MIDNIGHT = 1_796_083_200.0  # 2026-12-01, UTC


def listing(name: str, canary: float | None = None, on: date | None = None) -> Listing:
    return Listing(name, make_offering(), canary=canary, retires_on=on)


def routes(listings: list[Listing], draws: int = DRAWS, strategy: Strategy = "priority") -> list[Route]:
    known = Knowledge(lambda _: None, {}, random.Random(7))
    return [choose(REQUEST, listings, (), strategy, known) for _ in range(draws)]


def order(route: Route) -> str:
    return "".join(candidate.provider for candidate in route.candidates)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_canary_is_first_for_its_share_and_else_last_whatever_the_strategy(strategy: Strategy) -> None:
    found = routes([listing("c", 0.05), listing("a"), listing("b")], strategy=strategy)
    assert {order(route).index("c") for route in found} == {0, 2}
    first = [route for route in found if order(route)[0] == "c"]
    assert abs(len(first) / DRAWS - 0.05) < 4 * sqrt(0.05 * 0.95 / DRAWS)
    assert {route.canary for route in first} == {"c"}
    assert {route.canary for route in found if route not in first} == {None}


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=3).filter(lambda shares: sum(shares) <= 100),
    st.integers(0, 2),
)
def test_each_of_several_canaries_has_its_share_and_nobody_is_lost(shares: list[int], others: int) -> None:
    listings = [listing(str(number), share / 100) for number, share in enumerate(shares)]
    listings += [listing("abc"[number]) for number in range(others)]
    draws = 400
    found = routes(listings, draws)
    drawn = Counter(route.canary for route in found)
    for number, share in enumerate(shares):
        p = share / 100
        assert abs(drawn[str(number)] / draws - p) <= 6 * sqrt(p * (1 - p) / draws)
    for route in found:
        names = order(route)
        assert sorted(names) == sorted(one.provider for one in listings)
        rest = names[1:] if route.canary else names
        assert [one.isdigit() for one in rest] == sorted(one.isdigit() for one in rest), "canaries are last"


def test_the_whole_share_goes_first_and_no_share_never() -> None:
    assert {order(route) for route in routes([listing("a"), listing("c", 1.0)], 100)} == {"ca"}
    assert {order(route) for route in routes([listing("c", 0.0), listing("a")], 100)} == {"ac"}


def test_a_canary_that_is_alone_takes_everything() -> None:
    assert {order(route) for route in routes([listing("c", 0.05)], 100)} == {"c"}


def test_the_draw_is_the_same_again_and_costs_none_without_canaries() -> None:
    some = [listing("a"), listing("c", 0.5)]
    assert [order(route) for route in routes(some, 50)] == [order(route) for route in routes(some, 50)]
    chance = random.Random(7)
    choose(REQUEST, [listing("a"), listing("b")], (), "priority", Knowledge(lambda _: None, {}, chance))
    assert chance.random() == random.Random(7).random()


def test_pins_stand_above_a_canary() -> None:
    known = Knowledge(lambda _: None, {}, random.Random(7))
    found = {
        (order(route), route.canary)
        for route in (choose(REQUEST, [listing("c", 0.5), listing("a")], ("a", "c"), "priority", known)
                      for _ in range(50))
    }
    assert found == {("ac", None)}


def test_what_is_not_for_a_caller_is_neither_drawn_nor_told() -> None:
    known = Knowledge(lambda _: None, {}, random.Random(7), grant=Grant(providers=("a",)))
    route = choose(REQUEST, [listing("c", 1.0), listing("a")], (), "priority", known)
    assert (order(route), route.canary, route.refused) == ("a", None, ())


def test_a_last_day_is_over_at_midnight_utc() -> None:
    some = [listing("a"), listing("b", on=date(2026, 12, 1)), listing("c", on=date(2026, 12, 2))]
    assert retired(some, MIDNIGHT - 0.001) == frozenset()
    assert retired(some, MIDNIGHT) == {some[1].candidate}
    assert retires_next(some, MIDNIGHT - 0.001) == MIDNIGHT
    assert retires_next(some, MIDNIGHT) == MIDNIGHT + 86_400
    assert retires_next(some[:1], MIDNIGHT) == float("inf")


def test_who_is_retired_is_refused_with_the_day() -> None:
    some = [listing("a"), listing("b", 1.0, date(2026, 12, 1))]
    known = Knowledge(lambda _: None, {}, random.Random(7), retired=retired(some, MIDNIGHT))
    route = choose(REQUEST, some, (), "priority", known)
    assert (order(route), route.canary) == ("a", None)
    (refused,) = route.refused
    reason = "is retired since 2026-12-01 and takes nothing new"
    assert [(one.param, one.reason) for one in refused.reasons] == [("provider", reason)]
