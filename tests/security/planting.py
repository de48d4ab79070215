"""Lives of a real gateway with a secret in every place that takes one, and all that it says of them.

Held here: the stage (simulators, a vendor that talks too much, a receiver of webhooks), four processes one
after the other, and what is gathered. Not held here: where a secret may stand (`test_canaries`).
"""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx
import msgspec

from tests.api.bodies import png
from tests.canaries import Canary
from tests.handling import handling
from tests.serving import PATIENCE_SECONDS, Json, free_port

# What is done to a process at its end.
Ending: TypeAlias = Callable[[subprocess.Popen[bytes]], None]

TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})
VENDOR: Final = "canary-key-of-vendor-one"
ODD: Final = "canary-key-of-vendor-two"
IMAGE: Final = png(720, 720, 400) + b"canary-bytes-in-a-data-uri"
UPLOAD: Final = png(720, 720, 400) + b"canary-bytes-of-an-upload"
_HOOK: Final = base64.b64encode(b"canary-secret-of-webhooks").decode()

_SHOWN: Final = ("video*", "hook", "cli:videos get", "db:webhook_messages.content")
_STORED: Final = ("db:video_requests.request", "vendor", *_SHOWN)
_OWN: Final = ("db:video_requests.metadata", "db:video_labels.value", *_SHOWN)
# Those whose text is known beforehand. The others are made by the gateway: see `Planted.run`.
KNOWN: Final = {canary.name: canary for canary in (
    Canary("environment", "canary-of-the-environment"),
    Canary("wrong key", "rg_canarywrongkey00000000000000000000000"),
    Canary("basic password", "canary-basic-password"),
    Canary("cookie", "canary-cookie"),
    Canary("header", "canary-custom-header"),
    Canary("user agent", "canary-user-agent"),
    Canary("odd request id", "canary request id"),
    Canary("idempotency key", "canary-idempotency-key", ("db:idempotency_keys.name",)),
    Canary("vendor key", VENDOR),
    Canary("odd vendor's key", ODD, ("vendor",)),
    Canary("webhook secret", f"whsec_{_HOOK}"),
    Canary("database password", "canary-database-password"),
    Canary("proxy password", "canary-proxy-password"),
    Canary("s3 key id", "CANARYS3KEYID"),
    Canary("s3 key", "canary-s3-secret-key"),
    Canary("prompt", "canary-of-the-prompt", _STORED),
    Canary("negative prompt", "canary-negative-prompt", _STORED),
    Canary("shot prompt", "canary-of-a-shot", _STORED),
    Canary("voice", "canary-voice-id", _STORED),
    Canary("metadata", "canary-metadata", _OWN),
    Canary("image url", "canary-image-url", _STORED),
    Canary("data uri", "canary-bytes-in-a-data-uri", ("vendor", "db:video_inputs.value")),
    Canary("upload", "canary-bytes-of-an-upload", (
        "vendor", "db:video_inputs.value", "db:upload_contents.value",
    )),
    Canary("file name", "canary-file-name", ("db:uploads.filename",)),
    Canary("webhook url", "canary-webhook-url", (
        "hook", "db:video_requests.webhook_url", "db:webhook_messages.url",
    )),
    Canary("endpoint url", "canary-endpoint-url", (
        "hook", "endpoints", "db:webhook_endpoints.url", "db:webhook_messages.url",
    )),
    Canary("receiver's answer", "canary-receivers-answer"),
    Canary("receiver's redirect", "canary-receivers-location"),
    Canary("result link", "canary-result-link", ("vendor", "db:videos.result_url", "db:videos.late_url")),
    Canary("vendor's redirect", "canary-vendors-location"),
    Canary("vendor's cookie", "canary-vendors-cookie"),
    Canary("vendor's words", "canary-vendors-words", (
        "video*", "hook", "timeline", "events", "db:videos.error_message", "db:events.*", "cli:videos get",
        "db:webhook_messages.*", "db:videos.ruled_out",
    )),
    Canary("path", "canary-path", ("errors",)),
    Canary("broken body", "canary-broken-body"),
)}  # fmt: skip

_CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:{port}"
[store]
url = {store}
[files]
{files}
[log]
level = "debug"
format = "{style}"
[webhooks]
secrets = [{{ env = "C_HOOK" }}]
[egress]
allow = ["127.0.0.0/8"]
{egress}
[providers.one]
adapter = "highwayapi"
base_url = "{sandbox}/highwayapi"
api_key = {{ env = "C_VENDOR" }}
poll_min = "10ms"
poll_max = "20ms"
[providers.one.prices]
"kling-v3.0-std-t2v" = {{ per_second = "0.084" }}
[providers.odd]
adapter = "myrouter"
base_url = "{odd}"
api_key = {{ env = "C_ODD" }}
poll_min = "10ms"
poll_max = "20ms"
[providers.united]
adapter = "unified"
base_url = "{odd}"
api_key = {{ env = "C_ODD" }}
offerings = ["*"]
poll_min = "10ms"
poll_max = "20ms"
"""


class Outside:
    """A vendor that says what it should keep to itself, and a receiver of webhooks that does likewise."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: dict[str, list[str]] = {"vendor": [], "hook": []}

    def answer(self, method: str, path: str, key: str, body: bytes) -> tuple[int, dict[str, str], Json]:
        """Status, headers, body."""
        if path.startswith("/hook"):
            moved = {"Location": "http://127.0.0.1:1/canary-receivers-location"}
            return (302 if "moved" in path else 500), moved, {"said": "canary-receivers-answer"}
        cookie = {"Set-Cookie": "session=canary-vendors-cookie"}
        if method == "GET" and path.startswith("/v3/async/task-result"):
            links = [{"video_url": f"{self.url}/file?signature=canary-result-link"}]
            return 200, cookie, {"task": {"task_id": "t-1", "status": "TASK_STATUS_SUCCEED"}, "videos": links}
        if method == "GET" and path.startswith("/v1/tasks/"):
            links = [{"url": f"{self.url}/file?signature=canary-result-link"}]
            return 200, cookie, {"id": path.rpartition("/")[2], "status": "completed", "results": links}
        if method == "GET":
            return 500, cookie, {"message": f"canary-vendors-words {key}"}
        if b"go elsewhere" in body:
            return 302, {"Location": f"{self.url}/canary-vendors-location?key={key}"}, {}
        if b"be refused" in body:
            words = f"canary-vendors-words: {key} is not good, see {self.url}/?signature=canary-result-link"
            return 400, cookie, {"reason": "INVALID_REQUEST_BODY", "message": words}
        name = f"t-{len(self.asked['vendor'])}"
        return 200, cookie, {"task_id": name, "id": name, "status": "pending"}


