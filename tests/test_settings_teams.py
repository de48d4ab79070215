"""`[teams.NAME]`: the most that the keys of a team may have together, and what is for them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from gateway.core.grants import Grant, Limits
from gateway.core.keys import grant_of, limits_of_team
from gateway.settings import Settings, SettingsError, parse
from providers import adapters

GOOD: Final = """
[providers.highway]
adapter = "highwayapi"
api_key = { env = "KEY" }
"""


def read(teams: str) -> Settings:
    return parse(GOOD + teams, Path.cwd(), adapters(), {"KEY": "k"})


def test_a_team_without_a_word_has_no_limit() -> None:
    team = read("[teams.a-1_b]").teams["a-1_b"]
    assert (limits_of_team(team), team.providers, team.models) == (Limits(), None, None)


def test_every_limit_is_read() -> None:
    team = read(
        """[teams.red]
        requests_per_minute = 60
        max_in_flight = 2
        max_queued = 3
        money_per_day = "0.000000001"
        money_per_month = "100"
        currency = "EUR"
        providers = ["highway"]
        models = ["kling-v3"]
        """
    ).teams["red"]
    assert limits_of_team(team) == Limits(
        requests_per_minute=60, max_in_flight=2, max_queued=3, money_per_day=Decimal("0.000000001"),
        money_per_month=Decimal(100), currency="EUR",
    )
    assert (team.providers, team.models) == (("highway",), ("kling-v3",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[teams.Red]", "teams.Red: a team's name"),
        ("[teams.red]\nmax_queue = 1", 'teams.red.max_queue: unknown key "max_queue"; did you'),
        ("[teams.red]\nmax_queued = 0", "teams.red.max_queued"),
        ("[teams.red]\nmoney_per_day = 1.5", "teams.red.money_per_day: expected an amount in quotes"),
        ('[teams.red]\nmoney_per_month = "-1"', "teams.red.money_per_month"),
        ('[teams.red]\ncurrency = "usd"', "teams.red.currency"),
        ('[teams.red]\nproviders = ["highwy"]', 'teams.red.providers: unknown provider "highwy"; did you'),
        ('[teams.red]\nmodels = ["kling-v3", "x"]', 'teams.red.models: unknown model "x"'),
        ("[teams]\nred = 1", "teams.red: expected a table"),
    ],
)
def test_a_wrong_team_stops_the_start_with_its_place(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(text)
    assert [str(problem) for problem in caught.value.problems if str(problem).startswith(said)]


def test_a_key_may_what_it_and_its_team_may() -> None:
    teams = read('[teams.red]\nproviders = ["highway"]\nmax_queued = 3').teams
    mine = Grant(providers=("highway", "narrow"), models=("m",), limits=Limits(max_queued=5))
    assert grant_of(mine, None, teams) == mine
    both = grant_of(mine, "red", teams)
    assert (both.providers, both.models) == (("highway",), ("m",))
    assert (both.limits, both.team_limits) == (Limits(max_queued=5), Limits(max_queued=3))
    assert grant_of(Grant(), "red", teams).providers == ("highway",)
    assert grant_of(Grant(), "gone", teams).providers == ()
