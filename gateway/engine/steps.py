"""The register of steps: what is done with a task, by its state. One visible line each."""

from __future__ import annotations

from typing import Final

from gateway.engine.keeping import keep
from gateway.engine.late import end, look_again
from gateway.engine.poll import hear, poll
from gateway.engine.probe import probe
from gateway.engine.submit import expire, send, submit
from gateway.engine.unknown import settle_unknown
from gateway.engine.watch import Steps

STEPS: Final = Steps(
    submit=submit,
    send=send,
    due={
        "waiting": expire, "submitting": expire, "rendering": poll, "submission_unknown": settle_unknown,
        "completed": look_again, "failed": look_again, "cancelled": look_again,
    },
    end=end,
    keep=keep,
    probe=probe,
    hear=hear,
)
