"""Secrets planted in every place that takes one, through lives of a real gateway: none where it may not be.

Each canary's table row (`tests/security/planting.py`) says where it may stand; every other place is searched:
logs in JSON and text at debug, metrics, pages, errors, answers, webhooks, what vendors got, the command line,
every column of the database. Not held here: the shapes that all tests' logs are watched for (`test_shapes`).
"""

from __future__ import annotations

import base64
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from gateway.sandbox.server import SandboxSettings
from gateway.sandbox.server import running as sandbox_running
from tests import postgres
from tests.canaries import Canary, leaks, spellings
from tests.security.planting import IMAGE, KNOWN, UPLOAD, VENDOR, Planted, outside, sqlite_columns

pytestmark = pytest.mark.long

SQLITE_BREAK: Final = (
    "create trigger broken before insert on video_requests begin select raise(abort, 'broken'); end"
)
SQLITE_MEND: Final = "drop trigger broken"
# Of a row that breaks a check, PostgreSQL shows the whole.
POSTGRES_BREAK: Final = "alter table video_requests add constraint broken check (request = '') not valid"
POSTGRES_MEND: Final = "alter table video_requests drop constraint broken"
KINDS: Final = 25
CREATED: Final[dict[str, object]] = {
    "prompt": "canary-of-the-prompt", "negative_prompt": "canary-negative-prompt",
    "metadata": {"label": "canary-metadata"},
}  # fmt: skip
BROUGHT: Final = {
    "Cookie": "session=canary-cookie", "X-Custom": "canary-custom-header", "User-Agent": "canary-user-agent",
    "X-Request-Id": "canary request id",
}  # fmt: skip


