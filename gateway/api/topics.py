"""What is new of a video, or of all of a caller's videos, once for everybody who follows it.

A save of this process tells its events itself; what another replica saves is read once, when it is told of or
when a look finds it. Who comes late, is slow, or was away reads what it lacks from its own position on, and
joins again. No vendor call.
Not held here: streams over HTTP (`streams`), positions (`gateway.core.positions`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import msgspec

from gateway.api.shapes import TimelineEvent, encode, timeline_list
from gateway.core.positions import Batch, Position
from gateway.core.states import TERMINAL, Event, State
from gateway.storage.store import Store

KEPT_MAX: Final = 64  # events of a video, or batches of a caller's, that are kept for who is a little behind


class StreamedEvent(TimelineEvent, frozen=True, kw_only=True):
    """An entry of a timeline, and whose it is."""

    video_id: str


def shown(video_id: str, event: Event) -> bytes:
    """An event as a stream tells it."""
    (entry,) = timeline_list([event]).data
    return encode(StreamedEvent(**msgspec.structs.asdict(entry), video_id=video_id))


def frame(position: object, kind: str, data: bytes) -> bytes:
    """An event in the words of `text/event-stream`; JSON has no line ends."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(position).encode(), kind.encode(), data)


def is_over(state: State, stage: str | None) -> bool:
    """Whether nothing more is expected: it ended, and its file is where it will stay.

    A late answer of a vendor, hours after the end, is no reason to hold a stream open.
    """
    return state in TERMINAL and stage != "storing"


class Topic:
    """What has news. `followers` counts who wants them."""

    def __init__(self, owner: str) -> None:
        self.owner, self.followers = owner, 0
        self._resting: dict[asyncio.Future[bool], None] = {}  # in order; thousands may leave at once

    def rest(self) -> asyncio.Future[bool]:
        """What is done, with true, when there is something new."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._resting[future] = None
        return future

    def rise(self, future: asyncio.Future[bool]) -> None:
        """That one rests no more, though nothing is new."""
        self._resting.pop(future, None)

    def wake(self) -> None:
        """Tell all who rest."""
        resting, self._resting = self._resting, {}
        for future in resting:
            if not future.done():
                future.set_result(True)


class VideoTopic(Topic):
    """The events of one video by their numbers, which have no gaps."""

    def __init__(self, video_id: str, owner: str) -> None:
        super().__init__(owner)
        self.video_id = video_id
        self.last = 0  # the number of the last event that is known of; 0: of none yet
        self.ends_with: int | None = None  # the number after which nothing is expected
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT_MAX)

    def add(self, events: Sequence[Event]) -> bool:
        """Take new events; False when there must be others before them."""
        for event in events:
            if event.seq <= self.last:
                continue
            if self.last and event.seq != self.last + 1:
                return False
            self.last = event.seq
            self._kept.append((event.seq, frame(event.seq, event.type, shown(self.video_id, event))))
        return True

    def stands(self, last_seq: int, state: State, stage: str | None) -> None:
        """Take how far it is, and tell all."""
        if is_over(state, stage):
            self.ends_with = last_seq
        self.wake()

    def gone(self) -> None:
        """It was deleted."""
        self.ends_with = 0
        self.wake()

    def after(self, sent: int) -> list[bytes] | None:
        """The events after that one; None when they have to be read."""
        if self.last <= sent:
            return []
        if not self._kept or self._kept[0][0] > sent + 1:
            return None
        return [data for seq, data in self._kept if seq > sent]


class Entry(msgspec.Struct):
    """A batch that was read from `before`, and what is sent to all who are just there."""

    before: Position
    batch: Batch
    text: bytes


class CallerTopic(Topic):
    """The events of all of a caller's videos, in batches, each from where the one before ended."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.position: Position | None = None
        self.count = 0  # of batches so far
        self._kept: deque[Entry] = deque(maxlen=KEPT_MAX)

    @property
    def here(self) -> Position:
        """Where it is. Raises ValueError when it was not begun."""
        if self.position is None:
            raise ValueError("the topic was not begun")
        return self.position

    def begin(self, position: Position) -> None:
        """Read from there on, unless it was begun meanwhile."""
        if self.position is None:
            self.position = position

    def add(self, batch: Batch) -> None:
        """Take what was read from `position`, all of it."""
        if self.position is not None and batch.rows:
            before, self.position = self.position, batch.end(self.position.log)
            self._kept.append(Entry(before, batch, framed(batch, before)))
            self.count += 1
            self.wake()

    def jump(self, position: Position) -> None:
        """Go on from there: what lies between is too much to be kept, and read by each who wants it."""
        self.position = position
        self._kept.clear()
        self.count += 1
        self.wake()

    def since(self, count: int) -> Iterator[Entry] | None:
        """The batches after so many; None when they are not kept."""
        lacking = self.count - count
        if lacking > len(self._kept):
            return None
        return iter(list(self._kept)[len(self._kept) - lacking :])


