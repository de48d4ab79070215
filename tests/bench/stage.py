"""What the cases of one group stand on: a folder, a vendor, the gateway, the floors; all end with the stage.

Held here: configuration, keys, how each server is started. Not held here: what is sent to them (the groups).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tests.bench.bare import ORDER
from tests.bench.load import UnexpectedAnswer
from tests.bench.processes import (
    LOAD_CORE,
    ROOT,
    SERVER_CORE,
    Server,
    ServerFailed,
    await_true,
    python,
    running,
)
from tests.bench.vendor import Told
from tests.bench.wire import HOST, Answer, exchange, request
from tests.serving import free_port

BODY: Final = msgspec.json.encode(ORDER)
PROVIDER: Final = "highway"
NEVER_POLLED: Final = ('poll_min = "1h"', 'poll_max = "1h"')
_CONFIGURATION: Final = """
[server]
listen = "{host}:{port}"

[store]
url = "{store}"

[files]
url = "off"

[providers.{provider}]
adapter = "highwayapi"
base_url = "http://{host}:{vendor}"
api_key = {{ env = "BENCH_VENDOR_KEY" }}
{limits}
"""
ENVIRON: Final = {"BENCH_VENDOR_KEY": "bench-vendor-key"}
S = TypeVar("S", bound=msgspec.Struct)


class Seen(msgspec.Struct, frozen=True):
    """What the bench reads of a video, or of a list of them."""

    id: str = ""
    status: str = ""
    data: list[msgspec.Raw] = []


class Vendor:
    """The fake vendor of one stage, and its account of what it saw."""

    def __init__(self, server: Server) -> None:
        self.server, self.port = server, server.port

    def told(self) -> Told:
        """What it has seen."""
        return msgspec.json.decode(exchange(self.port, "GET", "/told").body, type=Told)

    def say(self, word: str) -> None:
        """`finish` or `forget`; see its module."""
        exchange(self.port, "GET", f"/{word}")


class Gateway:
    """`reelgate serve` before `vendor`, with its data in `folder` and one key; `limits` are lines of TOML.

    Making it makes the database, too. `program` is what serves instead of the gateway's own command.
    """

    def __init__(
        self, folder: Path, vendor: Vendor, limits: tuple[str, ...], store: str = "sqlite:reelgate.db",
        program: str = "gateway",
    ) -> None:
        folder.mkdir()
        self.port, self.vendor, self.folder, self.store = free_port(), vendor, folder, store
        self.config, self.log = folder / "reelgate.toml", folder / "reelgate.log"
        self._taken = 0
        text = _CONFIGURATION.format(
            host=HOST, port=self.port, vendor=vendor.port, provider=PROVIDER, store=store,
            limits="\n".join(limits),
        )
        self.config.write_text(text, "utf-8")
        self.command = python(program, "serve", "--config", str(self.config))
        made = subprocess.run(
            python("gateway", "keys", "create", "bench", "--role", "operator", "--json",
                   "--config", str(self.config)),
            cwd=ROOT, env=os.environ | ENVIRON, check=False, capture_output=True,
        )
        if made.returncode != 0:
            raise ServerFailed(made.stderr.decode("utf-8", "replace"))
        key = msgspec.json.decode(made.stdout, type=dict[str, object])
        self.owner = str(key["id"])
        self.headers = {"Authorization": f"Bearer {key['key']}"}

    @property
    def database(self) -> Path:
        """The file that holds its data, on SQLite."""
        return self.folder / "reelgate.db"

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """One request of the caller. Raises UnexpectedAnswer for anything but success."""
        answer = exchange(self.port, method, path, self.headers, body)
        if not 200 <= answer.status < 300:
            raise UnexpectedAnswer(f"{method} {path}: {answer.status} {answer.body[:600]!r}")
        return answer

    def read(self, path: str, kind: type[S]) -> S:
        """What a GET says."""
        return msgspec.json.decode(self.ask("GET", path).body, type=kind)

    def creates(self, count: int) -> list[bytes]:
        """That many creates, each under an Idempotency-Key of its own."""
        return [
            request("POST", "/v1/videos", self.headers | {"Idempotency-Key": uuid.uuid4().hex}, BODY)
            for _ in range(count)
        ]

    def settle(self, count: int) -> None:
        """Return when `count` jobs more than at the last time are taken and stored as such.

        The vendor is asked first: that costs the gateway nothing. Raises TimeoutError.
        """
        self._taken += count
        await_true(lambda: self.vendor.told().taken >= self._taken, f"{self._taken} jobs at the vendor")
        since = int(time.time()) - 120
        path = f"/v1/videos?status=queued&limit=1&created_after={since}"
        await_true(lambda: not self.read(path, Seen).data, "the vendor's answers to be stored")

    def rendering(self, count: int) -> dict[str, str]:
        """New videos that are rendering: the ETag of each by its id."""
        made = [self.ask("POST", "/v1/videos", BODY) for _ in range(count)]
        self.settle(count)
        ids = [msgspec.json.decode(answer.body, type=Seen).id for answer in made]
        return {video: self.ask("GET", f"/v1/videos/{video}").headers["etag"] for video in ids}

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels."""
        text = exchange(self.port, "GET", "/metrics").body.decode("utf-8")
        pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def in_flight(self) -> float:
        """How many jobs of the vendor it follows."""
        return self.metrics()[f'reelgate_provider_in_flight{{provider="{PROVIDER}"}}']


