"""What the database knows of files beside their videos: what is to be removed, and what is too old.

A file is written down here before its bytes are written, and struck out by the save that has a video name it.
So whatever is cut off in between, every file is either a video's or on this list. Once its removal is begun
nothing can name it any more. Held here: the statements of these tables. Not held here: bytes (`files`), when
anything is done (`gateway.engine.sweeping`).
"""

from __future__ import annotations

from typing import Final

from gateway.core.states import Change
from gateway.storage.db import Database, GuardFailed, Step

REMOVAL_ADD: Final = """insert into file_removals (key, at, is_begun) values ($1, $2, 0)
    on conflict (key) do update set at = excluded.at"""
REMOVALS_DUE: Final = "select key from file_removals where at <= $1 order by at limit $2"
REMOVAL_BEGIN: Final = "update file_removals set is_begun = 1 where key = $1"
REMOVAL_LATER: Final = "update file_removals set at = $2 where key = $1"
REMOVAL_END: Final = "delete from file_removals where key = $1"
NAMED: Final = "delete from file_removals where key = $1 and is_begun = 0"
REMOVAL_OF_VIDEO: Final = """insert into file_removals (key, at, is_begun)
    select file_key, 0, 0 from videos where id = $1 and owner = $2 and file_key is not null
    and state in ('completed', 'failed', 'cancelled') on conflict do nothing"""
FILES_ANY: Final = "select 1 from videos where file_until is not null limit 1"
FILES_EXPIRED: Final = """select id from videos where file_until is not null and file_until <= $1
    order by file_until limit $2"""
# What is still looked up, or still to be stored, is kept however old it is.
RECORDS_OVER: Final = """select id, owner, status from videos
    where completed_at is not null and completed_at <= $1
    and late_until is null and unstored_since is null order by completed_at limit $2"""
KEYS_AFTER: Final = """select owner, name from idempotency_keys where (owner, name) > ($1, $2)
    order by owner, name limit $3"""
KEYS_DROP: Final = """delete from idempotency_keys
    where (owner, name) > ($1, $2) and (owner, name) <= ($3, $4) and created_at <= $5
    and not exists (select 1 from videos where id = video_id)"""
CHORE_ADD: Final = "insert into chores (name, at) values ($1, 0) on conflict do nothing"
CHORE_TAKE: Final = "update chores set at = $2 where name = $1 and at <= $3"


class FileGone(GuardFailed):
    """The file that a video would name is being removed: the write was undone, nothing changed."""


class NotOurs(GuardFailed):
    """Another replica does it, or has just done it: the write was undone, nothing changed."""


def naming(change: Change) -> list[Step]:
    """The steps that go with a change in what file its video names."""
    before, after = change.before.file_key, change.task.file_key
    if before == after:
        return []
    steps = [] if after is None else [Step(NAMED, (after,), FileGone)]
    return steps if before is None else [*steps, Step(REMOVAL_ADD, (before, 0.0))]


class FileRows:
    """Those tables. Raises `StorageError` of `gateway.storage.db` throughout."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def intend(self, key: str, remove_at: float) -> None:
        """Write down a file that is going to be written: unless a video names it, it goes at `remove_at`."""
        await self._database.write((Step(REMOVAL_ADD, (key, remove_at)),))

    async def removals(self, now: float, limit: int) -> list[str]:
        """The files that are to be removed by now."""
        return [str(key) for (key,) in await self._database.read(REMOVALS_DUE, (now, limit))]

    async def removal_begin(self, key: str) -> bool:
        """From now on nothing may name this file; False: a video does, or it is gone."""
        try:
            await self._database.write((Step(REMOVAL_BEGIN, (key,), NotOurs),))
        except NotOurs:
            return False
        return True

    async def postpone(self, key: str, remove_at: float) -> None:
        """Put the removal of a file off, if it is still to be removed: a video may name it meanwhile."""
        await self._database.write((Step(REMOVAL_LATER, (key, remove_at)),))

    async def removal_end(self, key: str) -> None:
        """The file is gone."""
        await self._database.write((Step(REMOVAL_END, (key,)),))

    async def has_any(self) -> bool:
        """Whether any video has a stored file."""
        return bool(await self._database.read(FILES_ANY))

    async def expired(self, now: float, limit: int) -> list[str]:
        """Videos whose files are kept no longer."""
        return [str(video_id) for (video_id,) in await self._database.read(FILES_EXPIRED, (now, limit))]

    async def outdated(self, before: float, limit: int) -> list[tuple[str, str, str]]:
        """Videos that ended before then, and of which nothing is expected: id, owner, status."""
        rows = await self._database.read(RECORDS_OVER, (before, limit))
        return [(str(video_id), str(owner), str(status)) for video_id, owner, status in rows]

    async def keys_drop(self, after: tuple[str, str], before: float, limit: int) -> tuple[str, str] | None:
        """Drop idempotency keys of videos that are gone, if made before then, among the next `limit` keys.

        Returns where to go on; None: that was the end.
        """
        rows = await self._database.read(KEYS_AFTER, (*after, limit))
        if not rows:
            return None
        last = (str(rows[-1][0]), str(rows[-1][1]))
        await self._database.write((Step(KEYS_DROP, (*after, *last, before)),))
        return last if len(rows) == limit else None

    async def chore_take(self, name: str, now: float, pause_seconds: float) -> bool:
        """Whether this replica is to do it now: nobody has begun it for `pause_seconds`."""
        try:
            await self._database.write((
                Step(CHORE_ADD, (name,)), Step(CHORE_TAKE, (name, now, now - pause_seconds), NotOurs),
            ))
        except NotOurs:
            return False
        return True
