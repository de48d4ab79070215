"""What operators see: log lines and the metrics of contract section 5, with nothing secret in either.

Secrets are searched for by canary values. Not held here: what the dashboards make of the metrics.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from gateway.logs import configure_logging, logger
from tests.logged import logging_to
from tests.serving import PATIENCE_SECONDS, VENDOR_KEY, Served, free_port, serving

Series: TypeAlias = set[tuple[tuple[str, str], ...]]

PROVIDERS: Final = ("highway", "narrow", "unified")
STATUSES: Final = ("queued", "in_progress", "completed", "failed", "cancelled")
RESULTS: Final = ("accepted", "rejected", "not_sent", "unknown")
CALLS: Final = ("2xx", "3xx", "4xx", "5xx", "not_sent", "timeout", "broken", "junk", "cancelled")
POLLS: Final = ("pending", "succeeded", "failed", "unrecognised", "error")
STATES: Final = ("healthy", "degraded", "open", "paused", "draining")
# Contract section 5: each metric family with its labels, and the values that must be there from the start.
METRICS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "reelgate_http_request_duration_seconds": {"route": (), "method": (), "status": ()},
    "reelgate_videos": {"status": STATUSES},
    "reelgate_video_duration_seconds": {
        "provider": PROVIDERS, "model": ("kling-v3",), "outcome": ("completed", "failed", "cancelled"),
    },
    "reelgate_queue_wait_seconds": {"provider": PROVIDERS},
    "reelgate_submissions": {"provider": PROVIDERS, "result": RESULTS},
    "reelgate_submission_unknown": {"provider": PROVIDERS},
    "reelgate_vendor_request_duration_seconds": {
        "provider": PROVIDERS, "operation": ("submit", "poll"), "outcome": CALLS,
    },
    "reelgate_polls": {"provider": PROVIDERS, "outcome": POLLS},
    "reelgate_poll_lag_seconds": {},
    "reelgate_detection_delay_seconds": {"provider": PROVIDERS},
    "reelgate_provider_state": {"provider": PROVIDERS, "state": STATES},
    "reelgate_provider_in_flight": {"provider": PROVIDERS},
    "reelgate_unrecognised_status": {"provider": PROVIDERS},
    "reelgate_cost": {"provider": PROVIDERS, "currency": ("USD",)},
    "reelgate_oldest_unfinished_seconds": {},
    "reelgate_invariant_violations": {},
}  # fmt: skip
SILENT: Final = """
[providers.silent]
adapter = "highwayapi"
base_url = "http://127.0.0.1:{port}"
api_key = {{ env = "KEY" }}
submit_timeout = "100ms"
[providers.silent.prices]
"kling-v3.0-std-t2v" = {{ per_second = "0.08", currency = "EUR" }}
"""
COUNTERS: Final = ("submissions", "polls", "unrecognised_status", "cost", "invariant_violations")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, auth="keys") as started:
        yield started


def scraped(served: Served) -> dict[str, Series]:
    """The label sets of each metric family, `le` left out."""
    answer = served.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(answer.text)
    return {
        family.name: {
            tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
            for sample in family.samples
        }
        for family in families
    }


def value(served: Served, name: str, **labels: str) -> float:
    """One sample."""
    for family in text_string_to_metric_families(served.client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    raise AssertionError(f"no {name} {labels}")


def product(labels: dict[str, tuple[str, ...]]) -> Series:
    """Every combination of the labels' values."""
    found: list[tuple[tuple[str, str], ...]] = [()]
    for name in sorted(labels):
        found = [(*some, (name, each)) for some in found for each in labels[name]]
    return set(found)


def test_every_metric_is_there_from_the_start(served: Served) -> None:
    shown = scraped(served)
    for name, labels in METRICS.items():
        assert name in shown, name
        assert {label for series in shown[name] for label, _ in series} == set(labels), name
        assert product(labels) <= shown[name], (name, product(labels) - shown[name])
    text = served.client.get("/metrics").text
    assert all(f"# TYPE reelgate_{name}_total counter" in text for name in COUNTERS)


