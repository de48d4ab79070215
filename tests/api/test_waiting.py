"""Callers that wait: `?wait=` and `Prefer: wait=`, woken by the end itself, never later than they asked.

Order is asserted by events, not by a clock: a test sees the caller begin to wait, then ends the render.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from tests.serving import PATIENCE_SECONDS, RENDER_SECONDS, Served, problem, read, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("waiting")) as started:
        yield started


class Lobby:
    """Callers in threads of their own, and sight of those who have begun to wait."""

    def __init__(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pool = ThreadPoolExecutor(8)
        self._entered = threading.Semaphore(0)
        watch: Callable[[str], AbstractContextManager[object]] = served.gateway.waiters.watch

        def seen(video_id: str) -> AbstractContextManager[object]:
            self._entered.release()
            return watch(video_id)

        monkeypatch.setattr(served.gateway.waiters, "watch", seen)

    def call(self, work: Callable[[], httpx.Response]) -> Future[httpx.Response]:
        """Let `work` be done in a thread; returns when it has begun to wait."""
        answer = self._pool.submit(work)
        self.meet()
        assert not answer.done()
        return answer

    def meet(self) -> None:
        """Return when one more caller has begun to wait."""
        assert self._entered.acquire(timeout=PATIENCE_SECONDS)

    def is_empty(self) -> bool:
        """Whether nobody has begun to wait since the last `call`."""
        return not self._entered.acquire(blocking=False)

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
def lobby(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lobby]:
    made = Lobby(served, monkeypatch)
    yield made
    made.close()


def test_all_who_wait_are_woken_by_the_end(served: Served, lobby: Lobby) -> None:
    video_id = served.rendering()["id"]
    path = f"/v1/videos/{video_id}"
    first = lobby.call(lambda: served.client.get(path, params={"wait": 60}))
    second = lobby.call(lambda: served.client.get(path, headers={"Prefer": "wait=60"}))
    served.clock.now += RENDER_SECONDS
    answers = [first.result(PATIENCE_SECONDS), second.result(PATIENCE_SECONDS)]
    assert [read(answer)["status"] for answer in answers] == ["completed", "completed"]
    assert all("retry-after" not in answer.headers for answer in answers)
    assert [answer.headers.get("preference-applied") for answer in answers] == [None, "wait=60"]
    assert len({answer.headers["etag"] for answer in answers}) == 1


def test_a_create_that_prefers_to_wait_answers_with_the_finished_video(served: Served, lobby: Lobby) -> None:
    headers = {"Prefer": "respond-async, wait=60"}
    creating = lobby.call(lambda: served.client.post("/v1/videos", json={"prompt": "a fox"}, headers=headers))
    video_id = read(served.client.get("/v1/videos", params={"limit": 1}))["first_id"]
    served.finish(video_id)
    answer = creating.result(PATIENCE_SECONDS)
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=60")
    assert (read(answer)["id"], read(answer)["status"]) == (video_id, "completed")
    assert answer.headers["location"] == f"/v1/videos/{video_id}"
    assert "openai-poll-after-ms" not in answer.headers


def test_a_cancel_wakes_too(served: Served, lobby: Lobby) -> None:
    path = f"/v1/videos/{served.rendering()['id']}"
    asked = lobby.call(lambda: served.client.get(path, params={"wait": 60}))
    served.client.post(f"{path}/cancel", params={"detach": "true"})
    assert read(asked.result(PATIENCE_SECONDS))["status"] == "cancelled"


def test_whoever_has_waited_long_enough_gets_the_video_as_it_is(served: Served) -> None:
    video_id = served.rendering()["id"]
    answer = served.client.get(f"/v1/videos/{video_id}", headers={"Prefer": 'wait="1"'})
    assert (answer.headers["preference-applied"], read(answer)["status"]) == ("wait=1", "in_progress")
    assert "retry-after" in answer.headers
    served.finish(video_id)


def test_nobody_waits_who_did_not_ask_or_has_no_need_to(served: Served, lobby: Lobby) -> None:
    video_id = served.rendering()["id"]
    path = f"/v1/videos/{video_id}"
    ways: list[dict[str, Any]] = [
        {}, {"params": {"wait": "0"}}, {"headers": {"Prefer": "wait=0"}},
        {"headers": {"Prefer": "handling=strict"}},
        {"params": {"wait": "0"}, "headers": {"Prefer": "wait=60"}},
    ]  # fmt: skip
    assert {served.client.get(path, **way).status_code for way in ways} == {200}
    served.finish(video_id)
    assert served.client.get(path, params={"wait": 60}).status_code == 200
    assert lobby.is_empty()


@pytest.mark.parametrize(
    ("preferred", "applied"), [("wait=3600", "wait=60"), ("WAIT=60", "wait=60"), ("wait=0", "wait=0")]
)
def test_a_preference_is_clamped_and_said_to_be(served: Served, preferred: str, applied: str) -> None:
    path = f"/v1/videos/{served.completed()['id']}"
    assert served.client.get(path, headers={"Prefer": preferred}).headers["preference-applied"] == applied


@pytest.mark.parametrize("preferred", ["wait", "wait=", "wait=-1", "wait=soon", "nowait=5", "respond-async"])
def test_another_preference_is_none_of_ours(served: Served, preferred: str) -> None:
    path = f"/v1/videos/{served.completed()['id']}"
    answer = served.client.get(path, headers={"Prefer": preferred})
    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("wait", ["61", "-1", "soon", "1.5", ""])
def test_a_wait_out_of_range_is_refused(served: Served, wait: str) -> None:
    found = problem(served.client.get(f"/v1/videos/video_0?wait={wait}"), 400, "invalid_request")
    assert found["errors"][0]["pointer"] == "?wait"


def test_a_caller_who_goes_away_leaves_the_others_waiting(served: Served, lobby: Lobby) -> None:
    video_id = served.rendering()["id"]
    path = f"/v1/videos/{video_id}"
    staying = lobby.call(lambda: served.client.get(path, params={"wait": 60}))
    listen = served.settings.server.listen
    with socket.create_connection((listen.host, listen.port)) as leaving:
        leaving.sendall(f"GET {path}?wait=60 HTTP/1.1\r\nHost: {listen}\r\n\r\n".encode())
        lobby.meet()
    assert not staying.done()
    assert served.finish(video_id)["status"] == "completed"
    assert read(staying.result(PATIENCE_SECONDS))["status"] == "completed"


def test_nearly_all_polls_of_a_running_video_find_nothing_new(served: Served) -> None:
    """A caller asks for each second of a render, whose vendor is asked as often: what it says is no news."""
    video_id, known, statuses = served.rendering()["id"], "", list[int]()
    for _ in range(int(RENDER_SECONDS) - 1):
        served.clock.now += 1.0
        served.run(_polled_twice, served)
        answer = served.client.get(f"/v1/videos/{video_id}", headers={"If-None-Match": known})
        known = answer.headers["etag"]
        statuses.append(answer.status_code)
    served.finish(video_id)
    assert statuses.count(304) / len(statuses) >= 0.95, statuses


async def _polled_twice(served: Served) -> None:
    """Return when a question has been asked, and answered, that had not begun yet."""
    labels = {"provider": "highway", "outcome": "pending"}
    registry = served.gateway.telemetry.registry
    before = registry.get_sample_value("reelgate_polls_total", labels) or 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        # A counter tells nobody.
        while (registry.get_sample_value("reelgate_polls_total", labels) or 0) < before + 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_a_gateway_that_stops_lets_its_callers_go(served: Served, lobby: Lobby) -> None:
    """The last test of the module: after it nobody waits here any more."""
    video_id = served.rendering()["id"]
    asked = lobby.call(lambda: served.client.get(f"/v1/videos/{video_id}", params={"wait": 60}))
    served.portal.call(served.gateway.waiters.release)
    late = served.client.get(f"/v1/videos/{video_id}", params={"wait": 60})
    for answer in (asked.result(PATIENCE_SECONDS), late):
        assert read(answer)["status"] == "in_progress"
        assert {"retry-after", "openai-poll-after-ms"} <= set(answer.headers)
