"""Keys over HTTP: made, rotated and revoked; what their scopes, teams, providers and models let through.

Not held here: every route for every kind of caller (`tests/security/test_matrix.py`), rows
(`tests/storage/test_keys.py`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Final

import httpx
import pytest

from gateway.api import auth, streams
from gateway.api.auth import USED_SECONDS, Door
from gateway.core.grants import Grant
from gateway.core.keys import OVERLAP_MAX_SECONDS, OVERLAP_SECONDS, digest_of
from gateway.storage.db import StorageError
from tests.serving import PATIENCE_SECONDS, Json, Served, made_key, problem, read, serving

MORE: Final = """
[teams.red]
max_queued = 50
[teams.thrifty]
providers = ["highway", "unified"]
models = ["kling-v3"]
"""
NEVER_SECONDS: Final = 3_600.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "LOOK_SECONDS", 0.05)
        patch.setattr(streams, "HEARTBEAT_SECONDS", NEVER_SECONDS)
        with serving(tmp_path_factory.mktemp("keys"), auth="keys", more=MORE) as started:
            yield started


@pytest.fixture(scope="module")
def admin(served: Served) -> httpx.Client:
    return served.as_caller("admin", "admin")


def turned(admin: httpx.Client, key: Json, **body: object) -> Json:
    answer = admin.post(f"/v1/keys/{key['id']}/rotate", json=body)
    assert answer.status_code == 200, answer.text
    return read(answer)


def entries(admin: httpx.Client, key: Json) -> list[Json]:
    found: list[Json] = read(admin.get("/v1/audit", params={"target": key["id"], "order": "asc"}))["data"]
    return found


# --- /v1/keys -----------------------------------------------------------------------------------------------


def test_a_key_is_as_it_was_asked_for_and_its_secret_is_shown_once(
    served: Served, admin: httpx.Client
) -> None:
    limits = {"max_in_flight": 2, "money_per_day": "12.50", "currency": "EUR"}
    body = {"name": "ci", "role": "viewer", "scopes": ["videos:read", "files"], "team": "red",
            "providers": ["highway"], "models": ["kling-v3"], "limits": limits, "expires_in": 3_600}
    key = made_key(admin, **body)
    secret = key.pop("key")
    assert {name: key[name] for name in body if name not in ("limits", "expires_in")} == {
        name: value for name, value in body.items() if name not in ("limits", "expires_in")
    }
    assert {name: value for name, value in key["limits"].items() if value is not None} == limits
    assert (key["expires_at"] - key["created_at"], key["hint"]) == (3_600, secret[-4:])
    assert (key["last_used_at"], key["revoked_at"], key["overlap_until"]) == (None, None, None)
    assert read(admin.get(f"/v1/keys/{key['id']}")) == key
    assert served.client_with({"Authorization": f"Bearer {secret}"}).get("/v1/videos").status_code == 200
    listed = admin.get("/v1/keys", params={"limit": 1})
    assert read(listed)["data"][0]["id"] == key["id"]
    for text in (listed.text, admin.get(f"/v1/keys/{key['id']}").text, served.log):
        assert secret not in text
        assert digest_of(secret) not in text
    with closing(sqlite3.connect(served.database)) as database:
        assert secret not in "\n".join(database.iterdump())


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/name"), ({"name": ""}, "/name"), ({"name": "a\nb"}, "/name"), ({"name": "x" * 129}, "/name"),
        ({"role": "boss"}, "/role"), ({"scopes": []}, "/scopes"), ({"scopes": ["all"]}, "/scopes/0"),
        ({"team": "rad"}, "/team"), ({"providers": ["highwy"]}, "/providers/0"), ({"models": []}, "/models"),
        ({"models": ["kling-v3", "x"]}, "/models/1"), ({"expires_in": 0}, "/expires_in"),
        ({"limits": {"money_per_day": 1.5}}, "/limits/money_per_day"),
        ({"limits": {"money_per_day": "-1"}}, "/limits/money_per_day"),
        ({"limits": {"money_per_month": "1e3"}}, "/limits/money_per_month"),
        ({"limits": {"max_queued": 0}}, "/limits/max_queued"), ({"limits": {"max": 1}}, "/limits/max"),
        ({"limits": {"currency": "usd"}}, "/limits/currency"), ({"scope": "files"}, "/scope"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_its_field(admin: httpx.Client, body: Json, pointer: str) -> None:
    whole = body if not body or "name" in body else {"name": "a"} | body
    answer = problem(admin.post("/v1/keys", json=whole), 400, "invalid_request")
    assert pointer in [error["pointer"] for error in answer["errors"]]


def test_keys_are_paged_newest_first_and_a_misspelt_filter_is_refused(admin: httpx.Client) -> None:
    ids = [made_key(admin)["id"] for _ in range(3)]
    first = read(admin.get("/v1/keys", params={"limit": 2}))
    assert ([one["id"] for one in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    then = read(admin.get("/v1/keys", params={"limit": 1, "after": first["last_id"]}))
    assert (then["first_id"], then["last_id"]) == (ids[0], ids[0])
    for query in ({"after": "key_0"}, {"limit": 101}, {"teem": "red"}):
        problem(admin.get("/v1/keys", params=query), 400, "invalid_request")


def test_what_is_done_to_a_key_is_recorded_with_it(admin: httpx.Client) -> None:
    key = made_key(admin, team="red", limits={"money_per_day": "5"})
    turned(admin, key, overlap=60)
    admin.delete(f"/v1/keys/{key['id']}")
    admin.delete(f"/v1/keys/{key['id']}")  # it is over already
    found = entries(admin, key)
    assert [one["action"] for one in found] == ["key.created", "key.rotated", "key.revoked"]
    assert (found[0]["before"], found[0]["after"]["team"], found[0]["after"]["money_per_day"]) == (
        None, "red", "5",
    )
    assert found[1]["after"]["overlap"] == 60
    assert "revoked_at" in found[2]["after"]
    assert key["key"] not in str(found)


# --- rotation and revocation --------------------------------------------------------------------------------


def test_a_rotated_key_is_the_same_caller_with_both_secrets(served: Served, admin: httpx.Client) -> None:
    old = made_key(admin)
    video = served.create(served.with_key(old))
    new = turned(admin, old)
    assert (new["id"], new["hint"]) == (old["id"], new["key"][-4:])
    assert 0 <= new["overlap_until"] - served.gateway.now() - OVERLAP_SECONDS + 1 <= 60
    for key in (old, new):
        assert read(served.with_key(key).get(f"/v1/videos/{video['id']}"))["id"] == video["id"]
    turned(admin, new, overlap=0)
    for key in (old, new):
        problem(served.with_key(key).get("/v1/videos"), 401, "authentication_failed")


def test_a_rotation_is_bounded_and_for_living_keys(admin: httpx.Client) -> None:
    key = made_key(admin)
    path = f"/v1/keys/{key['id']}/rotate"
    for body in ({"overlap": OVERLAP_MAX_SECONDS + 1}, {"overlap": -1}, {"over": 1}):
        problem(admin.post(path, json=body), 400, "invalid_request")
    admin.delete(f"/v1/keys/{key['id']}")
    problem(admin.post(path), 410, "expired")
    problem(admin.post("/v1/keys/key_0/rotate"), 404, "not_found")


def test_whatever_is_wrong_with_a_key_is_told_in_the_same_words(served: Served, admin: httpx.Client) -> None:
    revoked, used = made_key(admin), made_key(admin)
    assert served.with_key(used).get("/v1/videos").status_code == 200
    for key in (revoked, used):
        assert read(admin.delete(f"/v1/keys/{key['id']}"))["revoked_at"] is not None
    unknown = {"key": auth.make_key("nobody", "admin", 0.0)[1]}
    expired = {"key": served.new_key("expired", expires_at=served.gateway.now())}
    told = [served.with_key(key).get("/v1/videos") for key in (revoked, used, unknown, expired)]
    bodies = {answer.text.replace(answer.headers["x-request-id"], "") for answer in told}
    assert (len(bodies), {answer.status_code for answer in told}) == (1, {401})
    assert len({tuple(sorted(set(answer.headers) - {"date"})) for answer in told}) == 1


async def _here(served: Served, key: Json) -> None:
    """Return when a request is open that came with this key."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while digest_of(key["key"]) not in served.gateway.door.guests.digests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture(params=["here", "elsewhere", "rotated"])
