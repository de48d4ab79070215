"""A caller's webhook endpoints and what was sent there, as its routes ask for them: the owner in every read.

Not held here: sending (`webhooks`, whose tables these are), what a route answers (`gateway.api.webhooks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.webhooks import MessageState, Signer
from gateway.storage import news
from gateway.storage.db import Database, GuardFailed, Row, Step
from gateway.storage.webhooks import Try, Webhooks, read_signers
from gateway.values import Secret

PAGE_MAX: Final = 100  # messages of one page of the log
REPLAY_MAX: Final = 10_000  # messages that one call makes due again

_NAMES: Final = "id, owner, url, events, secrets, created_at, disabled_at, disabled_by"
# S608 below: what is put into these texts are the constants of this file, never input.
ENDPOINT_ADD: Final = f"""insert into webhook_endpoints ({_NAMES})
    values ($1, $2, $3, $4, $5, $6, null, null)"""  # noqa: S608
ENDPOINTS_GET: Final = f"""select {_NAMES} from webhook_endpoints
    where owner = $1 order by created_at, id"""  # noqa: S608
ENDPOINT_GET: Final = f"select {_NAMES} from webhook_endpoints where id = $1 and owner = $2"  # noqa: S608
ENDPOINT_DELETE: Final = "delete from webhook_endpoints where id = $1 and owner = $2"
PARTS_DELETE: Final = (
    """delete from webhook_tries
    where message_id in (select id from webhook_messages where endpoint = $1 and owner = $2)""",
    "delete from webhook_messages where endpoint = $1 and owner = $2",
)
SECRETS_SET: Final = """update webhook_endpoints set secrets = $4
    where id = $1 and owner = $2 and secrets = $3"""
TEST_ADD: Final = """insert into webhook_messages
    (id, event, owner, video_id, endpoint, target, url, type, at, content, state, step, tries, next_at)
    values ($1, $1, $2, '', $3, $3, $4, $5, $6, $7, 'pending', 0, 0, $6)"""
_LOGGED: Final = "id, type, video_id, state, at, next_at"
LOG: Final = f"""select {_LOGGED} from webhook_messages where endpoint = $1 and owner = $2
    order by at desc, id desc limit $3"""  # noqa: S608
LOG_AFTER: Final = f"""select {_LOGGED} from webhook_messages
    where endpoint = $1 and owner = $2 and (at, id) < ($4, $5)
    order by at desc, id desc limit $3"""  # noqa: S608
LOGGED_ONE: Final = f"""select {_LOGGED} from webhook_messages
    where endpoint = $1 and owner = $2 and id = $3"""  # noqa: S608
_HOLES: Final = ", ".join(f"${number}" for number in range(2, PAGE_MAX + 3))
TRIES: Final = f"""select t.message_id, t.at, t.status, t.error, t.ms
    from webhook_tries t join webhook_messages m on m.id = t.message_id
    where m.owner = $1 and t.message_id in ({_HOLES}) order by t.message_id, t.number"""  # noqa: S608
VIDEO_TRIES: Final = """select m.id, m.type, m.endpoint, t.number, t.at, t.status, t.error, t.ms
    from webhook_messages m join webhook_tries t on t.message_id = m.id
    where m.video_id = $1 and m.owner = $2 order by t.at, m.id, t.number"""
REPLAY: Final = """update webhook_messages set state = 'pending', step = 0, next_at = $4, claim = null
    where endpoint = $1 and owner = $2 and id = $3"""
REPLAY_RANGE: Final = f"""update webhook_messages set state = 'pending', step = 0, next_at = $5
    where id in (select id from webhook_messages
        where endpoint = $1 and owner = $2 and at >= $3 and at <= $4 and claim is null
        order by at, id limit {REPLAY_MAX}) and claim is null
    returning id"""  # noqa: S608

# What signs is written down here and nowhere else; any other encoder refuses it.
_encode: Final = msgspec.json.Encoder(enc_hook=Secret.reveal).encode


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a caller wants events of these types sent, and what signs them. Times in Unix seconds."""

    id: str
    owner: str
    url: str
    events: tuple[str, ...]
    signers: tuple[Signer, ...]
    created_at: float
    disabled_at: float | None = None
    disabled_by: str | None = None


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the log with all its tries; `next_at` is that of the next one while it is pending."""

    id: str
    type: str
    video_id: str
    state: MessageState
    at: float
    next_at: float
    tries: list[Try]


class VideoTry(msgspec.Struct, frozen=True, kw_only=True):
    """A try of one of a video's messages; `endpoint` is '' of the request's own place."""

    message_id: str
    type: str
    endpoint: str
    number: int
    made: Try


class Endpoints:
    """Callers' endpoints. Raises `StorageError` of `gateway.storage.db` throughout."""

    def __init__(self, database: Database, outbox: Webhooks) -> None:
        self._database, self._outbox = database, outbox

    async def add(self, one: Endpoint) -> None:
        """Store a new endpoint."""
        events, secrets = f",{','.join(one.events)},", _encode(one.signers).decode()
        values = (one.id, one.owner, one.url, events, secrets, one.created_at)
        await self._database.write((Step(ENDPOINT_ADD, values),))

    async def of(self, owner: str) -> list[Endpoint]:
        """All that a caller has, the oldest first."""
        return [_endpoint_of(row) for row in await self._database.read(ENDPOINTS_GET, (owner,))]

    async def get(self, endpoint_id: str, owner: str) -> Endpoint | None:
        """The caller's endpoint; None when there is none, or it is another caller's."""
        if _is_no_text(endpoint_id):
            return None
        rows = await self._database.read(ENDPOINT_GET, (endpoint_id, owner))
        return _endpoint_of(rows[0]) if rows else None

    async def delete(self, endpoint_id: str, owner: str) -> bool:
        """Remove an endpoint with its log and what was still to be sent there; False when there is none."""
        if _is_no_text(endpoint_id):
            return False
        parts = (Step(sql, (endpoint_id, owner)) for sql in PARTS_DELETE)
        try:
            await self._database.write((Step(ENDPOINT_DELETE, (endpoint_id, owner), GuardFailed), *parts))
        except GuardFailed:
            return False
        return True

    async def sign_by(self, one: Endpoint, signers: Sequence[Signer]) -> bool:
        """Replace what signs; False when that was changed meanwhile."""
        before, after = _encode(one.signers).decode(), _encode(tuple(signers)).decode()
        try:
            await self._database.write((Step(SECRETS_SET, (one.id, one.owner, before, after), GuardFailed),))
        except GuardFailed:
            return False
        return True

    async def log(
        self, endpoint_id: str, owner: str, limit: int, after: Logged | None = None
    ) -> list[Logged]:
        """What was, and is to be, sent to an endpoint, newest first; one more than `limit` tells of more."""
        which = (endpoint_id, owner, limit + 1)
        if after is None:
            rows = await self._database.read(LOG, which)
        else:
            rows = await self._database.read(LOG_AFTER, (*which, after.at, after.id))
        return await self._with_tries(rows, owner)

    async def logged(self, endpoint_id: str, owner: str, message_id: str) -> Logged | None:
        """One message of an endpoint of the caller's."""
        if _is_no_text(message_id):
            return None
        rows = await self._database.read(LOGGED_ONE, (endpoint_id, owner, message_id))
        found = await self._with_tries(rows, owner)
        return found[0] if found else None

    async def tries_of(self, video_id: str, owner: str) -> list[VideoTry]:
        """Every try of the caller's video's messages, oldest first."""
        rows = await self._database.read(VIDEO_TRIES, (video_id, owner))
        return [
            VideoTry(
                message_id=str(message_id), type=str(kind), endpoint=str(endpoint), number=int(number or 0),
                made=_try_of(made),
            )
            for message_id, kind, endpoint, number, *made in rows
        ]

    async def replay(
        self, endpoint_id: str, owner: str, message_id: str, now: float, also: Sequence[Step] = ()
    ) -> bool:
        """Have a message sent anew, whatever became of it, and write `also`; False when there is none."""
        step = Step(REPLAY, (endpoint_id, owner, message_id, now), GuardFailed)
        try:
            await self._database.write((step, *also), tell=news.of_webhooks())
        except GuardFailed:
            return False
        self._outbox.asked()
        return True

    async def replay_range(
        self, endpoint_id: str, owner: str, since: float, until: float, now: float,
        also: Sequence[Step] = (),
    ) -> int:
        """Have what happened between these times sent anew, at most REPLAY_MAX, the oldest; how many.

        What is being sent at this moment is left to that. `also` is written with it, and returns no rows.
        """
        step = Step(REPLAY_RANGE, (endpoint_id, owner, since, until, now))
        replayed = await self._database.write((step, *also), tell=news.of_webhooks())
        self._outbox.asked()
        return len(replayed)

    async def test_add(self, endpoint: Endpoint, message_id: str, kind: str, body: str, now: float) -> None:
        """Put a message that tells of no video into the outbox, due at once."""
        values = (message_id, endpoint.owner, endpoint.id, endpoint.url, kind, now, body)
        await self._database.write((Step(TEST_ADD, values),), tell=news.of_webhooks())
        self._outbox.asked()

    async def _with_tries(self, rows: Sequence[Row], owner: str) -> list[Logged]:
        ids = [str(row[0]) for row in rows]
        tries: dict[str, list[Try]] = {message_id: [] for message_id in ids}
        if ids:
            padded = (owner, *ids, *[""] * (PAGE_MAX + 1 - len(ids)))
            for message_id, *made in await self._database.read(TRIES, padded):
                tries[str(message_id)].append(_try_of(made))
        return [
            Logged(
                id=str(message_id), type=str(kind), video_id=str(video_id), at=float(at or 0),
                state=msgspec.convert(state, MessageState), next_at=float(next_at or 0),
                tries=tries[str(message_id)],
            )
            for message_id, kind, video_id, state, at, next_at in rows
        ]


def _is_no_text(given: str) -> bool:
    return "\0" in given  # of which PostgreSQL cannot be asked


def _endpoint_of(row: Row) -> Endpoint:
    endpoint_id, owner, url, events, secrets, created_at, disabled_at, disabled_by = row
    return Endpoint(
        id=str(endpoint_id), owner=str(owner), url=str(url), created_at=float(created_at or 0),
        events=tuple(filter(None, str(events).split(","))), signers=read_signers(str(secrets)),
        disabled_at=None if disabled_at is None else float(disabled_at),
        disabled_by=None if disabled_by is None else str(disabled_by),
    )


def _try_of(row: Sequence[object]) -> Try:
    return msgspec.convert(dict(zip(Try.__struct_fields__, row, strict=True)), Try)
