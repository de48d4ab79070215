"""Event streams over a real socket: what is sent, where it ends, who may follow, and a thousand cuts.

Order is asserted by what was read, not by a clock. Not held here: positions (`tests.core.test_positions`),
several replicas (`tests.replicas.test_streams`).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NoReturn, cast

import httpx
import msgspec
import pytest
from litestar.types import HTTPScope, Message

from gateway.api import auth, hub, streams, topics
from gateway.api.topics import CallerFollower
from gateway.core.positions import Batch, Position
from gateway.storage.db import StorageError
from gateway.storage.stream import ForeignPosition, Shown
from tests.serving import PATIENCE_SECONDS, Json, Served, problem, read, serving
from tests.sse import Caller, Told

CUTS: Final = (200, pytest.param(1_000, marks=pytest.mark.long))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("streams"), auth="keys") as started:
        yield started


@pytest.fixture
def client(served: Served, request: pytest.FixtureRequest) -> httpx.Client:
    """A caller of the test's own."""
    return served.as_caller(request.node.name)


def timeline(client: httpx.Client, video_id: str) -> list[Json]:
    found: list[Json] = read(client.get(f"/v1/videos/{video_id}/timeline"))["data"]
    return found


def followed(client: httpx.Client, caller: Caller) -> list[Told]:
    """What a stream that ends by itself tells."""
    headers = {} if caller.last is None else {"Last-Event-ID": caller.last}
    with client.stream("GET", caller.path, headers=headers) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        for part in answer.iter_raw():
            caller.feed(part)
    return caller.got


def test_a_finished_video_is_told_from_its_beginning_to_its_end(served: Served, client: httpx.Client) -> None:
    video_id = served.completed(client)["id"]
    caller = Caller(f"/v1/videos/{video_id}/events")
    told = followed(client, caller)
    assert [{name: each.data[name] for name in each.data if name != "video_id"} for each in told] == timeline(
        client, video_id
    )
    assert {each.data["video_id"] for each in told} == {video_id}
    assert [each.id for each in told] == [str(each.data["seq"]) for each in told]
    assert [each.type for each in told] == [each.data["type"] for each in told]
    assert (told[0].type, told[-1].type, caller.retry_ms) == ("accepted", "completed", streams.RETRY_MS)


def test_a_video_is_told_as_it_happens(served: Served, client: httpx.Client) -> None:
    video_id = served.rendering(client)["id"]
    caller = Caller(f"/v1/videos/{video_id}/events")
    with client.stream("GET", caller.path) as answer:
        parts = answer.iter_raw()
        while "accepted_by_vendor" not in [each.type for each in caller.got]:
            caller.feed(next(parts))
        served.finish(video_id, client)
        for part in parts:
            caller.feed(part)
    assert [each.data["seq"] for each in caller.got] == [each["seq"] for each in timeline(client, video_id)]
    assert caller.got[-1].type == "completed"


@pytest.mark.parametrize("how", ["header", "query"])
def test_who_comes_again_gets_what_comes_after(served: Served, client: httpx.Client, how: str) -> None:
    path = f"/v1/videos/{served.completed(client)['id']}/events"
    last = len(followed(client, Caller(path)))
    caller = Caller(path if how == "header" else f"{path}?last_event_id=2", "2" if how == "header" else None)
    assert [each.id for each in followed(client, caller)] == [str(number) for number in range(3, last + 1)]
    assert client.get(path, headers={"Last-Event-ID": str(last)}).status_code == 204


@pytest.mark.parametrize(("path", "last"), [
    ("video", "-1"), ("video", "x"), ("video", "9999"), ("video", "1" * 40), ("video", "\u0661"),
    ("all", "7"), ("all", "0123abcd-5,6"), ("all", "x" * 9_000),
])
def test_what_is_no_position_is_refused(served: Served, client: httpx.Client, path: str, last: str) -> None:
    place = f"/v1/videos/{served.create(client)['id']}/events" if path == "video" else "/v1/events"
    found = problem(client.get(place, params={"last_event_id": last}), 400, "invalid_request")
    assert found["param"] == "last_event_id"


def test_a_position_of_another_database_is_gone(client: httpx.Client) -> None:
    problem(client.get("/v1/events", headers={"Last-Event-ID": "00000000-1"}), 410, "expired")


def test_nobody_follows_what_is_not_theirs(served: Served, client: httpx.Client) -> None:
    video_id = served.completed(client)["id"]
    other = served.as_caller("somebody else")
    problem(other.get(f"/v1/videos/{video_id}/events"), 404, "not_found")
    problem(served.client.get("/v1/events"), 401, "authentication_failed")
    problem(served.client.get(f"/v1/videos/{video_id}/events"), 401, "authentication_failed")


def test_places_are_bounded_and_come_back(
    served: Served, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "STREAMS_OF_A_CALLER_MAX", 2)
    other = served.as_caller("another")
    with client.stream("GET", "/v1/events"), client.stream("GET", "/v1/events"):
        answer = client.get("/v1/events")
        problem(answer, 429, "rate_limited")
        assert int(answer.headers["retry-after"]) > 0
        monkeypatch.setattr(hub, "STREAMS_MAX", served.gateway.hub.count)
        problem(other.get("/v1/events"), 503, "overloaded")
        monkeypatch.setattr(hub, "STREAMS_MAX", 1_000)
        with other.stream("GET", "/v1/events") as answer:
            assert answer.status_code == 200


