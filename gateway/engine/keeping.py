"""Files that outlive their vendors' links: copied out as soon as their videos are done, checked on the way.

It is tried until it is stored, or until its last chance is gone: the link has died and the vendor, asked
once more (which is free), has no other, or a day later still names what cannot be stored. Held here:
one try, and what follows from how it ends. Not held here: whose turn it is (`copies`), the bytes' way
(`download`, `gateway.storage.files`), what a stored file means for its task (`gateway.core.after_end`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from gateway.core.admission import pause_seconds
from gateway.core.facts import File, KeepingEnded, Lost, Stored
from gateway.core.mp4 import BoxWalk, NotAVideo
from gateway.core.states import Task, ref_of
from gateway.engine.collect import LinkRefused, Links, LinkUnreachable
from gateway.engine.copies import link_of
from gateway.engine.download import Download, download
from gateway.engine.late import has_time
from gateway.engine.loop import Engine
from gateway.engine.poll import as_fact, outcome
from gateway.engine.probe import answered
from gateway.engine.provider import Provider
from gateway.engine.watch import Watch
from gateway.storage.db import StorageError
from gateway.storage.file_rows import FileGone
from gateway.storage.files import FileStore, FileStoreError
from gateway.storage.store import Store
from gateway.telemetry import Telemetry
from providers.spec import Failed, Ref, Succeeded, VendorError

CONTENT_TYPE: Final = "video/mp4"
COPY_SECONDS: Final = 3_600.0  # for one try; it begins anew after that
FILE_MAX_BYTES: Final = 16 * 1024**3
UNNAMED_SECONDS: Final = 86_400.0  # after which a file that no video names by then is removed
LAST_CHANCE_SECONDS: Final = 86_400.0  # after a link's end, while its vendor cannot be asked for another
LAST_TRIES: Final = 3  # at least, of a link that its vendor names although nothing can be stored of it
NO_VIDEO_SECONDS: Final = (60.0, 3_600.0)  # after the first and the later tries that brought no whole video
_UNSURE_SECONDS: Final = 0.5
_NO_TURN_SECONDS: Final = 5.0  # until it is asked again whether a vendor has time for a question


class Keeping(msgspec.Struct, frozen=True):
    """What files are kept with: the place, the way to vendors' links, and how many seconds they stay."""

    store: FileStore
    links: Links
    retention_seconds: float

    async def remove(self, store: Store, telemetry: Telemetry, key: str) -> bool:
        """Remove a file that no video names any more; False: it is left to a later sweep."""
        try:
            if await store.files.removal_begin(key):
                await self.store.remove(key)
                await store.files.removal_end(key)
        except FileStoreError as error:
            telemetry.file_store_failed("", error)
            return False
        except StorageError as error:
            telemetry.storage_failed("", error)
            return False
        return True


async def keep(engine: Engine, task: Task) -> None:
    """The step of an ended task whose file is still to be stored: one try."""
    try:
        await _try(engine, task)
    finally:
        engine.copies.ended(task.id)


async def _try(engine: Engine, task: Task) -> None:
    keeping, watch = engine.keeping, engine.watches.get(task.id)
    if keeping is None:
        await engine.save(task, KeepingEnded())
        return
    if watch is None:
        return  # it is followed no longer
    if not engine.lease.is_held:
        watch.not_before = engine.now() + _UNSURE_SECONDS  # it may be another's by now
        return
    expires_at = link_of(task)[1]
    is_over = engine.now() >= expires_at
    if is_over and not await _stands_by(engine, task, "the vendor's link has died"):
        return
    try:
        await _store(engine, keeping, task, watch)
    except LinkRefused as error:
        # Before its time a dead link is tried again: a vendor may have a bad hour, too.
        if is_over:
            await _lose(engine, task, str(error))
        elif await _stands_by(engine, task, str(error)):
            _again(engine, task, error)
    except FileStoreError as error:
        _again(engine, task, error)
    except (LinkUnreachable, NotAVideo, TimeoutError) as error:
        watch.bad_links += 1
        if engine.now() >= expires_at + LAST_CHANCE_SECONDS and watch.bad_links >= LAST_TRIES:
            await _lose(engine, task, f"{str(error) or 'it came too slowly'}, and the vendor has no other")
            return
        _again(engine, task, error)
        if isinstance(error, NotAVideo):  # the same bytes will hardly be another file in a second
            first, most = NO_VIDEO_SECONDS
            _pause(engine, task, min(most, first * 2 ** min(watch.bad_links - 1, 10)))


