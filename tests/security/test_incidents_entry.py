"""What happened to other gateways at their door: keys, roles, routes without a guard. Each a real attempt.

The rows are those of SECURITY.md, "Incidents elsewhere". Not held here: where requests can make the gateway
go (`test_incidents_reach`), what they can make it run or hold (`test_incidents_input`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from gateway.api.application import ROUTES
from gateway.api.auth import Door, make_key
from gateway.errors import Problem
from gateway.storage.db import Step
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from tests.security.attempts import MARK, authorizations, injections, raw, status_of
from tests.security.planting import sqlite_columns
from tests.serving import VENDOR_KEY, Served, read, serving
from tests.storage.stores import sqlite_at

COUNT: Final = 1_000
OPEN: Final = {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/v1/version",
               "/v1/callbacks/{provider:str}/{token:str}"}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("entry"), auth="keys") as started:
        yield started


def test_sql_in_a_key(served: Served) -> None:
    """CVE-2026-42208: SQL injection before authentication, inside the verification of keys."""
    good = served.as_caller("good")
    refused = [
        served.client.get("/v1/models", headers={"Authorization": given})
        for given in authorizations(COUNT)
    ]
    assert {answer.status_code for answer in refused} <= {401, 429}
    assert not any(MARK in answer.text for answer in refused)
    # The same at the door, from an address each: none is turned away for its many before.
    for number, given in enumerate(authorizations(COUNT)):
        with pytest.raises(Problem) as caught:
            served.run(served.gateway.door.caller, given, f"10.0.{number // 256}.{number % 256}")
        assert caught.value.code == "authentication_failed"
    assert good.get("/v1/models").status_code == 200
    assert MARK not in served.log
    assert not [line for line in served.lines if line["event"] in {"request_failed", "step_failed"}]


@pytest.mark.anyio
async def test_keys_that_share_a_prefix(tmp_path: Path) -> None:
    """CVE-2026-35030: a cache by the first letters of a token took one caller for another."""
    async with sqlite_at(tmp_path / "keys.db") as database:
        door = Door(Store(database), lambda: 0.0, is_open=False)
        row, key = make_key("one", "caller", 0.0)
        await Store(database).keys.add(row)
        assert (await door.caller(f"Bearer {key}", "10.0.0.1")).id == row.id
        head = f"Bearer {key[:-4]}"
        others = {f"{head}{number:04x}" for number in range(16**4)} - {f"Bearer {key}"}
        assert not any(map(door.known, others))
        assert not any(door.known(f"Bearer {key[:length]}") for length in range(len(key)))
        assert door.known(f"Bearer {key}") is not None


def test_a_hash_is_no_key(served: Served) -> None:
    """GHSA-69x8-hrgq-fjj8: hashes were returned by the API and taken for passwords."""
    key = served.new_key("hashed", "admin")
    digest = hashlib.sha256(key.encode()).hexdigest()
    stored = [str(value) for _, value in sqlite_columns(served.database)]
    assert digest in stored
    assert key not in stored
    admin = served.client_with({"Authorization": f"Bearer {key}"})
    for given in (digest, f"rg_{digest}", f"sha256:{digest}", digest.upper()):
        answer = served.client.get("/v1/models", headers={"Authorization": f"Bearer {given}"})
        assert answer.status_code in {401, 429}
    assert not [path for path, text in gets(served, admin) if digest in text or key in text]


def gets(served: Served, client: httpx.Client) -> Iterator[tuple[str, str]]:
    """Every answer to a GET of a documented route, of a video that there is."""
    video_id = served.completed(client)["id"]
    paths = [path for path, methods in read(client.get("/openapi.json"))["paths"].items() if "get" in methods]
    filled = (re.sub(r"\{.*?\}", "highway", path.replace("{video_id}", video_id)) for path in sorted(paths))
    # A stream of everything does not end.
    for path in (*(path for path in filled if path != "/v1/events"), "/docs", "/openapi.json"):
        answer = client.get(path)
        assert answer.status_code < 500, path
        yield path, f"{answer.headers} {answer.text}"


def test_vendor_keys_cannot_be_read_back(served: Served) -> None:
    """GO-2026-4813: a check that could be passed by showed the channels' secrets to the page."""
    admin = served.as_caller("root", "admin")
    assert not [path for path, text in gets(served, admin) if VENDOR_KEY in text]
    fields = {name for entry in read(admin.get("/v1/providers"))["data"] for name in entry}
    assert not {name for name in fields if re.search("key|secret|token|password", name)}


def test_a_key_is_hidden_whole(served: Served) -> None:
    """CVE-2024-9606, CVE-2025-0330: masking hid the first five letters of a key and logged the others."""
    key = served.new_key("masked")
    for given in (key, key[:-1], key[1:], f"{key}x", key.swapcase()):
        served.client.get("/v1/models", headers={"Authorization": f"Bearer {given}"})
    shown = served.log + served.client.get("/metrics").text
    assert not [key[start : start + 8] for start in range(3, len(key) - 8) if key[start : start + 8] in shown]


