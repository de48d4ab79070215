"""What a video is expected to cost: the first row that fits, exact decimals, None when nobody knows.

Not held here: how prices are read from the configuration (`tests/test_settings.py`).
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pricing import as_cost, dearest, estimate
from gateway.settings import Price
from tests.core.made import make_request

ROWS = (
    Price(resolution="1080p", audio=True, per_second=Decimal("0.168")),
    Price(resolution="1080p", per_second=Decimal("0.112"), per_request=Decimal("0.05"), currency="EUR"),
    Price(audio=True, per_request=Decimal(1)),
    Price(resolution="720p", per_second=Decimal("0.084")),
)


@pytest.mark.parametrize(
    ("resolution", "audio", "expected"),
    [
        ("1080p", True, (Decimal("1.680"), "USD")),
        ("1080p", False, (Decimal("1.170"), "EUR")),
        ("720p", True, (Decimal(1), "USD")),  # the first that fits, not the best
        ("720p", False, (Decimal("0.840"), "USD")),
        ("4k", True, (Decimal(1), "USD")),
        ("4k", False, None),
    ],
)
def test_the_first_row_that_fits(resolution: str, audio: bool, expected: tuple[Decimal, str] | None) -> None:
    assert estimate(ROWS, make_request(resolution=resolution, audio=audio, duration=10)) == expected


def test_no_price_is_unknown_and_not_free() -> None:
    assert estimate((), make_request()) is None
    assert as_cost(None) is None
    assert as_cost((Decimal(0), "USD")) == ("0.00", "USD")  # free is something else: somebody configured it


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0.84", "0.84"), ("0.840", "0.84"), ("1", "1.00"), ("1E+3", "1000.00"), ("0.0005", "0.0005"),
     ("0.000000001", "0.000000001"), ("1.10", "1.10"), ("999999999.999999999", "999999999.999999999")],
)
def test_an_amount_is_written_plainly_with_two_places_or_as_many_as_it_has(amount: str, text: str) -> None:
    assert as_cost((Decimal(amount), "EUR")) == (text, "EUR")


_amounts = st.decimals(0, 999_999_999, places=9)


@given(_amounts, _amounts, st.integers(3, 15))
def test_no_cent_is_lost_on_the_way(per_second: Decimal, per_request: Decimal, duration: int) -> None:
    row = Price(per_second=per_second, per_request=per_request)
    cost = as_cost(estimate((row,), make_request(duration=duration)))
    assert cost is not None
    assert Decimal(cost[0]) == per_second * duration + per_request
    assert "E" not in cost[0]


def test_put_aside_is_the_dearest_in_the_currency_of_the_first() -> None:
    euros, dollars, more = (Decimal(9), "EUR"), (Decimal("0.42"), "USD"), (Decimal("0.7"), "USD")
    assert dearest([None, dollars, euros, more]) == more
    assert dearest([euros, dollars]) == euros
    assert dearest([None, None]) is None
    assert dearest([]) is None
