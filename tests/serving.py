"""A whole gateway behind a real socket, with the real simulators behind it, in a thread of its own.

The simulators' clock stands still until a test moves it, so that "still rendering" is a state and not a race.
Held here: the harness of the API tests, and a vendor that does odd things. Not held here: any expectation but
what a problem document always has.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from io import StringIO
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import httpx
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal

from gateway.api.auth import make_key
from gateway.api.gateway import Gateway
from gateway.api.problems import MEDIA_TYPE
from gateway.app import running
from gateway.core.keys import Role
from gateway.core.states import Event, Task
from gateway.logs import write_lines
from gateway.sandbox.renders import Entry
from gateway.sandbox.server import Sandbox, SandboxSettings
from gateway.sandbox.server import running as sandbox_running
from gateway.settings import Settings, parse
from tests import blank
from tests.answering import Answering, bound
from tests.handling import handling
from tests.logged import logging_to
from tests.ready import NO_TLS, known_adapters, lent_application, lent_tls

T = TypeVar("T")
Json: TypeAlias = dict[str, Any]  # an answer's body, as it came

VENDOR_KEY: Final = "vendor-key-canary"
DATABASE: Final = "reelgate.db"
RENDER_SECONDS: Final = 100.0
TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})
PATIENCE_SECONDS: Final = 30.0  # only a broken gateway takes that long

_CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:{port}"
{server}
[auth]
mode = "{auth}"
[store]
url = "sqlite:{database}"
[files]
{files}
[providers.highway]
adapter = "highwayapi"
base_url = "{sandbox}/highwayapi"
api_key = {{ env = "KEY" }}
poll_min = "10ms"
poll_max = "20ms"
[providers.highway.prices]
"kling-v3.0-std-t2v" = {{ per_second = "0.084" }}
[providers.narrow]
adapter = "myrouter"
base_url = "{sandbox}/myrouter"
api_key = {{ env = "KEY" }}
max_in_flight = 1
poll_min = "10ms"
poll_max = "20ms"
[providers.unified]
adapter = "unified"
base_url = "{sandbox}/unified"
api_key = {{ env = "KEY" }}
poll_min = "10ms"
poll_max = "20ms"
{more}
"""