class Stage:
    """A folder and the servers in it. `scale` multiplies every number of requests, rows and seconds.

    `missing` says, in a sentence each, what could not be measured on this machine; `notes` what else is to be
    known of the run.
    """

    def __init__(self, stack: ExitStack, folder: Path, scale: float, say: Callable[[str], None]) -> None:
        os.sched_setaffinity(0, {LOAD_CORE})  # and whatever is started without a core of its own
        self.stack, self.folder, self.scale, self.say = stack, folder, scale, say
        self.missing: list[str] = []
        self.notes: list[str] = []

    def inner(self, stack: ExitStack, name: str) -> Stage:
        """A stage for one case alone, which ends with `stack`; its folder is new."""
        here = Stage(stack, Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder)), self.scale, self.say)
        stack.callback(shutil.rmtree, here.folder)
        here.missing = self.missing
        return here

    def sized(self, count: float, least: int = 1) -> int:
        """`count` at the scale of this run, at least `least`."""
        return max(least, round(count * self.scale))

    def vendor(self, *options: str) -> Vendor:
        """A vendor of these options, on the core of the load."""
        port = free_port()
        command = python("tests.bench.vendor", str(port), *options)
        log = self.folder / f"vendor-{port}.log"
        return Vendor(self.stack.enter_context(running(command, port, log, core=LOAD_CORE)))

    def gateway(
        self, name: str, vendor: Vendor, *limits: str, store: str = "sqlite:reelgate.db",
        program: str = "gateway",
    ) -> Gateway:
        """A gateway in a folder of that name; not started yet."""
        return Gateway(self.folder / name, vendor, limits, store, program)

    def serve(
        self, gateway: Gateway, environ: dict[str, str] | None = None, stack: ExitStack | None = None
    ) -> Server:
        """Start it, for as long as `stack`, or else the stage, lasts."""
        environ = ENVIRON | (environ or {})
        started = running(gateway.command, gateway.port, gateway.log, core=SERVER_CORE, environ=environ)
        return (stack or self.stack).enter_context(started)

    def floor(self, module: str, *arguments: str, stack: ExitStack | None = None) -> Server:
        """Start a bare server of the bench, alike."""
        port = free_port()
        command, log = python(f"tests.bench.{module}", str(port), *arguments), self.folder / f"{module}.log"
        return (stack or self.stack).enter_context(running(command, port, log, core=SERVER_CORE))
