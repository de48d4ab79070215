"""Too much at once: what has no room is refused at once and harmlessly, and nothing else notices.

Storage is held still until told, so that "at work" is a state and not a race: who looks for a key works.
Not held here: how much is too much, and what a refusal costs (`tests.bench.overload`).
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Final
from uuid import uuid4

import anyio
import httpx
import pytest

from gateway.api import edge
from tests.serving import PATIENCE_SECONDS, Json, Served, odd_vendor, problem, read, serving

BODY: Final = {"prompt": "a fox"}
AT_WORK: Final = 2
IN_LINE: Final = 3
ODD: Final = """
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
poll_min = "10ms"
poll_max = "20ms"
"""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(edge, "CREATES_AT_WORK", AT_WORK)
    monkeypatch.setattr(edge, "CREATES_MAX", AT_WORK + IN_LINE)
    monkeypatch.setattr(edge, "CREATES_SURE", AT_WORK + IN_LINE)
    monkeypatch.setattr(edge, "OTHERS_MAX", AT_WORK)
    with serving(tmp_path) as started:
        yield started


class Held:
    """A method of the store that stands still from its next call on."""

    def __init__(self, served: Served, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self._begun = threading.Semaphore(0)
        self._inside = self.most_at_once = 0
        self._served = served
        self._go = served.run(self._event)
        method: Callable[..., Awaitable[object]] = getattr(served.gateway.store, name)

        async def held(*arguments: object, **named: object) -> object:
            self._inside += 1
            self.most_at_once = max(self.most_at_once, self._inside)
            self._begun.release()
            try:
                await self._go.wait()
                return await method(*arguments, **named)
            finally:
                self._inside -= 1

        monkeypatch.setattr(served.gateway.store, name, held)

    @staticmethod
    async def _event() -> anyio.Event:
        return anyio.Event()

    def begun(self, count: int) -> None:
        """Return when so many calls have come in."""
        for _ in range(count):
            assert self._begun.acquire(timeout=PATIENCE_SECONDS)

    def let_go(self) -> None:
        """Go on, with all that stood still."""
        self._served.run(self._set)

    async def _set(self) -> None:
        self._go.set()


@pytest.fixture
def held(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Held]]:
    """Hold a method of the store; all are let go at the end, or nothing could end."""
    every: list[Held] = []

    def hold(name: str) -> Held:
        every.append(Held(served, monkeypatch, name))
        return every[-1]

    yield hold
    for one in every:
        one.let_go()


@pytest.fixture
def pool(held: object) -> Iterator[ThreadPoolExecutor]:
    """Threads to ask from; they have ended before what is held is let go at the end."""
    pool = ThreadPoolExecutor(2 * (AT_WORK + IN_LINE))
    yield pool
    pool.shutdown(wait=False, cancel_futures=True)


def create(served: Served, **headers: str) -> httpx.Response:
    return served.client.post("/v1/videos", json=BODY, headers=headers)


def create_with_key(served: Served) -> httpx.Response:
    return create(served, **{"Idempotency-Key": str(uuid4())})


def results(futures: list[Future[httpx.Response]]) -> list[httpx.Response]:
    return [future.result(PATIENCE_SECONDS) for future in futures]


def crowd(served: Served, pool: ThreadPoolExecutor, storage: Held, more: int) -> list[Future[httpx.Response]]:
    """As many creates as there are places, and `more`; the first of them stand at the storage."""
    at_work = [pool.submit(create_with_key, served) for _ in range(AT_WORK)]
    storage.begun(AT_WORK)
    return at_work + [pool.submit(create_with_key, served) for _ in range(IN_LINE + more)]


def refusals(futures: list[Future[httpx.Response]], count: int) -> list[httpx.Response]:
    """The first `count` answers, while the others stand still."""
    found: list[httpx.Response] = []
    waiting = set(futures)
    while len(found) < count:
        done, waiting = wait(waiting, PATIENCE_SECONDS, "FIRST_COMPLETED")
        assert done
        found += [future.result() for future in done]
    return found


def refused(answer: httpx.Response) -> Json:
    """The document of an answer that must be a whole, harmless refusal."""
    found = problem(answer, 503, "overloaded")
    assert (found["retryable"], found["charged"]) == (True, "no")
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers
    return found


def access_lines(served: Served, status: int) -> list[Json]:
    return [line for line in served.lines if line["event"] == "request" and line["status"] == status]


def test_what_has_no_room_is_refused_and_the_rest_is_served(
    served: Served, held: Callable[[str], Held], pool: ThreadPoolExecutor
) -> None:
    storage = held("idempotency_get")
    asked = crowd(served, pool, storage, more=4)
    for answer in refusals(asked, 4):
        refused(answer)
    assert [future.done() for future in asked].count(False) == AT_WORK + IN_LINE
    assert served.client.get("/v1/videos").status_code == 200
    assert served.client.get("/v1/models").status_code == 200
    storage.let_go()
    assert sorted(answer.status_code for answer in results(asked)) == [202] * (AT_WORK + IN_LINE) + [503] * 4
    assert storage.most_at_once == AT_WORK
    assert create(served).status_code == 202
    assert len(read(served.client.get("/v1/videos"))["data"]) == AT_WORK + IN_LINE + 1


def test_who_waits_for_a_commit_lets_another_work_and_is_here(
    served: Served, held: Callable[[str], Held], pool: ThreadPoolExecutor
) -> None:
    storage = held("video_add")
    asked = [pool.submit(create, served) for _ in range(AT_WORK + IN_LINE)]
    storage.begun(AT_WORK + IN_LINE)
    refused(create(served))
    storage.let_go()
    assert [answer.status_code for answer in results(asked)] == [202] * (AT_WORK + IN_LINE)


def test_a_refused_create_can_be_sent_again(
    served: Served, held: Callable[[str], Held], pool: ThreadPoolExecutor
) -> None:
    storage = held("idempotency_get")
    asked = crowd(served, pool, storage, more=1)
    refusals(asked, 1)
    headers = {"Idempotency-Key": "again", "X-Request-Id": "mine-1"}
    assert refused(create(served, **headers))["request_id"] == "mine-1"
    storage.let_go()
    results(asked)
    again = create(served, **headers)
    assert again.status_code == 202
    assert "idempotent-replayed" not in again.headers


def test_a_refusal_is_counted_and_not_logged_one_by_one(
    served: Served, held: Callable[[str], Held], pool: ThreadPoolExecutor
) -> None:
    storage = held("idempotency_get")
    asked = crowd(served, pool, storage, more=4)
    refusals(asked, 4)
    name = 'reelgate_http_request_duration_seconds_count{method="POST",route="/v1/videos",status="503"}'
    assert f"{name} 4.0" in served.client.get("/metrics").text
    assert access_lines(served, 503) == []
    said = [line for line in served.lines if line["event"] == "overloaded"]
    assert said
    assert said[0]["refused"] >= 1
    storage.let_go()
    results(asked)


def test_reads_have_a_bound_of_their_own_and_probes_have_none(
    served: Served, held: Callable[[str], Held], pool: ThreadPoolExecutor
) -> None:
    video = served.create()["id"]
    storage = held("video_get")
    asked = [pool.submit(served.client.get, f"/v1/videos/{video}") for _ in range(AT_WORK)]
    storage.begun(AT_WORK)
    refused(served.client.get('/v1/videos/a"b\\c'))
    assert served.client.head("/v1/videos").status_code == 503
    for path in edge.NEVER_REFUSED:
        assert served.client.get(path).status_code == 200, path
    assert create(served).status_code == 202
    storage.let_go()
    assert [answer.status_code for answer in results(asked)] == [200] * AT_WORK
    assert served.client.get(f"/v1/videos/{video}").status_code == 200


def test_who_waits_for_the_end_takes_no_place(
    served: Served, monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    begun, watch = threading.Semaphore(0), served.gateway.waiters.watch

    def watched(video_id: str) -> AbstractContextManager[asyncio.Event]:
        begun.release()
        return watch(video_id)

    monkeypatch.setattr(served.gateway.waiters, "watch", watched)
    video = served.create()["id"]
    waiting = []
    for _ in range(AT_WORK + IN_LINE):  # one after the other: all but the last are surely at rest
        waiting += [pool.submit(create, served, Prefer="wait=60")]
        assert begun.acquire(timeout=PATIENCE_SECONDS)
    for _ in range(AT_WORK):
        waiting += [pool.submit(served.client.get, f"/v1/videos/{video}?wait=60")]
        assert begun.acquire(timeout=PATIENCE_SECONDS)
    last = served.create()["id"]
    made = [entry["id"] for entry in read(served.client.get("/v1/videos"))["data"]]
    assert {video, last} < set(made)
    for each in made:
        served.finish(each)
    assert {read(answer)["status"] for answer in results(waiting)} == {"completed"}


def test_a_file_under_way_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "OTHERS_MAX", AT_WORK)
    sent, go = b"the first half, ", threading.Event()

    def send_file(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("Content-Length", str(2 * len(sent)))
        handler.end_headers()
        handler.wfile.write(sent)
        handler.wfile.flush()
        go.wait(PATIENCE_SECONDS)
        handler.wfile.write(sent)

    with (
        odd_vendor() as vendor, serving(tmp_path, more=ODD.format(url=vendor.url)) as served,
        ExitStack() as under_way,
    ):
        under_way.callback(go.set)
        vendor.send_file = send_file
        path = served.completed(provider="odd", resolution="1080p")["output"]["url"]
        files = [under_way.enter_context(served.client.stream("GET", path)) for _ in range(AT_WORK + 1)]
        assert [file.status_code for file in files] == [200] * len(files)
        assert served.client.get("/v1/videos").status_code == 200
        go.set()
        assert [file.read() for file in files] == [2 * sent] * len(files)


def head_of_create(served: Served, body_bytes: int) -> bytes:
    return (
        f"POST /v1/videos HTTP/1.1\r\nHost: {served.settings.server.listen}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {body_bytes}\r\n\r\n"
    ).encode()


def connected(served: Served) -> socket.socket:
    listen = served.settings.server.listen
    return socket.create_connection((listen.host, listen.port), PATIENCE_SECONDS)


def test_a_body_that_comes_slowly_takes_no_place(served: Served) -> None:
    body = json.dumps(BODY).encode()
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(connected(served))) for _ in range(AT_WORK + IN_LINE + 1)]
        for connection in slow:
            connection.sendall(head_of_create(served, len(body)) + body[:5])
            assert create(served).status_code == 202
        for connection in slow:
            connection.sendall(body[5:])
            assert connection.recv(12) == b"HTTP/1.1 202"


def test_a_large_body_is_refused_before_it_is_sent(
    served: Served, held: Callable[[str], Held], pool: ThreadPoolExecutor
) -> None:
    storage = held("idempotency_get")
    asked = crowd(served, pool, storage, more=1)
    refusals(asked, 1)
    with closing(connected(served)) as connection:
        connection.sendall(head_of_create(served, 9_000_000))
        assert connection.recv(12) == b"HTTP/1.1 503"
    storage.let_go()
    results(asked)
