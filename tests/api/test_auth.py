"""Who may ask for what: keys, roles against every route there is, and callers who see nothing of each other.

Not held here: how a key is made and stored by the command line.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest
from litestar import get
from litestar.types import ASGIApp

from gateway.api import application
from gateway.api.application import MANAGEMENT, ROUTES, make_application
from gateway.api.application import PUBLIC as PATHS
from gateway.api.auth import KNOWN_SECONDS, MAY, Door
from gateway.core.keys import SCOPES, Role
from gateway.storage.db import StorageError
from tests.security.route_table import ROWS
from tests.serving import Served, problem, read, serving

ROLES: Final[tuple[Role, ...]] = ("viewer", "caller", "operator", "admin")
OF_ROUTES: Final[dict[tuple[str, str], Role | None]] = {route: row.role for route, row in ROWS.items()}
CLOSED: Final = sorted(route for route, role in OF_ROUTES.items() if role is not None)
OPEN: Final = sorted(OF_ROUTES.keys() - set(CLOSED))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("auth"), auth="keys") as started:
        yield started


@pytest.fixture(scope="module")
def clients(served: Served) -> dict[str, httpx.Client]:
    return {role: served.as_caller(role, role) for role in ROLES}


@pytest.fixture(scope="module")
def key(served: Served) -> str:
    return served.new_key("alice")


def call(client: httpx.Client, method: str, path: str) -> httpx.Response:
    path = path.replace("{video_id}", "video_0").replace("{name}", "nobody").replace("/stop", "/start")
    # One that is let through would be answered for ever.
    return client.request(method, f"{path}?last_event_id=0" if path == "/v1/events" else path)


def asked(served: Served, app: ASGIApp, path: str, client: httpx.Client) -> httpx.Response:
    """The answer of an application that no port serves."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as inside:
            return await inside.get(path, headers=client.headers)

    return served.run(ask)


def with_key(served: Served, value: str) -> httpx.Response:
    return served.client.get("/v1/videos", headers={"Authorization": value})


# --- keys ---------------------------------------------------------------------------------------------------


