"""Learned render times outlive the process, and replicas learn from each other.

Losing some of it costs a few polls, no video: a failure is told and tried again. Not held here: what is
learned and what follows from it (`gateway.core.render_times`).
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.core.render_times import row_kind
from gateway.engine.loop import Engine
from gateway.storage.db import StorageError

KEEP_SECONDS: Final = 30.0  # what was learned since is lost with the process


async def keep_learned(engine: Engine) -> None:
    """Read what is known, then exchange what is new with the store again and again, until cancelled."""
    while True:
        try:
            await _exchange(engine)
        except StorageError as error:
            engine.telemetry.storage_failed("", error)
        await asyncio.sleep(KEEP_SECONDS)


async def _exchange(engine: Engine) -> None:
    learned, replicas = engine.fleet.learned, engine.store.replicas
    rows = learned.unsaved()
    if rows:
        await replicas.render_times_add(rows)
        learned.stored(rows)
    full = learned.load(await replicas.render_times())
    if full:
        await replicas.render_times_fade(row_kind(candidate, kind) for candidate, kind in full)