async def _store(engine: Engine, keeping: Keeping, task: Task, watch: Watch) -> None:
    """Copy the file and have the task name it. Raises what stands in the way; then nothing is left of it."""
    # Of each process another, so that nobody who is outlived writes to what a video names.
    key = watch.file_key = watch.file_key or f"{task.id[-2:]}/{task.id}-{secrets.token_hex(4)}.mp4"
    await engine.store.files.intend(key, engine.now() + COPY_SECONDS + UNNAMED_SECONDS)
    copying = _Copy(keeping, link_of(task)[0])
    try:
        async with asyncio.timeout(COPY_SECONDS):
            await keeping.store.put(key, copying.chunks(), CONTENT_TYPE)
    finally:
        await copying.close()
    now = engine.now()
    for refused in engine.copies.taken():
        if refused != task.id:
            _pause(engine, engine.tasks[refused], 0.0)
            engine.due_at(refused, now)
    file = File(
        bytes=copying.bytes, sha256=copying.digest.hexdigest(), content_type=CONTENT_TYPE, stored_at=now,
        expires_at=now + keeping.retention_seconds,
    )
    try:
        saved = await engine.save(task, Stored(file, key))
    except FileGone as error:
        watch.file_key = None
        raise FileStoreError("it took too long to write down that the file is stored") from error
    if saved is None or saved.file_key != key:
        await keeping.remove(engine.store, engine.telemetry, key)  # the video has gone another way
    else:
        engine.telemetry.file_stored(file.bytes)


class _Copy:
    """The bytes of a link on their way, counted, hashed and looked at."""

    def __init__(self, keeping: Keeping, url: str) -> None:
        self._keeping, self._url = keeping, url
        self._opened: Download | None = None
        self.digest, self.bytes = hashlib.sha256(), 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises LinkRefused, LinkUnreachable, NotAVideo before the end, so that nothing of it is kept."""
        opened = self._opened = await download(self._keeping.links, self._url)
        if opened.total > FILE_MAX_BYTES:
            raise NotAVideo(f"the file has {opened.total} bytes; at most {FILE_MAX_BYTES} are stored")
        walk = BoxWalk(opened.total)
        async for chunk in opened.chunks():
            walk.feed(chunk)
            self.digest.update(chunk)
            self.bytes += len(chunk)
            yield chunk
        walk.end()

    async def close(self) -> None:
        """Let the connection go, however far it came."""
        if self._opened is not None:
            await self._opened.close()


async def _lose(engine: Engine, task: Task, reason: str) -> None:
    if await engine.save(task, Lost(reason)) is not None:
        engine.telemetry.file_lost()


def _again(engine: Engine, task: Task, error: Exception) -> None:
    """Try later, and ever more seldom; a file that is followed here no longer is somebody else's to try."""
    watch = engine.watches.get(task.id)
    if watch is not None:
        watch.failures += 1
        most_seconds = engine.copies.refused(task.id) if isinstance(error, FileStoreError) else math.inf
        pause = min(most_seconds, pause_seconds(watch.failures, None, engine.chance))
        watch.not_before = engine.now() + pause
        engine.telemetry.file_store_failed(task.id, error)


async def _stands_by(engine: Engine, task: Task, why: str) -> bool:
    """Whether the vendor, asked once more, names the same link. If not, what follows is done here.

    That is another link, or trying later while there is still hope, or the loss.
    """
    link, expires_at = link_of(task)
    now, provider = engine.now(), engine.fleet.providers.get(task.provider or "")
    is_hopeless = now >= expires_at + LAST_CHANCE_SECONDS
    if provider is not None and task.ref is not None and not has_time(engine, provider) and not is_hopeless:
        _pause(engine, task, _NO_TURN_SECONDS)
        return False
    answer = None if provider is None else await _asked(engine, provider, task.id, ref_of(task))
    if isinstance(answer, Succeeded) and answer.url is not None and provider is not None:
        if answer.url == link:
            return True
        await engine.save(task, as_fact(engine, provider, task, answer))
        _pause(engine, task, 0.0)
        return False
    # Any other answer may be one odd poll, and the file is paid: the last chance bounds the hope.
    is_gone = isinstance(answer, Failed) or (isinstance(answer, VendorError) and answer.kind == "not_found")
    if is_hopeless or (is_gone and now >= expires_at):
        await _lose(engine, task, f"{why}, and the vendor has no other")
    else:
        _again(engine, task, LinkUnreachable(f"{why}, and the vendor gives no other"))
    return False


def _pause(engine: Engine, task: Task, seconds: float) -> None:
    watch = engine.watches.get(task.id)
    if watch is not None:
        watch.not_before = engine.now() + seconds


async def _asked(engine: Engine, provider: Provider, task_id: str, ref: Ref | None) -> object:
    """The vendor's answer, or the error that came of asking; None: there is nothing to ask for."""
    if ref is None:
        return None
    provider.asking += 1
    try:
        progress = await provider.adapter.poll(ref)
    except VendorError as error:
        engine.telemetry.polled(provider.name, "error", 0.0)
        provider.health.last_error = error.kind
        return error
    except Exception as error:  # noqa: BLE001 - such as the reference of another adapter that had this name
        engine.telemetry.step_failed(task_id, error)
        return error
    finally:
        provider.asking -= 1
    engine.telemetry.polled(provider.name, outcome(progress), 0.0)
    answered(engine, provider)
    return progress