def test_metrics_follow_a_life(served: Served) -> None:
    client = served.as_caller("alice")
    running = served.rendering(client)["id"]
    assert value(served, "reelgate_provider_in_flight", provider="highway") == 1
    assert value(served, "reelgate_videos", status="in_progress") == 1
    assert value(served, "reelgate_oldest_unfinished_seconds") >= 0
    served.finish(running, client)
    wanted: list[tuple[str, dict[str, str], float]] = [
        ("reelgate_provider_in_flight", {"provider": "highway"}, 0),
        ("reelgate_videos", {"status": "completed"}, 1),
        ("reelgate_submissions_total", {"provider": "highway", "result": "accepted"}, 1),
        ("reelgate_video_duration_seconds_count", {"provider": "highway", "outcome": "completed"}, 1),
        ("reelgate_queue_wait_seconds_count", {"provider": "highway"}, 1),
        ("reelgate_detection_delay_seconds_count", {"provider": "highway"}, 1),
        ("reelgate_polls_total", {"provider": "highway", "outcome": "succeeded"}, 1),
        ("reelgate_cost_total", {"provider": "highway", "currency": "USD"}, 0.42),
        ("reelgate_oldest_unfinished_seconds", {}, 0),
        ("reelgate_invariant_violations_total", {}, 0),
    ]
    for name, labels, number in wanted:
        assert value(served, name, **labels) == pytest.approx(number, abs=0.001), (name, labels)


def test_a_submit_that_is_never_answered_is_counted_as_a_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        more = SILENT.format(port=silent.getsockname()[1])
        with serving(tmp_path, more=more) as served:
            made = served.create(provider="silent")["id"]
            served.until(made, lambda video: video["stage"] == "submission_unknown")
            name, labels = "reelgate_vendor_request_duration_seconds_count", {"provider": "silent"}
            assert value(served, name, operation="submit", outcome="timeout", **labels) == 1
            assert value(served, name, operation="submit", outcome="cancelled", **labels) == 0
            lost = served.client.get(f"/v1/videos/{made}/timeline").json()["data"][-1]["detail"]
            assert (lost["kind"], lost["message"]) == ("timeout", "no answer in time")


def test_every_currency_of_a_price_is_there_from_the_start(tmp_path: Path) -> None:
    with serving(tmp_path, more=SILENT.format(port=1)) as served:
        for currency in ("USD", "EUR"):
            assert value(served, "reelgate_cost_total", provider="silent", currency=currency) == 0
            for state in ("reserved", "settled"):
                labels = {"provider": "silent", "currency": currency, "state": state}
                assert value(served, "reelgate_spending_today", **labels) == 0


def test_text_has_no_colours_but_on_a_terminal() -> None:
    stream = StringIO()
    with logging_to(StringIO()), redirect_stdout(stream):
        configure_logging("info", "text")
        logger().error("ready", listen="127.0.0.1:8080")
    assert "listen=127.0.0.1:8080" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_routes_are_counted_by_template(served: Served) -> None:
    client = served.as_caller("alice")
    for video_id in ("video_1", "video_2"):
        client.get(f"/v1/videos/{video_id}")
    client.get("/nowhere/at/all")
    client.request("BREW", "/v1/videos")
    name = "reelgate_http_request_duration_seconds_count"
    assert value(served, name, route="/v1/videos/{video_id}", method="GET", status="404") == 2
    assert value(served, name, route="unmatched", method="GET", status="404") == 1
    shown = served.client.get("/metrics").text
    assert "BREW" not in shown
    assert "nowhere" not in shown


CANARIES: Final = {
    "prompt": "canary-prompt", "negative_prompt": "canary-negative", "metadata": "canary-label",
    "image": "canary-image",
}  # fmt: skip


def lives(served: Served) -> tuple[list[str], list[str]]:
    """Lives with every kind of end; what was secret in them, and every error that was answered."""
    key = served.new_key("canary-caller")
    client = served.client_with({"Authorization": f"Bearer {key}"})
    more = {"negative_prompt": CANARIES["negative_prompt"], "metadata": {"a": CANARIES["metadata"]}}
    prompt = CANARIES["prompt"]
    video = served.completed(client, prompt=prompt, **more)
    client.get(video["output"]["url"])
    for fault in ("unavailable phase=poll times=1", "unknown_status"):
        served.completed(client, prompt=f"[[fault:{fault}]] {prompt}", **more)
    for fault in ("policy", "invalid", "reset_after_accept"):
        made = served.create(client, prompt=f"[[fault:{fault}]] {prompt}", **more)["id"]
        served.started(made, client)
    cut = served.completed(client, prompt=f"[[fault:dead_link]] {prompt}")
    image = f"https://images.test/{CANARIES['image']}.png?signature={CANARIES['image']}"
    errors = [
        client.get(cut["output"]["url"]),
        client.post("/v1/videos", json={"prompt": prompt, "duration": 99, **more}),
        client.post("/v1/videos", json={"prompt": prompt, "image": image, "provider": "narrow"}),
        client.post("/v1/videos", content=f'{{"prompt": "{prompt}"'),
        client.get("/v1/videos/video_0", headers={"Authorization": f"Bearer {key}x"}),
        client.get(f"/v1/videos/{video['id']}/content", params={"variant": "x"}),
    ]
    assert all(answer.status_code >= 400 for answer in errors)
    links = [served.sandbox.world.link(task, 60) for task in served.sandbox.world.tasks.values()]
    files = [urlsplit(link).path for link in links]
    return [key, VENDOR_KEY, *CANARIES.values(), *files], [answer.text for answer in errors]


