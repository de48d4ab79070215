"""Webhooks over HTTP, from the routes to a receiver: endpoints, their log, replay, rotation, the timeline.

Not held here: when something is tried again (`tests/core`, `tests/engine`), fields of a create (`test_wire`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import openai
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.api.webhooks import ENDPOINTS_MAX
from tests.handling import handling
from tests.serving import PATIENCE_SECONDS, Json, Served, problem, read, serving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MORE = """
[webhooks]
secrets = [{ file = "hook" }]
[egress]
allow = ["127.0.0.0/8"]
"""
PATH = "/v1/webhook_endpoints"


class Letter(NamedTuple):
    """A webhook as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """What it is told from others by."""
        return self.headers["webhook-id"]

    @property
    def content(self) -> Json:
        """What it says."""
        return msgspec.json.decode(self.body, type=Json)


class Receiver:
    """A caller's own service. It answers with `status`."""

    def __init__(self, url: str) -> None:
        self.url, self.status = url, 200
        self._letters: list[Letter] = []
        self._arrived = threading.Condition()

    def take(self, letter: Letter) -> None:
        """One more."""
        with self._arrived:
            self._letters.append(letter)
            self._arrived.notify_all()

    def at(self, path: str, count: int = 1) -> list[Letter]:
        """What came to that path, once there are so many."""
        def found() -> list[Letter]:
            return [letter for letter in self._letters if letter.path == path]

        with self._arrived:
            assert self._arrived.wait_for(lambda: len(found()) >= count, PATIENCE_SECONDS), found()
            return found()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.take(Letter(self.path, headers, body))
            self.send_response(made.status)
            self.end_headers()

    with handling(Handler) as url:
        made = Receiver(url)
        yield made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("webhooks")
    (folder / "hook").write_text(SECRET)
    with serving(folder, auth="keys", more=MORE) as started:
        yield started


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def caller(served: Served) -> httpx.Client:
    """A caller without endpoints."""
    return served.as_caller("somebody")


def add(caller: httpx.Client, url: str, **more: object) -> Json:
    answer = caller.post(PATH, json={"url": url} | more)
    assert answer.status_code == 201, answer.text
    return read(answer)


def logged(caller: httpx.Client, endpoint: Json, count: int = 1) -> list[Json]:
    """The log, once every message of `count` has been tried and settled."""
    path, found = f"{PATH}/{endpoint['id']}/deliveries", list[Json]()
    for _ in range(1_000):
        found = read(caller.get(path))["data"]
        if len(found) >= count and all(one["tries"] for one in found):
            # Tries are read after what they made of a message: read both once more.
            again: list[Json] = read(caller.get(path))["data"]
            return again
    raise AssertionError(found)


# --- a whole way ----------------------------------------------------------------------------------------


def test_a_completed_video_is_told_to_the_endpoint_and_the_requests_own_place(
    served: Served, caller: httpx.Client, receiver: Receiver
) -> None:
    endpoint = add(caller, f"{receiver.url}/mine")
    video = served.completed(caller, webhook_url=f"{receiver.url}/own?a=1", metadata={"team": "a"})
    for path, secret in (("/mine", endpoint["secret"]), ("/own?a=1", SECRET)):
        (letter,) = receiver.at(path)
        told = Webhook(secret).verify(letter.body, letter.headers)
        assert set(told) == {"type", "timestamp", "data"}
        assert told["type"] == "video.completed"
        assert set(told["data"]) == set(video)
        assert (told["data"]["id"], told["data"]["status"]) == (video["id"], "completed")
        assert (told["data"]["metadata"], told["data"]["object"]) == ({"team": "a"}, "video")
        client = openai.OpenAI(api_key="x", webhook_secret=secret)
        assert str(client.webhooks.unwrap(letter.body, letter.headers).type) == "video.completed"
    tries = [event for event in served_timeline(caller, video["id"], 2) if event["type"] == "webhook_try"]
    assert {(event["detail"]["endpoint"], event["detail"]["http_status"]) for event in tries} == {
        (endpoint["id"], 200), (None, 200),
    }
    assert {event["detail"]["event"] for event in tries} == {"video.completed"}