def test_who_is_gone_is_noticed_at_the_next_heartbeat(
    served: Served, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.01)
    video_id = served.rendering(client)["id"]
    caller, before = Caller(f"/v1/videos/{video_id}/events"), served.gateway.hub.count
    with client.stream("GET", caller.path) as answer:
        parts = answer.iter_raw()
        while caller.beats < 3:
            caller.feed(next(parts))
    served.run(_gone, served, before)
    served.finish(video_id, client)


async def _gone(served: Served, before: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while served.gateway.hub.count > before:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.01)


def _stream(served: Served, owner: str, follower: CallerFollower) -> streams.Stream:
    caller = auth.Caller(owner, owner, "caller", owner)
    return streams.Stream(served.gateway.hub, served.gateway.door.guests, caller, follower, b"")


def test_who_takes_nothing_is_cut_off_without_an_end(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SEND_SECONDS", 0.01)
    owner = "a caller that takes nothing"

    async def stuck() -> tuple[list[Json], int]:
        store, sent = served.gateway.hub, list[Json]()
        store.enter(owner)
        stream = _stream(served, owner, await store.caller(owner, None))

        async def send(message: Message) -> None:
            sent.append(dict(message))
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        async def receive() -> NoReturn:
            await asyncio.Event().wait()
            raise AssertionError

        before = store.count
        await stream(cast("HTTPScope", {"type": "http"}), receive, send)
        return sent, before - store.count

    sent, places = served.run(stuck)
    assert [message.get("more_body") for message in sent] == [None, True]
    assert places == 1


def test_a_stream_whose_position_is_lost_is_cut_off_without_an_end(served: Served) -> None:
    owner, nowhere = "a caller of another time", Position("00000000", 1)

    async def lost() -> tuple[list[Json], int]:
        store, sent = served.gateway.hub, list[Json]()
        store.enter(owner)
        stream = _stream(served, owner, await store.caller(owner, nowhere))

        async def send(message: Message) -> None:
            sent.append(dict(message))

        async def receive() -> NoReturn:
            raise AssertionError

        before = store.count
        await stream(cast("HTTPScope", {"type": "http"}), receive, send)
        return sent, before - store.count

    sent, places = served.run(lost)
    assert [message.get("more_body") for message in sent] == [None, True]
    assert places == 1


@pytest.mark.parametrize(("error", "is_reported"), [
    (ForeignPosition(), False), (StorageError("away"), False), (msgspec.ValidationError("odd"), True),
])
def test_a_look_that_fails_is_not_the_last(
    served: Served, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, error: Exception,
    is_reported: bool,
) -> None:
    monkeypatch.setattr(hub, "FAILED_SECONDS", 0.01)
    monkeypatch.setattr(streams, "STREAM_SECONDS", 5.0)
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.5)
    log, caller, reported = served.gateway.store.log, Caller("/v1/events"), served.log.count('"step_failed"')
    since, failing = log.since, [error]

    async def shaky(owner: str, position: Position, shown: Shown) -> Batch:
        if failing:
            raise failing.pop()
        return await since(owner, position, shown)

    with client.stream("GET", caller.path) as answer:
        parts = answer.iter_raw()
        caller.feed(next(parts))
        monkeypatch.setattr(log, "since", shaky)
        served.create(client)
        for part in parts:
            caller.feed(part)
            if caller.got:
                break
    assert [each.type for each in caller.got][:1] == ["accepted"]
    assert served.log.count('"step_failed"') - reported == is_reported


def test_a_stream_has_to_come_again_after_a_while(
    served: Served, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STREAM_SECONDS", 0.0)
    caller = Caller(f"/v1/videos/{served.rendering(client)['id']}/events")
    assert "accepted" in [each.type for each in followed(client, caller)]
    assert followed(client, Caller("/v1/events")) == []


@pytest.mark.parametrize("cuts", CUTS)
def test_cuts_lose_nothing_and_repeat_nothing(
    served: Served, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, cuts: int
) -> None:
    """Of all of a caller's videos, each connection cut at some byte, while videos come and end."""
    monkeypatch.setattr(topics, "KEPT_MAX", 2)
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.01)
    chance, caller = random.Random(5), Caller("/v1/events")
    _read_some(client, caller, 1, 10_000)  # from here on everything is told
    made, living = list[str](), Future[Json]()
    with ThreadPoolExecutor(1) as pool:
        for number in range(cuts):
            if number % 20 == 0:
                made.append(pool.submit(lambda: str(served.create(client)["id"])).result(PATIENCE_SECONDS))
                living = pool.submit(served.finish, made[-1], client)
            _read_some(client, caller, chance.choice((1, 1, 1, 2, 3)), chance.randint(1, 2_500))
        living.result(PATIENCE_SECONDS)
    wanted = [(video_id, int(entry["seq"])) for video_id in made for entry in timeline(client, video_id)]
    while len(caller.got) < len(wanted):
        _read_some(client, caller, 1, 100_000)
    got = [each.key for each in caller.got]
    assert sorted(got) == sorted(wanted)
    assert sorted(got, key=lambda key: key[0]) == sorted(got)  # those of one video in their order


def _read_some(client: httpx.Client, caller: Caller, parts: int, size: int) -> None:
    """Read a connection for so many parts and bytes: what is not whole then is lost.

    The server may cut it, too: of so many beats on a busy machine one takes a caller for gone now and then.
    """
    caller.cut()
    headers = {} if caller.last is None else {"Last-Event-ID": caller.last}
    with suppress(httpx.RemoteProtocolError), client.stream("GET", caller.path, headers=headers) as answer:
        assert answer.status_code == httpx.codes.OK
        for part in itertools.islice(answer.iter_raw(), parts):
            caller.feed(part[:size])
            size -= len(part)
            if size <= 0:
                return
