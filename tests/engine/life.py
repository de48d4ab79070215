"""A gateway's inside in virtual time: the real engine and store, and vendors that follow a script.

Held here: the harness of the life tests. Not held here: any expectation.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

from gateway.core.facts import Candidate, Fact
from gateway.core.lease import Lease
from gateway.core.states import Event, Task, accepted_event
from gateway.core.tasks import apply
from gateway.engine.entering import at_once
from gateway.engine.keeping import Keeping
from gateway.engine.loop import Engine
from gateway.engine.provider import Fleet, Provider, make_provider
from gateway.engine.replica import Identity, follow
from gateway.engine.request import split_request
from gateway.engine.steps import STEPS
from gateway.engine.watch import Outside
from gateway.settings import ProviderSettings, Settings, parse
from gateway.storage.rows import Idempotency, NewVideo
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from gateway.telemetry import Telemetry
from providers import adapters
from providers.spec import (
    Adapter,
    Offering,
    Pending,
    Progress,
    Ref,
    Submitted,
    Succeeded,
    VendorCall,
    VendorError,
    VideoRequest,
)
from tests.blank import blank

START = 1_800_000_000.0
REQUEST = VideoRequest(model="kling-v3", prompt="a fox", resolution="1080p", aspect_ratio="16:9")
ALONE = Identity("all", "", "0", lambda: "replica-2")
Outcome: TypeAlias = Submitted | VendorError | Exception
Answer: TypeAlias = Progress | VendorError

CONFIGURATION = """
[files]
{files}
[routing]
deadline = "1h"
{routing}
[providers.one]
adapter = "myrouter"
api_key = { env = "KEY" }
{one}
[providers.two]
adapter = "highwayapi"
api_key = { env = "KEY" }
offerings = ["kling-v3.0-pro-t2v"]
{two}
"""


def accepted(vendor_task_id: str = "v-1") -> Submitted:
    """The vendor accepted."""
    return Submitted(vendor_task_id=vendor_task_id, ref={"id": vendor_task_id}, raw_status="QUEUED")


def pending(raw_status: str = "PROCESSING", progress: int | None = None) -> Pending:
    """Still rendering."""
    return Pending(raw_status=raw_status, progress=progress)


def done(url: str | None = "https://files.example/v.mp4") -> Succeeded:
    """Finished, with a link or without."""
    return Succeeded(raw_status="SUCCEED", url=url)


def configured(**extra: str) -> Settings:
    """The two providers `one` and `two`, with these lines of TOML for them, `files` and `routing`."""
    text = CONFIGURATION
    for name in ("files", "routing", "one", "two"):
        text = text.replace(f"{{{name}}}", extra.get(name, ""))
    return parse(text, Path(), adapters(), {"KEY": "secret"})


class ScriptedVendor:
    """An adapter that answers by a script, whose last line is repeated. It counts what it was sent."""

    def __init__(self, submits: Sequence[Outcome], polls: Sequence[Answer], seconds: float = 0.1) -> None:
        self.submits, self.polls, self.seconds = list(submits), list(polls), seconds
        self.sent: list[VideoRequest] = []
        self.asked = 0

    def call(self, request: VideoRequest, offering: Offering) -> VendorCall:
        """What would be sent."""
        return VendorCall(f"/{offering.slug}", {"prompt": request.prompt})

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        """The next line of the script, after some virtual time."""
        self.sent.append(request)
        await asyncio.sleep(self.seconds)
        outcome = self.submits.pop(0) if len(self.submits) > 1 else self.submits[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def poll(self, ref: Ref) -> Progress:
        """The next line of the script."""
        self.asked += 1
        await asyncio.sleep(0.01)
        answer = self.polls.pop(0) if len(self.polls) > 1 else self.polls[0]
        if isinstance(answer, VendorError):
            raise answer
        return answer


class SwitchedVendor(ScriptedVendor):
    """A vendor whose health a test switches: `refuses` ends every submit, `denies` every poll, None neither.

    It renders for `renders` seconds. Times in virtual seconds.
    """

    def __init__(self, refuses: VendorError | None = None, renders: float = 10.0) -> None:
        super().__init__([], [])
        self.refuses, self.renders = refuses, renders
        self.denies: VendorError | None = None
        self.jobs: dict[str, float] = {}
        self.sent_at: list[float] = []
        self.asked_at: list[float] = []
        self.under_way = 0
        self.room: list[tuple[int, int]] = []  # at each submit: those under way, and the jobs so far

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        """A new job, or what it refuses with."""
        now = asyncio.get_running_loop().time
        self.sent.append(request)
        self.sent_at.append(now())
        self.under_way += 1
        self.room.append((self.under_way, len(self.jobs)))
        await asyncio.sleep(self.seconds)
        self.under_way -= 1
        if self.refuses is not None:
            raise self.refuses
        job = f"v-{len(self.sent)}-{len(self.jobs)}"
        self.jobs[job] = now()
        return accepted(job)

    async def poll(self, ref: Ref) -> Progress:
        """How far a job is."""
        now = asyncio.get_running_loop().time()
        self.asked_at.append(now)
        await asyncio.sleep(0.01)
        if self.denies is not None:
            raise self.denies
        if ref["id"] not in self.jobs:
            raise VendorError("not_found", "unknown", "no such task", status=404)
        return done() if now - self.jobs[ref["id"]] >= self.renders else pending()


class AskableVendor(SwitchedVendor):
    """One that can be asked for a job that does not exist."""

    def ref_of(self, vendor_task_id: str) -> Ref:
        """All that a poll needs."""
        return {"id": vendor_task_id}


def _video(task: Task, events: tuple[Event, ...]) -> NewVideo:
    text, inputs = split_request(REQUEST)
    return NewVideo(task=task, request=text, metadata={}, inputs=inputs, events=events)


class Life:
    """The parts under test, and what a test asks of them."""

    def __init__(
        self, database: SqliteDatabase, vendors: dict[str, Adapter], extra: dict[str, str],
        keeping: Keeping | None = None,
    ) -> None:
        self.database, self.store = database, Store(database)
        self.telemetry = Telemetry({})
        self.chance = random.Random(1)
        self.fleet = Fleet(self.chance, self.now)
        self.settings = configured(**extra)
        entries = self.settings.providers.values()
        self.fleet.use(self.settings, [self._provider(entry, vendors) for entry in entries])
        outside = Outside(self.now, self.chance, "replica-1", Lease(self.now), keeping=keeping)
        self.engine = Engine(self.store, self.fleet, self.telemetry, outside, STEPS)
        self._running: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.store.listen(lambda task, events: self._changed.set())

    @staticmethod
    def _provider(entry: ProviderSettings, vendors: dict[str, Adapter]) -> Provider:
        return make_provider(entry, vendors.get(entry.name) or ScriptedVendor([accepted()], [done()]))

    @staticmethod
    def now() -> float:
        """Unix time, in virtual seconds from START."""
        return START + asyncio.get_running_loop().time()

    def state(self, provider: str = "one") -> str:
        """How a provider is, in one word."""
        return self.fleet.providers[provider].state(self.now())

    async def states(self, *video_ids: str) -> list[str]:
        """The states of these tasks."""
        tasks = [await self.store.task_get(video_id) for video_id in video_ids]
        return [task.state for task in tasks if task is not None]

    def start(self) -> None:
        """Let the engine run."""
        self._running = asyncio.create_task(follow(self.engine, ALONE))

    async def crash(self) -> None:
        """End the engine as a kill would: in the middle of whatever it does."""
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    async def create(
        self, video_id: str = "video_1", providers: Sequence[str] = ("one",), **fields: object
    ) -> Task:
        """Accept a video with these providers as candidates; whatever it is, it is admitted later."""
        task = self.new(video_id, providers, **fields)
        await self.store.video_add(_video(task, (accepted_event(task),)))
        return task

    async def order(
        self, video_id: str = "video_1", providers: Sequence[str] = ("one",), *, key: str | None = None,
        **fields: object,
    ) -> Task:
        """Accept a video as the API does: with the intent to send it, where it need not wait."""
        task = self.new(video_id, providers, **fields)
        events: tuple[Event, ...] = (accepted_event(task),)
        intent = at_once(self.engine, task, REQUEST)
        if intent is not None:
            task, events = intent.task, (*events, *intent.events)
        taken = None if key is None else Idempotency(key, "print", video_id)
        assert await self.store.video_add(_video(task, events), taken) is None
        return task

    def new(self, video_id: str = "video_1", providers: Sequence[str] = ("one",), **fields: object) -> Task:
        """A task that waits, and is not stored."""
        task = Task(
            id=video_id, owner="key_1", model="kling-v3", state="waiting", stage="waiting", last_seq=1,
            candidates=tuple(Candidate(name, "kling-v3.0-pro-t2v") for name in providers),
            replica=self.engine.replica, created_at=self.now(),
            deadline_at=self.now() + self.settings.routing.deadline,
        )
        return msgspec.structs.replace(task, **fields)

    async def happens(self, fact: Fact, video_id: str = "video_1") -> None:
        """What a caller's or an operator's request does: apply a fact, and save it."""
        task = await self.store.task_get(video_id)
        assert task is not None
        await self.store.task_save(apply(task, fact, self.now()))

    async def until(
        self, fits: Callable[[Task], bool], video_id: str = "video_1", seconds: float = 100_000
    ) -> Task:
        """The task once it fits; fails after `seconds` of virtual time."""
        async with asyncio.timeout(seconds):
            while True:
                task = await self.store.task_get(video_id)
                assert task is not None
                if fits(task):
                    return task
                self._changed.clear()
                await self._changed.wait()

    async def end(self, video_id: str = "video_1") -> Task:
        """The task once it is terminal."""
        return await self.until(lambda task: task.is_terminal, video_id)

    async def events(self, video_id: str = "video_1") -> list[Event]:
        """Its timeline."""
        return await self.store.events_get(video_id, "key_1")

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value."""
        value = self.telemetry.registry.get_sample_value(name, labels)
        assert value is not None, f"{name} {labels} does not exist"
        return value


@asynccontextmanager
async def life(
    vendors: dict[str, Adapter] | None = None, database: SqliteDatabase | None = None,
    keeping: Keeping | None = None, **extra: str,
) -> AsyncIterator[Life]:
    """A running gateway inside; `extra` are lines of TOML for `one`, `two`, `files` and `routing`."""
    database = database or blank()
    await database.migrate()
    made = Life(database, vendors or {}, extra, keeping)
    made.start()
    yield made
    await made.engine.stop()
