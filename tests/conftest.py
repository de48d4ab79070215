"""Fixtures that every test may use. Held here: nothing that only one folder needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import canaries


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where only long tests are asked for, a file that marks none is not even imported."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if is_test and config.option.markexpr == "long":
        return "mark.long" not in collection_path.read_text("utf-8") or None
    return None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Only asyncio: it is what the gateway runs on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def no_secret_is_logged() -> Iterator[None]:
    """Fails a test in which some gateway, of this process or of another, logged what looks like a secret."""
    yield
    found = canaries.found[:]
    canaries.found.clear()
    assert not found, "\n".join(found)
