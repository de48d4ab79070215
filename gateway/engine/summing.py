"""The ledger's entries are taken into the sums of their days a few seconds after they were written.

Nothing is done while nothing is saved. Not held here: the statements (`gateway.storage.ledger`).
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.core.states import Event, Task
from gateway.engine.loop import Engine
from gateway.storage.db import StorageError

SUM_SECONDS: Final = 5.0  # from an entry to its sum, about


async def sum_up_ever(engine: Engine) -> None:
    """Sum up what was saved, again and again, until cancelled; first of all what an earlier process left."""
    has_news = asyncio.Event()
    has_news.set()

    def heard(_task: Task, _events: tuple[Event, ...]) -> None:
        has_news.set()

    engine.store.listen(heard)
    while True:
        await has_news.wait()
        await asyncio.sleep(SUM_SECONDS)
        has_news.clear()
        try:
            while await engine.store.ledger.roll_up():
                pass
        except StorageError as error:
            engine.telemetry.storage_failed("", error)
            has_news.set()
