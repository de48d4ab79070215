"""A vendor, a proxy before it, gateways: a life on this stage is lived again and again, ended where chosen.

Held here: the stage, the customer who orders a video and does not give up, the story of one life. Not held
here: what must be true of it (the tests).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx
import msgspec

from gateway.sandbox.renders import Entry
from gateway.sandbox.server import Clock, Sandbox, SandboxSettings, SystemClock
from gateway.sandbox.server import running as sandbox_running
from tests.kill.points import Points
from tests.kill.process import KEY, PATIENCE_SECONDS, Gateway, Launcher, launcher
from tests.kill.proxy import Proxy

Json: TypeAlias = dict[str, Any]  # an answer's body, as it came

RENDER_SECONDS: Final = 100.0
POLL_SECONDS: Final = 40.0  # that pass at the vendor with each poll: pending, pending, done
TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})
_WAIT_SECONDS: Final = 10  # of one long poll
_LAST_WORDS_SECONDS: Final = 0.5  # spent only where the commit is on the thread that would answer

SQLITE: Final = "sqlite:reelgate.db"
_CONFIGURATION: Final = """\
[server]
listen = "127.0.0.1:{port}"
[auth]
mode = "{auth}"
[store]
url = "{store}"
[files]
url = "{files}"
[log]
format = "json"
[providers.highway]
adapter = "highwayapi"
base_url = "{proxy}/highwayapi"
api_key = {{ env = "REELGATE_SANDBOX_KEY" }}
poll_min = "10ms"
poll_max = "50ms"
unknown_timeout = "50ms"
"""


class StillClock:
    """The vendor's time: it stands until somebody moves it."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def time(self) -> float:
        """Unix seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let others run; the clock does not move by it."""
        await asyncio.sleep(0)


class Story(msgspec.Struct):
    """One life: what each of its processes crossed, and what there was to see at the end."""

    crossed: list[list[str]] = []
    is_reached: bool = True
    promised: list[str] = []  # the ids in the 202s that arrived
    videos: list[Json] = []
    timeline: list[Json] = []
    content: bytes = b""
    charges: list[Entry] = []


async def _nothing(_: str) -> None:
    """What happens at a point by itself."""


@asynccontextmanager
async def _of_its_own() -> AsyncIterator[str]:
    """The store of a life, if nothing else is wanted: SQLite, beside its configuration."""
    yield SQLITE