class StillClock:
    """The simulators' time: it stands until somebody moves it."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        """Unix seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let others run; the clock does not move by it."""
        await asyncio.sleep(0)


class Served:
    """A gateway that is being served. `client` brings no key."""

    def __init__(
        self, gateway: Gateway, answering: Answering, settings: Settings, sandbox: Sandbox,
        clock: StillClock,
    ) -> None:
        self.gateway, self.settings, self.sandbox, self.clock = gateway, settings, sandbox, clock
        self._answering = answering
        self.url = f"http://{settings.server.listen}"
        self.portal: BlockingPortal
        self.stream: StringIO
        self.clients = ExitStack()
        self.client = self.client_with({})
        self._saves: list[tuple[str, str]] = []
        self._saved = threading.Condition()
        gateway.store.listen(self._on_save)

    @property
    def ledger(self) -> list[Entry]:
        """What the vendors have charged."""
        return self.sandbox.ledger

    @property
    def log(self) -> str:
        """What was logged so far, and of every request that was answered that it was."""
        self.run(self._all_logged)
        return self.stream.getvalue()

    @property
    def lines(self) -> list[Json]:
        """Each line of `log`, oldest first."""
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in self.log.splitlines()]

    async def _all_logged(self) -> None:
        while self._answering.ending:  # noqa: ASYNC110 - what is left of them is done without an event
            await asyncio.sleep(0)
        write_lines()

    @property
    def database(self) -> Path:
        """The file that holds its data."""
        path = self.settings.store.url.path
        assert path is not None
        return path

    def run(self, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Call something asynchronous in the gateway's own loop."""
        return self.portal.call(work, *arguments)

    def client_with(self, headers: dict[str, str]) -> httpx.Client:
        """A client that sends these headers each time, closed when the gateway ends."""
        client = httpx.Client(
            base_url=self.url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False, verify=NO_TLS
        )
        return self.clients.enter_context(client)

    def with_key(self, key: Json) -> httpx.Client:
        """A client with a key as `POST /v1/keys` answers it."""
        return self.client_with({"Authorization": f"Bearer {key['key']}"})

    def as_caller(self, name: str, role: Role = "caller", **fields: object) -> httpx.Client:
        """A client with a new key."""
        return self.client_with({"Authorization": f"Bearer {self.new_key(name, role, **fields)}"})

    def new_key(self, name: str, role: Role = "caller", **fields: object) -> str:
        """A new key, as `reelgate keys create` makes it; `fields` are those of its row."""
        row, key = make_key(name, role, time.time())
        self.run(self.gateway.store.keys.add, msgspec.structs.replace(row, **fields))
        return key

    def create(self, client: httpx.Client | None = None, **body: object) -> Json:
        """A new video, as the 202 shows it."""
        answer = (client or self.client).post("/v1/videos", json={"prompt": "a fox"} | body)
        assert answer.status_code == 202, answer.text
        return read(answer)

    def rendering(self, client: httpx.Client | None = None, **body: object) -> Json:
        """A new video that its vendor has accepted; it renders until `finish`."""
        return self.started(self.create(client, **body)["id"], client)

    def completed(self, client: httpx.Client | None = None, **body: object) -> Json:
        """A new video, all the way to its file."""
        video = self.finish(self.create(client, **body)["id"], client)
        assert video["status"] == "completed", video
        return video

    def started(self, video_id: str, client: httpx.Client | None = None) -> Json:
        """The video once a vendor has it, or it has ended."""
        return self.until(video_id, lambda video: video["status"] != "queued", client)

    def finish(self, video_id: str, client: httpx.Client | None = None) -> Json:
        """Let every render end, and return this video when it is terminal."""
        self.started(video_id, client)
        self.clock.now += RENDER_SECONDS
        return self.until(video_id, lambda video: video["status"] in TERMINAL, client)

    def until(
        self, video_id: str, is_reached: Callable[[Json], bool], client: httpx.Client | None = None
    ) -> Json:
        """The video once it `is_reached`, looked at again after each save; the metrics know of it by then."""
        while True:
            seen = len(self._saves)
            video = read((client or self.client).get(f"/v1/videos/{video_id}"))
            if is_reached(video):
                # A reader may see a commit before the gateway itself has been told of it.
                self._wait(lambda: (video_id, video["status"]) in self._saves, video)  # noqa: B023
                return video
            self._wait(lambda: len(self._saves) != seen, video)  # noqa: B023

    def _wait(self, is_over: Callable[[], bool], video: Json) -> None:
        with self._saved:
            is_reached = self._saved.wait_for(is_over, PATIENCE_SECONDS)
        assert is_reached, video

    def _on_save(self, task: Task, events: tuple[Event, ...]) -> None:
        with self._saved:
            self._saves.append((task.id, task.status))
            self._saved.notify_all()


def made_key(admin: httpx.Client, **body: object) -> Json:
    """A new key by the API, as the 201 shows it."""
    answer = admin.post("/v1/keys", json={"name": "made"} | body)
    assert answer.status_code == 201, answer.text
    return read(answer)


def read(answer: httpx.Response) -> Json:
    """The JSON object in an answer."""
    return msgspec.json.decode(answer.content, type=dict[str, Any])