def end(request: pytest.FixtureRequest, served: Served, admin: httpx.Client) -> Callable[[Json], None]:
    """How a key's secret ends: by this process, by one that does not tell, by another in its place."""

    def act(key: Json) -> None:
        if request.param == "here":
            admin.delete(f"/v1/keys/{key['id']}")
        elif request.param == "elsewhere":
            assert served.run(served.gateway.store.keys.revoke, key["id"], served.gateway.now())
        else:
            turned(admin, key, overlap=0)

    return act


@pytest.mark.parametrize("tail", ["/v1/events", "/events", "?wait=29", "?wait=%32%39"])
def test_an_open_request_ends_with_its_key(
    served: Served, admin: httpx.Client, pool: ThreadPoolExecutor, end: Callable[[Json], None], tail: str
) -> None:
    key, other = made_key(admin, team="red"), made_key(admin, team="red")
    client, stays = served.with_key(key), served.with_key(other)
    video = served.rendering(client)
    path = tail if tail == "/v1/events" else f"/v1/videos/{video['id']}{tail}"
    asked = pool.submit(client.get, path)  # a stream is read to its end
    served.run(_here, served, key)
    with stays.stream("GET", "/v1/events") as kept:
        parts = kept.iter_raw()
        next(parts)
        end(key)
        answer = asked.result(PATIENCE_SECONDS)
        if "wait" in tail:
            problem(answer, 401, "authentication_failed")
        else:
            assert answer.content.startswith(b"retry:")
        served.finish(video["id"], stays)
        assert b"event: " in next(parts)  # whose key is good follows on


