"""Canaries and last days as callers and operators meet them: plan, timeline, refusals, models, providers.

Not held here: the draw itself (`tests/core/test_shares.py`), a day that comes while serving
(`tests/engine/test_retiring.py`, `tests/test_reloading.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Served, problem, read, serving

PAST = "2026-01-31"
ACCOUNT = 'adapter = "unified"\nbase_url = "http://127.0.0.1:1"\napi_key = { env = "KEY" }\n'
MORE = f"""
[providers.eager]
{ACCOUNT}canary = 1.0
[providers.old]
{ACCOUNT}retire_on = {PAST}
[providers.half]
{ACCOUNT}offerings = ["*"]
canary = 0.0
retire_offerings_on = {{ "kling-v3-text-to-video" = {PAST}, "kling-v3-image-to-video" = 9999-12-31 }}
"""
WHY = f"provider: is retired since {PAST} and takes nothing new"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(Path(tmp_path_factory.mktemp("shares")), auth="keys", more=MORE) as started:
        yield started


def test_a_plan_shows_who_goes_first_and_by_which_share(served: Served) -> None:
    planned = read(served.as_caller("alice").post("/v1/videos/plan", json={"prompt": "a"}))
    assert [(one["provider"], one["canary"]) for one in planned["candidates"]] == [
        ("eager", 1.0), ("highway", None), ("unified", None),
    ]
    refused = {(one["provider"], one["offering"]): one["reasons"] for one in planned["refused"]}
    assert refused["old", "kling-v3-text-to-video"] == [WHY]
    assert refused["half", "kling-v3-text-to-video"] == [WHY]


def test_the_timeline_says_that_chance_put_a_canary_first(served: Served) -> None:
    client = served.as_caller("alice")
    for more, canary in (({}, "eager"), ({"provider": ["unified", "highway"]}, None)):
        video = served.create(client, **more)
        first = read(client.get(f"/v1/videos/{video['id']}/timeline"))["data"][0]
        assert (first["type"], first["detail"].get("canary")) == ("accepted", canary)


def test_after_its_last_day_a_create_says_why(served: Served) -> None:
    client = served.as_caller("alice")
    for path in ("/v1/videos", "/v1/videos/plan"):
        found = problem(client.post(path, json={"prompt": "a", "provider": "old"}), 422, "no_route")
        told = {one["provider"]: one["reasons"] for one in found["candidates"]}
        assert told["old"] == [WHY]


def test_last_days_are_published_beforehand_and_what_is_retired_is_not_offered(served: Served) -> None:
    models = read(served.as_caller("alice").get("/v1/models"))["data"]
    days = {(one["provider"], one["offering"]): one["retires_on"]
            for model in models for one in model["offerings"]}
    assert days["half", "kling-v3-image-to-video"] == "9999-12-31"
    assert days["highway", "kling-v3.0-std-t2v"] is None
    assert ("half", "kling-v3-text-to-video") not in days
    assert "old" not in {provider for provider, _ in days}


def test_operators_see_shares_and_last_days(served: Served) -> None:
    shown = read(served.as_caller("olga", "operator").get("/v1/providers"))["data"]
    found = {one["name"]: one for one in shown}
    assert (found["eager"]["canary"], found["eager"]["retires_on"]) == (1.0, None)
    assert (found["old"]["canary"], found["old"]["retires_on"]) == (None, PAST)
    assert (found["old"]["state"], found["old"]["why"]) == ("draining", "retired by the configuration")
    assert found["half"]["state"] == "healthy"
