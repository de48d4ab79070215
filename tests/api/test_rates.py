"""Requests per minute, of a key and of its team: what is refused, what every answer tells, what is counted.

Not held here: limits of videos and money, who may have which limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.api import rates
from gateway.api.auth import Caller
from gateway.api.rates import Rates
from gateway.core.grants import EVERYTHING, Grant, Limits
from gateway.errors import Problem
from tests.serving import Served, problem, serving, together

START: Final = 1_000.25
POLICY: Final = re.compile(r'"(?:key|team)";q=\d+;w=60(?:, "team";q=\d+;w=60)?')
LEFT: Final = re.compile(r'"(?:key|team)";r=\d+;t=\d+(?:, "team";r=\d+;t=\d+)?')


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def of(per_minute: int | None, of_team: int | None = None, key_id: str = "key_1") -> Caller:
    """A caller with these limits."""
    grant = Grant(
        limits=Limits(requests_per_minute=per_minute), team_limits=Limits(requests_per_minute=of_team),
    )
    team = None if of_team is None else "red"
    return Caller(key_id, "one", "caller", key_id if team is None else f"team:{team}", team, grant)


def made(replicas: int = 1) -> tuple[Rates, Clock]:
    clock = Clock()
    return Rates(clock, lambda: replicas), clock


def taken(counted: Rates, caller: Caller, tries: int) -> int:
    """How many of so many requests are let through."""
    count = 0
    for _ in range(tries):
        try:
            counted.admit(caller)
        except Problem:
            continue
        count += 1
    return count


def refused(counted: Rates, caller: Caller) -> Problem:
    with pytest.raises(Problem) as caught:
        counted.admit(caller)
    return caught.value


# --- the count ------------------------------------------------------------------------------------------

@given(st.lists(st.tuples(st.floats(0, 9), st.integers(1, 5)), max_size=60), st.integers(1, 12))
def test_never_more_than_the_limit_in_any_minute(steps: list[tuple[float, int]], limit: int) -> None:
    counted, clock = made()
    through: list[float] = []
    for seconds, tries in steps:
        clock.now += seconds
        through += [clock.now] * taken(counted, of(limit), tries)
    for first in through:
        assert sum(first <= at < first + 60 for at in through) <= limit


def test_whoever_was_refused_may_come_when_it_was_told_to() -> None:
    counted, clock = made()
    assert taken(counted, of(3), 9) == 3
    clock.now += 20
    answer = refused(counted, of(3))
    assert (answer.code, answer.status) == ("rate_limited", 429)
    assert answer.headers["Retry-After"] == "41"
    clock.now += 41
    assert taken(counted, of(3), 9) == 3


def test_those_of_a_minute_ago_leave_one_by_one() -> None:
    counted, clock = made()
    for _ in range(3):
        counted.admit(of(3))
        clock.now += 10
    assert taken(counted, of(3), 1) == 0
    clock.now = START + 61
    assert taken(counted, of(3), 9) == 1
    clock.now += 10
    assert taken(counted, of(3), 9) == 1


def test_nobody_is_told_to_wait_longer_than_a_minute() -> None:
    counted, _ = made()
    assert taken(counted, of(1), 1) == 1
    assert refused(counted, of(1)).headers["Retry-After"] == "60"


def test_a_key_and_its_team_are_counted_apart_and_what_one_refuses_costs_the_other_nothing() -> None:
    counted, clock = made()
    first, second = of(5, 6, "key_1"), of(5, 6, "key_2")
    assert taken(counted, first, 9) == 5
    assert refused(counted, first).detail.startswith("This key may ask 5 times a minute")
    assert taken(counted, second, 9) == 1
    assert refused(counted, second).detail.startswith("This key's team may ask 6 times a minute")
    clock.now += 61
    assert taken(counted, second, 9) == 5


def test_headers_say_what_is_allowed_and_what_is_left() -> None:
    counted, clock = made()
    headers = dict(counted.admit(of(5, 9)))
    assert headers == {
        b"ratelimit-policy": b'"key";q=5;w=60, "team";q=9;w=60',
        b"ratelimit": b'"key";r=4;t=60, "team";r=8;t=60',
    }
    clock.now += 10
    assert dict(counted.admit(of(5, 9)))[b"ratelimit"] == b'"key";r=3;t=51, "team";r=7;t=51'
    assert dict(counted.admit(of(None, 9)))[b"ratelimit"] == b'"team";r=6;t=51'
    clock.now += 5
    assert taken(counted, of(5), 9) == 3
    told = refused(counted, of(5)).headers
    assert told["RateLimit"] == '"key";r=0;t=46'
    assert told["RateLimit-Policy"] == '"key";q=5;w=60'
    assert told["Retry-After"] == "46"


def test_replicas_share_a_limit_evenly_and_nobody_is_shut_out() -> None:
    counted, _ = made(replicas=3)
    assert taken(counted, of(100), 200) == 33
    assert "an even part of them at each of 3 replicas" in refused(counted, of(100)).detail
    assert taken(counted, of(2, key_id="key_2"), 9) == 1


def test_a_limit_that_becomes_another_holds_at_once() -> None:
    counted, _ = made()
    assert taken(counted, of(10), 6) == 6
    assert taken(counted, of(5), 1) == 0
    assert taken(counted, of(8), 9) == 2


def test_without_a_limit_nothing_is_counted_and_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, _ = made()
    monkeypatch.setattr(rates, "Window", None)
    assert counted.admit(replace(of(1), grant=EVERYTHING)) == ()


def test_only_so_many_are_counted_at_once_and_the_idle_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "WINDOWS_MAX", 3)
    counted, clock = made()
    assert [taken(counted, of(1, key_id=f"key_{number}"), 2) for number in range(3)] == [1, 1, 1]
    clock.now += 30
    assert taken(counted, of(1, key_id="key_2"), 1) == 0
    assert taken(counted, of(1, key_id="key_3"), 2) == 1, "somebody had to go"
    assert taken(counted, of(1, key_id="key_1"), 1) == 0, "not the one that came last"
    clock.now += 50
    assert taken(counted, of(1, key_id="key_4"), 2) == 1
    assert taken(counted, of(1, key_id="key_3"), 1) == 0, "only those of more than a minute ago were let go"


# --- over HTTP ------------------------------------------------------------------------------------------

@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, auth="keys", more="[teams.red]\nrequests_per_minute = 6") as started:
        yield started


def limited(served: Served, per_minute: int | None, team: str | None = None) -> httpx.Client:
    """A caller whose key may ask so often."""
    grant = Grant(limits=Limits(requests_per_minute=per_minute))
    return served.as_caller("limited", grant=grant, team=team)


def left(answer: httpx.Response) -> int:
    """What an answer says is left; it says what is allowed, too."""
    assert POLICY.fullmatch(answer.headers["ratelimit-policy"]), answer.headers
    assert LEFT.fullmatch(answer.headers["ratelimit"]), answer.headers
    return int(answer.headers["ratelimit"].split(";r=")[1].split(";")[0])


def test_every_request_counts_once_whatever_it_is_and_is_told_of(served: Served) -> None:
    client = limited(served, 100)
    created = client.post("/v1/videos", json={"prompt": "a fox"})
    assert created.status_code == 202, created.text
    path = f"/v1/videos/{created.json()['id']}"
    answers = [
        created, client.get(path), client.get(path), client.get("/v1/videos"),
        client.get("/v1/videos/none"), client.post("/v1/videos", json={}), client.get("/v1/models"),
        client.post("/v1/providers/narrow/pause"), client.get(f"{path}?wait=x"),
        client.get(f"{path}/events", headers={"Last-Event-ID": "x"}),
        client.get(path, headers={"If-None-Match": "*"}),
    ]
    assert answers[-1].content == b""
    with client.stream("GET", "/v1/events") as stream:
        answers.append(stream)
    assert [left(answer) for answer in answers] == list(range(99, 99 - len(answers), -1))
    assert {answer.status_code for answer in answers} == {200, 202, 304, 400, 403, 404}


def test_a_long_poll_counts_once(served: Served) -> None:
    client = limited(served, 100)
    path = f"/v1/videos/{served.create(client)['id']}"
    client.get(path)
    assert left(client.get(f"{path}?wait=1")) == 97
    assert left(client.get(f"{path}-absent?wait=1")) == 96


def test_beyond_the_limit_nothing_is_done(served: Served) -> None:
    client = limited(served, 4)
    path = f"/v1/videos/{served.create(client)['id']}"
    for _ in range(3):
        client.get(path)
    for answer in (
        client.get(path), client.get(f"{path}?wait=1"), client.get(f"{path}/events"),
        client.get("/v1/events"), client.get("/v1/videos"), client.delete(path),
        client.post("/v1/videos", json={"prompt": "x"}), client.post("/v1/providers/narrow/pause"),
    ):
        document = problem(answer, 429, "rate_limited")
        assert (document["retryable"], document["charged"]) == (True, "no")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert "x-should-retry" not in answer.headers
        assert left(answer) == 0
    other = served.as_caller("other")
    assert "ratelimit" not in other.get("/v1/videos").headers
    assert sum(served.run(served.gateway.store.counts).values()) == 1


def test_no_more_get_through_when_all_come_at_once(served: Served) -> None:
    client = limited(served, 20)
    statuses = [answer.status_code for answer in together(lambda: client.get("/v1/videos"), 32)]
    assert (statuses.count(200), statuses.count(429)) == (20, 12)


def test_the_keys_of_a_team_share_what_is_theirs(served: Served) -> None:
    first, second = limited(served, 4, "red"), limited(served, None, "red")
    assert [left(first.get("/v1/models")) for _ in range(4)] == [3, 2, 1, 0]
    assert first.get("/v1/models").status_code == 429
    answers = [second.get("/v1/models") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"team";q=6;w=60'
    assert "This key's team may ask 6 times a minute" in problem(answers[-1], 429, "rate_limited")["detail"]


def test_who_is_not_known_or_watches_the_process_is_not_counted(served: Served) -> None:
    for path in ("/livez", "/readyz", "/version", "/openapi.json", "/v1/videos"):
        assert "ratelimit" not in served.client.get(path).headers
