"""One vendor behind one gateway, whole and real, in virtual time: sockets, TLS, adapter, engine, API.

Everything runs on one event loop whose clock jumps to the next timer as soon as no socket has anything to
say, so that an hour of silence takes milliseconds. Held here: the loop, its names, the parts put together, a
caller. Not held here: what is done to the vendor (`playing`), and any expectation.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import random
import selectors
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from unittest import mock

import msgspec
import trustme
from litestar import Litestar

from gateway import app, assembly
from gateway.api.application import make_litestar
from gateway.api.edge import Edge
from gateway.api.gateway import Gateway
from gateway.sandbox.media import Clips, Spec, make
from gateway.sandbox.ports import Port
from gateway.sandbox.server import Sandbox, SandboxSettings
from gateway.sandbox.server import running as sandbox_running
from gateway.settings import parse
from providers import adapters
from providers.transport import tls_context
from tests.blank import blank
from tests.faults.calling import Exchange, Got, Json, scope

T = TypeVar("T")

VENDOR_KEY: Final = "vendor-key-canary"
RENDER_SECONDS: Final = 20.0
NAME: Final = "vendor.test"  # resolved by the loop below, and by nobody else
STRANGE_NAME: Final = "files.test"
KERNEL_SECONDS: Final = 0.002  # bytes between two sockets of ours may take that long on a busy machine
_GIVES: Final = ("send", "sendto", "sendmsg", "connect", "connect_ex", "shutdown", "close")  # of a socket
RESOLVER_SECONDS: Final = 30.0  # after which a resolver that hears nothing gives up
# Rounds that nothing of a vendor's depends on. At their own pace they would be most of a long wait's work.
_ROUNDS: Final = (
    "gateway.api.auth.LOOK_SECONDS", "gateway.engine.learning.KEEP_SECONDS",
    "gateway.engine.spent.SPENT_SECONDS", "gateway.engine.webhooks_outbox.LOOK_SECONDS",
)
_ROUND_SECONDS: Final = 3_600.0

_CONFIGURATION: Final = """
[auth]
mode = "off"
[routing]
deadline = "{hours}h"
[egress]
allow = ["vendor.test"]
ca_file = "{authority}"
[files]
url = "off"
[providers.faulty]
adapter = "{adapter}"
base_url = "{base_url}/{adapter}"
api_key = {{ env = "KEY" }}
offerings = ["*"]
poll_max = "10m"
{spare}
"""
_SPARE: Final = """
[providers.spare]
adapter = "{adapter}"
base_url = "{base_url}/{adapter}"
api_key = {{ env = "KEY" }}
offerings = ["*"]
"""


class Stuck(Exception):
    """Nothing can ever run again: everybody waits for something that nobody will do."""


class _Selector(selectors.DefaultSelector):
    """Lets no real time pass but what the kernel needs to carry bytes. `is_carrying`: it may be doing so."""

    loop: SocketLoop
    is_carrying = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            if self.is_carrying:
                ready = super().select(KERNEL_SECONDS)
                self.is_carrying = False
            if not ready:
                if timeout is None:
                    raise Stuck
                self.loop.skew += timeout
        self.is_carrying |= bool(ready)  # what is read makes room for more
        return ready


@contextmanager
def _carrying(selector: _Selector) -> Iterator[None]:
    """Have whatever gives the kernel something to carry, out of a timer too, told to the selector."""

    def telling(method: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(method)
        def told(*args: Any, **options: Any) -> T:  # noqa: ANN401 - the socket's own
            selector.is_carrying = True
            return method(*args, **options)

        return told

    with ExitStack() as stack:
        for name in _GIVES:
            method = telling(getattr(socket.socket, name))
            stack.enter_context(mock.patch.object(socket.socket, name, method))
        yield


class SocketLoop(asyncio.SelectorEventLoop):
    """Virtual time over real sockets, from now on. `names` are the hosts that resolve; None: nobody answers.

    It begins with the machine's time because the providers' door reads dates in `Retry-After` by that.
    """

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        self.skew, self.started_at = 0.0, time.time()
        self.names: dict[str, str | None] = {NAME: "127.0.0.1", STRANGE_NAME: "127.0.0.1"}
        selector.loop = self
        self.selector = selector

    def time(self) -> float:
        """The virtual time in seconds."""
        return self.skew

    def run_in_executor(
        self, executor: object, func: Callable[..., T], *args: object
    ) -> asyncio.Future[T]:
        """Done at once: of what a thread works meanwhile, no virtual time would pass."""
        result: asyncio.Future[T] = self.create_future()
        try:
            result.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits for it is to have it
            result.set_exception(error)
        return result

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncio's own
        """Answer for `names`; no query leaves this machine."""
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        address = self.names[host]
        if address is None:
            await asyncio.sleep(RESOLVER_SECONDS)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


def run(main: Coroutine[None, None, T]) -> T:
    """Run `main` on a loop of its own."""
    with asyncio.Runner(loop_factory=SocketLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SocketLoop)
        with _carrying(loop.selector):
            return runner.run(main)


def now() -> float:
    """Unix time, virtual."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SocketLoop)
    return loop.started_at + loop.time()


class _LoopClock:
    """The simulators' clock."""

    def time(self) -> float:
        return now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _ReadyClips(Clips):
    """Clips made at once: a thread's work takes no virtual time, so nobody would wait for it."""

    async def get(self, spec: Spec) -> bytes:
        return _clip(spec)


_clip = functools.cache(make)


