"""Keys over several replicas: what ends at one ends at all, told of or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.api import auth
from gateway.api.auth import make_key
from gateway.core.keys import Role
from gateway.storage import postgres_ear
from tests.replicas.house import PATIENCE_SECONDS, House, Replica, house, reached, read

pytestmark = pytest.mark.anyio

NEVER_SECONDS = 3_600.0
UNAUTHORIZED = httpx.codes.UNAUTHORIZED


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, limited="") as made:
        yield made


async def new_key(one: Replica, name: str, role: Role) -> tuple[str, dict[str, str]]:
    """A key's id, and the headers of who has it."""
    row, secret = make_key(name, role, one.gateway.now())
    await one.gateway.store.keys.add(row)
    return row.id, {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("way", ["told", "looking at the rows"])
async def test_a_key_that_one_replica_ends_is_refused_by_all(
    place: House, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    is_told = way == "told"
    monkeypatch.setattr(auth, "KNOWN_SECONDS", NEVER_SECONDS if is_told else 0.0)
    monkeypatch.setattr(auth, "LOOK_SECONDS", NEVER_SECONDS if is_told else 0.05)
    if not is_told:
        monkeypatch.setattr(postgres_ear, "CHANNEL", "elsewhere")  # as behind a pooler
        monkeypatch.setattr(postgres_ear, "PROBE_SECONDS", NEVER_SECONDS)
    async with place.replicas(2) as (one, other):
        _, admin = await new_key(one, "admin", "admin")
        key_id, headers = await new_key(one, "ann", "caller")
        assert (await other.client.get("/v1/videos", headers=headers)).status_code == httpx.codes.OK
        async with asyncio.timeout(PATIENCE_SECONDS):
            async with other.client.stream("GET", "/v1/events", headers=headers) as answer:
                parts = answer.aiter_raw()
                await anext(parts)
                read(await one.client.delete(f"/v1/keys/{key_id}", headers=admin))
                assert [part async for part in parts] == []  # to its end
        guests = other.gateway.door.guests
        await reached(lambda: not guests.digests)
        for replica in (one, other):
            refused = await replica.client.get("/v1/videos", headers=headers)
            assert refused.status_code == UNAUTHORIZED