def test_nothing_secret_is_logged_counted_or_answered(served: Served) -> None:
    secrets, errors = lives(served)
    metrics, log = served.client.get("/metrics").text, served.log
    assert log.count("\n") > 20
    for secret in secrets:
        assert secret not in log
        assert secret not in metrics
        assert not any(secret in error for error in errors)
    assert "signature=" not in log + metrics + "".join(errors)
    assert "Bearer" not in log + metrics


def test_a_life_is_told_in_json_lines(served: Served) -> None:
    client = served.as_caller("alice")
    answer = client.post("/v1/videos", json={"prompt": "x"}, headers={"X-Request-Id": "told-1"})
    video_id = answer.json()["id"]
    served.finish(video_id, client)
    lines = served.lines
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    (access,) = (line for line in lines if line["event"] == "request" and line["request_id"] == "told-1")
    assert (access["route"], access["method"], access["status"]) == ("/v1/videos", "POST", 202)
    changes = [line for line in lines if line.get("video_id") == video_id]
    # Acceptance and intent are one commit of the request's; what follows is the engine's.
    assert [line.get("request_id") for line in changes] == ["told-1"] * 2 + [None] * (len(changes) - 2)
    kinds = [line["event"] for line in changes]
    steps = [kind for kind in kinds if kind != "vendor_status"]
    assert steps == ["accepted", "submitting", "accepted_by_vendor", "completed"]
    assert {line.get("provider") for line in changes[1:]} == {"highway"}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"), ("\u00fcber", "\u00fcber"), ("\u2028\x9b[2J", "\u2028\x9b[2J"),
        ("\ud800", "\ud800"), (2**70, 2**70), (Path("a"), repr(Path("a"))),
    ],
)  # fmt: skip
def test_a_line_is_ascii_whatever_is_in_it(served: Served, given: object, shown: object) -> None:
    served.gateway.telemetry.log.info("odd", given=given)
    (line,) = [line for line in served.log.splitlines() if '"odd"' in line]
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["given"] == shown


def test_lines_go_back_to_who_had_them_before() -> None:
    before = structlog.get_config()
    outer, inner = StringIO(), StringIO()
    with logging_to(outer):
        logger().info("first")
        with logging_to(inner):
            logger().info("second")
        logger().info("third")
    told = [[json.loads(line)["event"] for line in log.getvalue().splitlines()] for log in (outer, inner)]
    assert told == [["first", "third"], ["second"]]
    assert structlog.get_config() == before


@pytest.mark.parametrize("error", [OSError("disk full"), BrokenPipeError(), ValueError("closed file")])
def test_a_stream_that_takes_no_line_ends_nobody_who_logs(error: Exception) -> None:
    class Broken(StringIO):
        def write(self, line: str) -> int:
            if "first" in line:
                raise error
            return super().write(line)

    stream = Broken()
    with logging_to(stream):
        logger().error("first")
        logger().info("second")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["second"]


def test_the_process_writes_json_lines_and_nothing_else(tmp_path: Path) -> None:
    port, key = free_port(), "canary-of-the-environment"
    text = f"""
        [server]
        listen = "127.0.0.1:{port}"
        [files]
        url = "off"
        [providers.one]
        adapter = "myrouter"
        base_url = "http://127.0.0.1:{free_port()}"
        api_key = {{ env = "CANARY" }}
    """
    (tmp_path / "reelgate.toml").write_text(text, "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve", "--config", str(tmp_path / "reelgate.toml")],
        env=os.environ | {"CANARY": key}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["event"], ready["listen"]) == ("ready", f"127.0.0.1:{port}")
    finally:
        process.terminate()
        rest, errors = process.communicate(timeout=PATIENCE_SECONDS)
    lines = [json.loads(line) for line in rest.splitlines()]
    assert process.returncode == 0, errors
    assert "draining" in {line["event"] for line in lines}
    assert key not in rest + errors
