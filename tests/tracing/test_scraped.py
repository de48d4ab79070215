"""A real Prometheus keeps the exemplars of a traced gateway.

Not held here: what is in /metrics itself (`test_told`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from tests.dashboards.prometheus import PATIENCE_SECONDS, Prometheus, needs_prometheus, prometheus
from tests.serving import serving
from tests.tracing.receiver import receiver
from tests.tracing.stage import TRACE, TRACEPARENT, tracing_to

NAMES: Final = (
    "reelgate_http_request_duration_seconds", "reelgate_video_duration_seconds",
    "reelgate_vendor_request_duration_seconds",
)


@needs_prometheus
@pytest.mark.long
def test_prometheus_keeps_exemplars(tmp_path: Path) -> None:
    with receiver() as got, serving(tmp_path, more=tracing_to(got.url)) as served:
        began = time.time()
        served.completed(served.client_with({"traceparent": TRACEPARENT}))
        target = served.url.removeprefix("http://")
        with prometheus(tmp_path / "prometheus", target) as there:
            found = {name: traces(there, name, began) for name in NAMES}
    assert found == {name: found[name] | {TRACE} for name in NAMES}


def traces(there: Prometheus, name: str, began: float) -> set[str]:
    """Those that a histogram points at since then, once one is there."""
    while True:
        series = there.exemplars(f"{name}_bucket", began, time.time() + 1)
        found = {str(one["labels"]["trace_id"]) for many in series for one in many["exemplars"]}
        if found:
            return found
        assert time.time() < began + PATIENCE_SECONDS, name
