"""`python -m deploy.kubernetes.rules`: the alerts of deploy/prometheus/ as the operator's PrometheusRule.

Held here: the wrapping. Not held here: any rule; they are the very same groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEPLOY: Final = Path(__file__).parents[1]
MADE: Final = DEPLOY / "kubernetes/components/monitoring/alerts.yaml"
_HEAD: Final = """\
# Made by `make boards` from deploy/prometheus/alerts.yml: change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: reelgate}
spec:
"""


def prometheus_rule() -> str:
    """The manifest as YAML text: the file of alerts from its groups on, one step further in."""
    text = (DEPLOY / "prometheus/alerts.yml").read_text("utf-8")
    groups = text[text.index("groups:"):]
    return _HEAD + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))


if __name__ == "__main__":
    MADE.write_text(prometheus_rule(), "utf-8")
