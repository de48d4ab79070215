"""The statements of videos and of what belongs to them, once, in the dialect that both databases share.

Every read that a caller can cause has the owner in its SQL. Every save is fenced: by version always, and so a
paused or outlived writer changes nothing. Not held here: the statements of other tables (a module each), how
a statement reaches a database (`db` and the drivers), and what a change means (`gateway.core.tasks`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from gateway.core.states import Change, Event, Task
from gateway.storage import lists, news, places
from gateway.storage.allowance import Allowances
from gateway.storage.audit import Audit
from gateway.storage.db import (
    Bound,
    Database,
    Duplicate,
    GuardFailed,
    NoRoom,
    Step,
    StorageBusy,
    StorageError,
    StorageShort,
)
from gateway.storage.file_rows import REMOVAL_OF_VIDEO, FileRows, naming
from gateway.storage.keys import Keys
from gateway.storage.ledger import Ledger, booking
from gateway.storage.replicas import Replicas
from gateway.storage.rows import (
    TASK_COLUMNS,
    Asked,
    Filters,
    Hold,
    Idempotency,
    NewVideo,
    Page,
    Video,
    asked_of,
    asked_values,
    events_of,
    events_values,
    followed_of,
    hold_of,
    task_values,
    video_of,
)
from gateway.storage.stop import Stop
from gateway.storage.stream import EventLog
from gateway.storage.uploads import Uploads
from gateway.storage.webhook_endpoints import Endpoints
from gateway.storage.webhooks import VIDEO_FORGET, Webhooks, telling

_NAMES: Final = ", ".join(TASK_COLUMNS)
_HOLES: Final = ", ".join(f"${number}" for number in range(1, len(TASK_COLUMNS) + 1))
_SETS: Final = ", ".join(f"{name} = ${number}" for number, name in enumerate(TASK_COLUMNS, 1))
_ID: Final = TASK_COLUMNS.index("id") + 1
_VERSION: Final = len(TASK_COLUMNS) + 1
# Word for word the condition of the index videos_by_replica, which is used only then.
_FOLLOWED: Final = """(state in ('waiting', 'submitting', 'rendering', 'submission_unknown')
    or late_until is not null
    or unstored_since is not null)"""

# Writes that may wait when a new video comes: about what two cores commit in 200 ms (0.2 ms for each video).
# Beyond, the video is refused. Everything else is taken, because it finishes what was begun.
ADMIT_MAX: Final = 1_024

# --- videos ---------------------------------------------------------------------------------------
# S608 below: what is put into these texts are names of columns, never input.
VIDEO_ADD: Final = f"insert into videos ({_NAMES}) values ({_HOLES})"  # noqa: S608
VIDEO_SAVE: Final = f"update videos set {_SETS} where id = ${_ID} and version = ${_VERSION}"  # noqa: S608
VIDEO_GET: Final = f"""select {lists.VIDEO_NAMES} from videos v join video_requests r on r.video_id = v.id
    where v.id = $1 and v.owner = $2"""  # noqa: S608
VIDEO_ANY: Final = f"""select {lists.VIDEO_NAMES} from videos v join video_requests r on r.video_id = v.id
    where v.id = $1"""  # noqa: S608
TASK_GET: Final = f"select {_NAMES} from videos where id = $1"  # noqa: S608
TASKS_CLAIM: Final = f"""update videos set replica = $1, version = version + 1 where id in (
        select id from videos where {_FOLLOWED} and replica = $2
        order by created_at, id limit $3 for update skip locked)
    returning {_NAMES}"""  # noqa: S608
OWNERS: Final = f"""select distinct replica from videos
    where {_FOLLOWED} and replica not in (select id from replicas)"""  # noqa: S608
ORPHANED: Final = f"""select id from replicas where ended_at is not null
    and exists (select 1 from videos where {_FOLLOWED} and replica = replicas.id)
    union all select '' where exists (
        select 1 from videos where {_FOLLOWED} and replica = '')"""  # noqa: S608
VERSIONS: Final = f"""select id, version from videos where {_FOLLOWED} and replica = $1 and id > $2
    order by id limit $3"""  # noqa: S608
TASK_OF_JOB: Final = "select id, replica from videos where provider = $1 and vendor_task_id = $2"
ENDED_MAX: Final = 100
ENDED: Final = f"""select id from videos where completed_at is not null
    and id in ({", ".join(f"${number}" for number in range(1, ENDED_MAX + 1))})"""  # noqa: S608
WAITING_BEFORE: Final = """select count(*) from videos where state = 'waiting'
    and (priority > $1 or (priority = $1 and created_at < $2))"""
SUBMITTED_SINCE: Final = """select provider, at from events
    where type = 'submitting' and at >= $1 order by at"""
REQUEST_ADD: Final = """insert into video_requests
    (video_id, request, metadata, pins, webhook_url, webhook_origin) values ($1, $2, $3, $4, $5, $6)"""
REQUEST_GET: Final = """select request, metadata, pins, webhook_url, webhook_origin
    from video_requests where video_id = $1"""
INPUT_ADD: Final = "insert into video_inputs (video_id, field, value) values ($1, $2, $3)"
INPUTS_GET: Final = "select field, value from video_inputs where video_id = $1"
LABEL_ADD: Final = """insert into video_labels (owner, name, value, created_at, video_id)
    values ($1, $2, $3, $4, $5)"""
EVENTS_ADD: Final = """insert into events
    (video_id, seq, at, type, status, stage, provider, offering, detail, earlier, count, owner, written)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, pg_current_xact_id()::text::bigint)"""
EVENTS_GET: Final = """select e.seq, e.at, e.type, e.status, e.stage, e.provider, e.offering, e.detail,
    e.earlier
    from events e join videos v on v.id = e.video_id where e.video_id = $1 and v.owner = $2 order by e.seq"""
VIDEO_DELETE: Final = """delete from videos
    where id = $1 and owner = $2 and state in ('completed', 'failed', 'cancelled')"""
PARTS_DELETE: Final = tuple(
    f"delete from {table} where video_id = $1"  # noqa: S608 (names of tables, no input)
    for table in ("video_requests", "video_inputs", "video_labels", "events")
)
COUNTS: Final = "select status, count(*) from videos group by status"

# --- orders of operators --------------------------------------------------------------------------
HOLDS: Final = "select provider, action, by_whom, at from provider_holds order by provider"
HOLD_PUT: Final = """insert into provider_holds (provider, action, by_whom, at) values ($1, $2, $3, $4)
    on conflict (provider) do update
    set action = excluded.action, by_whom = excluded.by_whom, at = excluded.at"""
HOLD_DELETE: Final = "delete from provider_holds where provider = $1"

# --- idempotency ----------------------------------------------------------------------------------
IDEMPOTENCY_ADD: Final = """insert into idempotency_keys (owner, name, fingerprint, video_id, created_at)
    values ($1, $2, $3, $4, $5) on conflict do nothing"""
IDEMPOTENCY_GET: Final = "select fingerprint, video_id from idempotency_keys where owner = $1 and name = $2"

Listener: TypeAlias = Callable[[Task, tuple[Event, ...]], None]


def saving(change: Change) -> tuple[Task, list[Step]]:
    """The task as a change leaves it, and the fenced steps that save it with all that goes with it."""
    before, after = change.before, msgspec.structs.replace(change.task, version=change.before.version + 1)
    save = Step(VIDEO_SAVE, (*task_values(after), before.version), GuardFailed)
    events = [Step(EVENTS_ADD, events_values(after, change.events))] if change.events else []
    return after, [save, *events, *telling(after, change.events), *naming(change), *booking(before, after)]


class Store:
    """The one way to what is stored. Raises `StorageError` of `gateway.storage.db` throughout."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.replicas, self.webhooks = Replicas(database), Webhooks(database)
        self.endpoints = Endpoints(database, self.webhooks)
        self.uploads, self.files = Uploads(database), FileRows(database)
        self.keys = Keys(database)
        self.log, self.audit = EventLog(database), Audit(database)
        self.ledger, self.allowances, self.stop = Ledger(database), Allowances(database), Stop(database)
        self._listeners: list[Listener] = []
        self._doubters: list[Listener] = []
        self._hearers: list[Callable[[str | None], None]] = []

    @property
    def trouble(self) -> str | None:
        """Why nothing new should be begun, in a sentence; None when all is well."""
        return self._database.trouble

    @property
    def is_short(self) -> bool:
        """Whether the disk is full or the database fails: new videos are refused, nothing new may be sent."""
        return self.trouble is not None

    @property
    def is_shared(self) -> bool:
        """Whether other processes may serve from it too."""
        return self._database.is_shared

    def hear(self, hear: Callable[[str | None], None]) -> None:
        """Have `hear` called with what other replicas tell (`news`); None: something may have been missed."""
        self._hearers.append(hear)
        if len(self._hearers) == 1:
            self._database.listen(self._heard)

    def _heard(self, text: str | None) -> None:
        for hear in self._hearers:
            hear(text)

    def listen(self, listener: Listener) -> None:
        """Have `listener` called with every saved task and its new events, after the commit."""
        self._listeners.append(listener)

    def doubt(self, doubter: Listener) -> None:
        """Have `doubter` called with what was to be saved when the database failed: perhaps it was."""
        self._doubters.append(doubter)

    async def video_add(
        self, new: NewVideo, key: Idempotency | None = None, also: Sequence[Step] = (),
        room: Bound | None = None,
    ) -> Idempotency | None:
        """Store a new video, its key, and `also`. Returns the key's holder if another took it first.

        New spending is refused first, before anything was done: raises StorageShort while the disk is full or
        the database fails, StorageBusy while ADMIT_MAX writes wait. `room` as for `task_save`: raises NoRoom.
        """
        trouble, waiting = self._database.trouble, self._database.waiting
        if trouble is not None:
            raise StorageShort(f"no new video is taken: {trouble}")
        if waiting >= ADMIT_MAX:
            raise StorageBusy(f"no new video is taken: {waiting} writes are waiting already")
        task = new.task
        steps = [
            Step(VIDEO_ADD, task_values(task)),
            Step(REQUEST_ADD, asked_values(new)),
            *(Step(INPUT_ADD, (task.id, field, value)) for field, value in new.inputs.items()),
            *(Step(LABEL_ADD, (task.owner, name, value, task.created_at, task.id))
              for name, value in new.metadata.items()),
            *([Step(EVENTS_ADD, events_values(task, new.events))] if new.events else []),
            *booking(None, task), *also,
        ]
        if key is not None:
            taken = (task.owner, key.name, key.fingerprint, task.id, task.created_at)
            steps.insert(0, Step(IDEMPOTENCY_ADD, taken, GuardFailed))
        if room is not None:
            steps = [*room.before(), *steps, *room.after()]
        try:
            await self._write(steps, task, new.events)
        except NoRoom:
            raise
        except GuardFailed:
            holder = None if key is None else await self.idempotency_get(task.owner, key.name)
            if holder is None:
                raise
            return holder
        return None

    async def idempotency_get(self, owner: str, name: str) -> Idempotency | None:
        """Who holds this caller's key."""
        rows = await self._database.read(IDEMPOTENCY_GET, (owner, name))
        return Idempotency(name, str(rows[0][0]), str(rows[0][1])) if rows else None

    async def video_get(self, video_id: str, owner: str) -> Video | None:
        """The caller's video; None when there is none, or it is another caller's."""
        if "\0" in video_id:  # of which PostgreSQL cannot be asked
            return None
        rows = await self._database.read(VIDEO_GET, (video_id, owner))
        return video_of(rows[0]) if rows else None

    async def video_any(self, video_id: str) -> Video | None:
        """The video, whoever owns it: for operators' verbs only, never to answer a caller."""
        rows = await self._database.read(VIDEO_ANY, (video_id,))
        return video_of(rows[0]) if rows else None

    async def video_list(self, owner: str, filters: Filters, page: Page) -> list[Video]:
        """The caller's videos by creation, keyset-paged; at most `page.limit + 1`: one more tells of more."""
        by = lists.equals(filters)
        lead = by[0] if by else None
        if len(by) > 1:
            (reached,) = await self._database.read(*lists.reach(owner, filters, page))
            lead = lists.leader(filters, page, reached)
        rows = await self._database.read(*lists.page_of(owner, filters, page, lead))
        return [video_of(row) for row in rows]

    async def video_delete(self, video_id: str, owner: str) -> bool:
        """Remove a terminal video and its parts; False when there is none. Its idempotency key stays.

        Its file is put on the list of those to be removed with the same commit.
        """
        parts = (Step(sql, (video_id,)) for sql in (*PARTS_DELETE, *VIDEO_FORGET))
        try:
            await self._database.write((
                Step(REMOVAL_OF_VIDEO, (video_id, owner)),
                Step(VIDEO_DELETE, (video_id, owner), GuardFailed), *parts,
            ))
        except GuardFailed:
            return False
        return True

    async def events_get(self, video_id: str, owner: str) -> list[Event]:
        """The caller's video's timeline, oldest first."""
        rows = await self._database.read(EVENTS_GET, (video_id, owner))
        return [event for row in rows for event in events_of(row)]

    async def task_get(self, video_id: str) -> Task | None:
        """The hot row, for the engine."""
        rows = await self._database.read(TASK_GET, (video_id,))
        return followed_of(rows[0]) if rows else None

    async def task_of_job(self, provider: str, vendor_task_id: str) -> tuple[str, str] | None:
        """The id of the video that has this job, and the replica that owns it."""
        rows = await self._database.read(TASK_OF_JOB, (provider, vendor_task_id))
        return (str(rows[0][0]), str(rows[0][1])) if rows else None

    async def pass_on(self, text: str) -> None:
        """Tell the other replicas something that no row speaks of."""
        await self._database.write((), tell=text)

    async def task_save(
        self, change: Change, room: Bound | None = None, also: Sequence[Step] = ()
    ) -> Task:
        """Write a change, its events and `also`. Raises GuardFailed: the task is not as the change found it.

        `room` is what must still hold afterwards, over all replicas. Raises NoRoom.
        """
        after, steps = saving(change)
        before, behind = ([], []) if room is None else (room.before(), room.after())
        await self._write([*before, *steps, *also, *behind], after, change.events)
        return after

    async def owners_unlisted(self) -> list[str]:
        """Who owns what is followed, and is no replica that is known: on a database of our own, everybody."""
        return [str(replica) for (replica,) in await self._database.read(OWNERS)]

    async def orphaned(self) -> list[str]:
        """Which dead replicas have left something that is followed; UNOWNED where nobody has it yet."""
        return [str(replica) for (replica,) in await self._database.read(ORPHANED)]

    async def tasks_claim(self, replica: str, owner: str, limit: int) -> list[Task]:
        """Take over up to `limit` tasks of a dead `owner`, the oldest; none: nothing is left of it.

        Taken is what is unfinished, and what has ended and is still looked up (`late_until`). What another
        replica takes at this moment is left to that one.
        """
        rows = await self._database.write((Step(TASKS_CLAIM, (replica, owner, limit)),))
        return sorted((followed_of(row) for row in rows), key=lambda task: (task.created_at, task.id))

    async def versions(self, replica: str, after: str, limit: int) -> list[tuple[str, int]]:
        """The ids and versions of what `replica` owns, by id, after `after`."""
        rows = await self._database.read(VERSIONS, (replica, after, limit))
        return [(str(video_id), int(version or 0)) for video_id, version in rows]

    async def ended(self, ids: Sequence[str]) -> list[str]:
        """Which of these, at most ENDED_MAX, have ended."""
        rows = await self._database.read(ENDED, (*ids, *[""] * (ENDED_MAX - len(ids))))
        return [str(video_id) for (video_id,) in rows]

    async def waiting_before(self, task: Task) -> int:
        """How many videos wait with a higher priority, or longer."""
        rows = await self._database.read(WAITING_BEFORE, (task.priority, task.created_at))
        return int(rows[0][0] or 0)

    async def waiting_before_each(self, tasks: Sequence[Task]) -> list[int]:
        """`waiting_before` of each of these, at most PLACES_MAX of `places`, in one statement."""
        return places.befores(tasks, await self._database.read(*places.counting(tasks))) if tasks else []

    async def asked_get(
        self, video_id: str, admit: Callable[[str], Awaitable[None]] | None = None
    ) -> Asked:
        """All that was asked for with this video, whoever owns it. Raises GuardFailed when it is gone.

        `admit` is awaited with the request (JSON) before the bytes of its images are read.
        """
        rows = await self._database.read(REQUEST_GET, (video_id,))
        if not rows:
            raise GuardFailed(f"no request is stored for {video_id}")
        if admit is not None:
            await admit(str(rows[0][0]))
        return asked_of(rows[0], await self._database.read(INPUTS_GET, (video_id,)))

    async def submitted_since(self, at: float) -> list[tuple[str, float]]:
        """What was sent since then, to which provider and when, oldest first."""
        rows = await self._database.read(SUBMITTED_SINCE, (at,))
        return [(str(provider), float(sent_at or 0)) for provider, sent_at in rows]

    async def holds(self) -> list[Hold]:
        """The orders in force, by provider."""
        return [hold_of(row) for row in await self._database.read(HOLDS)]

    async def hold_put(self, hold: Hold, also: Sequence[Step] = ()) -> None:
        """Store an order, and `also`; it takes the place of an earlier one for the same provider."""
        order = news.of_order(hold.provider, is_lifted=False)
        put = Step(HOLD_PUT, (hold.provider, hold.action, hold.by, hold.at))
        await self._database.write((put, *also), tell=order)

    async def hold_delete(self, provider: str, also: Sequence[Step] = ()) -> None:
        """Lift the order for `provider`, if there is one, and write `also`."""
        order = news.of_order(provider, is_lifted=True)
        await self._database.write((Step(HOLD_DELETE, (provider,)), *also), tell=order)

    async def counts(self) -> dict[str, int]:
        """How many videos have each status."""
        return {str(status): int(count or 0) for status, count in await self._database.read(COUNTS)}

    async def ready(self) -> None:
        """Raises StorageError when the database cannot be asked."""
        await self._database.read("select 1")

    async def _write(self, steps: Sequence[Step], task: Task, events: tuple[Event, ...]) -> None:
        """Save what makes `task` as it is, and tell the listeners. No answer but an error proves nothing."""
        try:
            heard = news.of_video(task) if self.is_shared else None
            await self._database.write(steps, lambda: self.tell(task, events), heard)
        except (GuardFailed, Duplicate, StorageBusy):
            raise
        except StorageError:
            for doubter in self._doubters:
                doubter(task, events)
            raise

    def tell(self, task: Task, events: tuple[Event, ...]) -> None:
        """Tell the listeners that this task, with these events, is committed."""
        for listener in self._listeners:
            listener(task, events)
