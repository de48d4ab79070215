"""How many videos there are, where several processes save them: counted anew, and told by who changes them.

Each process keeps count of what it follows itself, which on a shared database is only a part. Not held here:
the count (`Store.counts`), what is counted in between (`gateway.telemetry`).
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.core.states import Event, Task
from gateway.engine.loop import Engine
from gateway.storage.db import StorageError

COUNT_SECONDS: Final = 5.0  # between two counts at least
PAUSE_RATIO: Final = 100.0  # a pause is so many times as long as its count: it reads all videos


async def count_ever(engine: Engine) -> None:
    """Count again and again, until cancelled; on a database of its own not at all: it saw every save."""
    now = asyncio.get_running_loop().time
    while engine.store.is_shared:
        begun = now()
        try:
            engine.telemetry.videos_are(await engine.store.counts())
        except StorageError as error:
            engine.telemetry.storage_failed("", error)
        await asyncio.sleep(max(COUNT_SECONDS, PAUSE_RATIO * (now() - begun)))


def tell_others(engine: Engine, task: Task, events: tuple[Event, ...]) -> None:
    """Report what was saved here of a video that this process does not follow: nobody else hears the events.

    Its place at a vendor is counted where it is followed, so nothing that moves a gauge is told, but that a
    video was accepted which is nobody's yet.
    """
    if task.replica == engine.replica:
        return
    is_new = task.state == "waiting" and any(event.type == "accepted" for event in events)
    engine.telemetry.task_changed(None if is_new else task, task, events)