def test_authorization_is_logged_nowhere(served: Served) -> None:
    """LiteLLM, 18 March 2026: a guardrail logged whole requests, and their Authorization with them."""
    given = ["Bearer canary-a", "Basic Y2FuYXJ5LWI=", "canary-c", "Token canary-d", "Digest response=canary"]
    for value in given:
        for path in ("/v1/videos", "/nowhere", "/v1/callbacks/highway/x", "/livez"):
            for method in ("GET", "POST", "BREW"):
                served.client.request(method, path, headers={"Authorization": value, "X-Api-Key": value})
    shown = served.log + served.client.get("/metrics").text
    assert not re.search("canary-|Y2FuYXJ5|Bearer|Basic|[Aa]uthorization", shown)


def test_every_route_is_guarded(served: Served) -> None:
    """CVE-2025-66405, CVE-2026-82270: the fix was in a validator of each route, and an old route had none."""
    unguarded = set()
    for route in ROUTES:
        for path in route.paths:
            url = re.sub(r"\{.*?\}", "x", path)
            statuses = {served.client.request(str(m), url).status_code for m in route.http_methods}
            assert (route.opt.get("public") is True) == (path in OPEN), path
            if statuses - {401, 429}:
                unguarded.add(path)
    assert unguarded <= OPEN


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "TLS/1.0", "websocket, h2c"])
@pytest.mark.parametrize("path", ["/v1/videos", "/v1/events", "/ws", "/mcp", "/v1/realtime", "/static/x"])
def test_a_side_protocol_is_no_way_in(served: Served, upgrade: str, path: str) -> None:
    """CVE-2026-59822: an endpoint of another protocol, mounted beside, did not authenticate."""
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: {upgrade}\r\n"
    more = (
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "HTTP2-Settings: AAMAAABkAAQ\r\n"
    )
    assert status_of(raw(served, f"{head}{more}\r\n".encode())) in {400, 401, 403, 404, 429, 501}


def test_orders_need_a_role(served: Served) -> None:
    """PYSEC-2022-42973: whoever reached the operations page could call tasks and stop workers."""
    video_id = served.completed(served.as_caller("owner"))["id"]
    orders = [
        ("/v1/providers/highway/pause", {}), ("/v1/providers/highway/drain", {}),
        ("/v1/providers/highway/resume", {}), (f"/v1/videos/{video_id}/resolve", {"action": "failed"}),
    ]
    for path, body in orders:
        assert served.client.post(path, json=body).status_code in {401, 429}
        for role in ("viewer", "caller"):
            answer = served.as_caller(role, role).post(path, json=body)
            assert answer.status_code in {403, 404}, (path, role)
    for path in ("/", "/admin", "/dashboard", "/ui", "/api/task/async-apply/x", "/api/worker/shutdown/x"):
        assert served.client.post(path).status_code == 404


def test_sql_in_what_is_listed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2024-5225, CVE-2025-45809: SQL injection in reports and in the blocking of keys."""
    statements = watched(monkeypatch)
    admin = served.as_caller("lister", "admin")
    names = ("limit", "after", "order", "status", "stage", "model", "provider", "created_after", "actor",
             "action", "metadata[a]", "target", "team", "key", "group_by")  # fmt: skip
    paths = ("/v1/videos", "/v1/audit", "/v1/usage", "/v1/keys", "/v1/webhook_endpoints/x/deliveries")
    for number, text in enumerate(injections(300)):
        path, name = paths[number % len(paths)], names[number % len(names)]
        assert admin.get(path, params={name: text}).status_code in {200, 400, 404}, (path, name, text)
    for text in injections(20):
        for path in ("/v1/videos/{}", "/v1/videos/{}/timeline", "/v1/files/{}", "/v1/webhook_endpoints/{}",
                     "/v1/keys/{}"):  # fmt: skip
            answer = admin.get(path.format(text.replace("/", "%2F").replace("?", "%3F").replace("#", "%23")))
            assert answer.status_code in {400, 404, 405}, (path, text)
        body = {"prompt": text, "metadata": {text[:64]: text}}
        answer = admin.post("/v1/videos", json=body, headers={"Idempotency-Key": text})
        assert answer.status_code in {202, 400}, text
    assert len(statements) > 100
    assert not [sql for sql in statements if MARK in sql]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of all statements from now on."""
    found: list[str] = []
    read_rows, write_steps = SqliteDatabase.read, SqliteDatabase.write

    async def reading(self: SqliteDatabase, sql: str, *rest: Any) -> Any:  # noqa: ANN401
        found.append(sql)
        return await read_rows(self, sql, *rest)

    async def writing(self: SqliteDatabase, steps: Sequence[Step], *rest: Any) -> Any:  # noqa: ANN401
        found.extend(step.sql for step in steps)
        return await write_steps(self, steps, *rest)

    monkeypatch.setattr(SqliteDatabase, "read", reading)
    monkeypatch.setattr(SqliteDatabase, "write", writing)
    return found
