"""The register of steps: what is done with a task, by its state. One visible line each."""

from __future__ import annotations

from typing import Final

from gateway.engine.loop import Steps
from gateway.engine.poll import poll
from gateway.engine.submit import expire, settle_unknown, submit

STEPS: Final = Steps(
    submit=submit,
    due={"waiting": expire, "rendering": poll, "submission_unknown": settle_unknown},
)
