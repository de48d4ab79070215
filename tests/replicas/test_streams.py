"""Streams over several replicas: what one saves is told by all, and a caller may come again anywhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.api import hub, streams
from gateway.storage import postgres_ear
from tests.replicas.house import PATIENCE_SECONDS, House, Replica, house, reached, read
from tests.sse import Caller

pytestmark = pytest.mark.anyio

CUTS = 60
NEVER_SECONDS = 3_600.0


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


async def timeline(one: Replica, video_id: str) -> list[tuple[str, int]]:
    listed = read(await one.client.get(f"/v1/videos/{video_id}/timeline"))["data"]
    return [(video_id, int(entry["seq"])) for entry in listed]


async def _follow_to_the_end(caller: Caller, one: Replica) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await caller.follow(one.client)


@pytest.mark.parametrize("way", ["told", "looking at the rows", "the probe"])
async def test_a_video_is_told_where_it_is_not_followed(
    place: House, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    looks = 0.1 if way == "looking at the rows" else NEVER_SECONDS
    monkeypatch.setattr(hub, "LOOK_SECONDS", looks)
    if way != "told":
        monkeypatch.setattr(postgres_ear, "CHANNEL", "elsewhere")  # as behind a pooler
        monkeypatch.setattr(postgres_ear, "PROBE_SECONDS", 0.4 if way == "the probe" else NEVER_SECONDS)
    async with place.replicas(2) as (owner, other):
        video = await owner.create("followed from elsewhere")
        callers = [Caller(f"/v1/videos/{video['id']}/events") for _ in range(3)]
        following = [asyncio.create_task(_follow_to_the_end(caller, other)) for caller in callers]
        await owner.until(video["id"], lambda video: bool(video["status"] == "in_progress"))
        place.finish()
        await asyncio.gather(*following)
        wanted = await timeline(owner, video["id"])
        assert [[told.key for told in caller.got] for caller in callers] == [wanted] * 3


async def _read_some(caller: Caller, one: Replica, parts: int, size: int) -> None:
    """Read a connection for so many parts and bytes: what is not whole then is lost."""
    async with caller.connected(one.client) as arriving:
        assert caller.status == httpx.codes.OK, (caller.last, caller.got[-3:])
        async for part in arriving:
            caller.feed(part[:size])
            size, parts = size - len(part), parts - 1
            if size <= 0 or not parts:
                return


async def _cut(caller: Caller, some: list[Replica], chance: random.Random, made: list[str]) -> None:
    for number in range(CUTS):
        if number % 15 == 0:
            video = await chance.choice(some).create(f"number {len(made)}")
            made.append(video["id"])
        await _read_some(caller, chance.choice(some), chance.choice((1, 1, 2)), chance.randint(1, 2_500))


async def test_cuts_between_replicas_and_a_takeover_lose_and_repeat_nothing(
    place: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.01)
    chance, caller, made = random.Random(3), Caller("/v1/events"), list[str]()
    async with place.replica() as stays:
        async with place.replica() as leaves:
            await _read_some(caller, leaves, 1, 10_000)  # from here on everything is told
            await _cut(caller, [stays, leaves], chance, made)
            place.finish()
            await _cut(caller, [stays, leaves], chance, made)
        await _cut(caller, [stays], chance, made)  # what the other followed is taken over
        place.finish()
        for video_id in made:
            await stays.until(video_id, lambda video: bool(video["status"] == "completed"))
        wanted = [key for video_id in made for key in await timeline(stays, video_id)]
        while len(caller.got) < len(wanted):
            await _read_some(caller, stays, 1, 1_000_000)
    got = [told.key for told in caller.got]
    assert sorted(got) == sorted(wanted)
    assert sorted(got, key=lambda key: key[0]) == sorted(got)  # those of one video in their order


async def test_all_of_a_callers_streams_at_one_replica_share_its_reads(
    place: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.replicas(2) as (owner, other):
        callers = [Caller("/v1/events") for _ in range(20)]
        log, reads = other.gateway.store.log, list[str]()
        since = log.since

        async def counted(*arguments: object) -> object:
            reads.append("once")
            return await since(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(log, "since", counted)
        following = [asyncio.create_task(caller.follow(other.client)) for caller in callers]
        await reached(lambda: all(caller.last is not None for caller in callers))  # where each begins
        video = await owner.create("told to many")
        await owner.until(video["id"], lambda video: bool(video["status"] == "in_progress"))
        place.finish()
        await owner.until(video["id"], lambda video: bool(video["status"] == "completed"))
        wanted = await timeline(owner, video["id"])
        await reached(lambda: all(len(caller.got) == len(wanted) for caller in callers))
        other.gateway.hub.release()
        await asyncio.gather(*following)
    assert all([told.key for told in caller.got] == wanted for caller in callers)
    assert len(reads) <= 3 * len(wanted), "each stream reads by itself"
