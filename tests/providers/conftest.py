"""Both event loops: the one that `serve` runs on, and the standard library's, as in the other tests."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The name of the backend, and what it is told."""
    return "asyncio", {"use_uvloop": request.param}
