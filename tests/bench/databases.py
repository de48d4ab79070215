"""A PostgreSQL for the bench, where one can be had. Not held here: how it is started (`tests.postgres`)."""

from __future__ import annotations

from tests.bench.stage import Stage
from tests.postgres import Server, binaries


def postgres(stage: Stage) -> Server | None:
    """A PostgreSQL with fsync on, on the core of the load; None, and a sentence, where there is none."""
    if binaries() is None:
        stage.missing.append("PostgreSQL: its binaries are not installed (make .venv/.dev)")
        return None
    server = Server(is_durable=True)
    stage.stack.callback(server.close)
    server.start()
    return server
