"""The metrics as a whole: documented, well named, and few enough whatever callers do.

Held here: the table, `promtool check metrics`, the number of series, where label values come from. Not held
here: what each metric says (`tests/api/test_logs.py`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from deploy import metrics_table
from gateway.metrics import METRICS
from gateway.telemetry import CALLS, OUTCOMES, POLLS, RESULTS, Telemetry
from tests.dashboards.prometheus import needs_prometheus
from tests.serving import Served, serving

SERIES_MOST: Final = 2_000
PROVIDERS: Final = {f"p{number}": [f"m{number}-{model}" for model in range(3)] for number in range(10)}
ROUTES: Final = ("/v1/videos", "/v1/videos/{video_id}", "/v1/videos/{video_id}/content", "/v1/models")
CANARY: Final = "canary-of-a-caller"


def series(text: str) -> list[dict[str, str]]:
    """The labels of every series of an exposition."""
    families = text_string_to_metric_families(text)
    return [dict(sample.labels) for family in families for sample in family.samples]


def used() -> Telemetry:
    """Ten providers with thirty models after a run in which everything has happened that can be counted."""
    telemetry = Telemetry(PROVIDERS)
    for provider, models in PROVIDERS.items():
        for call in CALLS:
            telemetry.vendor_called(provider, "submit", call, 0.3)
            telemetry.vendor_called(provider, "poll", call, 0.1)
        for answer in POLLS:
            telemetry.polled(provider, answer, 0.1)
        for result in RESULTS:
            telemetry.submitted(provider, result)
        telemetry.detected(provider, 1.0)
        for model in models:
            for outcome in OUTCOMES:
                telemetry.video_duration(provider, model, outcome).observe(30)
    for route in ROUTES:
        for status in (200, 404):
            telemetry.request_answered(route, "GET", status, 0.01, "req_1")
    telemetry.request_answered("/v1/videos", "POST", 202, 0.01, "req_1")
    telemetry.spent_today({(provider, "USD", "settled"): 1.0 for provider in PROVIDERS})
    return telemetry


def test_ten_providers_and_thirty_models_stay_below_two_thousand_series() -> None:
    fresh, after = Telemetry(PROVIDERS).exposition().decode(), used().exposition().decode()
    assert sum(map(len, PROVIDERS.values())) == 30
    assert 1_000 < len(series(fresh)) <= len(series(after)) < SERIES_MOST
    assert "_created" not in after


def test_each_provider_and_each_of_its_models_costs_what_the_table_says() -> None:
    def size(providers: dict[str, list[str]]) -> int:
        return len(series(Telemetry(providers).exposition().decode()))

    none, one, two = size({"a": []}), size({"a": ["m"]}), size({"a": ["m", "n"]})
    text = " ".join(metrics_table.text().split())
    assert f"about {round(none - size({}), -1)} for each provider, {two - one} for each model" in text
    whole = size({f"p{number}": [f"m{model}" for model in range(30)] for number in range(10)})
    assert f"it would be {round(whole, -2):,}" in text


def test_buckets_are_where_quantiles_are_asked_for_and_nowhere_else() -> None:
    telemetry = used()
    text = telemetry.exposition().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for metric in METRICS:
        if metric.timed is None:
            continue
        label, start = metric.timed
        samples = families[metric.name].samples
        fine = {s.labels[label] for s in samples if s.labels.get("le", "+Inf") != "+Inf"}
        whole = {s.labels[label] for s in samples if s.name.endswith("_count")}
        assert fine == {value for value in whole if value.startswith(start)} < whole, metric.name


def test_the_table_is_made_from_the_code() -> None:
    assert metrics_table.TABLE.read_text("utf-8") == metrics_table.text(), "make boards"


def test_every_metric_is_one_of_the_table() -> None:
    lines = used().exposition().decode().splitlines()
    shown = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert shown == {metric.shown for metric in METRICS}
    assert all(metric.about.endswith(".") for metric in METRICS)


@needs_prometheus
def test_promtool_has_nothing_to_say_of_the_metrics() -> None:
    check = subprocess.run(
        ["promtool", "check", "metrics"], input=used().exposition(), capture_output=True, check=False
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


@needs_prometheus
def test_promtool_would_say_what_is_wrong() -> None:
    wrong = b"# TYPE reelgate_thing_total gauge\nreelgate_thing_total 1\n"
    check = subprocess.run(["promtool", "check", "metrics"], input=wrong, capture_output=True, check=False)
    assert check.returncode != 0


def provoke(served: Served) -> None:
    """Put the canary wherever a caller can put something."""
    client = served.as_caller(CANARY)
    served.completed(client, prompt=CANARY, metadata={CANARY: CANARY})
    client.post("/v1/videos", json={"prompt": "a fox", "model": CANARY, "provider": CANARY})
    client.get(f"/v1/videos/{CANARY}")
    client.get(f"/{CANARY}", params={CANARY: CANARY}, headers={"X-Request-Id": CANARY, "User-Agent": CANARY})
    client.request(CANARY, "/v1/videos")
    client.request("GET", "/v1/videos", headers={"Host": f"{CANARY}.test"})


def test_no_label_takes_a_value_of_a_callers(tmp_path: Path) -> None:
    with serving(tmp_path, auth="keys") as served:
        before = len(series(served.client.get("/metrics").text))
        provoke(served)
        text = served.client.get("/metrics").text
        provoke(served)
        again = served.client.get("/metrics").text
    assert CANARY not in text
    assert before < len(series(text)) == len(series(again))