def served_timeline(caller: httpx.Client, video_id: str, tries: int) -> list[Json]:
    """The timeline once so many tries are on it; every event has a number of its own."""
    events: list[Json] = []
    for _ in range(1_000):
        events = read(caller.get(f"/v1/videos/{video_id}/timeline"))["data"]
        if [event["type"] for event in events].count("webhook_try") >= tries:
            assert len({event["seq"] for event in events}) == len(events)
            return events
    raise AssertionError(events)


def test_a_cancelled_video_is_told(served: Served, caller: httpx.Client, receiver: Receiver) -> None:
    add(caller, f"{receiver.url}/x", events=["video.cancelled"])
    add(caller, f"{receiver.url}/y", events=["video.failed", "video.completed"])
    other = served.as_caller("other")
    blocking = served.rendering(other, provider="narrow", resolution="1080p")
    video = served.create(caller, provider="narrow", resolution="1080p")
    assert read(caller.post(f"/v1/videos/{video['id']}/cancel"))["status"] == "cancelled"
    (letter,) = receiver.at("/x")
    assert (letter.content["type"], letter.content["data"]["status"]) == ("video.cancelled", "cancelled")
    served.finish(blocking["id"], other)
    again = served.completed(caller)
    (completed,) = receiver.at("/y")
    assert completed.content["data"]["id"] == again["id"]


def test_a_rerun_tells_the_same_place(served: Served, caller: httpx.Client, receiver: Receiver) -> None:
    video = served.completed(caller, webhook_url=f"{receiver.url}/own")
    again = read(caller.post(f"/v1/videos/{video['id']}/rerun"))
    served.finish(again["id"], caller)
    assert {letter.content["data"]["id"] for letter in receiver.at("/own", 2)} == {video["id"], again["id"]}


def test_the_place_is_part_of_what_a_key_stands_for(
    served: Served, caller: httpx.Client, receiver: Receiver
) -> None:
    headers = {"Idempotency-Key": "with a place"}
    body = {"prompt": "a fox", "webhook_url": f"{receiver.url}/own"}
    first = caller.post("/v1/videos", json=body, headers=headers)
    assert read(caller.post("/v1/videos", json=body, headers=headers))["id"] == read(first)["id"]
    other = caller.post("/v1/videos", json=body | {"webhook_url": f"{receiver.url}/else"}, headers=headers)
    problem(other, 422, "idempotency_key_reused")
    served.finish(read(first)["id"], caller)


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://a.example/", "http://a.example:0/", "https://10.0.0.1/", "http://93.184.216.34/hook",
     "http://169.254.169.254/", "https://user:word@a.example/", "https://a.example/" + "x" * 2_048],
)
def test_a_place_that_cannot_be_is_refused(caller: httpx.Client, url: str) -> None:
    refused = caller.post("/v1/videos", json={"prompt": "a fox", "webhook_url": url})
    assert problem(refused, 400, "invalid_request")["param"] == "webhook_url"
    assert problem(caller.post(PATH, json={"url": url}), 400, "invalid_request")["param"] == "url"


def test_without_a_secret_a_request_has_no_place_of_its_own(tmp_path: Path) -> None:
    with serving(tmp_path, auth="off") as bare:
        body = {"prompt": "a fox", "webhook_url": "https://a.example/"}
        found = problem(bare.client.post("/v1/videos", json=body), 400, "invalid_request")
        assert "secret" in found["detail"]
        assert add(bare.client, "https://a.example/")["secret"].startswith("whsec_")
        plain = problem(bare.client.post(PATH, json={"url": "http://a.example/"}), 400, "invalid_request")
        assert "https" in plain["detail"]


# --- endpoints ------------------------------------------------------------------------------------------