def framed(batch: Batch, position: Position) -> bytes:
    """What a batch has that `position` lacks."""
    return b"".join(frame(behind, row.type, row.data) for row, behind in batch.after(position))


class VideoFollower:
    """One who follows a video, and was sent its events up to the number `sent`."""

    def __init__(self, store: Store, topic: VideoTopic, sent: int) -> None:
        self.topic, self._store, self._sent = topic, store, sent
        self.opening = b""
        self._has_read = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        ends_with = self.topic.ends_with
        return self._has_read and ends_with is not None and self._sent >= ends_with

    @property
    def has_news(self) -> bool:
        """Whether `take` brings something."""
        return not self._has_read or self.topic.last > self._sent

    async def take(self) -> bytes:
        """What was not sent yet. Raises StorageError."""
        new = self.topic.after(self._sent) if self._has_read else None
        if new is not None:
            self._sent = max(self._sent, self.topic.last)
            return b"".join(new)
        self._has_read = True
        events = await self._store.events_get(self.topic.video_id, self.topic.owner)
        lacking = [event for event in events if event.seq > self._sent]
        self._sent = lacking[-1].seq if lacking else self._sent
        return b"".join(
            frame(event.seq, event.type, shown(self.topic.video_id, event)) for event in lacking
        )


class CallerFollower:
    """One who follows all of a caller's videos, and has what lies before `position`; None: begins now."""

    is_over: Final = False

    def __init__(
        self, read: Callable[[str, Position], Awaitable[Batch]], topic: CallerTopic,
        position: Position | None,
    ) -> None:
        self.topic, self._read = topic, read
        self._count = topic.count
        self._is_behind = position is not None
        self._position = here = position or topic.here
        # An id without data is no event, and yet the one to come again with.
        self.opening = b"" if position else b"id: %b\n\n" % str(here).encode()

    @property
    def has_news(self) -> bool:
        """Whether `take` brings something."""
        return self._is_behind or self.topic.count > self._count

    async def take(self) -> bytes:
        """What was not sent yet, a page at most. Raises StorageError, ForeignPosition."""
        entries = None if self._is_behind else self.topic.since(self._count)
        count = self.topic.count  # before anything is read: what comes meanwhile is met again
        found = await self._page() if entries is None else b"".join(map(self._new, entries))
        self._count = count
        return found

    def _new(self, entry: Entry) -> bytes:
        position, batch = self._position, entry.batch
        if position.covers(batch.horizon):
            return b""  # read before we read ourselves
        self._position = batch.end(position.log)
        return entry.text if position == entry.before else framed(batch, position)

    async def _page(self) -> bytes:
        batch, last, found = await self._read(self.topic.owner, self._position), self._position, []
        for row, last in batch.after(self._position):
            found.append(frame(last, row.type, row.data))
        self._position = batch.end(last.log) if batch.is_whole else last
        self._is_behind = not batch.is_whole
        return b"".join(found)
