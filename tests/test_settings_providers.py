"""The table of a provider: its canary share and its last days.

Not held here: its other keys (`test_settings`).
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from gateway.settings import Settings, SettingsError, parse
from providers import adapters

SLUG = "kling-v3.0-std-t2v"


def settings(one: str, two: str = "") -> Settings:
    text = "".join(
        f'[providers.{name}]\nadapter = "highwayapi"\napi_key = {{ env = "KEY" }}\n{more}\n'
        for name, more in (("one", one), ("two", two))
    )
    return parse(text, Path("/folder"), adapters(), {"KEY": "k"})


def problems(one: str, two: str = "") -> str:
    with pytest.raises(SettingsError) as caught:
        settings(one, two)
    return str(caught.value)


def test_a_canary_has_a_share() -> None:
    providers = settings("canary = 0.05", "canary = 0.95").providers
    assert [provider.canary for provider in providers.values()] == [0.05, 0.95]
    assert settings("").providers["one"].canary is None


def test_ten_tenths_are_one() -> None:
    """In binary they are more."""
    assert settings("canary = 0.7", "canary = 0.3").providers["two"].canary == 0.3
    more = "".join(
        f'[providers.p{n}]\nadapter = "highwayapi"\napi_key = {{ env = "KEY" }}\ncanary = 0.1\n'
        for n in range(9)
    )
    assert len(settings("canary = 0.1", more).providers) == 11


@pytest.mark.parametrize(("one", "why"), [
    ("canary = 1.5", "providers.one.canary"),
    ("canary = -0.1", "providers.one.canary"),
    ('canary = "5%"', "providers.one.canary"),
    ("canary = 0.6", "providers: the canary shares add up to 1.1"),
    ('retire_on = "2026-12-01"', "expected a date such as 2026-12-01, without quotes"),
    ("retire_on = 2026-12-01T00:00:00Z", "expected a date such as 2026-12-01"),
    ("retire_on = 20261201", "expected a date such as 2026-12-01"),
    ('retire_offerings_on = { "kling-v3.0-std-t2w" = 2026-12-01 }', f'did you mean "{SLUG}"?'),
    (f'retire_offerings_on = {{ "{SLUG}" = "soon" }}', f'providers.one.retire_offerings_on."{SLUG}"'),
])
def test_what_cannot_be_is_told(one: str, why: str) -> None:
    assert why in problems(one, "canary = 0.5")


def test_an_offering_that_is_off_cannot_be_retired() -> None:
    off = 'offerings = ["kling-v3.0-pro-t2v"]\n'
    assert "unknown offering that is on" in problems(
        f'{off}retire_offerings_on = {{ "{SLUG}" = 2026-12-01 }}'
    )


def test_the_earlier_of_two_last_days_counts() -> None:
    both = f'retire_on = 2026-12-05\nretire_offerings_on = {{ "{SLUG}" = %s }}'
    for own, last in (("2026-12-01", date(2026, 12, 1)), ("2027-01-01", date(2026, 12, 5))):
        one = settings(both % own).providers["one"]
        assert one.retires_on(SLUG) == last
        assert one.retires_on("kling-v3.0-pro-t2v") == date(2026, 12, 5)
    assert settings("").providers["one"].retires_on(SLUG) is None