def test_who_ordered_something_is_told_of_it_when_its_key_ends(
    served: Served, admin: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    key = made_key(admin)
    client = served.with_key(key)
    asked = pool.submit(client.post, "/v1/videos", json={"prompt": "a"}, headers={"Prefer": "wait=29"})
    served.run(_here, served, key)
    admin.delete(f"/v1/keys/{key['id']}")
    answer = asked.result(PATIENCE_SECONDS)
    assert (answer.status_code, read(answer)["status"] in ("queued", "in_progress")) == (202, True)


# --- when it was used last ----------------------------------------------------------------------------------


def test_the_last_use_is_written_once_a_minute_and_not_by_a_request(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, keys = served.new_key("used"), served.gateway.store.keys
    now, written, failed = 1_000.0, list[list[float]](), list[StorageError]()
    wrote = asyncio.Event()

    async def used(uses: list[tuple[str, float]]) -> None:
        written.append([at for _, at in uses])
        wrote.set()
        if len(written) == 1:
            raise StorageError("not now")

    async def life() -> None:
        nonlocal now
        door = Door(served.gateway.store, lambda: now, is_open=False)
        await door.caller(f"Bearer {key}", "")
        looking = asyncio.create_task(door.look(failed.append))
        while len(written) < 2:
            await wrote.wait()
            wrote.clear()
        for step in (USED_SECONDS - 1, 1.0):
            now += step
            await door.caller(f"Bearer {key}", "")
        while len(written) < 3:
            await wrote.wait()
            wrote.clear()
        looking.cancel()

    monkeypatch.setattr(keys, "used", used)
    served.run(life)
    assert written == [[1_000.0], [1_000.0], [1_000.0 + USED_SECONDS - 1]]
    assert [str(error) for error in failed] == ["not now"]


def test_the_last_use_is_shown(served: Served, admin: httpx.Client) -> None:
    key = made_key(admin)
    assert served.with_key(key).get("/v1/videos").status_code == 200
    door = served.gateway.door

    async def write() -> None:
        door._written_at = float("-inf")  # noqa: SLF001 - as after a minute
        await door._write_uses()  # noqa: SLF001

    served.run(write)
    used_at = read(admin.get(f"/v1/keys/{key['id']}"))["last_used_at"]
    assert 0 <= served.gateway.now() - used_at <= PATIENCE_SECONDS


# --- what a key lets through --------------------------------------------------------------------------------


def test_a_scope_narrows_a_role_and_never_widens_it(served: Served, admin: httpx.Client) -> None:
    reader = served.with_key(made_key(admin, role="operator", scopes=["videos:read", "keys"]))
    assert reader.get("/v1/videos").status_code == 200
    for method, path in (("POST", "/v1/videos"), ("GET", "/v1/providers"), ("GET", "/v1/keys")):
        found = problem(reader.request(method, path), 403, "permission_denied")
        assert ("scope" in found["detail"]) == (path != "/v1/keys")


def test_a_key_with_scopes_gives_no_others(served: Served, admin: httpx.Client) -> None:
    narrow = served.with_key(made_key(admin, role="admin", scopes=["keys", "files"]))
    assert narrow.post("/v1/keys", json={"name": "a", "scopes": ["files"]}).status_code == 201
    wide = made_key(admin)
    for answer in (
        narrow.post("/v1/keys", json={"name": "a"}),
        narrow.post("/v1/keys", json={"name": "a", "scopes": ["files", "videos:read"]}),
        narrow.post(f"/v1/keys/{wide['id']}/rotate"),
    ):
        problem(answer, 403, "permission_denied")
    assert narrow.delete(f"/v1/keys/{wide['id']}").status_code == 200


def test_a_team_has_its_things_together(served: Served, admin: httpx.Client) -> None:
    one, two = (served.with_key(made_key(admin, team="red")) for _ in range(2))
    viewer = served.with_key(made_key(admin, team="red", role="viewer"))
    video = served.create(one, prompt="ours")
    for client in (one, two, viewer):
        assert video["id"] in [each["id"] for each in read(client.get("/v1/videos"))["data"]]
    stranger, named = served.with_key(made_key(admin)), {"Idempotency-Key": "k"}
    first, second, third = (
        client.post("/v1/videos", json={"prompt": "once"}, headers=named) for client in (one, two, stranger)
    )
    assert (read(first)["id"], second.headers["idempotent-replayed"]) == (read(second)["id"], "true")
    assert "idempotent-replayed" not in third.headers


def reasons(answer: httpx.Response) -> dict[str, set[str]]:
    """Why each provider does not take a request."""
    found: dict[str, set[str]] = {}
    for one in problem(answer, 422, "no_route")["candidates"]:
        found.setdefault(one["provider"], set()).update(one["reasons"])
    return found


def test_a_key_is_for_its_providers_and_models(served: Served, admin: httpx.Client) -> None:
    key = served.with_key(made_key(admin, providers=["unified"], models=["kling-v3"]))
    planned = read(key.post("/v1/videos/plan", json={"prompt": "a"}))
    assert {one["provider"] for one in planned["candidates"]} == {"unified"}
    shown = read(key.get("/v1/models"))["data"]
    assert [one["id"] for one in shown] == ["kling-v3"]
    assert {offering["provider"] for one in shown for offering in one["offerings"]} == {"unified"}
    assert read(key.get("/v1/models/kling-v3")) == shown[0]
    pinned = {"prompt": "a", "provider": "highway"}
    for path in ("/v1/videos", "/v1/videos/plan"):
        answer = problem(key.post(path, json=pinned), 400, "invalid_request")
        assert "Enabled here: unified." in answer["errors"][0]["detail"]
        elsewhere = problem(key.post(path, json=pinned | {"provider": "highwoy"}), 400, "invalid_request")
        told = [str(one["errors"]).replace("highwoy", "highway") for one in (answer, elsewhere)]
        assert told[0] == told[1], "what is not for a key is told as little as what is not there"
    video = served.completed(key)
    assert video["provider"] == "unified"
    assert read(key.post(f"/v1/videos/{video['id']}/rerun"))["rerun_of"] == video["id"]
    other = served.as_caller("for a model that is gone", grant=Grant(models=("kling-v2",)))
    problem(other.get("/v1/models/kling-v3"), 404, "not_found")
    for path in ("/v1/videos", "/v1/videos/plan"):
        found = reasons(other.post(path, json={"prompt": "a"}))
        assert set.union(*found.values()) == {"model: is not among the models that this key may use"}


def test_a_rerun_is_bound_by_who_asks_for_it(served: Served, admin: httpx.Client) -> None:
    wide = served.with_key(made_key(admin, team="red"))
    narrow = served.with_key(made_key(admin, team="red", providers=["narrow"]))
    video = served.completed(wide, provider="highway")
    assert set(reasons(narrow.post(f"/v1/videos/{video['id']}/rerun"))) == {"narrow"}


def test_what_a_team_is_for_bounds_its_keys(served: Served, admin: httpx.Client) -> None:
    key = served.with_key(made_key(admin, team="thrifty", providers=["unified", "narrow"]))
    planned = read(key.post("/v1/videos/plan", json={"prompt": "a"}))
    assert {one["provider"] for one in planned["candidates"]} == {"unified"}
    assert [one["id"] for one in read(key.get("/v1/models"))["data"]] == ["kling-v3"]


def test_keys_of_a_team_that_is_gone_read_what_they_have_and_order_nothing(served: Served) -> None:
    key = served.as_caller("left", team="dissolved")
    assert reasons(key.post("/v1/videos", json={"prompt": "a"})) == {}
    assert (key.get("/v1/videos").status_code, read(key.get("/v1/models"))["data"]) == (200, [])
