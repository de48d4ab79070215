"""What is told of providers at a replica that makes no calls: what those that make them have met."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import pytest

from gateway.core.health import OPEN_AFTER
from gateway.engine import replica as engine_replica
from gateway.engine import reports
from tests.replicas.house import House, Json, Replica, house, read, seen

pytestmark = pytest.mark.anyio

BEAT_SECONDS: Final = 0.05
REFUSED: Final = "refused [[fault:key_revoked]]"
AWAY: Final = "nobody there [[fault:unavailable]]"


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(engine_replica, "BEAT_SECONDS", BEAT_SECONDS)
    async with house(tmp_path) as made:
        yield made


async def _shown(one: Replica, is_so: Callable[[Json], bool], name: str = "highway") -> Json:
    """The provider once this replica shows it so."""
    return await seen(partial(one.provider, name), is_so)


def _is(state: str) -> Callable[[Json], bool]:
    return lambda found: bool(found["state"] == state)


async def _gauge(one: Replica, state: str) -> float | None:
    """Whether the metrics of this replica have highway in that state, as scraped."""
    assert (await one.client.get("/metrics")).is_success
    labels = {"provider": "highway", "state": state}
    return one.gateway.telemetry.registry.get_sample_value("reelgate_provider_state", labels)


async def _measured(one: Replica, state: str) -> None:
    """Return once its metrics have highway in that state."""
    await seen(partial(_gauge, one, state), lambda value: value == 1)


async def _many_fail(front: Replica) -> None:
    """So many videos meet nobody at once that a circuit opens where they are followed."""
    await front.post("/v1/providers/highway/pause")
    for number in range(OPEN_AFTER):
        await front.create(f"{AWAY} {number}")
    await _shown(front, lambda found: bool(found["waiting"] == OPEN_AFTER))
    await front.post("/v1/providers/highway/resume")


async def test_a_refused_key_is_told_by_who_was_not_refused(place: House) -> None:
    async with place.replica("engine") as engine, place.replica("api") as front:
        assert (await front.provider("highway"))["state"] == "healthy"
        await front.create(REFUSED)
        found = await _shown(front, _is("paused"))
        assert (found["why"], found["last_error"], found["held_by"]) == ("auth", "auth", None)
        assert [await _gauge(one, "paused") for one in (front, engine)] == [1, 1]
        refuses = "reelgate_provider_refusing", {"provider": "highway"}
        assert front.gateway.telemetry.registry.get_sample_value(*refuses) == 1
        assert (await front.provider("narrow"))["state"] == "healthy"
        assert front.gateway.fleet.providers["highway"].state(front.gateway.now()) == "healthy"


async def test_a_circuit_that_is_open_elsewhere_is_told_and_a_resume_ends_that(place: House) -> None:
    async with place.replica("engine"), place.replica("api") as front:
        await _many_fail(front)
        found = await _shown(front, _is("open"))
        assert (found["why"], found["operations"]["submit"]) == ("unavailable", "open")
        assert await _gauge(front, "open") == 1
        for video in read(await front.client.get("/v1/videos"))["data"]:
            await front.post(f"/v1/videos/{video['id']}/cancel?detach=true")
        resumed = read(await front.post("/v1/providers/highway/resume"))
        assert (resumed["state"], resumed["why"]) == ("healthy", None)
        assert resumed["operations"] == {"submit": "closed", "poll": "closed"}
        await _shown(front, _is("healthy"))
        await _measured(front, "healthy")


async def test_jobs_and_what_waits_are_those_of_all_replicas(place: House) -> None:
    async with place.replicas(2) as two, place.replica("api") as front:
        for one in two:
            video = await one.create("a fox")
            await one.until(video["id"], lambda video: bool(video["status"] == "in_progress"))
        await two[0].create("nobody knows [[fault:reset_after_accept times=1]]")
        await two[0].create("has the only place", "narrow")
        for one in two:
            await one.create("waits", "narrow")

        def has_all(found: Json) -> bool:
            counts = found["in_flight"], found["waiting"], found["unknown"]
            return bool(counts == {"highway": (3, 0, 1), "narrow": (1, 2, 0)}[found["name"]])

        for one in (*two, front):
            for name in ("highway", "narrow"):
                await _shown(one, has_all, name)


async def test_an_order_goes_before_what_calls_have_met(place: House) -> None:
    async with place.replica("engine"), place.replica("api") as front:
        await front.create(REFUSED)
        await _shown(front, _is("paused"))
        drained = read(await front.post("/v1/providers/highway/drain"))
        assert (drained["state"], drained["why"]) == ("draining", "an operator said drain")
        assert drained["last_error"] == "auth"
        (entry,) = read(await front.client.get("/v1/audit"))["data"]
        assert entry["before"]["state"] == "paused"


async def test_of_a_replica_of_an_older_version_its_jobs_are_told(place: House) -> None:
    async with place.replica("engine") as engine, place.replica("api") as front:
        video = await front.create("a fox")
        await front.until(video["id"], lambda video: bool(video["status"] == "in_progress"))
        await front.create(REFUSED)
        await _shown(front, _is("paused"))
        await _beats_as_before(place, engine)
        found = await _shown(front, _is("healthy"))
        assert (found["in_flight"], found["last_error"]) == (1, None)


async def _beats_as_before(place: House, engine: Replica) -> None:
    """Have its row beaten as by the version before, which knows of no reports."""
    connection = await asyncpg.connect(place.url)
    try:
        await connection.execute(
            "create function forget() returns trigger language plpgsql as "
            "$$ begin new.met := null; return new; end $$"
        )
        await connection.execute(
            "create trigger forgets before update on replicas for each row "
            f"when (new.id = '{engine.name}') execute function forget()"
        )
    finally:
        await connection.close()


async def test_what_a_newer_version_tells_in_words_of_its_own_stops_nobody(place: House) -> None:
    async with place.replica("api") as front:
        connection = await asyncpg.connect(place.url)
        await connection.execute(
            "insert into replicas (id, place, role, version, started_at, beat_at, following, met) values "
            "('newer', '', 'engine', '9', 0, extract(epoch from now()) + 3600, $1, $2)",
            '{"highway": 7}', '{"highway": {"state": "asleep", "in_flight": 7}}',
        )
        await connection.close()
        found = await _shown(front, lambda found: bool(found["in_flight"] == 7))
        assert found["state"] == "healthy"


async def test_nobody_tells_for_longer_than_it_lives(place: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.replica("api") as front:
        async with place.replica("engine"):
            await front.create(REFUSED)
            await _shown(front, _is("paused"))
        assert (await _shown(front, _is("healthy")))["last_error"] is None  # it said goodbye
        await _left_without_a_word(place)
        await _shown(front, _is("paused"))
        monkeypatch.setattr(reports, "LEASE_SECONDS", 0.0)  # as if it had been silent for so long
        await _shown(front, _is("healthy"))


async def _left_without_a_word(place: House) -> None:
    """The row of one that was killed, which no engine is there to bury."""
    connection = await asyncpg.connect(place.url)
    await connection.execute("update replicas set ended_at = null, beat_at = extract(epoch from now())")
    await connection.close()


async def test_who_follows_tells_in_metrics_what_it_has_met_itself(place: House) -> None:
    async with place.replicas(2) as (one, other):
        await one.create(REFUSED)
        assert (await _shown(other, _is("paused")))["why"] == "auth"
        assert [await _gauge(each, "paused") for each in (one, other)] == [1, 0]
        video = await other.create("is sent all the same")
        assert (await other.until(video["id"], lambda video: bool(video["attempts"])))["status"] != "failed"


async def test_a_resume_where_it_was_not_met_is_told_at_once(place: House) -> None:
    async with place.replicas(2) as (one, other):
        await one.create(REFUSED)
        await _shown(other, _is("paused"))
        answer = await other.post("/v1/providers/highway/resume")
        assert answer.status_code == httpx.codes.OK
        assert read(answer)["state"] == "healthy"
        await _shown(one, _is("healthy"))