class Database:
    """The store of a run, as somebody beside the gateway sees it."""

    def __init__(self, kind: str, folder: Path, url: str, portal: BlockingPortal) -> None:
        self._path = folder / "reelgate.db" if kind == "sqlite" else None
        self.url, self._portal = url, portal

    def turn(self, sqlite: str, postgres_sql: str) -> None:
        """Run one statement."""
        if self._path is None:
            self._portal.call(self._execute, postgres_sql)
            return
        with closing(sqlite3.connect(self._path, isolation_level=None, timeout=30)) as connection:
            connection.execute(sqlite)

    async def _execute(self, sql: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    def columns(self) -> Iterator[tuple[str, Any]]:
        """Every value, with its table and column."""
        if self._path is not None:
            return sqlite_columns(self._path)
        return iter(self._portal.call(self._columns))

    async def _columns(self) -> list[tuple[str, Any]]:
        connection = await asyncpg.connect(self.url)
        try:
            named = await connection.fetch(
                "select table_name from information_schema.tables where table_schema = current_schema()"
            )
            found: list[tuple[str, Any]] = []
            for (table,) in named:
                for row in await connection.fetch(f"select * from {table}"):  # noqa: S608 - from the schema
                    found += [(f"{table}.{name}", value) for name, value in row.items()]
            return found
        finally:
            await connection.close()


def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()


def stopped(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)


def order(planted: Planted, client: httpx.Client, **body: object) -> str:
    """A new video with every secret that any may have."""
    answer = client.post("/v1/videos", json=CREATED | body)
    assert answer.status_code == 202, answer.text
    planted.note("video", answer.text)
    return str(answer.json()["id"])


def lives(planted: Planted, client: httpx.Client) -> list[str]:
    """Videos of every kind, to their ends; their ids."""
    image = f"data:image/png;base64,{base64.b64encode(IMAGE).decode()}"
    form = {"file": ("canary-file-name.png", UPLOAD, "image/png")}
    uploaded = client.post("/v1/files", files=form)
    assert uploaded.status_code == 200, uploaded.text
    shots = [{"prompt": "canary-of-a-shot", "duration": 5}]
    hook = f"{planted.out.url}/hook?token=canary-webhook-url"
    i2v: dict[str, object] = {"negative_prompt": "", "provider": "one"}
    odd: dict[str, object] = {"provider": "odd", "resolution": "1080p", "deadline": 1}
    made = [
        order(planted, client, webhook_url=hook, provider="one"),
        order(planted, client, prompt=None, shots=shots, provider="united", negative_prompt=None),
        order(planted, client, provider="united", audio=True, voice_ids=["canary-voice-id"]),
        order(planted, client, provider="united", image="https://x.example/a.png?s=canary-image-url"),
        order(planted, client, image=image, **i2v),
        order(planted, client, image=uploaded.json()["id"], **i2v),
        order(planted, client, prompt="canary-of-the-prompt be refused", **odd),
        order(planted, client, prompt="canary-of-the-prompt go elsewhere", **odd),
        *(order(planted, client, prompt=f"[[fault:{fault}]] canary-of-the-prompt", provider="one", deadline=1)
          for fault in ("unavailable phase=poll times=1", "unknown_status", "policy", "reset_after_accept",
                        "html", "endless_headers", "huge_header", "redirect phase=poll times=1")),
    ]  # fmt: skip
    for video_id in made:
        planted.note("video after", str(planted.ended(video_id)))
    return made


def errors(planted: Planted, client: httpx.Client, key: str, video_id: str) -> None:
    """Refusals of every kind, each of a request that brings secrets."""
    wrong = KNOWN["wrong key"].text
    basic = base64.b64encode(b"u:canary-basic-password").decode()
    refused, path = planted.refused, f"/v1/videos/{video_id}"
    for given in (f"Bearer {wrong}", f"Bearer {key}x", f"Basic {basic}", f"bearer{key}", key, f"Token {key}"):
        refused(client.get(path, headers={"Authorization": given}))
    refused(client.post("/v1/videos", content=b'{"prompt": "canary-broken-body"'))
    for field in (
        "duration", "resolution", "cfg_scale", "shots", "voice_ids", "priority", "deadline", "metadata",
    ):
        refused(client.post("/v1/videos", json=CREATED | {field: "canary-of-the-prompt"}))
    refused(client.post("/v1/videos", json=CREATED | {"image": "http://u:canary-image-url@127.0.0.1/"}))
    refused(client.post("/v1/videos", json=CREATED | {"webhook_url": "ftp://canary-webhook-url/"}))
    long = {"Idempotency-Key": "canary-idempotency-key" * 40}
    refused(client.post("/v1/videos", json=CREATED, headers=long))
    refused(client.get("/canary-path"))
    refused(client.put(path))
    refused(client.get(f"{path}/content", params={"variant": "canary-of-the-prompt", "signature": key}))
    refused(client.post(f"{path}/resolve", json={"action": "canary-of-the-prompt"}))
    refused(client.post("/v1/webhook_endpoints", json={"url": "ftp://canary-endpoint-url/"}))
    refused(client.get("/v1/videos", params={"limit": "canary-of-the-prompt"}))
    refused(client.post("/v1/files", files={"file": ("canary-file-name.png", b"canary-bytes-of-an-upload")}))


def answers(planted: Planted, client: httpx.Client, key: str, ids: list[str]) -> None:
    """What the gateway says of itself and of what it did."""
    for place, path in (
        ("metrics", "/metrics"), ("openapi", "/openapi.json"), ("docs", "/docs"), ("videos", "/v1/videos"),
        ("providers", "/v1/providers"), ("models", "/v1/models"), ("endpoints", "/v1/webhook_endpoints"),
        ("version", "/v1/version"),
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        planted.note(place, f"{answer.headers}\n{answer.text}")
    for video_id in ids:
        planted.note("timeline", client.get(f"/v1/videos/{video_id}/timeline").text)
        planted.note("events", client.get(f"/v1/videos/{video_id}/events").text)
    planted.run("videos", "get", ids[0], key=key)
    for endpoint in client.get("/v1/webhook_endpoints").json()["data"]:
        planted.note("deliveries", client.get(f"/v1/webhook_endpoints/{endpoint['id']}/deliveries").text)


def first(planted: Planted, database: Database) -> str:
    """Everything that callers do, in a process that logs JSON and is killed. The caller's key."""
    config = planted.configured("first")
    planted.run("db", "migrate", "--config", str(config))
    key = planted.run("keys", "create", "alice", "--role", "admin", "--config", str(config))
    planted.secrets.append(Canary("caller's key", key))
    with planted.serving(config, ends=killed) as client:
        client.headers.update(BROUGHT | {"Authorization": f"Bearer {key}"})
        for path in ("/hook?token=canary-endpoint-url", "/hook/moved?token=canary-endpoint-url"):
            made = client.post("/v1/webhook_endpoints", json={"url": planted.out.url + path}).json()
            may = ("db:webhook_endpoints.secrets",)
            planted.secrets.append(Canary(f"secret of {path}", made["secret"], may))
        ids = lives(planted, client)
        idempotent = {"Idempotency-Key": "canary-idempotency-key"}
        for prompt in ("canary-of-the-prompt", "another"):
            answer = client.post("/v1/videos", json=CREATED | {"prompt": prompt}, headers=idempotent)
            planted.note("video" if answer.status_code < 300 else "errors", answer.text)
        signed = client.post(f"/v1/videos/{ids[0]}/links").json()["url"]
        signature = signed.partition("signature=")[2]
        planted.secrets.append(Canary("signature of a link", signature))
        assert client.get(signed, headers={"Authorization": ""}).status_code == 200
        planted.refused(client.get(f"{signed}x", headers={"Authorization": ""}))
        errors(planted, client, key, ids[0])
        answers(planted, client, key, ids)
        broken(planted, database, client)
    return key


def broken(planted: Planted, database: Database, client: httpx.Client) -> None:
    """A create that the database refuses: a fault of ours, with its traceback."""
    database.turn(SQLITE_BREAK, POSTGRES_BREAK)
    answer = client.post("/v1/videos", json=CREATED, headers={"Idempotency-Key": "canary-idempotency-key 2"})
    planted.refused(answer)
    database.turn(SQLITE_MEND, POSTGRES_MEND)


def later(planted: Planted, database: Database) -> None:
    """Three more processes: text and a bucket out of reach, a proxy out of reach, a database out of reach."""
    bucket = (
        'url = "s3://videos/x"\nendpoint = "http://127.0.0.1:1"\nregion = "us-east-1"\n'
        'access_key_id = { env = "C_ID" }\nsecret_access_key = { env = "C_SECRET" }'
    )
    with planted.serving(planted.configured("second", "text", files=bucket), ends=stopped) as client:
        planted.ended(order(planted, client, provider="one"))
        while 'file_copies_total{result="retried"} 0.0' in client.get("/metrics").text:
            pass
        broken(planted, database, client)
    config = planted.configured("third", egress='proxy = { env = "C_PROXY" }')
    with planted.serving(config, ends=stopped) as client:
        video_id = order(planted, client, provider="one", deadline=1)
        planted.ended(video_id)
        planted.note("timeline", client.get(f"/v1/videos/{video_id}/timeline").text)
        planted.note("providers", client.get("/v1/providers").text)
    planted.run("serve", "--config", str(planted.configured("fourth", store="C_DEAD")))


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    kind: str = request.param
    folder = tmp_path_factory.mktemp("canaries")
    postgres.server()  # from here: it dies with the thread that starts it
    settings = SandboxSettings(port=0, key=VENDOR, render_seconds=0.1, render_spread=0, draw_words=False)
    with (
        outside() as out, start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(sandbox_running(settings)) as sandbox,
        portal.wrap_async_context_manager(postgres.database(is_empty=True)) as url,
    ):
        database = Database(kind, folder, url, portal)
        with_password = url.replace("postgres@", "postgres:canary-database-password@")
        store = "sqlite:reelgate.db" if kind == "sqlite" else with_password
        made = Planted(folder, store, sandbox.url, out)
        with made.client:
            first(made, database)
            later(made, database)
        made.columns(database.columns())
        made.secrets.append(Canary(
            "key that signs links", made.places["db:signing_keys.secret"].strip(), ("db:signing_keys.secret",)
        ))
        for place, asked in out.asked.items():
            made.note(place, "\n".join(asked))
        yield made


def test_every_secret_is_only_where_it_may_be(planted: Planted) -> None:
    canaries = [*KNOWN.values(), *planted.secrets]
    assert len(canaries) >= KINDS
    assert not leaks(canaries, planted.places)


# Where each was certainly seen, or the run did not plant it.
SEEN: Final = {
    "prompt": ("video", "vendor", "db:video_requests.request"), "metadata": ("video",), "voice": ("vendor",),
    "shot prompt": ("vendor",), "negative prompt": ("vendor",), "image url": ("vendor",),
    "data uri": ("db:video_inputs.value",), "upload": ("db:upload_contents.value", "db:video_inputs.value"),
    "file name": ("db:uploads.filename",), "webhook url": ("hook", "db:video_requests.webhook_url"),
    "endpoint url": ("hook", "endpoints"), "result link": ("db:videos.result_url",),
    "vendor's words": ("video after",), "odd vendor's key": ("vendor",), "path": ("errors",),
    "idempotency key": ("db:idempotency_keys.name",), "key that signs links": ("db:signing_keys.secret",),
}  # fmt: skip


def test_every_secret_was_planted_where_the_table_says(planted: Planted) -> None:
    canaries = {one.name: one for one in [*KNOWN.values(), *planted.secrets]}
    missing = [
        (name, place) for name, places in SEEN.items() for place in places
        if not any(spelling in planted.places[place] for spelling in spellings(canaries[name].text))
    ]
    assert not missing


def test_the_run_was_long_enough_to_say_something(planted: Planted) -> None:
    log = planted.places["log"]
    assert log.count("\n") > 100
    assert log.count("Traceback") >= 2
    for event in ("request_failed", "webhook_sent", "file_not_stored", "submitting"):
        assert event in log, event
