"""Several replicas in one process, each with its own sockets and drivers, on one real PostgreSQL.

The simulators' clock stands still until a test moves it. Held here: the stage, and short ways to ask. Not
held here: any expectation; replicas that are killed or stopped (`tests.campaigns`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import httpx
import msgspec

from gateway.api.gateway import Gateway
from gateway.app import running
from gateway.engine.replica import ReplicaRole
from gateway.listening import listening, server
from gateway.sandbox.server import Sandbox, SandboxSettings
from gateway.sandbox.server import running as sandbox_running
from gateway.settings import Settings, parse
from tests import postgres
from tests.kill.process import KEY
from tests.ready import NO_TLS, known_adapters, lent_application, lent_tls
from tests.serving import StillClock, free_port

Json: TypeAlias = dict[str, Any]  # an answer's body, as it came
T = TypeVar("T")

RENDER_SECONDS: Final = 100.0
PATIENCE_SECONDS: Final = 30.0  # only a broken gateway takes that long
LOOK_SECONDS: Final = 0.01

CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:{port}"
[auth]
mode = "off"
[store]
url = "{store}"
[files]
url = "off"
[log]
format = "json"
[providers.highway]
adapter = "highwayapi"
base_url = "{vendors}/highwayapi"
api_key = {{ env = "REELGATE_SANDBOX_KEY" }}
poll_min = "10ms"
poll_max = "20ms"
[providers.narrow]
adapter = "myrouter"
base_url = "{vendors}/myrouter"
api_key = {{ env = "REELGATE_SANDBOX_KEY" }}
offerings = ["kling-v3.0-std-t2v"]
max_in_flight = 1
poll_min = "10ms"
poll_max = "20ms"
"""


class Replica:
    """One that serves. `name` is what it owns tasks by; `client` asks it and nobody else."""

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self.gateway = gateway
        self.url = f"http://{settings.server.listen}"
        self.client = httpx.AsyncClient(
            base_url=self.url, timeout=PATIENCE_SECONDS, trust_env=False, verify=NO_TLS
        )

    @property
    def name(self) -> str:
        """Its name among the others, which it loses when they declare it dead."""
        return self.gateway.engine.replica

    async def create(self, prompt: str, provider: str = "highway", **more: object) -> Json:
        """Order a video; it was accepted."""
        body = {"prompt": prompt, "duration": 5, "provider": provider, **more}
        answer = await self.client.post("/v1/videos", json=body)
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        return read(answer)

    async def video(self, video_id: str, wait: int | None = None) -> Json:
        """The video as this replica tells it, held for its end for up to `wait` seconds."""
        query = {} if wait is None else {"wait": wait}
        return read(await self.client.get(f"/v1/videos/{video_id}", params=query))

    async def post(self, path: str, body: object = None) -> httpx.Response:
        """An order to this replica."""
        return await self.client.post(path, json=body)

    async def until(self, video_id: str, is_reached: Callable[[Json], bool]) -> Json:
        """The video once this replica tells it so."""
        return await seen(partial(self.video, video_id), is_reached)

    async def provider(self, name: str) -> Json:
        """How this replica sees a provider."""
        listed: list[Json] = read(await self.client.get("/v1/providers"))["data"]
        return next(one for one in listed if one["name"] == name)

    def owns(self, video_id: str) -> bool:
        """Whether its engine follows that video."""
        return video_id in self.gateway.engine.tasks


class House:
    """The database at `url`, the vendors, and their clock. `more` ends each configuration."""

    def __init__(
        self, url: str, sandbox: Sandbox, clock: StillClock, folder: Path, limited: str | None = None
    ) -> None:
        self.url, self.sandbox, self.clock, self._folder = url, sandbox, clock, folder
        self._limited, self.more = limited, ""

    def prompts(self) -> list[str]:
        """What the vendors were paid for, in order."""
        return [entry.prompt for entry in self.sandbox.ledger]

    def finish(self) -> None:
        """Let every render end."""
        self.clock.now += RENDER_SECONDS

    def settings(self) -> Settings:
        """A configuration with a port of its own."""
        text = CONFIGURATION.format(port=free_port(), store=self.url, vendors=self.sandbox.url) + self.more
        if self._limited is not None:
            text = text.replace('mode = "off"', 'mode = "keys"') + self._limited
        return parse(text, self._folder, known_adapters(), {"REELGATE_SANDBOX_KEY": KEY})

    @asynccontextmanager
    async def replica(self, role: ReplicaRole = "all") -> AsyncIterator[Replica]:
        """One more replica, ready, for as long as the context lasts."""
        settings = self.settings()
        async with running(settings, role) as parts, AsyncExitStack() as stack:
            one = server(stack.enter_context(lent_application(parts.gateway)), settings.server.listen)
            serving = asyncio.create_task(one.serve())
            await listening(settings.server.listen)
            parts.gateway.is_ready = True
            made = Replica(parts.gateway, settings)
            try:
                await reached(lambda: role == "api" or parts.gateway.engine.is_settled)
                yield made
            finally:
                await made.client.aclose()
                parts.gateway.waiters.release()
                one.stop()  # type: ignore[no-untyped-call]  # the server has no types
                await asyncio.wait([serving], timeout=PATIENCE_SECONDS)
                await parts.gateway.engine.stop()

    @asynccontextmanager
    async def replicas(self, count: int) -> AsyncIterator[list[Replica]]:
        """So many, started at the same moment."""
        async with AsyncExitStack() as stack:
            contexts = [self.replica() for _ in range(count)]
            yield list(await asyncio.gather(*map(stack.enter_async_context, contexts)))


@asynccontextmanager
async def house(
    folder: Path, *, is_empty: bool = False, is_shared: bool = True, limited: str | None = None
) -> AsyncIterator[House]:
    """A stage without replicas. `is_empty`: the database has no schema yet; not `is_shared`: it is SQLite.

    `limited`: more of the configuration, for callers who come with keys.
    """
    clock = StillClock()
    vendors = SandboxSettings(
        port=0, key=KEY, render_seconds=RENDER_SECONDS, render_spread=0, link_seconds=1e7, draw_words=False,
    )
    async with AsyncExitStack() as stack:
        stack.enter_context(lent_tls())
        url = "sqlite:reelgate.db"
        if is_shared:
            url = await stack.enter_async_context(postgres.database(is_empty=is_empty))
        sandbox = await stack.enter_async_context(sandbox_running(vendors, clock=clock))
        yield House(url, sandbox, clock, folder, limited)


async def seen(look: Callable[[], Awaitable[T]], is_so: Callable[[T], bool]) -> T:
    """What one sees who looks until it is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = await look()
            if is_so(found):
                return found
            await asyncio.sleep(LOOK_SECONDS)


async def reached(condition: Callable[[], bool]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 (it is whatever a test looks at, and sets no event)
            await asyncio.sleep(LOOK_SECONDS)


def read(answer: httpx.Response) -> Json:
    """The JSON object in a good answer."""
    assert answer.is_success, answer.text
    return msgspec.json.decode(answer.content, type=dict[str, Any])


def since(began: float) -> str:
    """How long ago that was, on `time.monotonic`, for a report."""
    return f"{(time.monotonic() - began) * 1000:.0f} ms"
