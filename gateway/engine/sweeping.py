"""What is kept for a time goes when that is over: files, records, old idempotency keys, the oldest audit.

One replica at a time does it, in small batches, so that nobody who waits for the database notices. Whatever
is cut off is done by the next sweep. Not held here: the statements (`gateway.storage.file_rows`), for how
long anything is kept (the settings).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.core.facts import FileExpired
from gateway.core.tasks import IllegalTransition, apply
from gateway.engine.loop import Engine
from gateway.settings import Files
from gateway.storage import audit
from gateway.storage.db import GuardFailed, StorageError

SWEEP_SECONDS: Final = (1.0, 300.0)  # between sweeps: a tenth of what is kept shortest, within these
BATCH: Final = 100
BATCHES_MAX: Final = 50  # in one sweep
KEYS_BATCH: Final = 500
KEYS_KEPT_SECONDS: Final = 86_400.0  # contract 2.1: at least so long, and as long as the video
RESISTS_SECONDS: Final = 600.0  # until the removal of a file that could not be removed is tried again
_CHORE: Final = "sweep"


async def sweep_ever(engine: Engine) -> None:
    """Sweep again and again, until cancelled, by the settings as they are now: these need a restart."""
    files, keys_after = engine.fleet.settings.files, ("", "")
    pause = pause_seconds(files)
    while True:
        try:
            is_ours = not engine.store.is_shared
            if is_ours or await engine.store.files.chore_take(_CHORE, engine.now(), pause):
                keys_after = await sweep(engine, files, keys_after)
        except StorageError as error:
            engine.telemetry.storage_failed("", error)
        await asyncio.sleep(pause)


def pause_seconds(files: Files) -> float:
    """How long to wait between two sweeps."""
    low, high = SWEEP_SECONDS
    return min(high, max(low, min(files.retention, files.records_retention) / 10))


async def sweep(engine: Engine, files: Files, keys_after: tuple[str, str] = ("", "")) -> tuple[str, str]:
    """One sweep; where in the idempotency keys the next goes on. Raises StorageError."""
    await _in_batches(lambda: _end_records(engine, files.records_retention))
    await _in_batches(lambda: _expire_files(engine))
    await _in_batches(lambda: _remove_files(engine))
    await _in_batches(lambda: _end_audit(engine, files.records_retention))
    for _ in range(BATCHES_MAX):
        before = engine.now() - KEYS_KEPT_SECONDS
        found = await engine.store.files.keys_drop(keys_after, before, KEYS_BATCH)
        keys_after = found or ("", "")
        if found is None:
            break
    return keys_after


async def _in_batches(work: Callable[[], Awaitable[bool]]) -> None:
    """Do it until there is nothing more, or enough for one sweep."""
    for _ in range(BATCHES_MAX):
        if not await work():
            return


async def _end_records(engine: Engine, kept_seconds: float) -> bool:
    """Delete what ended too long ago; whether there may be more."""
    found = await engine.store.files.outdated(engine.now() - kept_seconds, BATCH)
    deleted = 0
    for video_id, owner, status in found:
        if video_id not in engine.sending and await engine.store.video_delete(video_id, owner):
            engine.telemetry.video_deleted(status)
            deleted += 1
    return deleted == BATCH


async def _end_audit(engine: Engine, records_seconds: float) -> bool:
    """Forget who did what, never before the records of what it was done to; whether there may be more."""
    kept_seconds = max(records_seconds, audit.KEPT_SECONDS)
    return await engine.store.audit.sweep(engine.now() - kept_seconds) == audit.SWEPT_MAX


async def _expire_files(engine: Engine) -> bool:
    """Have videos name no file whose time is over; whether there may be more."""
    found = await engine.store.files.expired(engine.now(), BATCH)
    expired = 0
    for video_id in found:
        task = await engine.store.task_get(video_id)
        if task is None:
            continue
        try:
            await engine.store.task_save(apply(task, FileExpired(), engine.now()))
        except (IllegalTransition, GuardFailed):
            continue  # it changed meanwhile: the next sweep looks again
        expired += 1
    return expired == BATCH


async def _remove_files(engine: Engine) -> bool:
    """Remove files that no video names; whether there may be more. What resists does not hold up others."""
    if engine.keeping is None:
        return False
    found = await engine.store.files.removals(engine.now(), BATCH)
    removed = 0
    for key in found:
        if await engine.keeping.remove(engine.store, engine.telemetry, key):
            removed += 1
        else:
            await engine.store.files.postpone(key, engine.now() + RESISTS_SECONDS)
    return removed == BATCH
