"""Callers that wait for a video's end: a few kilobytes each, woken by the save itself, wherever it happened.

No vendor call. What other replicas save is told by the database; where that may have been missed, the rows
are looked at. Not held here: routes, and what a video looks like.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from gateway.api.guests import Guests
from gateway.core.states import Event, Task
from gateway.storage import news
from gateway.storage.db import StorageError
from gateway.storage.store import ENDED_MAX, Store

WAIT_MAX_SECONDS: Final = 60
LOOK_SECONDS: Final = 5.0  # between looks at the rows where others save, too


class Waiters:
    """Who waits for the end of which video."""

    def __init__(self, store: Store, released: Callable[[], None] = lambda: None) -> None:
        """`released` is called when nobody is to wait any more."""
        self._ends: dict[str, tuple[asyncio.Event, int]] = {}
        self._is_released = False
        self._released = released
        self._store = store
        self._missed = asyncio.Event()
        store.listen(self._saved)
        if store.is_shared:
            store.hear(self._heard)

    @contextmanager
    def watch(self, video_id: str) -> Iterator[asyncio.Event]:
        """An event, set when the video is terminal. Read the video inside, so that no end is missed."""
        event, count = self._ends.get(video_id, (asyncio.Event(), 0))
        self._ends[video_id] = (event, count + 1)
        if self._is_released:
            event.set()
        try:
            yield event
        finally:
            event, count = self._ends[video_id]
            if count > 1:
                self._ends[video_id] = (event, count - 1)
            else:
                del self._ends[video_id]

    def release(self) -> None:
        """Let nobody wait any more: the gateway stops, and an answer now is better than a cut connection."""
        self._is_released = True
        for event, _ in self._ends.values():
            event.set()
        self._released()

    async def look(self) -> None:
        """Look at what is waited for, when news may be missed and every LOOK_SECONDS, until cancelled."""
        while self._store.is_shared:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._missed.wait()
            self._missed.clear()
            waited = list(self._ends)
            with suppress(StorageError):  # it is looked at again
                for first in range(0, len(waited), ENDED_MAX):
                    for video_id in await self._store.ended(waited[first : first + ENDED_MAX]):
                        self._end(video_id)

    def _saved(self, task: Task, events: tuple[Event, ...]) -> None:
        if task.is_terminal:
            self._end(task.id)

    def _heard(self, text: str | None) -> None:
        told = None if text is None else news.read(text)
        if text is None:
            self._missed.set()
        elif isinstance(told, news.VideoChanged) and told.has_ended:
            self._end(told.id)

    def _end(self, video_id: str) -> None:
        waiting = self._ends.get(video_id)
        if waiting is not None:
            waiting[0].set()


async def ended(event: asyncio.Event, seconds: float, guests: Guests, digest: str) -> bool:
    """Return when `event` is set, or after `seconds`; False when the key of that digest ended first."""
    guest = None
    try:
        async with asyncio.timeout(seconds) as limit:
            with guests.stay(digest, partial(_cut, limit)) as guest:
                await event.wait()
    except TimeoutError:
        return guest is None or not guest.is_out
    return True


def _cut(limit: asyncio.Timeout) -> None:
    if not limit.expired():
        limit.reschedule(0.0)
