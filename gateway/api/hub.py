"""Who follows which topic in this process, how many may, and how news get to the topics.

Not held here: what a topic keeps (`topics`), streams over HTTP (`streams`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from gateway.api.topics import CallerFollower, CallerTopic, VideoFollower, VideoTopic, is_over, shown
from gateway.core.positions import Batch, Position
from gateway.core.states import Event, Task
from gateway.errors import Problem
from gateway.storage import news
from gateway.storage.db import StorageError
from gateway.storage.rows import Video
from gateway.storage.store import Store
from gateway.storage.stream import FAR_MAX, ForeignPosition

STREAMS_MAX: Final = 10_000  # in this process
STREAMS_OF_A_CALLER_MAX: Final = 5_000
READS_MAX: Final = 8  # at once, of what is new
LOOK_SECONDS: Final = 5.0  # between looks at what others may have saved unheard
LOOK_ALONE_SECONDS: Final = 60.0  # likewise where nobody else saves: only a deletion goes untold
FAILED_SECONDS: Final = 1.0  # before what could not be read is read again
RETRY_AFTER_SECONDS: Final = 5


class Hub:
    """The topics that somebody follows. `released`: the gateway stops, so nobody is to follow any more.

    `failed` is told of what went wrong with a look by a fault of ours.
    """

    def __init__(self, store: Store, failed: Callable[[Exception], None]) -> None:
        self.released = False
        self._store, self._failed = store, failed
        self._videos: dict[str, VideoTopic] = {}
        self._callers: dict[str, CallerTopic] = {}
        self._counts: Counter[str] = Counter()
        self._stale: dict[VideoTopic | CallerTopic, None] = {}
        self._news = asyncio.Event()
        self._has_missed = False
        store.listen(self._saved)
        if store.is_shared:
            store.hear(self._heard)

    @property
    def count(self) -> int:
        """How many streams there are."""
        return self._counts.total()

    # --- following ------------------------------------------------------------------------------------

    def enter(self, caller: str) -> None:
        """Take a place for one more stream; `leave` gives it back. Raises Problem where there is none."""
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        if self._counts[caller] >= STREAMS_OF_A_CALLER_MAX:
            detail = f"You follow {STREAMS_OF_A_CALLER_MAX} event streams here already; close some."
            raise Problem("rate_limited", detail, headers=headers)
        if self.count >= STREAMS_MAX:
            raise Problem("overloaded", "As many event streams as can be are followed here.", headers=headers)
        self._counts[caller] += 1

    def leave(self, caller: str, topic: VideoTopic | CallerTopic | None) -> None:
        """Give the place back, and the topic, where there is one."""
        self._counts[caller] -= 1
        if not self._counts[caller]:
            del self._counts[caller]
        if topic is not None:
            self._unfollow(topic)

    def _unfollow(self, topic: VideoTopic | CallerTopic) -> None:
        topic.followers -= 1
        if not topic.followers:
            self._stale.pop(topic, None)
            topics: dict[str, VideoTopic] | dict[str, CallerTopic] = (
                self._videos if isinstance(topic, VideoTopic) else self._callers
            )
            topics.pop(topic.video_id if isinstance(topic, VideoTopic) else topic.owner, None)

    def video(self, video: Video, sent: int) -> VideoFollower:
        """One more follower of a video, who has its events up to the number `sent`."""
        task = video.task
        topic = self._videos.get(task.id)
        if topic is None:
            topic = self._videos[task.id] = VideoTopic(task.id, task.owner)
        topic.followers += 1
        if is_over(task.state, task.stage):
            topic.stands(task.last_seq, task.state, task.stage)
        return VideoFollower(self._store, topic, sent)

    async def caller(self, owner: str, position: Position | None) -> CallerFollower:
        """One more follower of a caller's videos, from `position`, or from now. Raises StorageError."""
        topic = self._callers.get(owner)
        if topic is None:
            topic = self._callers[owner] = CallerTopic(owner)
        topic.followers += 1
        if topic.position is None:
            try:
                here = await self._store.log.here(owner)
            except BaseException:
                self._unfollow(topic)
                raise
            topic.begin(here)
        return CallerFollower(self._since, topic, position)

    def release(self) -> None:
        """Let nobody follow any more."""
        self.released = True
        for topic in (*self._videos.values(), *self._callers.values()):
            topic.wake()

    # --- news -----------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Read what is new and was not told, and look for what nobody told of, until cancelled."""
        pause_seconds = LOOK_SECONDS if self._store.is_shared else LOOK_ALONE_SECONDS
        while True:
            try:
                async with asyncio.timeout(pause_seconds):
                    await self._news.wait()
            except TimeoutError:
                self._has_missed = True
            self._news.clear()
            try:
                if self._has_missed:
                    self._has_missed = False
                    await self._look_at_all()
                await self._read_stale()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a look, the next must come
                if not isinstance(error, StorageError):  # others tell of the database
                    self._failed(error)
                self._has_missed = True
                await asyncio.sleep(FAILED_SECONDS)
                self._news.set()

    async def _look_at_all(self) -> None:
        """Find which videos went on, and who is to be read."""
        followed = list(self._videos)
        for first in range(0, len(followed), FAR_MAX):
            await self._compare(followed[first : first + FAR_MAX])
        self._to_read(self._callers.values())

    async def _compare(self, ids: list[str]) -> None:
        far = await self._store.log.how_far(ids)
        for video_id in ids:
            topic, now = self._videos.get(video_id), far.get(video_id)
            if topic is None:
                continue
            if now is None:
                topic.gone()
            elif now.last_seq > topic.last or (topic.ends_with is None and is_over(now.state, now.stage)):
                self._to_read([topic])

    async def _read_stale(self) -> None:
        while self._stale:
            topics = [self._stale.popitem()[0] for _ in range(min(READS_MAX, len(self._stale)))]
            results = await asyncio.gather(*map(self._read, topics), return_exceptions=True)
            for topic, result in zip(topics, results, strict=True):
                if isinstance(result, BaseException):
                    self._to_read([topic] if topic.followers else [])
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def _read(self, topic: VideoTopic | CallerTopic) -> None:
        """What is new of a topic, for all of its followers. Raises StorageError."""
        if isinstance(topic, VideoTopic):
            now = (await self._store.log.how_far([topic.video_id])).get(topic.video_id)
            if now is None:
                topic.gone()
                return
            events = await self._store.events_get(topic.video_id, topic.owner)
            topic.add([event for event in events if event.seq > topic.last])
            topic.stands(now.last_seq, now.state, now.stage)
        elif topic.position is not None:
            batch = None
            with suppress(ForeignPosition):  # a server that lagged took over: what we have is not in it
                batch = await self._since(topic.owner, topic.position)
            if batch is not None and batch.is_whole:
                topic.add(batch)
            else:
                topic.jump(await self._store.log.here(topic.owner))

    async def _since(self, owner: str, position: Position) -> Batch:
        return await self._store.log.since(owner, position, shown)

    def _to_read(self, topics: Iterable[VideoTopic | CallerTopic]) -> None:
        self._stale.update(dict.fromkeys(topics))
        if self._stale:
            self._news.set()

    def _saved(self, task: Task, events: tuple[Event, ...]) -> None:
        topic = self._videos.get(task.id)
        if topic is not None:
            if topic.add(events):
                topic.stands(task.last_seq, task.state, task.stage)
            else:
                self._to_read([topic])
        if events and task.owner in self._callers:
            self._to_read([self._callers[task.owner]])

    def _heard(self, text: str | None) -> None:
        told = None if text is None else news.read(text)
        if text is None:
            self._has_missed = True
            self._news.set()
        elif isinstance(told, news.VideoChanged):
            with suppress(KeyError):
                self._to_read([self._videos[told.id]])
            owners = [told.owner] if told.owner else list(self._callers)
            self._to_read(self._callers[owner] for owner in owners if owner in self._callers)
