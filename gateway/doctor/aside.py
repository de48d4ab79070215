"""What blocks, asked aside, so that who never answers holds up nobody: not the loop, nor the process's end.

The loop's own threads are waited for when it closes, however late. Not held here: how long is waited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


async def aside(work: Callable[..., T], *arguments: object) -> T:
    """What `work` returns or raises, from a thread that is left behind when the wait for it is cancelled."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    told: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            told.append(work(*arguments))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            failed.append(error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    Thread(target=run, daemon=True).start()
    await ended.wait()
    if failed:
        raise failed[0]
    return told[0]