def test_an_endpoints_life(served: Served, caller: httpx.Client) -> None:
    made = add(caller, "https://a.example/", events=["video.failed"])
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert (made["object"], made["events"]) == ("webhook_endpoint", ["video.failed"])
    assert made["disabled_at"] is None
    assert read(caller.get(f"{PATH}/{made['id']}")) == made
    assert read(caller.get(PATH)) == {"object": "list", "data": [made]}
    gone = {"id": made["id"], "object": "webhook_endpoint.deleted", "deleted": True}
    assert read(caller.delete(f"{PATH}/{made['id']}")) == gone
    problem(caller.delete(f"{PATH}/{made['id']}"), 404, "not_found")
    assert read(caller.get(PATH))["data"] == []
    assert secret not in served.log


def test_anothers_endpoint_is_not_there(served: Served, caller: httpx.Client) -> None:
    mine, other = add(caller, "https://a.example/"), served.as_caller("another")
    path = f"{PATH}/{mine['id']}"
    assert read(other.get(PATH))["data"] == []
    calls: tuple[tuple[str, str, Json | None], ...] = (
        ("GET", "", None), ("DELETE", "", None), ("POST", "/rotate", {}), ("POST", "/test", {}),
        ("GET", "/deliveries", None), ("POST", "/replay", {"since": 0}),
    )
    for method, below, body in calls:
        problem(other.request(method, path + below, json=body), 404, "not_found")
    viewer = served.as_caller("viewer", "viewer")
    problem(viewer.get(PATH), 403, "permission_denied")
    assert read(caller.get(path))["id"] == mine["id"]


def test_endpoints_of_one_caller_are_bounded(caller: httpx.Client) -> None:
    for number in range(ENDPOINTS_MAX):
        add(caller, f"https://a.example/{number}")
    problem(caller.post(PATH, json={"url": "https://a.example/"}), 400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "url"), ({"url": 1}, "url"), ({"url": "https://a.example/", "events": []}, "events"),
     ({"url": "https://a.example/", "events": ["video.done"]}, "events/0"),
     ({"url": "https://a.example/", "secret": "x"}, "secret")],
)
def test_a_body_that_breaks_a_rule(caller: httpx.Client, body: Json, param: str) -> None:
    assert problem(caller.post(PATH, json=body), 400, "invalid_request")["param"] == param


# --- test, log, replay, rotate --------------------------------------------------------------------------


def test_a_test_event(caller: httpx.Client, receiver: Receiver) -> None:
    endpoint = add(caller, f"{receiver.url}/t")
    answer = caller.post(f"{PATH}/{endpoint['id']}/test")
    assert answer.status_code == 202
    (letter,) = receiver.at("/t")
    told = Webhook(endpoint["secret"]).verify(letter.body, letter.headers)
    assert (told["type"], told["data"]) == ("webhook.test", {"endpoint_id": endpoint["id"]})
    (one,) = logged(caller, endpoint)
    assert (one["id"], one["id"]) == (letter.id, read(answer)["id"])
    assert (one["state"], one["video"], one["next_try_at"]) == ("delivered", None, None)
    assert [(made["status"], made["error"]) for made in one["tries"]] == [(200, None)]


def test_gone_disables_and_a_good_test_enables(
    served: Served, caller: httpx.Client, receiver: Receiver
) -> None:
    endpoint, receiver.status = add(caller, f"{receiver.url}/g"), 410
    served.completed(caller)
    assert logged(caller, endpoint)[0]["state"] == "disabled"
    shown = read(caller.get(f"{PATH}/{endpoint['id']}"))
    assert shown["disabled_at"]
    assert shown["disabled_by"] == "HTTP 410"
    receiver.status = 200
    caller.post(f"{PATH}/{endpoint['id']}/test")
    receiver.at("/g", 2)
    logged(caller, endpoint, 2)
    assert read(caller.get(f"{PATH}/{endpoint['id']}"))["disabled_at"] is None


