"""`python -m deploy.metrics_table` writes `metrics.md`: every metric, and which panel and alert uses it.

Held here: how the table is made. Not held here: what stands in it (`gateway.metrics`,
`deploy.grafana.panels`, `prometheus/alerts.yml`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import yaml

from deploy.grafana.panels import BOARDS
from gateway.metrics import METRICS, Metric

DEPLOY: Final = Path(__file__).parent
TABLE: Final = DEPLOY / "metrics.md"
_HEAD: Final = """# The metrics

Made by `make boards` from `gateway/metrics.py`, the boards and the alerts. `GET /metrics` shows them in
Prometheus' text format; all exist from the start, so that "no data" and "nothing happened" differ.

- No label takes a value of a caller's: providers, models and currencies are the configuration's, routes are
  templates, everything else is a closed list.
- A histogram has `_count` and `_sum` for every series, and `_bucket` only where its quantiles are asked for,
  as the table says.
- Counters begin at 0 with each process: use `rate` and `increase`. With several replicas add up counters and
  what is in flight; take the `max` of ages, states and of `reelgate_spending_today`, which each replica reads
  from the same ledger.
- Series: about 120 for each provider, 20 for each model of a provider, 12 for each route, method and status
  of success that was met, 3 for the others. Ten providers with thirty models between them stay below 2,000;
  if each of the ten served all thirty it would be 7,300.

| metric | type | labels | unit | meaning | shown in | alert |
|---|---|---|---|---|---|---|
"""


def _uses(metric: Metric, expression: str) -> bool:
    """Whether an expression asks for this metric, or for a part of this histogram."""
    suffix = "(_bucket|_count|_sum)" if metric.kind == "histogram" else ""
    return re.search(rf"\b{metric.shown}{suffix}\b", expression) is not None


def panels_of(metric: Metric) -> list[str]:
    """Where it is shown: board and panel."""
    return [
        f"{board.name}: {panel.title}" for board in BOARDS for panel in board.panels
        if any(_uses(metric, query.expression) for query in panel.queries)
    ]


def alerts_of(metric: Metric) -> list[str]:
    """The alerts that look at it."""
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return [str(rule["alert"]) for rule in rules if _uses(metric, rule["expr"])]


def _row(metric: Metric) -> str:
    timed = "" if metric.timed is None else f"; buckets where {metric.timed[0]} is {metric.timed[1]}"
    timed = timed.replace(" is 2", " is 2xx") if timed.endswith(" is 2") else timed
    cells = (
        f"`{metric.shown}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.unit,
        metric.about.removesuffix(".") + timed, "<br>".join(panels_of(metric)),
        "<br>".join(alerts_of(metric)),
    )
    return f"| {' | '.join(cell or '-' for cell in cells)} |"


def text() -> str:
    """All of it."""
    return _HEAD + "\n".join(map(_row, METRICS)) + "\n"


if __name__ == "__main__":
    TABLE.write_text(text(), "utf-8")
