"""Providers as operators see and order them: pause, drain, resume, and what the gateway does by itself.

Not held here: when a breaker opens or closes (tests/core), who may order (`test_auth`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import Json, Served, free_port, problem, read, serving

DOWN = """
[providers.down]
adapter = "myrouter"
base_url = "http://127.0.0.1:{port}/here"
api_key = {{ env = "KEY" }}
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, auth="keys", more=DOWN.format(port=free_port())) as started:
        yield started


@pytest.fixture
def alice(served: Served) -> httpx.Client:
    return served.as_caller("alice")


@pytest.fixture
def ops(served: Served) -> httpx.Client:
    return served.as_caller("olga", "operator")


def order(ops: httpx.Client, name: str, verb: str) -> Json:
    answer = ops.post(f"/v1/providers/{name}/{verb}")
    assert answer.status_code == 200, answer.text
    return read(answer)


def shown(ops: httpx.Client, name: str) -> Json:
    (found,) = [one for one in read(ops.get("/v1/providers"))["data"] if one["name"] == name]
    return dict(found)


def test_a_provider_at_rest_field_by_field(ops: httpx.Client, served: Served) -> None:
    host = served.sandbox.url.removeprefix("http://")
    assert shown(ops, "narrow") == {
        "object": "provider", "name": "narrow", "adapter": "myrouter", "host": host, "state": "healthy",
        "why": None, "held_by": None, "since": None, "operations": {"submit": "closed", "poll": "closed"},
        "in_flight": 0, "max_in_flight": 1, "waiting": 0, "unknown": 0, "last_error": None,
        "canary": None, "retires_on": None,
    }  # fmt: skip


def test_what_waits_runs_and_is_unknown_is_counted(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    served.rendering(alice, provider="narrow", resolution="1080p")
    for _ in range(2):
        assert served.create(alice, provider="narrow", resolution="1080p")["stage"] == "waiting"
    served.started(served.create(alice, prompt="[[fault:reset_after_accept]]")["id"], alice)
    narrow, highway = shown(ops, "narrow"), shown(ops, "highway")
    assert (narrow["in_flight"], narrow["waiting"], narrow["unknown"]) == (1, 2, 0)
    assert (highway["in_flight"], highway["waiting"], highway["unknown"]) == (1, 0, 1)
    assert highway["last_error"] == "broken"


def test_a_paused_provider_is_sent_nothing_and_its_jobs_go_on(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    running = served.rendering(alice, provider="highway")
    paused = order(ops, "highway", "pause")
    assert (paused["state"], paused["why"]) == ("paused", "an operator said pause")
    assert paused["held_by"].startswith("operator olga (key_")
    assert paused["since"] is not None
    before = len(served.ledger)
    held = served.create(alice, provider="highway")
    assert served.rendering(alice, provider=["highway", "unified"])["provider"] == "unified"
    assert served.finish(running["id"], alice)["status"] == "completed"
    assert read(alice.get(f"/v1/videos/{held['id']}"))["stage"] == "waiting"
    assert [entry.vendor for entry in served.ledger[before:]] == ["unified"]
    assert shown(ops, "highway")["waiting"] == 1
    assert order(ops, "highway", "pause")["state"] == "paused"
    assert order(ops, "highway", "resume")["held_by"] is None
    assert served.finish(held["id"], alice)["status"] == "completed"


def test_a_draining_provider_is_no_candidate(served: Served, alice: httpx.Client, ops: httpx.Client) -> None:
    assert order(ops, "highway", "drain")["state"] == "draining"
    refused = problem(
        alice.post("/v1/videos", json={"prompt": "x", "provider": "highway"}), 422, "no_route"
    )
    reasons = [entry["reasons"] for entry in refused["candidates"] if entry["provider"] == "highway"]
    assert all(reason == ["provider: is draining and takes nothing new"] for reason in reasons)
    assert order(ops, "highway", "pause")["state"] == "paused"
    assert order(ops, "highway", "resume")["state"] == "healthy"
    assert order(ops, "highway", "resume")["state"] == "healthy"
    assert served.completed(alice, provider="highway")["provider"] == "highway"


def test_nobody_orders_what_is_not_there(ops: httpx.Client) -> None:
    for verb in ("pause", "drain", "resume"):
        problem(ops.post(f"/v1/providers/nobody/{verb}"), 404, "not_found")


def test_an_order_is_logged_with_who_gave_it(served: Served, ops: httpx.Client) -> None:
    ops.post("/v1/providers/narrow/pause", headers={"X-Request-Id": "order-1"})
    (line,) = [line for line in served.lines if line["event"] == "provider_ordered"]
    assert (line["provider"], line["order"], line["request_id"]) == ("narrow", "pause", "order-1")
    assert line["by"].startswith("operator olga (key_")


def test_an_order_outlives_the_process(tmp_path: Path) -> None:
    with serving(tmp_path) as before:
        order(before.client, "highway", "pause")
        order(before.client, "narrow", "drain")
        order(before.client, "narrow", "resume")
        waiting = before.create(provider="highway")["id"]
    with serving(tmp_path) as after:
        assert (shown(after.client, "highway")["state"], after.ledger) == ("paused", [])
        assert shown(after.client, "narrow")["state"] == "healthy"
        assert read(after.client.get(f"/v1/videos/{waiting}"))["stage"] == "waiting"
        assert order(after.client, "highway", "resume")["state"] == "healthy"
        assert after.finish(waiting)["status"] == "completed"


def test_a_refused_key_pauses_a_provider_until_somebody_resumes_it(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    video = served.create(alice, prompt="[[fault:key_revoked]]", provider="highway")
    failed = served.until(video["id"], lambda video: video["status"] == "failed", alice)
    assert (failed["error"]["code"], failed["charged"]) == ("vendor_auth", "no")
    paused = shown(ops, "highway")
    assert (paused["state"], paused["why"], paused["held_by"]) == ("paused", "auth", None)
    resumed = order(ops, "highway", "resume")
    assert (resumed["state"], resumed["why"]) == ("healthy", None)
    assert served.completed(alice, provider="highway")["status"] == "completed"
    assert shown(ops, "highway")["state"] == "healthy"


def test_an_open_breaker_is_shown_and_can_be_closed_by_hand(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    order(ops, "down", "pause")
    made = [served.create(alice, provider="down", resolution="1080p")["id"] for _ in range(5)]
    order(ops, "down", "resume")  # all five go at once, and nobody is there
    for video_id in made:
        served.until(video_id, lambda video: video["attempts"] == 1 and video["stage"] == "waiting", alice)
    found = shown(ops, "down")
    assert (found["state"], found["why"], found["operations"]["submit"]) == ("open", "not_sent", "open")
    for video_id in made:
        assert alice.post(f"/v1/videos/{video_id}/cancel").status_code == 200
    assert order(ops, "down", "resume")["operations"] == {"submit": "closed", "poll": "closed"}