def test_a_replay_by_id_and_by_time_is_the_very_same_message(
    served: Served, caller: httpx.Client, receiver: Receiver
) -> None:
    endpoint = add(caller, f"{receiver.url}/r")
    first = served.completed(caller)
    (one,) = logged(caller, endpoint)
    path = f"{PATH}/{endpoint['id']}/replay"
    answer = caller.post(path, json={"id": one["id"]})
    assert (answer.status_code, read(answer)["replayed"]) == (202, 1)
    receiver.at("/r", 2)
    served.completed(caller)
    receiver.at("/r", 3)
    logged(caller, endpoint, 2)
    count = read(caller.post(path, json={"since": first["created_at"]}))["replayed"]
    assert count == 2
    letters = receiver.at("/r", 5)
    by_id: dict[str, set[bytes]] = {}
    for letter in letters:
        by_id.setdefault(letter.id, set()).add(letter.body)
    assert [len(bodies) for bodies in by_id.values()] == [1, 1]
    problem(caller.post(path, json={"id": "msg_nobody"}), 404, "not_found")
    for body in ({}, {"until": 1}, {"id": one["id"], "since": 1}, {"since": 2, "until": 1}):
        problem(caller.post(path, json=body), 400, "invalid_request")


def test_a_rotated_secret_overlaps(served: Served, caller: httpx.Client, receiver: Receiver) -> None:
    endpoint = add(caller, f"{receiver.url}/s")
    path, old = f"{PATH}/{endpoint['id']}", endpoint["secret"]
    new = read(caller.post(f"{path}/rotate"))["secret"]
    assert new != old
    caller.post(f"{path}/test")
    (letter,) = receiver.at("/s")
    assert letter.headers["webhook-signature"].count("v1,") == 2
    for secret in (old, new):
        Webhook(secret).verify(letter.body, letter.headers)
    last = read(caller.post(f"{path}/rotate", json={"overlap": 0}))["secret"]
    caller.post(f"{path}/test")
    letter = receiver.at("/s", 2)[1]
    Webhook(last).verify(letter.body, letter.headers)
    for secret in (old, new):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(letter.body, letter.headers)
    problem(caller.post(f"{path}/rotate", json={"overlap": -1}), 400, "invalid_request")


def test_the_log_is_paged(caller: httpx.Client, receiver: Receiver) -> None:
    endpoint = add(caller, f"{receiver.url}/p")
    path = f"{PATH}/{endpoint['id']}"
    sent = [read(caller.post(f"{path}/test"))["id"] for _ in range(5)]
    logged(caller, endpoint, 5)
    first = read(caller.get(f"{path}/deliveries?limit=3"))
    rest = read(caller.get(f"{path}/deliveries?limit=3&after={first['last_id']}"))
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [one["id"] for one in (*first["data"], *rest["data"])] == sent[::-1]
    problem(caller.get(f"{path}/deliveries?after=msg_x"), 400, "invalid_request")
    problem(caller.get(f"{path}/deliveries?limit=0"), 400, "invalid_request")
    for misread, param in (("state=failed", "state"), ("limit=3&limit=5", "limit")):
        found = problem(caller.get(f"{path}/deliveries?{misread}"), 400, "invalid_request")
        assert found["param"] == param


def test_what_is_counted_and_what_is_logged(
    served: Served, caller: httpx.Client, receiver: Receiver
) -> None:
    def count() -> float:
        sample = served.gateway.telemetry.registry.get_sample_value
        return sample("reelgate_webhook_deliveries_total", {"result": "delivered"}) or 0.0

    endpoint, before = add(caller, f"{receiver.url}/counted"), count()
    caller.post(f"{PATH}/{endpoint['id']}/test")
    logged(caller, endpoint)
    assert count() == before + 1
    assert '"webhook_sent"' in served.log
    assert "/counted" not in served.log
    assert endpoint["secret"] not in served.log
    metrics = served.client.get("/metrics").text
    for result in ("delivered", "retried", "failed", "disabled"):
        assert f'reelgate_webhook_deliveries_total{{result="{result}"}}' in metrics
    assert "reelgate_webhook_oldest_pending_seconds " in metrics
