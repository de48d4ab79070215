"""Limits of a key and of a team over real sockets: by one process on SQLite, by two replicas on PostgreSQL.

What is at the vendor at once is told by the vendor's own ledger. Not held here: the line by itself
(`tests/engine/test_accounts.py`), requests per minute of one process (`tests/api/test_rates.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
from msgspec.structs import replace

from gateway.api.auth import make_key
from gateway.core.grants import Grant, Limits
from tests.replicas.house import RENDER_SECONDS, House, Replica, house, reached, read
from tests.serving import problem

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("database", ["sqlite", "postgres"])]

CROWD: Final = 200
QUEUED: Final = 10
PASSING: Final = "passes them"


@asynccontextmanager
async def limited(
    folder: Path, database: str, team: str = ""
) -> AsyncIterator[tuple[House, list[Replica]]]:
    """A gateway whose callers have keys: two replicas of it where the database is shared."""
    is_shared = database == "postgres"
    teams = f"[teams.red]\n{team}\n"
    async with (
        house(folder, is_shared=is_shared, limited=teams) as place,
        place.replicas(2 if is_shared else 1) as replicas,
    ):
        yield place, replicas


async def come(replicas: list[Replica], name: str, limits: Limits, team: str | None = None) -> str:
    """Have the clients of these replicas come with a new key; its id."""
    row, secret = make_key(name, "caller", time.time())
    row = replace(row, team=team, grant=Grant(limits=limits))
    await replicas[0].gateway.store.keys.add(row)
    for replica in replicas:
        replica.client.headers["Authorization"] = f"Bearer {secret}"
    return row.id


def begun(place: House) -> list[float]:
    """When the vendors took each video but those that pass."""
    return [entry.at for entry in place.sandbox.ledger if entry.prompt != PASSING]


def most_at_once(place: House) -> int:
    """How many of those the vendors have had at the same moment, each for as long as it renders."""
    times = begun(place)
    return max(sum(at - RENDER_SECONDS < other <= at for other in times) for at in times)


async def all_done(place: House, replicas: list[Replica], ids: list[str], cap: int) -> None:
    """Let everything render to its end, as many at once as may."""
    sent = 0
    while sent < len(ids):
        wanted = min(sent + cap, len(ids))
        await reached(lambda: len(begun(place)) >= wanted)  # noqa: B023 - called before the next
        sent = len(begun(place))
        place.finish()
    for video_id in ids:
        assert (await replicas[0].until(video_id, lambda video: video["status"] != "queued"))["id"]
    place.finish()
    ended = [await replica.video(video_id, wait=30) for video_id in ids for replica in replicas[-1:]]
    assert {video["status"] for video in ended} == {"completed"}


async def test_a_key_never_has_more_at_vendors_than_it_may(tmp_path: Path, database: str) -> None:
    async with limited(tmp_path, database) as (place, replicas):
        await come(replicas, "capped", Limits(max_in_flight=3))
        orders = [replicas[number % len(replicas)].create(f"capped {number}") for number in range(12)]
        made = await asyncio.gather(*orders)
        stages = [video["stage"] for video in made]
        assert stages.count("submitting") <= 3
        assert stages.count("waiting") >= 9
        await reached(lambda: len(place.sandbox.ledger) == 3)
        passing = dict(replicas[0].client.headers)
        await come(replicas, "free", Limits())
        other = await replicas[0].create(PASSING)
        await replicas[0].until(other["id"], lambda video: bool(video["status"] == "in_progress"))
        assert sum(prompt.startswith("capped") for prompt in place.prompts()) == 3
        for replica in replicas:
            replica.client.headers["Authorization"] = passing["authorization"]
        await all_done(place, replicas, [video["id"] for video in made], 3)
        assert most_at_once(place) == 3
        assert len(begun(place)) == 12


async def test_a_teams_keys_share_its_places(tmp_path: Path, database: str) -> None:
    async with limited(tmp_path, database, "max_in_flight = 2") as (place, replicas):
        made = []
        for name in ("one", "other"):
            await come(replicas, name, Limits(), "red")
            orders = [replicas[number % len(replicas)].create(f"{name} {number}") for number in range(4)]
            made += await asyncio.gather(*orders)
        await all_done(place, replicas, [video["id"] for video in made], 2)
        assert most_at_once(place) == 2
        assert len(place.sandbox.ledger) == 8


async def test_of_many_that_come_at_once_exactly_as_many_wait_as_may(
    tmp_path: Path, database: str
) -> None:
    async with limited(tmp_path, database) as (place, replicas):
        await come(replicas, "other", Limits())
        first = await replicas[0].create("fills the only place", "narrow")
        await replicas[0].until(first["id"], lambda video: bool(video["status"] == "in_progress"))
        await come(replicas, "crowd", Limits(max_queued=QUEUED))
        answers = await asyncio.gather(*(
            _asked(replicas[number % len(replicas)], f"crowd {number}") for number in range(CROWD)
        ))
        taken = [answer for answer in answers if answer.status_code == httpx.codes.ACCEPTED]
        assert len(taken) == QUEUED
        refused = [answer for answer in answers if answer not in taken]
        for answer in refused:
            document = problem(answer, 429, "quota_exceeded")
            assert document["charged"] == "no"
            assert str(QUEUED) in document["detail"]
        counts = await replicas[0].gateway.store.counts()
        assert counts == {"in_progress": 1, "queued": QUEUED}
        left = read(await replicas[0].post(f"/v1/videos/{read(taken[0])['id']}/cancel"))
        assert left["status"] == "cancelled"
        again = [(await _asked(replicas[-1], "once more")).status_code for _ in range(2)]
        assert again == [202, 429], "a place in the line came free"
        assert len(place.sandbox.ledger) == 1


async def _asked(replica: Replica, prompt: str) -> httpx.Response:
    """The answer to a create, asked for again while the gateway has too much to do."""
    body = {"prompt": prompt, "duration": 5, "provider": "narrow"}
    while True:
        answer = await replica.post("/v1/videos", body)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            return answer


async def test_replicas_share_the_requests_of_a_minute(tmp_path: Path, database: str) -> None:
    async with limited(tmp_path, database) as (_, replicas):
        await come(replicas, "asks", Limits(requests_per_minute=20))
        await reached(lambda: all(one.gateway.engine.doors == len(replicas) for one in replicas))
        for replica in replicas:
            statuses = [(await replica.client.get("/v1/videos")).status_code for _ in range(24)]
            share = 20 // len(replicas)
            assert statuses == [200] * share + [429] * (24 - share)
