"""An outbox in virtual time: the receivers, what they answer and what they were sent, and endpoints.

Held here: the harness of the outbox's tests. Not held here: any expectation.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from gateway.core.facts import Cancelled
from gateway.core.webhooks import TYPES, Signer
from gateway.engine.webhooks import Answer, Letter
from gateway.engine.webhooks_outbox import Outbox, Terms
from gateway.storage.rows import Video
from gateway.storage.webhook_endpoints import Endpoint, Logged
from gateway.values import Secret
from tests.engine.life import START, Life, life

OK = Answer(status=200)
OWN_SECRET = "whsec_b3du"
KEPT_SECONDS = 7_200.0


def render(kind: str, at: float, video: Video) -> bytes:
    """A body that says what it was made of."""
    return f"{kind} of {video.task.id} in version {video.task.version}".encode()


class Receivers:
    """What is posted, and when, in seconds from the start; `answers` by URL, else all is well."""

    def __init__(self, life_: Life) -> None:
        self.life = life_
        self.answers: dict[str, Callable[[int], Answer | float]] = {}  # by how many came so far
        self.got: list[tuple[float, Letter]] = []
        self.hung: Counter[str] = Counter()

    async def post(self, letter: Letter, now: float) -> Answer:
        """Note the letter, and answer; a number is how long the receiver hangs before the time is over."""
        self.got.append((now - START, letter))
        asked = self.answers.get(letter.url)
        answer = OK if asked is None else asked(len(self.of(letter.url)))
        if isinstance(answer, Answer):
            await asyncio.sleep(0.01)
            return answer
        self.hung[letter.url] += 1
        await asyncio.sleep(answer)
        return Answer(error="timeout")

    def of(self, url: str) -> list[tuple[float, Letter]]:
        """What came to one receiver."""
        return [(at, letter) for at, letter in self.got if letter.url == url]


class Stage:
    """A gateway's inside with an outbox, and endpoints."""

    def __init__(self, life_: Life, receivers: Receivers) -> None:
        self.life, self.receivers = life_, receivers
        self.store = life_.store
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Let an outbox run."""
        terms = Terms(secrets=(Secret(OWN_SECRET),), kept_seconds=KEPT_SECONDS)
        outbox = Outbox(self.life.engine, self.receivers.post, render, terms)
        self.task = asyncio.create_task(outbox.run())

    async def stop(self) -> None:
        """End it."""
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task

    async def endpoint(self, name: str, **more: object) -> str:
        """An endpoint; its URL."""
        fields: dict[str, object] = {
            "owner": "key_1", "events": TYPES, "signers": (Signer(Secret("whsec_AAAA")),), "created_at": START
        }
        url = f"https://{name}.example/"
        one = Endpoint(id=name, url=url, **(fields | more))  # type: ignore[arg-type]
        await self.store.endpoints.add(one)
        return url

    async def cancelled(self, video_id: str = "video_1") -> None:
        """Something to tell."""
        await self.life.create(video_id, created_at=self.life.now(), providers=("none",))
        await self.life.happens(Cancelled(), video_id)

    async def until_over(self, name: str) -> list[Logged]:
        """The log of an endpoint once nothing of it is pending."""
        while True:
            logged = await self.store.endpoints.log(name, "key_1", 100)
            if logged and all(one.state != "pending" for one in logged):
                return logged
            await asyncio.sleep(60)


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    async with life() as made:
        await asyncio.sleep(0)
        await made.engine.stop()  # it looks around every second, and days pass here
        one = Stage(made, Receivers(made))
        one.start()
        yield one
        await one.stop()
