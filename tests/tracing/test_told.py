"""What is told of what is traced, and how much: spans, exemplars, lines of the log.

Held here: one gateway in this process. Not held here: several of them (`test_life`), a real Prometheus
(`test_scraped`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.serving import VENDOR_KEY, Served, serving
from tests.tracing.receiver import Receiver, receiver, tree
from tests.tracing.stage import CALLER, TRACE, TRACEPARENT, tracing_to

OPEN: Final = {"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}
TRACED: Final = {"traceparent": TRACEPARENT}
HEADERS: Final = '[tracing.headers]\nx-scope = { env = "KEY" }'


@pytest.fixture(scope="module")
def got() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, got: Receiver) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("traced"), more=tracing_to(got.url, HEADERS)) as made:
        yield made


def exemplars(text: str) -> dict[str, set[str]]:
    """The traces that each metric points at."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if sample.exemplar is not None:
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


def test_histograms_point_at_traces(served: Served) -> None:
    served.completed(served.client_with(TRACED))
    answer = served.client.get("/metrics", headers=OPEN)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0;")
    found = exemplars(answer.text)
    for name in ("http_request", "video", "vendor_request"):
        assert TRACE in found[f"reelgate_{name}_duration_seconds"], found


@pytest.mark.parametrize("accept", [
    "*/*", "text/plain", "application/openmetrics-text;version=0.0.1", "application/openmetrics-text;q=0",
    "application/openmetrics-text; version=abc", "text/plain; version=, ;=,,", "text/plain;version=1.x",
])
def test_who_does_not_ask_for_them_gets_none(served: Served, accept: str) -> None:
    answer = served.client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert TRACE not in answer.text


def test_lines_of_the_log_say_their_trace(served: Served) -> None:
    video = served.completed(served.client_with(TRACED))["id"]
    lines = [line for line in served.lines if line.get("video_id") == video]
    assert {"accepted", "submitting", "accepted_by_vendor", "completed"} <= {line["event"] for line in lines}
    assert {line.get("trace_id") for line in lines} == {TRACE}
    request = next(line for line in served.lines if line["event"] == "request" and line["method"] == "POST")
    assert request["trace_id"] == TRACE


def test_a_request_without_a_place_begins_a_trace(served: Served, got: Receiver) -> None:
    video = served.create()["id"]
    served.finish(video)
    spans = got.wait(lambda spans: any(
        span.name == "poll" and span.facts["reelgate.video.id"] == video for span in spans
    ))
    poll = next(span for span in spans if span.name == "poll" and span.facts["reelgate.video.id"] == video)
    assert poll.trace_id != TRACE
    request = next(span for span in spans if span.id == poll.parent)
    assert (request.name, request.parent, request.trace_id) == ("POST /v1/videos", "", poll.trace_id)


def test_a_vendor_that_fails_is_told(served: Served, got: Receiver) -> None:
    trace = "a" * 32
    client = served.client_with({"traceparent": f"00-{trace}-{CALLER}-01"})
    served.completed(client, prompt="[[fault:unavailable phase=poll times=2]]")
    spans = [span for span in got.wait(lambda spans: any(
        span.trace_id == trace and span.name == "poll" and not span.is_error
        and "UPDATE videos" in {under.name for under in spans if under.parent == span.id} for span in spans
    )) if span.trace_id == trace]
    asked = [span for span in spans if span.name == "GET" and span.is_error]
    assert [span.facts["error.type"] for span in asked] == ["503", "503"], tree(spans)
    assert {span.facts["http.response.status_code"] for span in asked} == {503}
    assert all(str(span.facts["url.full"]).startswith(served.sandbox.url) for span in asked)
    assert len([span for span in spans if span.name == "poll"]) == 3, tree(spans)


def test_refusals_are_told_without_the_path(served: Served, got: Receiver) -> None:
    client = served.client_with({"traceparent": f"00-{'b' * 32}-{CALLER}-01"})
    assert client.get("/v1/secret-canary").status_code == 404
    spans = [span for span in got.wait(lambda spans: any(span.trace_id == "b" * 32 for span in spans))
             if span.trace_id == "b" * 32]
    assert [(span.name, span.facts["http.response.status_code"]) for span in spans] == [("GET", 404)]
    assert "canary" not in repr(spans)


def test_nobody_who_watches_the_process_is_told(served: Served, got: Receiver) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        served.client.get(path, headers=TRACED)
    served.create()
    got.wait(bool)
    assert not {span.facts.get("http.route") for span in got.spans} & {"/livez", "/readyz", "/metrics"}


def test_the_receiver_gets_the_headers_that_were_configured(served: Served, got: Receiver) -> None:
    served.create()
    got.wait(bool)
    assert {headers["x-scope"] for headers in got.headers} == {VENDOR_KEY}
    assert VENDOR_KEY not in repr(got.spans)


@pytest.mark.parametrize(("ratio", "flag", "told"), [("0.0", "01", 1), ("0.0", None, 0), ("1.0", "00", 0)])
def test_the_share_is_of_those_that_come_without_a_flag(
    tmp_path: Path, ratio: str, flag: str | None, told: int
) -> None:
    headers = {} if flag is None else {"traceparent": f"00-{TRACE}-{CALLER}-{flag}"}
    with receiver() as got:
        on = tracing_to(got.url, f"sample_ratio = {ratio}")
        with serving(tmp_path, more=on) as served:
            served.completed(served.client_with(headers))
            found = exemplars(served.client.get("/metrics", headers=OPEN).text)
    assert len([span for span in got.spans if span.name == "admission"]) == told
    assert bool(found) == bool(told)


def test_a_receiver_that_refuses_disturbs_nobody(tmp_path: Path) -> None:
    with receiver() as got:
        got.refuses = True
        with serving(tmp_path, more=tracing_to(got.url)) as served:
            assert served.completed()["status"] == "completed"
            stream = served.stream
    lost = [line for line in stream.getvalue().splitlines() if '"spans_not_sent"' in line]
    assert got.spans == []
    assert lost
