"""The outbox of webhooks: a message for each event and receiver, from the commit that caused it to its end.

Held here: the statements by which messages come to be, are taken, sent and done with. A message that is due
is taken by whoever changes its `next_at` first, to the time when others may take it again; so what a dead
process was sending is sent by another. Not held here: endpoints and what callers see of them
(`webhook_endpoints`), when a message is due (`gateway.core.webhooks`), sending (`gateway.engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.core.states import Event, Task
from gateway.core.webhooks import PUBLISHED, MessageState, Signer
from gateway.storage.db import Database, GuardFailed, Row, Step
from gateway.storage.rows import Video
from gateway.values import Secret

SWEPT_MAX: Final = 500  # messages that one statement removes

# Run for every receiver of an event, in the write of the change itself. Its owner's endpoints, and the
# request's own place, where one owner's receiver that hangs delays no other's at the same origin.
TELL: Final = """insert into webhook_messages
    (event, id, owner, video_id, endpoint, target, url, type, at, task, content, state, step, tries, next_at)
    select $1, $1 || e.tail, $2, $3, e.endpoint, e.target, e.url, $4, $5, $6,
        '{"request":' || e.request || ',"metadata":' || e.metadata || '}', 'pending', 0, 0, $5
    from (select '_' || w.id as tail, w.id as endpoint, w.id as target, w.url, r.request, r.metadata
            from webhook_endpoints w, video_requests r
            where w.owner = $2 and w.disabled_at is null and w.events like '%,' || $4 || ',%'
                and r.video_id = $3
        union all select '_url', '', $2 || ' ' || r.webhook_origin, r.webhook_url, r.request, r.metadata
            from video_requests r where r.video_id = $3 and r.webhook_url is not null) e"""
# From one target to the next along the index, however much is pending for each.
TARGETS: Final = """with recursive targets (target) as (
        select min(target) from webhook_messages where state = 'pending'
        union all select (select min(m.target) from webhook_messages m
            where m.state = 'pending' and m.target > t.target) from targets t where t.target is not null)
    select t.target, (select min(m.next_at) from webhook_messages m
            where m.state = 'pending' and m.target = t.target)
    from targets t where t.target is not null"""
DUE: Final = """select m.id, m.owner, m.video_id, m.endpoint, m.target, m.url, m.type, m.at, m.task,
        m.content, m.step, m.tries, m.next_at, w.secrets,
        case when m.video_id = '' or v.id is not null then 0 else 1 end, v.traceparent
    from webhook_messages m left join webhook_endpoints w on w.id = m.endpoint
        left join videos v on v.id = m.video_id
    where m.state = 'pending' and m.target = $1 and m.next_at <= $2 order by m.next_at limit $3"""
CLAIM: Final = """update webhook_messages set claim = $3, next_at = $4
    where id = $1 and state = 'pending' and next_at = $2"""
CLAIM_RENDERED: Final = """update webhook_messages set claim = $3, next_at = $4, content = $5, task = null
    where id = $1 and state = 'pending' and next_at = $2"""
SETTLE: Final = """update webhook_messages
    set state = $4, step = $5, tries = $6, next_at = $7, claim = null
    where id = $1 and claim = $2 and tries = $3"""
FORGET: Final = "delete from webhook_messages where id = $1 and claim = $2 and tries = $3"
TRY_ADD: Final = """insert into webhook_tries (message_id, number, video_id, at, status, error, ms)
    values ($1, $2, $3, $4, $5, $6, $7)"""
TRIES_FORGET: Final = "delete from webhook_tries where message_id = $1"
DISABLE: Final = """update webhook_endpoints set disabled_at = $2, disabled_by = $3
    where id = $1 and disabled_at is null"""
DISABLE_PENDING: Final = """update webhook_messages set state = 'disabled', claim = null
    where endpoint = $1 and state = 'pending'"""
ENABLE: Final = "update webhook_endpoints set disabled_at = null, disabled_by = null where id = $1"
RELEASE_OTHERS: Final = """update webhook_messages set claim = null, next_at = $2
    where claim is not null and claim <> $1"""
HELD: Final = "select 1 from webhook_messages where claim is not null and claim <> $1 limit 1"
DEAD: Final = """select 1 from webhook_messages
    where claim is not null and claim in (select id from replicas where ended_at is not null) limit 1"""
RELEASE_DEAD: Final = """update webhook_messages set claim = null, next_at = $1
    where claim is not null and claim in (select id from replicas where ended_at is not null)"""
OLDEST: Final = "select min(at) from webhook_messages where state = 'pending'"
_OVER: Final = f"""(select id from webhook_messages where state <> 'pending' and at < $1
    order by at limit {SWEPT_MAX})"""  # noqa: S608 (a number)
OVER: Final = "select 1 from webhook_messages where state <> 'pending' and at < $1 limit 1"
SWEEP: Final = (
    f"delete from webhook_tries where message_id in {_OVER}",  # noqa: S608 (the text above)
    f"delete from webhook_messages where id in {_OVER} returning id",  # noqa: S608 (likewise)
)
# What goes with a video that is removed: all but what is still to be told of it.
VIDEO_FORGET: Final = (
    "delete from webhook_tries where video_id = $1",
    "delete from webhook_messages where video_id = $1 and state <> 'pending'",
)

_encode: Final = msgspec.json.Encoder().encode
_read_fields: Final = msgspec.json.Decoder(dict[str, object]).decode
read_signers: Final = msgspec.json.Decoder(tuple[Signer, ...], dec_hook=lambda _, text: Secret(text)).decode


class _Asked(msgspec.Struct, frozen=True):
    """What was asked for with a video, as a message holds it."""

    request: msgspec.Raw
    metadata: dict[str, str]


_read_asked: Final = msgspec.json.Decoder(_Asked).decode


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is due. Times in Unix seconds; `next_at` is when it was.

    `content` is its body once there is no `task`; until then see `told`. `endpoint` is '' and `signers` None
    of one to a request's own place. `is_orphan`: its video was deleted since. `traceparent`: its video's.
    """

    id: str
    owner: str
    video_id: str
    endpoint: str
    target: str
    url: str
    type: str
    at: float
    task: str | None
    content: str
    step: int
    tries: int
    next_at: float
    signers: tuple[Signer, ...] | None
    is_orphan: bool
    traceparent: str | None = None


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One sending of a message: when it began, the status of the answer or why there was none, how long."""

    at: float
    status: int | None
    error: str | None
    ms: int


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What a try makes of a message. `disables` says why its endpoint takes nothing more; `enables` it."""

    state: MessageState
    step: int
    next_at: float
    disables: str | None = None
    enables: bool = False


