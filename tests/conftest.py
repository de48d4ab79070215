"""Fixtures that every test may use. Held here: nothing that only one folder needs."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Only asyncio: it is what the gateway runs on."""
    return "asyncio"
