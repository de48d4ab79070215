"""What gateways log in tests: lines of JSON, as at work, where a test that fails shows them.

Held here: who gets the lines, one within another, that secrets are looked for in them (`canaries`), and the
fixture for a folder whose gateways nobody else tells how to log. Without it every line is made for a
terminal, and a traceback of one failed step takes longer than the rest of its test. Not held here: whatever
else is expected of a log.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Final, TextIO

import pytest
import structlog

from gateway.logs import configure_logging, write_lines
from tests import canaries

_ends: Final[list[TextIO]] = []  # who gets the lines, the innermost last: there is one end in a process


class _Watched(StringIO):
    """Passes lines on, and looks for secrets in them."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        """Write to who gets the lines."""
        canaries.watch(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Have them written."""
        self._stream.flush()


@contextmanager
def logging_to(stream: TextIO) -> Iterator[None]:
    """Lines of JSON to `stream` for as long as the context lasts; then they go where they went before."""
    kept = structlog.get_config()
    _ends.append(stream)
    _log_to(stream)
    try:
        yield
    finally:
        write_lines()
        _ends.pop()
        _log_to(_ends[-1] if _ends else sys.stdout)
        structlog.configure(**kept)


def _log_to(stream: TextIO) -> None:
    with redirect_stdout(_Watched(stream)):
        configure_logging("info", "json")


@pytest.fixture(scope="package", autouse=True)
def logs_as_at_work() -> Iterator[None]:
    """Lines of JSON for as long as this package's tests run."""
    with logging_to(sys.stdout):
        yield
