"""Callers that wait for a video's end: a few kilobytes each, woken by the save itself.

No vendor call, no polling. Not held here: routes, and what a video looks like.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.core.states import Event, Task
from gateway.storage.store import Store

WAIT_MAX_SECONDS = 60


class Waiters:
    """Who waits for the end of which video."""

    def __init__(self, store: Store) -> None:
        self._ends: dict[str, tuple[asyncio.Event, int]] = {}
        self._is_released = False
        store.listen(self._saved)

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

    def _saved(self, task: Task, events: tuple[Event, ...]) -> None:
        waiting = self._ends.get(task.id)
        if waiting is not None and task.is_terminal:
            waiting[0].set()


async def ended(event: asyncio.Event, seconds: float) -> None:
    """Return when `event` is set, or after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
