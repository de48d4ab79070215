"""Which offerings take a request, in which order, and why each other one does not.

Held here: `choose`. Not held here: the rules of one offering, cell by cell (`tests/providers`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.facts import Candidate
from gateway.core.grants import Grant, Limits
from gateway.core.routing import STRATEGIES, Knowledge, Listing, Route, Strategy, choose
from providers.refusals import refusals
from providers.spec import VideoRequest
from tests.core.made import make_offering, make_request

REQUEST = make_request()


def listings(*names: str) -> list[Listing]:
    """One listing per provider, each with an offering that takes REQUEST."""
    return [Listing(name, make_offering()) for name in names]


def knowledge(
    prices: Mapping[str, str] | None = None, seconds: Mapping[str, float] | None = None, seed: int = 1,
    draining: Iterable[str] = (),
) -> Knowledge:
    """What is known, by provider name."""
    found = {name: (Decimal(price), "USD") for name, price in (prices or {}).items()}
    times = {Candidate(name, "t2v"): value for name, value in (seconds or {}).items()}
    chance = random.Random(seed)
    return Knowledge(lambda listing: found.get(listing.provider), times, chance, frozenset(draining))


def order(route: Route) -> list[str]:
    return [candidate.provider for candidate in route.candidates]


def reasons(route: Route) -> dict[str, list[tuple[str, str]]]:
    return {
        refused.candidate.provider: [(one.param, one.reason) for one in refused.reasons]
        for refused in route.refused
    }


def test_by_priority_the_order_is_that_of_the_configuration() -> None:
    assert order(choose(REQUEST, listings("c", "a", "b"), (), "priority", knowledge())) == ["c", "a", "b"]


def test_a_weight_means_nothing_by_priority() -> None:
    heavy = [Listing(name, make_offering(), weight) for name, weight in (("a", 1), ("b", 9))]
    assert order(choose(REQUEST, heavy, (), "priority", knowledge())) == ["a", "b"]


def test_a_provider_may_have_several_candidates_and_keeps_their_order() -> None:
    two = [Listing("a", make_offering("x")), Listing("a", make_offering("y"))]
    route = choose(REQUEST, two, (), "priority", knowledge())
    assert route.candidates == (Candidate("a", "x"), Candidate("a", "y"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pins_restrict_and_their_order_stands_above_every_strategy(strategy: Strategy) -> None:
    known = knowledge({"a": "1", "b": "2", "c": "3"}, {"a": 1.0, "b": 2.0, "c": 3.0})
    route = choose(REQUEST, listings("a", "b", "c", "d"), ("c", "a"), strategy, known)
    assert order(route) == ["c", "a"]
    why = ("provider", "is not among the asked providers: c, a")
    assert reasons(route) == {"b": [why], "d": [why]}


def test_within_a_pinned_provider_the_strategy_orders() -> None:
    both = [Listing(*pair) for pair in (
        ("a", make_offering("dear")), ("b", make_offering("t2v")), ("a", make_offering("cheap")))]
    prices = {"dear": (Decimal(9), "USD"), "cheap": (Decimal(1), "USD")}
    known = Knowledge(lambda listing: prices.get(listing.offering.slug), {}, random.Random(1))
    route = choose(REQUEST, both, ("b", "a"), "cheapest", known)
    assert [candidate.offering for candidate in route.candidates] == ["t2v", "cheap", "dear"]


def test_cheapest_first_and_what_has_no_price_last_in_the_order_of_the_configuration() -> None:
    known = knowledge({"b": "0.30", "c": "0.05", "e": "0.30"})
    route = choose(REQUEST, listings(*"abcde"), (), "cheapest", known)
    assert order(route) == ["c", "b", "e", "a", "d"]


def test_cheapest_compares_no_currencies() -> None:
    prices = {"a": None, "b": (Decimal(9), "EUR"), "c": (Decimal(1), "USD"), "d": (Decimal(3), "EUR")}
    known = Knowledge(lambda listing: prices[listing.provider], {}, random.Random(1))
    assert order(choose(REQUEST, listings(*"abcd"), (), "cheapest", known)) == ["d", "b", "a", "c"]


def test_cheapest_compares_all_digits() -> None:
    known = knowledge({"a": "100000000.000000002", "b": "100000000.000000001"})
    assert order(choose(REQUEST, listings("a", "b"), (), "cheapest", known)) == ["b", "a"]


def test_whose_money_is_bounded_needs_a_price_in_that_currency() -> None:
    prices = {"a": None, "b": (Decimal(9), "EUR"), "c": (Decimal(1), "USD")}
    grant = Grant(limits=Limits(money_per_day=Decimal(5)), team_limits=Limits(currency="EUR"))
    known = Knowledge(lambda listing: prices[listing.provider], {}, random.Random(1), grant=grant)
    route = choose(REQUEST, listings(*"abc"), (), "priority", known)
    why = ("price", "is not known in USD, in which what this key may spend is limited")
    assert (order(route), reasons(route)) == (["c"], {"a": [why], "b": [why]})


def test_fastest_first_after_what_was_never_tried() -> None:
    known = knowledge(seconds={"b": 90.0, "c": 30.0})
    assert order(choose(REQUEST, listings("a", "b", "c", "d"), (), "fastest", known)) == ["a", "d", "c", "b"]


def test_weighted_draws_the_first_place_by_weight() -> None:
    known = knowledge(seed=7)
    three = [Listing(name, make_offering(), weight) for name, weight in (("a", 1), ("b", 3), ("c", 6))]
    draws = 4000
    firsts = Counter(order(choose(REQUEST, three, (), "weighted", known))[0] for _ in range(draws))
    for name, share in (("a", 0.1), ("b", 0.3), ("c", 0.6)):
        assert abs(firsts[name] / draws - share) < 0.03  # four standard deviations, and the seed is fixed


def test_weighted_draws_the_second_place_by_the_weights_that_are_left() -> None:
    known = knowledge(seed=7)
    three = [Listing(name, make_offering(), weight) for name, weight in (("a", 1), ("b", 3), ("c", 6))]
    routes = [order(choose(REQUEST, three, (), "weighted", known)) for _ in range(4000)]
    after_c = [route[1] for route in routes if route[0] == "c"]
    assert abs(after_c.count("b") / len(after_c) - 0.75) < 0.04


@given(st.integers(), st.lists(st.floats(1e-300, 1e6), min_size=1, max_size=5))
def test_weighted_loses_and_doubles_nobody(seed: int, weights: list[float]) -> None:
    some = [Listing(str(number), make_offering(), weight) for number, weight in enumerate(weights)]
    route = choose(REQUEST, some, (), "weighted", knowledge(seed=seed))
    assert sorted(order(route)) == [listing.provider for listing in some]


def test_a_draining_provider_takes_nothing_new() -> None:
    route = choose(REQUEST, listings("a", "b"), (), "priority", knowledge(draining="a"))
    assert order(route) == ["b"]
    assert reasons(route) == {"a": [("provider", "is draining and takes nothing new")]}


def test_every_refused_offering_has_every_reason() -> None:
    request = make_request(resolution="4k", duration=7, aspect_ratio="1:1", cfg_scale=0.5, audio=True)
    several = [
        Listing("silent", make_offering(audio=False)),
        Listing("other-model", make_offering(model="kling-v2")),
        Listing("from-images", make_offering(mode="image-to-video")),
        Listing("takes-it", make_offering(
            resolutions=("4k",), durations=(7,), aspect_ratios=("1:1",), cfg_scale=True)),
    ]
    route = choose(request, several, (), "priority", knowledge())
    assert order(route) == ["takes-it"]
    assert reasons(route) == {
        "silent": [
            ("resolution", "offers 720p, 1080p"), ("duration", "offers 5, 10 s"),
            ("aspect_ratio", "offers 16:9, 9:16"),
            ("audio", "has no audio"), ("cfg_scale", "takes no cfg_scale"),
        ],
        "other-model": [("model", "serves kling-v2")],
        "from-images": [("image", "is image-to-video only")],
    }


def test_nobody_takes_what_nobody_offers() -> None:
    route = choose(make_request(duration=15), listings("a", "b"), (), "priority", knowledge())
    assert (route.candidates, set(reasons(route))) == ((), {"a", "b"})
    assert choose(REQUEST, (), (), "priority", knowledge()) == Route((), ())


_offerings = st.builds(
    make_offering, st.sampled_from(("x", "y")), audio=st.booleans(),
    durations=st.sampled_from(((5,), (10,), (5, 10))), model=st.sampled_from(("kling-v3", "kling-v2")),
)
_listing = st.builds(Listing, st.sampled_from("abc"), _offerings)
_draining = st.sets(st.sampled_from("abc"))
_pins = st.lists(st.sampled_from("abcd"), unique=True)
_requests = st.builds(make_request, duration=st.sampled_from((5, 10)), audio=st.booleans())


@given(_requests, st.lists(_listing, max_size=6), _pins, st.sampled_from(tuple(STRATEGIES)), _draining)
def test_each_listing_is_a_candidate_or_refused_with_a_reason(
    asked: VideoRequest, some: list[Listing], pins: list[str], strategy: Strategy, draining: set[str]
) -> None:
    route = choose(asked, some, pins, strategy, knowledge(draining=draining))
    fine = [
        listing.candidate for listing in some
        if not (listing.provider in draining or refusals(listing.offering, asked))
        and (not pins or listing.provider in pins)
    ]
    assert Counter(route.candidates) == Counter(fine)
    assert len(route.refused) == len(some) - len(fine)
    assert all(refused.reasons for refused in route.refused)
    if pins:
        places = [pins.index(candidate.provider) for candidate in route.candidates]
        assert places == sorted(places)
