"""One healthy patient for each test; the simulated vendors and the store they start from are made once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.keys import digest_of
from gateway.sandbox.server import SandboxSettings, running
from gateway.storage.rows import KeyRow
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from tests.doctor.patient import KEY, Patient, copied

ADMIN = KeyRow(
    id="key_1", name="olga", role="admin", digest=digest_of("olga"), hint="olga", created_at=1_760_000_000.0
)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the schema and one key."""
    path = tmp_path_factory.mktemp("store") / "reelgate.db"

    async def make() -> None:
        made = SqliteDatabase(path)
        await made.migrate()
        await Store(made).keys.add(ADMIN)
        await made.close()

    asyncio.run(make())
    return path


@pytest.fixture
async def patient(tmp_path: Path, database: Path) -> AsyncIterator[Patient]:
    """In good health."""
    copied(database, tmp_path)
    async with running(SandboxSettings(port=0, key=KEY)) as sandbox:
        yield Patient(tmp_path, sandbox.url)
        assert sandbox.ledger == []  # nothing was bought, whatever was looked at