class Lane:
    """The stage. `on_cross` is awaited at each point on the wire; every gateway of it listens on `port`.

    `gateway` is set where it is another one than the starter's; `database` opens an empty store for a life;
    `files` is where finished videos are kept, and then a life goes on until they are.
    """

    def __init__(self, sandbox: Sandbox, starter: Launcher, port: int) -> None:
        self.sandbox, self.starter, self.port = sandbox, starter, port
        self.proxy: Proxy
        self.gateway: Gateway | None = None
        self.files = "off"
        self.database: Callable[[], AbstractAsyncContextManager[str]] = _of_its_own
        starter.before_death = self.last_words
        self.on_cross: Callable[[str], Awaitable[None]] = _nothing
        # Without kept connections: after a death there is nothing to find out about them.
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS, trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def cross(self, label: str) -> bool:
        """A point on the wire was crossed; whether the gateway has died there."""
        # It sends before it is ready: what it took over is due at once.
        gateway = self.gateway or self.starter.gateway
        assert gateway is not None
        dies = gateway.points.cross(label)
        await self.on_cross(label)
        if dies:
            await gateway.kill()
        return dies

    async def last_words(self) -> None:
        """Let a gateway say what it says without waiting for the commit that it stands at: a 202, for one."""
        with suppress(httpx.TransportError):
            await self.client.get("/livez", timeout=_LAST_WORDS_SECONDS)

    def configure(self, folder: Path, *, auth: str = "off", more: str = "", store: str = SQLITE) -> Path:
        """A configuration with its store, `more` of it for the provider; the path of that."""
        folder.mkdir()
        config = folder / "reelgate.toml"
        text = _CONFIGURATION.format(
            port=self.port, auth=auth, proxy=self.proxy.url, store=store, files=self.files
        )
        config.write_text(text + more, "utf-8")
        return config

    async def start(self, config: Path, points: Points) -> Gateway:
        """A gateway, ready or dead."""
        self.gateway = None
        gateway = await self.starter.start(config, points)
        if points.watches:
            # An order that comes sooner waits, and then there are points more.
            await gateway.log.wait("settled")
        return gateway

    async def live(self, folder: Path, deaths: Sequence[int | str]) -> Story:
        """A whole life in a new store: one process for each deadly point, and one that is let live.

        A point that is not reached ends the story there.
        """
        story, words = Story(), f"a life in {folder.name}"
        async with self.database() as store:
            config = self.configure(folder, store=store)
            for deadly in (*deaths, None):
                points = Points(deadly)
                await self._live_on(config, points, words, story)
                story.crossed.append(points.crossed)
                if deadly is not None and not points.is_reached:
                    story.is_reached = False
                    break
        story.charges = self.charges(words)
        return story

    async def _live_on(self, config: Path, points: Points, words: str, story: Story) -> None:
        """One process's part of a life, and its end."""
        gateway = await self.start(config, points)
        try:
            await self._order(words, story)
        except httpx.TransportError:
            if not points.is_reached:
                raise
        await (gateway.ended() if points.is_reached else gateway.kill())

    def charges(self, words: str) -> list[Entry]:
        """What the vendor has charged for that prompt."""
        return [entry for entry in self.sandbox.ledger if entry.prompt == words]

    async def _order(self, words: str, story: Story) -> None:
        """The whole way of a video; what arrives goes into the story at once."""
        video_id = await self.create(words)
        story.promised.append(video_id)
        video = await self.finished(video_id)
        if video["status"] == "completed":
            story.content = (await self.client.get(video["output"]["url"])).raise_for_status().content
        story.timeline = await self.read(f"/v1/videos/{video_id}/timeline")
        story.videos = await self.read("/v1/videos?limit=100")

    async def create(self, words: str) -> str:
        """Order a video as a good client does, with the same key for the same video. Its id, from the 202."""
        headers = {"Idempotency-Key": words}
        answer = await self.client.post("/v1/videos", json={"prompt": words, "duration": 3}, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def finished(self, video_id: str) -> Json:
        """Follow a video to its end."""
        while True:
            answer = await self.client.get(f"/v1/videos/{video_id}", params={"wait": _WAIT_SECONDS})
            assert answer.status_code == 200, answer.text
            video: Json = answer.json()
            if video["status"] in TERMINAL and video["stage"] != "storing":
                return video

    async def read(self, path: str) -> list[Json]:
        """The data of a list."""
        found: list[Json] = (await self.client.get(path)).raise_for_status().json()["data"]
        return found


@asynccontextmanager
async def lane(settings: SandboxSettings, clock: Clock | None = None) -> AsyncIterator[Lane]:
    """A stage for as long as the context lasts."""
    with socket.socket() as reserved:
        # Bound but never listened on: nobody else gets the port, and every gateway of this lane may bind it.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        async with sandbox_running(settings, clock=clock or SystemClock()) as sandbox, launcher() as starter:
            made = Lane(sandbox, starter, reserved.getsockname()[1])
            made.proxy = Proxy(int(sandbox.url.rsplit(":", 1)[1]), made.cross)
            async with made.proxy.listening(), made.client:
                yield made


@asynccontextmanager
async def still_lane() -> AsyncIterator[Lane]:
    """A stage where a render takes three polls, however fast they come: two lives cross the same points."""
    clock = StillClock()

    async def on_cross(label: str) -> None:
        if label == "poll request before":
            clock.now += POLL_SECONDS

    settings = SandboxSettings(port=0, key=KEY, render_seconds=RENDER_SECONDS, draw_words=False)
    async with lane(msgspec.structs.replace(settings, render_spread=0), clock) as made:
        made.on_cross = on_cross
        yield made
