"""Fixtures that every test may use. Held here: nothing that only one folder needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import canaries


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
