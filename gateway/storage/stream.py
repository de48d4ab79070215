"""The events of one caller in the order of their commits, read from any position; and how far videos are.

Not held here: what a position is (`gateway.core.positions`), one video's timeline (`store`), who is told.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.core.positions import Batch, Horizon, Position
from gateway.core.positions import Row as Told
from gateway.core.states import Event, State
from gateway.storage.db import Database, Row, Step
from gateway.storage.rows import events_of

PAGE_MAX: Final = 1_000  # rows of a read; what is left of a transaction comes beside them
FAR_MAX: Final = 100
_LOG_CHARS: Final = 8

# --- one caller's events --------------------------------------------------------------------------
# On SQLite, where writers take turns, there is no snapshot to tell: what is seen has an end.
LOG_ADD: Final = "insert into event_log (place, id) values (1, $1) on conflict do nothing"
LOG_GET: Final = "select id from event_log where place = 1"
HERE: Final = """select pg_current_snapshot()::text,
    (select coalesce(max(written), 0) from events where owner = $1)"""
_NEW: Final = "e.written >= $2 and (e.written >= $3 or strpos($4, ',' || e.written || ',') > 0)"
_COLUMNS: Final = """e.written, e.video_id, e.seq, e.at, e.type, e.status, e.stage, e.provider, e.offering,
    e.detail, e.earlier"""
# A replica of the version before does not write whose an event is. No join: it might walk all of the videos.
_OF_BEFORE: Final = "(select v.owner from videos v where v.id = e.video_id) = $1"
SINCE: Final = f"""select pg_current_snapshot()::text, found.* from (select 1) one left join (
        select {_COLUMNS} from events e where e.owner = $1 and {_NEW}
        union all select {_COLUMNS} from events e where e.owner = '' and {_OF_BEFORE} and {_NEW}
        order by 1, 2, 3 limit $5) found on true
    order by found.written, found.video_id, found.seq"""  # noqa: S608 (texts of this file)
# What one transaction wrote, of which a position has a part.
REST: Final = f"""select {_COLUMNS} from events e where e.owner = $1 and e.written = $2
    union all select {_COLUMNS} from events e where e.owner = '' and {_OF_BEFORE} and e.written = $2
    order by 1, 2, 3"""  # noqa: S608 (likewise)

# --- how far videos are ---------------------------------------------------------------------------
FAR: Final = f"""select id, last_seq, state, stage from videos
    where id in ({", ".join(f"${number}" for number in range(1, FAR_MAX + 1))})"""  # noqa: S608

Shown = Callable[[str, Event], bytes]


class ForeignPosition(Exception):
    """A position of another database, or of one that is gone: what it names is not known here."""


class Far(msgspec.Struct, frozen=True):
    """How far a video is: its last event, and where it stands."""

    last_seq: int
    state: State
    stage: str | None


class EventLog:
    """The events of all videos, as streams read them. Raises `StorageError` of `gateway.storage.db`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._log = ""

    async def here(self, owner: str) -> Position:
        """The position behind everything that can be seen of a caller now."""
        log = await self._named()
        ((snapshot, written),) = await self._database.read(HERE, (owner,))
        return Batch((), _horizon(snapshot, int(written or 0))).end(log)

    async def since(self, owner: str, position: Position, shown: Shown) -> Batch:
        """What a caller's events are behind `position`, with what is `shown` of each; one page of them.

        Raises ForeignPosition.
        """
        if position.log != await self._named():
            raise ForeignPosition
        begun = None if position.within is None else position.within.transaction
        rest = [] if begun is None else await self._database.read(REST, (owner, begun))
        unseen = [number for number in position.open if number != begun]
        opened, lowest = "".join(f",{number}" for number in unseen) + ",", min(unseen, default=position.upto)
        rows = await self._database.read(SINCE, (owner, lowest, position.upto, opened, PAGE_MAX))
        found = [row[1:] for row in rows if row[1] is not None]
        seen = _horizon(rows[0][0], max((int(row[0] or 0) for row in found), default=position.upto - 1))
        if position.upto > seen.upto:
            raise ForeignPosition  # the database was set back to a time before
        told = [each for row in (*rest, *found) for each in _told(row, shown)]
        return Batch(told, seen, is_whole=len(found) < PAGE_MAX)

    async def how_far(self, ids: Sequence[str]) -> dict[str, Far]:
        """How far each of these, at most FAR_MAX, is; none of a video that is gone."""
        rows = await self._database.read(FAR, (*ids, *[""] * (FAR_MAX - len(ids))))
        return {
            str(video_id): msgspec.convert({"last_seq": last, "state": state, "stage": stage}, Far)
            for video_id, last, state, stage in rows
        }

    async def _named(self) -> str:
        """The name of this database, which it gets when it is first asked for."""
        while not self._log:
            for (log,) in await self._database.read(LOG_GET):
                self._log = str(log)
            if not self._log:
                await self._database.write((Step(LOG_ADD, (secrets.token_hex(_LOG_CHARS // 2),)),))
        return self._log


def _told(row: Row, shown: Shown) -> list[Told]:
    written, video_id, *rest = row
    return [
        Told(int(written or 0), (str(video_id), event.seq), event.type, shown(str(video_id), event))
        for event in events_of(rest)
    ]


def _horizon(snapshot: object, last: int) -> Horizon:
    """What a read could see; `last` is the number of its last row, for where there is no snapshot."""
    if snapshot is None:
        return Horizon(last + 1)
    _, upto, running = str(snapshot).split(":")
    return Horizon(int(upto), frozenset(int(number) for number in running.split(",") if number))