def test_every_route_needs_what_the_table_says() -> None:
    there = {
        (str(method), path.replace(":str}", "}")): (route.opt.get("role"), route.opt.get("scope"))
        for route in ROUTES for path in route.paths for method in route.http_methods
    }  # fmt: skip
    assert there == {route: (row.role, row.scope) for route, row in ROWS.items()}
    assert {row.scope for row in ROWS.values()} - {None} == set(SCOPES)


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_without_a_key_nothing_is_told(served: Served, method: str, path: str) -> None:
    answer = call(served.client, method, path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    if method != "HEAD":
        problem(answer, 401, "authentication_failed")


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_some_routes_need_no_key(served: Served, method: str, path: str) -> None:
    # Of the one with a secret in its path there is nothing to see without it.
    assert call(served.client, method, path).status_code == (404 if "{token}" in path else 200)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_a_role_opens_exactly_its_routes(
    clients: dict[str, httpx.Client], method: str, path: str, role: str
) -> None:
    answer = call(clients[role], method, path)
    if OF_ROUTES[method, path] in MAY[msgspec.convert(role, Role)]:
        assert answer.status_code in {200, 400, 404}, answer.text
    else:
        problem(answer, 403, "permission_denied")


def test_a_good_key_is_taken_as_a_bearer_in_any_case(served: Served, key: str) -> None:
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer  "):
        assert with_key(served, f"{scheme} {key}").status_code == 200


@pytest.mark.parametrize(
    "made",
    [
        "", "Bearer", "{key}", "Basic {key}", "Token {key}", "Bearer {key} {key}", "Bearer {key}x",
        "Bearer {short}", "Bearer {typo}", "Bearer sk-0123456789", "Bearer {upper}",
        "Bearer rg_" + "\u00e9" * 36,
    ],
)  # fmt: skip
def test_anything_but_a_known_key_is_refused_alike(served: Served, key: str, made: str) -> None:
    typo = key[:10] + ("a" if key[10] != "a" else "b") + key[11:]
    text = made.format(key=key, short=key[:-1], typo=typo, upper=key.upper())
    answer = served.client.get("/v1/videos", headers=[(b"Authorization", text.encode())])
    found = problem(answer, 401, "authentication_failed")
    bare = problem(served.client.get("/v1/videos"), 401, "authentication_failed")
    assert {**found, "request_id": ""} == {**bare, "request_id": ""}
    assert key not in answer.text


def test_an_unknown_key_that_is_well_formed_is_refused(served: Served) -> None:
    with closing(sqlite3.connect(served.database)) as database, database:
        forgotten = served.new_key("forgotten")
        database.execute("delete from keys where name = 'forgotten'")
    problem(with_key(served, f"Bearer {forgotten}"), 401, "authentication_failed")


def test_a_revoked_key_is_believed_for_a_few_seconds_at_most(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(served.gateway, "door", Door(served.gateway.store, lambda: now, is_open=False))
    used, unused = served.new_key("revoked"), served.new_key("revoked")
    assert with_key(served, f"Bearer {used}").status_code == 200
    with closing(sqlite3.connect(served.database)) as database, database:
        database.execute("update keys set revoked_at = 1 where name = 'revoked'")
    problem(with_key(served, f"Bearer {unused}"), 401, "authentication_failed")
    now = KNOWN_SECONDS
    problem(with_key(served, f"Bearer {used}"), 401, "authentication_failed")


def test_keys_are_not_stored(served: Served, key: str) -> None:
    with closing(sqlite3.connect(served.database)) as database:
        rows = database.execute("select * from keys").fetchall()
    assert rows
    assert not any(key in str(value) for row in rows for value in row)


def test_too_many_wrong_keys_from_one_address_are_429(tmp_path: Path) -> None:
    with serving(tmp_path, auth="keys") as served:
        statuses = [with_key(served, f"Bearer rg_{number}").status_code for number in range(101)]
        assert statuses == [401] * 100 + [429]
        answer = with_key(served, "Bearer rg_x")
        found = problem(answer, 429, "rate_limited")
        assert (found["retryable"], answer.headers["retry-after"]) == (True, "60")
        # Whoever has a key is not shut out.
        assert served.as_caller("alice").get("/v1/videos").status_code == 200


@pytest.mark.parametrize(
    "opt",
    [
        {}, {"role": "admin"}, {"scope": "keys"}, {"role": "boss", "scope": "keys"}, {"public": 1},
        {"role": "admin", "scope": "all"}, {"public": True, "role": "admin", "scope": "keys"},
        {"signed": "content"},
    ],
)
def test_a_route_that_does_not_say_who_may_use_it_stops_the_start(
    served: Served, monkeypatch: pytest.MonkeyPatch, opt: dict[str, object]
) -> None:
    @get("/v1/forgotten", opt=opt)
    async def forgotten() -> str:
        return "secret"

    monkeypatch.setattr(application, "ROUTES", (*ROUTES, forgotten))
    with pytest.raises(RuntimeError, match="forgotten"):
        make_application(served.gateway)


# --- looks by a key that was seen a moment ago, which the framework does not answer ------------------------


def test_a_look_is_answered_alike_by_whomever_it_is_answered(served: Served) -> None:
    alice = served.as_caller("alice")
    path = f"/v1/videos/{served.completed(alice)['id']}"
    by_hand, by_framework = path, f"{path}?wait=%30"  # not as plain as nearly all are
    slow, quick = alice.get(by_framework), alice.get(by_hand)
    assert (slow.status_code, slow.content) == (quick.status_code, quick.content)
    assert set(slow.headers) == set(quick.headers)
    tag = {"If-None-Match": f'"other", W/{quick.headers["etag"]}'}
    unchanged = [alice.get(where, headers=tag) for where in (by_framework, by_hand)]
    assert [(answer.status_code, answer.content) for answer in unchanged] == [(304, b"")] * 2
    assert set(unchanged[0].headers) == set(unchanged[1].headers)
    answers = (slow, quick, *unchanged)
    ids = [answer.headers["x-request-id"] for answer in answers]
    routes = {line["request_id"]: line["route"] for line in served.lines if line["event"] == "request"}
    assert [routes[request_id] for request_id in ids] == ["/v1/videos/{video_id}"] * 4


def test_a_look_that_fails_is_told_as_any_failure(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = served.as_caller("alice")
    path = f"/v1/videos/{served.completed(alice)['id']}"

    async def fail(*_: object) -> None:
        raise StorageError("x")

    monkeypatch.setattr(served.gateway.store, "video_get", fail)
    problem(alice.get(path), 503, "overloaded")


def test_the_port_of_the_management_shows_no_video(served: Served) -> None:
    alice = served.as_caller("alice")
    path = f"/v1/videos/{served.completed(alice)['id']}"
    assert asked(served, make_application(served.gateway, MANAGEMENT), path, alice).status_code == 404
    assert asked(served, make_application(served.gateway, PATHS), path, alice).status_code == 200


# --- callers among themselves -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "tail"),
    [
        ("GET", ""), ("GET", "?wait=1"), ("GET", "/timeline"), ("GET", "/content"), ("POST", "/cancel"),
        ("POST", "/cancel?detach=true"), ("POST", "/rerun"), ("DELETE", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("other", ["caller", "admin"])
def test_anothers_video_is_exactly_like_an_absent_one(
    served: Served, clients: dict[str, httpx.Client], method: str, tail: str, other: str
) -> None:
    alice = served.as_caller("alice")
    video_id = served.completed(alice)["id"]
    absent_id = "video_" + "0" * 32
    seen = [clients[other].request(method, f"/v1/videos/{name}{tail}") for name in (video_id, absent_id)]
    bodies = [problem(answer, 404, "not_found") for answer in seen]
    shown = [
        str({**body, "request_id": ""}).replace(name, "ID")
        for body, name in zip(bodies, (video_id, absent_id), strict=True)
    ]
    assert shown[0] == shown[1]
    assert set(seen[0].headers) == set(seen[1].headers)
    assert read(alice.get(f"/v1/videos/{video_id}"))["status"] == "completed"


def test_lists_hold_the_callers_own_only(served: Served) -> None:
    alice, bob = served.as_caller("alice"), served.as_caller("bob")
    hers, his = served.create(alice, metadata={"team": "x"}), served.create(bob, metadata={"team": "x"})
    for client, video in ((alice, hers), (bob, his)):
        for query in ({}, {"metadata[team]": "x"}, {"created_after": 0}):
            seen = read(client.get("/v1/videos", params=query))["data"]
            assert [entry["id"] for entry in seen] == [video["id"]]
    foreign, absent = (
        problem(bob.get("/v1/videos", params={"after": name}), 400, "invalid_request")
        for name in (hers["id"], "video_0")
    )
    assert {**foreign, "request_id": ""} == {**absent, "request_id": ""}


def test_with_auth_off_there_is_one_caller_who_may_everything(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        for method, path in sorted(OF_ROUTES):
            assert call(served.client, method, path).status_code in {200, 400, 404}, path
        video = served.create()
        assert with_key(served, "Bearer whatever").json()["data"][0]["id"] == video["id"]


def test_with_auth_off_a_key_makes_no_other_caller(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        left = served.as_caller("from before")
        with left.stream("GET", "/v1/events") as stream:
            parts = stream.iter_raw()
            next(parts)
            video = served.create()
            assert video["id"].encode() in next(parts)
