"""Uploads whose time is over go: looked for now and then by every process that answers callers.

A row that two of them find is removed once, so nobody needs to be chosen for it. Not held here: the files and
records of videos.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.storage.db import StorageError
from gateway.storage.uploads import SWEPT_MAX, Uploads

SWEEP_SECONDS: Final = 300.0  # between looks, while there is nothing left to remove
BATCH_PAUSE_SECONDS: Final = 0.1  # between two batches: others write, too


async def sweep_uploads(
    uploads: Uploads, now: Callable[[], float], failed: Callable[[StorageError], None],
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Remove expired uploads until cancelled; `now` is Unix time in seconds. What fails is told."""
    while True:
        try:
            swept = await uploads.sweep(now())
        except StorageError as error:
            failed(error)
            swept = 0
        await pause(BATCH_PAUSE_SECONDS if swept == SWEPT_MAX else SWEEP_SECONDS)
