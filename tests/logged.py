"""What gateways log in tests: lines of JSON, as at work, where a test that fails shows them.

Held here: the fixture for a folder whose gateways nobody else tells how to log. Without it every line is
made for a terminal, and a traceback of one failed step takes longer than the rest of its test. Not held
here: whatever is expected of a log.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from gateway.logs import configure_logging


@pytest.fixture(scope="package", autouse=True)
def logs_as_at_work() -> Iterator[None]:
    """Lines of JSON for as long as this package's tests run."""
    kept = structlog.get_config()
    configure_logging("info", "json")
    yield
    structlog.configure(**kept)