@contextmanager
def outside() -> Iterator[Outside]:
    """An Outside on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            kind = "hook" if self.path.startswith("/hook") else "vendor"
            made.asked[kind].append(f"{self.path}\n{self.headers}\n{body.decode()}")
            key = self.headers.get("authorization", "")
            status, headers, answer = made.answer(self.command, self.path, key, body)
            content = msgspec.json.encode(answer)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - the base class's name


    made = Outside()
    with handling(Handler) as made.url:
        yield made


class Planted:
    """The processes, and what is to be searched: `places` by name. `secrets` are those the gateway made."""

    def __init__(self, folder: Path, store: str, sandbox: str, out: Outside) -> None:
        self.folder, self.sandbox, self.out = folder, sandbox, out
        self.places: dict[str, str] = {}
        self.secrets: list[Canary] = []
        self.client = httpx.Client(timeout=PATIENCE_SECONDS, trust_env=False)
        self.environ = os.environ | {
            "C_VENDOR": VENDOR, "C_ODD": ODD, "C_HOOK": f"whsec_{_HOOK}",
            "C_OTHER": "canary-of-the-environment",
            "C_STORE": store, "C_DEAD": "postgresql://u:canary-database-password@127.0.0.1:1/x",
            "C_PROXY": "http://u:canary-proxy-password@127.0.0.1:1", "C_ID": "CANARYS3KEYID",
            "C_SECRET": "canary-s3-secret-key", "PYTHONDONTWRITEBYTECODE": "",
        }

    def note(self, place: str, text: str) -> None:
        """What stands in that place, beside what stood there before."""
        self.places[place] = self.places.get(place, "") + text + "\n"

    def configured(self, name: str, style: str = "json", store: str = "C_STORE", files: str = 'url = "off"',
                   egress: str = "") -> Path:
        """A configuration; what `check` says of it is noted."""
        path = self.folder / f"{name}.toml"
        self.port = free_port()
        path.write_text(_CONFIGURATION.format(
            port=self.port, store=f'{{ env = "{store}" }}', files=files, style=style, egress=egress,
            sandbox=self.sandbox, odd=self.out.url,
        ), "utf-8")
        self.run("check", str(path))
        return path

    def run(self, *arguments: str, key: str = "") -> str:
        """A verb as typed; what it says is noted."""
        environ = self.environ | {"REELGATE_KEY": key, "REELGATE_URL": f"http://127.0.0.1:{self.port}"}
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments], env=environ, capture_output=True, text=True,
            check=False, timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0 or arguments[0] in ("serve", "check"), done.stderr
        is_key = arguments[0] == "keys"  # which is shown this once
        place = " ".join(arguments[: 2 if arguments[0] == "videos" else 1])
        self.note(f"cli:{place}", done.stderr if is_key else done.stdout + done.stderr)
        return done.stdout.strip()

    @contextmanager
    def serving(self, config: Path, *, ends: Ending) -> Iterator[httpx.Client]:
        """A gateway by that configuration, ended as told; all that it says is noted."""
        path = self.folder / f"{config.stem}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", "--config", str(config)], env=self.environ,
                stdout=log, stderr=subprocess.STDOUT,
            )
        self.client.base_url = httpx.URL(f"http://127.0.0.1:{self.port}")
        try:
            while process.poll() is None and not self._is_ready():
                process.poll()
            assert process.returncode is None, path.read_text("utf-8")
            yield self.client
        finally:
            ends(process)
            process.wait(PATIENCE_SECONDS)
            self.note("log", path.read_text("utf-8"))

    def _is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def ended(self, video_id: str) -> Json:
        """The video once it is over."""
        while True:
            video: Json = self.client.get(f"/v1/videos/{video_id}", params={"wait": 5}).json()
            if video["status"] in TERMINAL:
                return video

    def refused(self, answer: httpx.Response) -> None:
        """Note an answer that is to be an error."""
        assert answer.status_code >= 400, answer.text
        self.note("errors", f"{answer.headers}\n{answer.text}")

    def columns(self, rows: Iterator[tuple[str, Any]]) -> None:
        """Note what columns of the database hold."""
        for column, value in rows:
            self.note(f"db:{column}", str(value))


def sqlite_columns(path: Path) -> Iterator[tuple[str, Any]]:
    """Every value in a SQLite file, with its table and column."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (table,) in tables:
            found = connection.execute(f"select * from {table}")  # noqa: S608 - a name from the schema
            names = [column[0] for column in found.description]
            for row in found.fetchall():
                yield from ((f"{table}.{name}", value) for name, value in zip(names, row, strict=True))
