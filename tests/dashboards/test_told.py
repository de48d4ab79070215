"""What some metrics say of a running gateway: those that no other test of a life looks at.

Not held here: the contract's (`tests/api/test_logs.py`), how they look on a board.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.engine import spending, spent
from gateway.storage.db import StorageError
from gateway.storage.stop import Stopped
from tests.serving import PATIENCE_SECONDS, Served, serving
from tests.storage.faults import Plan, full, planned

DAY_SECONDS = 86_400.0


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    return planned(monkeypatch)


@pytest.fixture
def served(tmp_path: Path, plan: Plan) -> Iterator[Served]:
    with serving(tmp_path, auth="keys") as started:
        yield started
        plan.disarm()


def value(served: Served, name: str, **labels: str) -> float | None:
    """One sample, as it is told at a scrape; None: there is none."""
    assert served.client.get("/metrics").status_code == 200
    return served.gateway.telemetry.registry.get_sample_value(name, labels)


def test_a_limit_is_told_and_where_there_is_none_it_is_infinite(served: Served) -> None:
    assert value(served, "reelgate_provider_in_flight_limit", provider="narrow") == 1
    assert value(served, "reelgate_provider_in_flight_limit", provider="highway") == math.inf


def test_each_accepted_video_is_counted_once(served: Served) -> None:
    client = served.as_caller("alice")
    for _ in range(2):
        again = client.post("/v1/videos", json={"prompt": "a fox"}, headers={"Idempotency-Key": "one"})
        assert again.is_success
    served.create(client)
    client.post("/v1/videos", json={"prompt": ""})
    assert value(served, "reelgate_videos_accepted_total") == 2


def test_what_ends_before_a_provider_had_it_counts_as_failed(served: Served) -> None:
    client = served.as_caller("alice")
    more = {"provider": "narrow", "resolution": "1080p"}
    served.rendering(client, **more)
    waiting = served.create(client, deadline=1, **more)
    assert served.until(waiting["id"], lambda video: video["status"] == "failed", client)["provider"] is None
    failed = {"provider": "-", "model": "kling-v3", "outcome": "failed"}
    assert value(served, "reelgate_video_duration_seconds_count", **failed) == 1


def test_a_provider_that_refuses_the_key_is_told_from_one_that_is_paused(served: Served) -> None:
    client = served.as_caller("olga", "operator")
    refused = served.create(client, prompt="[[fault:key_revoked]] a fox", provider="unified")
    served.started(refused["id"], client)
    client.post("/v1/providers/highway/pause")
    for provider, refuses in (("unified", 1), ("highway", 0), ("narrow", 0)):
        assert value(served, "reelgate_provider_refusing", provider=provider) == refuses, provider
        paused = value(served, "reelgate_provider_state", provider=provider, state="paused")
        assert paused == (provider != "narrow"), provider
    client.post("/v1/providers/unified/resume")
    assert value(served, "reelgate_provider_refusing", provider="unified") == 0


def await_value(served: Served, wanted: float, name: str) -> None:
    """Scrape again and again, until it is so."""
    until = time.monotonic() + PATIENCE_SECONDS
    while value(served, name) != wanted:
        assert time.monotonic() < until


def told(served: Served, *events: str) -> list[tuple[str, str]]:
    """The event and the level of each line of these."""
    return [(line["event"], line["level"]) for line in served.lines if line["event"] in events]


def test_a_database_that_takes_nothing_is_told(served: Served, plan: Plan) -> None:
    client = served.as_caller("alice")
    served.rendering(client)  # its key is known by now, without a look at the database
    assert value(served, "reelgate_database_short") == 0
    plan.arm(1, full(), for_good=True)
    assert client.post("/v1/videos", json={"prompt": "a fox"}).status_code == 503
    for _ in range(2):
        assert value(served, "reelgate_database_short") == 1
    events = ("database_short", "database_well")
    assert told(served, *events) == [("database_short", "error")]
    (line,) = [line for line in served.lines if line["event"] == "database_short"]
    assert "disk is full" in line["error"]
    plan.disarm()
    await_value(served, 0, "reelgate_database_short")
    assert told(served, *events) == [("database_short", "error"), ("database_well", "info")]


def test_a_stop_is_told_where_nothing_is_bought_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "reelgate_spending_stopped"
    monkeypatch.setattr(spent, "SPENT_SECONDS", 0.05)
    monkeypatch.setattr(spending, "LOOK_SECONDS", 0.0)
    with serving(tmp_path, auth="keys") as served:
        ada, stop = served.as_caller("ada", "operator"), served.gateway.store.stop
        assert value(served, name) == 0
        served.run(stop.put, Stopped("command line", 1.0))
        await_value(served, 1, name)
        served.run(stop.delete)
        await_value(served, 0, name)
        for order, stopped in (("stop", 1), ("start", 0)):
            assert ada.post(f"/v1/spending/{order}").is_success
            assert value(served, name) == stopped
        lines = [line for line in served.lines if line["event"].startswith("spending_")]
    one = [("spending_stopped", "warning"), ("spending_started", "info")]
    assert [(line["event"], line["level"]) for line in lines] == 2 * one
    assert (lines[0]["by"], lines[2]["by"][:12]) == ("command line", "operator ada")



def money(served: Served, state: str, provider: str = "highway") -> float | None:
    served.run(spent.look, served.gateway.engine)
    labels = {"provider": provider, "currency": "USD", "state": state}
    return value(served, "reelgate_spending_today", **labels)


def test_todays_money_is_the_ledgers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = served.as_caller("alice")
    assert (money(served, "reserved"), money(served, "settled")) == (0, 0)
    video = served.rendering(client)
    assert (money(served, "reserved"), money(served, "settled")) == pytest.approx((0.42, 0))
    served.finish(video["id"], client)
    assert (money(served, "reserved"), money(served, "settled")) == pytest.approx((0, 0.42))
    now = served.gateway.engine.now
    monkeypatch.setattr(served.gateway.engine, "now", lambda: now() + DAY_SECONDS)
    assert (money(served, "reserved"), money(served, "settled")) == (0, 0)


def test_a_ledger_that_cannot_be_read_leaves_what_was_told(served: Served, plan: Plan) -> None:
    client = served.as_caller("alice")
    served.rendering(client)
    before = money(served, "reserved")
    plan.arm(1, full(), for_good=True)
    with pytest.raises(StorageError):
        served.run(spent.look, served.gateway.engine)
    plan.disarm()
    labels = {"provider": "highway", "currency": "USD", "state": "reserved"}
    assert value(served, "reelgate_spending_today", **labels) == before