def told(message: Message) -> Video | None:
    """The video as it was when the event happened; None when the body was made of it already.

    Raises msgspec.MsgspecError for what another version of this program wrote and this one cannot read.
    """
    if message.task is None:
        return None
    asked, fields = _read_asked(message.content), _read_fields(message.task)
    fields.pop("ref", None)  # programs write it differently, and nobody is told of it
    # Not strictly: a task that was read from a database without truth values has 0 or 1 for these.
    return Video(msgspec.convert(fields, Task, strict=False), bytes(asked.request).decode(), asked.metadata)


def telling(task: Task, events: Sequence[Event]) -> list[Step]:
    """The steps that put these events of `task`, as they make it, into the outbox; mostly there are none."""
    published = [event for event in events if event.type in PUBLISHED]
    if not published:
        return []
    name, shown = task.id.removeprefix("video_"), _encode(replace(task, ref=None)).decode()
    return [
        Step(TELL, (f"msg_{name}_{event.seq}", task.owner, task.id, PUBLISHED[event.type], event.at, shown))
        for event in published
    ]


class Webhooks:
    """The outbox. Raises `StorageError` of `gateway.storage.db` throughout."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when a caller has asked this process for something to be sent."""
        self._listeners.append(listener)

    def asked(self) -> None:
        """Something was made due at a caller's wish, and is committed."""
        for listener in self._listeners:
            listener()

    async def targets(self) -> list[tuple[str, float]]:
        """For whom something is pending, and when the first of it is due."""
        rows = await self._database.read(TARGETS)
        return [(str(target), float(at or 0)) for target, at in rows]

    async def due(self, target: str, now: float, limit: int) -> list[Message]:
        """What is due for one target, the longest due first."""
        return [_message_of(row) for row in await self._database.read(DUE, (target, now, limit))]

    async def claim(self, message: Message, claim: str, until: float, body: str | None = None) -> bool:
        """Take a message; False when another took it first. `body`: what it will be for ever."""
        values = (message.id, message.next_at, claim, until)
        step = Step(CLAIM, values, GuardFailed)
        if body is not None:
            step = Step(CLAIM_RENDERED, (*values, body), GuardFailed)
        try:
            await self._database.write((step,))
        except GuardFailed:
            return False
        return True

    async def settle(self, message: Message, claim: str, made: Try, settled: Settled) -> bool:
        """Note a try and what follows; False when the message was taken by another meanwhile."""
        number = message.tries + 1
        fence = (message.id, claim, message.tries)
        if message.is_orphan and settled.state != "pending":
            steps = [Step(FORGET, fence, GuardFailed), Step(TRIES_FORGET, (message.id,))]
        else:
            after = (settled.state, settled.step, number, settled.next_at)
            noted = (message.id, number, message.video_id, made.at, made.status, made.error, made.ms)
            steps = [Step(SETTLE, (*fence, *after), GuardFailed), Step(TRY_ADD, noted)]
        if settled.disables is not None and message.endpoint:
            steps += [Step(DISABLE, (message.endpoint, made.at, settled.disables)),
                      Step(DISABLE_PENDING, (message.endpoint,))]
        if settled.enables and message.endpoint:
            steps.append(Step(ENABLE, (message.endpoint,)))
        try:
            await self._database.write(steps)
        except GuardFailed:
            return False
        return True

    async def release(self, replica: str, now: float) -> None:
        """Make due what nobody sends any more: of dead replicas, or of all others where there can be none."""
        if self._database.is_shared:
            if await self._database.read(DEAD):
                await self._database.write((Step(RELEASE_DEAD, (now,)),))
        elif await self._database.read(HELD, (replica,)):
            await self._database.write((Step(RELEASE_OTHERS, (replica, now)),))

    async def oldest(self) -> float | None:
        """When the oldest event happened that somebody is still to be told of; None: nobody is."""
        ((at,),) = await self._database.read(OLDEST)
        return None if at is None else float(at)

    async def sweep(self, before: float) -> bool:
        """Remove messages of events before that time which are done with; whether there may be more."""
        if not await self._database.read(OVER, (before,)):
            return False
        removed = await self._database.write([Step(sql, (before,)) for sql in SWEEP])
        return len(removed) == SWEPT_MAX


def _message_of(row: Row) -> Message:
    """The message of a row of DUE."""
    message_id, owner, video_id, endpoint, target, url, kind, at, task, content, *rest = row
    step, tries, next_at, secrets, is_orphan, traceparent = rest
    return Message(
        id=str(message_id), owner=str(owner), video_id=str(video_id), endpoint=str(endpoint),
        target=str(target), url=str(url), type=str(kind), at=float(at or 0),
        task=None if task is None else str(task), content=str(content), step=int(step or 0),
        tries=int(tries or 0),
        next_at=float(next_at or 0), signers=None if secrets is None else read_signers(str(secrets)),
        is_orphan=bool(is_orphan), traceparent=None if traceparent is None else str(traceparent),
    )