@functools.cache
def authority() -> trustme.CA:
    """Who signs for the vendor; the gateway trusts it by `[egress] ca_file`."""
    return trustme.CA()


@functools.cache
def _authority_file() -> Path:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "authority.pem"
    authority().cert_pem.write_to_path(str(path))
    return path


@functools.cache
def _litestar() -> Litestar:
    """The routes, made once: each world lends them its gateway."""
    return make_litestar(None)


class Stranger(NamedTuple):
    """Somebody with whom nobody should talk: its URL, and who did."""

    url: str
    met: list[asyncio.StreamWriter]


class World:
    """A running sandbox and gateway; the provider under test reaches its vendor through `port`."""

    def __init__(self, sandbox: Sandbox, port: Port, gateway: Gateway, stranger: Stranger) -> None:
        self.sandbox, self.port, self.gateway, self.stranger = sandbox, port, gateway, stranger
        self._app = Edge(_litestar(), gateway.telemetry)
        self._saved = asyncio.Event()
        gateway.store.listen(lambda task, events: self._saved.set())

    @property
    def names(self) -> dict[str, str | None]:
        """What resolves; see SocketLoop."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SocketLoop)
        return loop.names

    def charges(self, vendor: str | None = None) -> int:
        """How many videos were bought, of all vendors or of one."""
        return sum(vendor in {None, entry.vendor} for entry in self.sandbox.ledger)

    def counted(self, metric: str, label: str) -> dict[str, int]:
        """What a counter says of the provider under test, by one of its labels; `""` where it has none."""
        found = self.gateway.telemetry.registry.restricted_registry([metric]).collect()
        samples = [sample for family in found for sample in family.samples if sample.name == metric]
        assert samples, f"nothing is counted as {metric}"
        return {
            sample.labels.get(label, ""): int(sample.value)
            for sample in samples if sample.labels.get("provider", "faulty") == "faulty"
        }

    async def create(self) -> str:
        """A new video's id."""
        answer = await self.call("POST", "/v1/videos", {"prompt": "a fox"})
        assert answer.status == 202, answer.body
        return str(answer.json()["id"])

    async def until(self, video_id: str, *stages: str) -> Json:
        """The video once its stage or status is one of these; fails after three days, or if it cannot be."""
        async with asyncio.timeout(3 * 86_400):
            while True:
                self._saved.clear()
                video = await self.video(video_id)
                if {video["stage"], video["status"]} & set(stages):
                    return video
                await self._saved.wait()

    async def video(self, video_id: str) -> Json:
        """The video as callers see it."""
        return (await self.call("GET", f"/v1/videos/{video_id}")).json()

    async def timeline(self, video_id: str) -> Sequence[Json]:
        """Everything that happened to it."""
        events: list[Json] = (await self.call("GET", f"/v1/videos/{video_id}/timeline")).json()["data"]
        return events

    async def call(
        self, method: str, path: str, body: object = None, enough_bytes: int | None = None
    ) -> Got:
        """Call the gateway's API as its server would; the caller goes away after `enough_bytes`."""
        _litestar().state.gateway = self.gateway
        exchange = Exchange(b"" if body is None else msgspec.json.encode(body), enough_bytes)
        try:
            await self._app(scope(method, path), exchange.receive, exchange.send)
        except Exception:
            if not exchange.status:
                raise  # what fails after an answer has begun only ends it, as at a real server
        return exchange.got()


@asynccontextmanager
async def world(
    adapter: str, *, spare: str | None = None, is_tls: bool = False, hours: int = 1
) -> AsyncIterator[World]:
    """A sandbox, and a gateway with `adapter` in front of it; `spare` is the adapter of a second provider.

    Videos have that many `hours` until their deadline.
    """
    vendors = SandboxSettings(
        port=0, key=VENDOR_KEY, render_seconds=RENDER_SECONDS, render_spread=0, seed=1, draw_words=False
    )
    met: list[asyncio.StreamWriter] = []
    listening = await asyncio.start_server(lambda _, writer: met.append(writer), "127.0.0.1", 0)
    stranger = Stranger(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/", met)
    async with listening, sandbox_running(vendors, clock=_LoopClock(), clips=_ReadyClips()) as sandbox:
        port = await sandbox.ports.set("open")
        base_url = f"{'https' if is_tls else 'http'}://{NAME}:{port.number}"
        second = "" if spare is None else _SPARE.format(adapter=spare, base_url=sandbox.url)
        text = _CONFIGURATION.format(
            adapter=adapter, base_url=base_url, spare=second, hours=hours, authority=_authority_file()
        )
        settings = parse(text, Path(tempfile.gettempdir()), _adapters(), {"KEY": VENDOR_KEY})
        with _in_virtual_time():
            async with app.running(settings) as parts:
                yield World(sandbox, port, parts.gateway, stranger)
                await parts.gateway.engine.stop()


_contexts = functools.cache(tls_context)
_adapters = functools.cache(adapters)


@contextmanager
def _in_virtual_time() -> Iterator[None]:
    """What the composition root takes from the machine: its clock, its chance, its disk. Rare rounds."""
    taken = mock.patch.multiple(
        assembly,
        SteadyClock=lambda told: now,
        open_database=lambda url, settings, exclusive: blank(),
        tls_context=_contexts,
        random=mock.Mock(Random=lambda: random.Random(1)),
    )
    with taken, ExitStack() as stack:
        for pace in _ROUNDS:
            stack.enter_context(mock.patch(pace, _ROUND_SECONDS))
        yield
