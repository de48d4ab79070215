"""Files that outlive their vendors' links: copied out as soon as their videos are done, checked on the way.

It is tried until it is stored, or until its last chance is gone: the link has died and the vendor, asked
again (which is free), has denied for an hour that there is another, or a day later still names what cannot
be stored, be it another link each time. Held here: one try, and what follows from how it ends. Not held
here: whose turn it is (`copies`), the bytes' way (`download`, `gateway.storage.files`), what a stored file
means for its task (`gateway.core.after_end`).
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
from gateway.core.health import doubled
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
BAD_LINKS_SECONDS: Final = 3_600.0  # at least, of links that bring nothing, before the last chance is gone
DENIED_SECONDS: Final = 3_600.0  # unbroken, before a vendor's word that it has no file any more is believed
# After the first and the later tries that brought no whole video, or another link that is dead, too.
NO_VIDEO_SECONDS: Final = (60.0, 3_600.0)
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
    # A link that was named since is tried, whatever was said of its end.
    is_over = engine.now() >= link_of(task)[1] and watch.link != "fresh"
    has_asked = is_over or watch.link == "refused"
    if has_asked and not await _stands_by(engine, task, watch, "the vendor's link has died"):
        return
    try:
        await _store(engine, keeping, task, watch)
    except FileStoreError as error:
        watch.link, watch.bad_since, watch.renewals = None, None, 0
        _again(engine, task, error)
    except (LinkRefused, LinkUnreachable, NotAVideo, TimeoutError) as error:
        watch.link = "refused" if isinstance(error, LinkRefused) else None
        watch.bad_links += 1
        watch.bad_since = watch.bad_since or engine.now()
        if _is_last(engine.now(), task, watch) or (is_over and isinstance(error, LinkRefused)):
            await _lose(engine, task, f"{str(error) or 'it came too slowly'}, and the vendor has no other")
        # Before its time a dead link is tried again: a vendor may have a bad hour, too.
        elif has_asked or watch.renewals or watch.link is None:
            _again(engine, task, error)
            _rest(engine, task, watch, error)
        elif await _stands_by(engine, task, watch, str(error)):
            _again(engine, task, error)


def _is_last(now: float, task: Task, watch: Watch) -> bool:
    """Whether no more can be hoped for: a day after a link's end, or of others that bring nothing, either."""
    is_late = now >= link_of(task)[1] + LAST_CHANCE_SECONDS
    if watch.renewals and watch.bad_since is not None:  # each of them has an end of its own
        waits_since, bad_since = task.unstored_since or now, watch.bad_since
        is_late = now >= max(waits_since + LAST_CHANCE_SECONDS, bad_since + BAD_LINKS_SECONDS)
    return is_late and watch.bad_links >= LAST_TRIES


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


async def _stands_by(engine: Engine, task: Task, watch: Watch, why: str) -> bool:
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
    watch.link = None
    is_denied = isinstance(answer, Failed) or (isinstance(answer, VendorError) and answer.kind == "not_found")
    watch.denied_since = (watch.denied_since or now) if is_denied else None
    if isinstance(answer, Succeeded) and answer.url is not None and provider is not None:
        if answer.url == link:
            return True
        watch.link, watch.renewals, watch.not_before = "fresh", watch.renewals + 1, now
        await engine.save(task, as_fact(engine, provider, task, answer))
        return False
    # Any other answer may be one odd poll, and the file is paid: the last chance bounds the hope.
    is_gone = watch.denied_since is not None and now >= max(expires_at, watch.denied_since + DENIED_SECONDS)
    if is_hopeless or is_gone:
        await _lose(engine, task, f"{why}, and the vendor has no other")
    else:
        _again(engine, task, LinkUnreachable(f"{why}, and the vendor gives no other"))
    return False


def _rest(engine: Engine, task: Task, watch: Watch, error: Exception) -> None:
    """Leave a file alone for longer than after other failures, where those that came so far were in vain.

    The same bytes will hardly be another file in a second, nor the next of links that are all dead another.
    """
    if isinstance(error, NotAVideo):
        _pause(engine, task, doubled(NO_VIDEO_SECONDS, watch.bad_links - 1))
    elif watch.link == "refused" and watch.renewals:
        provider = engine.fleet.providers.get(task.provider or "")
        least = 0.0 if provider is None else provider.bounds.min_seconds
        _pause(engine, task, max(least, doubled(NO_VIDEO_SECONDS, watch.renewals - 1)))


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
