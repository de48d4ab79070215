"""What the tests of several verbs have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.stub import Stub, stubbed


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stubbed() as started:
        yield started