def problem(answer: httpx.Response, status: int, code: str) -> Json:
    """The problem document in an answer, which must be whole and agree with the answer around it."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE), answer.text
    found = read(answer)
    assert (found["status"], found["code"]) == (status, code), found
    assert all(isinstance(found[name], str) and found[name] for name in ("type", "title", "detail")), found
    assert found["instance"] == answer.request.url.path
    assert found["request_id"] == answer.headers["x-request-id"] != ""
    assert isinstance(found["retryable"], bool)
    assert found["charged"] in {"yes", "no", "unknown"}
    assert all(set(entry) == {"pointer", "detail"} for entry in found["errors"]), found
    assert found["param"] == (found["errors"][0]["pointer"].lstrip("/?") if found["errors"] else None)
    return found


def together(work: Callable[[], T], count: int) -> list[T]:
    """What `count` threads come to that do `work` at the same moment."""
    gate = threading.Barrier(count)

    def one() -> T:
        gate.wait(PATIENCE_SECONDS)
        return work()

    with ThreadPoolExecutor(count) as pool:
        return [each.result(PATIENCE_SECONDS) for each in [pool.submit(one) for _ in range(count)]]


def free_port() -> int:
    """A port that nobody listens on, nor gets from the system meanwhile: those begin at 32,768 or later."""
    while True:
        port = 10_000 + secrets.randbelow(22_000)  # not of a generator that somebody seeds
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


class Call(NamedTuple):
    """A create call as a vendor got it; header names in small letters."""

    path: str
    headers: dict[str, str]
    body: Json


class OddVendor:
    """A vendor of the v3 async protocol that does what the simulators cannot.

    It keeps what it was sent, and its videos are done at once, under any `link` (None: its own `/file`);
    `send_file` answers for that file as it likes.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.creates: list[Call] = []
        self.link: str | None = None
        self.send_file: Callable[[BaseHTTPRequestHandler], None] = lambda handler: handler.send_error(404)

    def answer(self, call: Call) -> Json:
        """Take a create."""
        self.creates.append(call)
        return {"task_id": f"t-{len(self.creates)}"}

    def result(self, task_id: str) -> Json:
        """Every task is done."""
        task = {"task_id": task_id, "status": "TASK_STATUS_SUCCEED"}
        return {"task": task, "videos": [{"video_url": self.link or f"{self.url}/file"}]}


@contextmanager
def odd_vendor() -> Iterator[OddVendor]:
    """An OddVendor on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._say(vendor.answer(Call(self.path, headers, msgspec.json.decode(content))))

        def do_GET(self) -> None:
            _, is_poll, task_id = self.path.partition("task_id=")
            if is_poll:
                self._say(vendor.result(task_id))
            else:
                self.close_connection = True
                vendor.send_file(self)

        def _say(self, answer: Json) -> None:
            body = msgspec.json.encode(answer)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with handling(Handler) as url:
        vendor = OddVendor(url)
        yield vendor


@contextmanager
def serving(
    folder: Path, *, auth: str = "off", more: str = "", files: str = 'url = "off"', server: str = ""
) -> Iterator[Served]:
    """A gateway with its data in `folder`; `more` is added to its file, `files` and `server` to theirs."""
    log = StringIO()
    with (
        logging_to(log),
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(_living(folder, auth, more, files, server)) as served,
        served.clients,
    ):
        served.portal, served.stream = portal, log
        yield served


@asynccontextmanager
async def _living(
    folder: Path, auth: str, more: str, files: str, server: str
) -> AsyncIterator[Served]:
    clock = StillClock()
    vendors = SandboxSettings(
        port=0, key=VENDOR_KEY, render_seconds=RENDER_SECONDS, render_spread=0, link_seconds=1e7,
        draw_words=False,
    )
    async with sandbox_running(vendors, clock=clock) as sandbox:
        text = _CONFIGURATION.format(
            port=free_port(), auth=auth, sandbox=sandbox.url, more=more, files=files,
            server=server, database=DATABASE,
        )
        settings = parse(text, folder, known_adapters(), {"KEY": VENDOR_KEY})
        blank.lay(folder / DATABASE)
        with lent_tls():
            async with running(settings) as parts, _answered(parts.gateway, settings) as answering:
                yield Served(parts.gateway, answering, settings, sandbox, clock)
                parts.gateway.waiters.release()
                await parts.gateway.engine.stop()


@asynccontextmanager
async def _answered(gateway: Gateway, settings: Settings) -> AsyncIterator[Answering]:
    with lent_application(gateway) as app:
        answering = Answering(app)
        async with bound(answering, settings.server.listen):
            gateway.is_ready = True
            yield answering
