"""Saves that failed, perhaps only seemingly: what is stored is looked up, so that its task is followed.

A database may have done what it reports as failed, and whoever asked for it may have gone. Not held here: the
engine's own saves, which look for themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

from gateway.core.states import Event, Task
from gateway.storage.store import Store

Insist: TypeAlias = Callable[[str, Callable[[], Awaitable[Task | None]]], Awaitable[Task | None]]


class Doubts:
    """One look at a time for each video. `known` are the tasks as the engine has them.

    `absent` is called with the id of a video that was not stored.
    """

    def __init__(
        self, store: Store, known: Mapping[str, Task], insist: Insist, absent: Callable[[str], None]
    ) -> None:
        self._store, self._known, self._insist, self._absent = store, known, insist, absent
        self.looks: dict[str, asyncio.Task[None]] = {}
        store.doubt(self.doubted)

    def doubted(self, task: Task, events: tuple[Event, ...]) -> None:
        """Whether `task` was stored, with these events, is to be found out."""
        if task.id not in self.looks:
            self.looks[task.id] = looking = asyncio.create_task(self._look(task.id, events))
            looking.add_done_callback(lambda _: self.looks.pop(task.id))

    async def _look(self, task_id: str, events: tuple[Event, ...]) -> None:
        """Tell of what is stored and not known. Of a known task the one who saves it tells the events."""
        stored = await self._insist(task_id, partial(self._store.task_get, task_id))
        known = self._known.get(task_id)
        if stored is None:
            self._absent(task_id)
        if stored is None or stored == known or (known is None and not stored.is_followed):
            return
        self._store.tell(stored, events if known is None else ())
