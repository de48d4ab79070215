"""The outbox at work: what is due is taken, sent and settled, each receiver by itself.

A look at the database finds for whom something is due; each has places of its own, all but one of which it
loses while it fails, so one that hangs delays nobody else. Woken by commits; the clock and a look every few
seconds do the rest, for what was missed and for what another process left behind. Not held here: one sending
(`webhooks`), the statements (`gateway.storage.webhooks`), the schedule (`gateway.core.webhooks`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

import msgspec

from gateway.core.states import Event, Task
from gateway.core.webhooks import PUBLISHED, TEST_TYPE, MessageState, next_try, signing, verdict
from gateway.engine.loop import Engine
from gateway.engine.webhooks import Answer, Letter
from gateway.storage import news
from gateway.storage.db import StorageError
from gateway.storage.rows import Video
from gateway.storage.webhooks import Message, Settled, Try, told
from gateway.values import Secret

SENDING_MAX: Final = 1_000  # at once, over all receivers: sockets, and some kilobytes each
PLACES: Final = 8  # of one receiver that answers well; one that does not has a single one
CLAIM_SECONDS: Final = 60.0  # after which others may send it: longer than a sending and its commit can take
LOOK_SECONDS: Final = 5.0  # between looks, if nothing wakes it sooner
GAP_SECONDS: Final = 0.02  # between looks at least: many commits at once are one look
PAUSE_SECONDS: Final = 1.0  # after the database failed
CLOSE_SECONDS: Final = 3.0  # for what is under way when the process ends
SWEEP_SECONDS: Final = 3_600.0

# Makes the body of a message: its type, the time of the event, and the video as it was then.
Render: TypeAlias = Callable[[str, float, Video], bytes]
Post: TypeAlias = Callable[[Letter, float], Awaitable[Answer]]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What signs messages to requests' own places, and how long messages are kept that are done with."""

    secrets: tuple[Secret, ...]
    kept_seconds: float


class Lane:
    """What is under way to one receiver."""

    def __init__(self) -> None:
        self.sending = 0
        self.is_failing = False

    @property
    def room(self) -> int:
        """How many more may be sent there now."""
        return (1 if self.is_failing else PLACES) - self.sending


class Outbox:
    """Sends what callers are to be told, from `run` to its cancellation.

    `post` sends a letter at a time (Unix seconds) and raises nothing; `render` makes a message's body.
    """

    def __init__(self, engine: Engine, post: Post, render: Render, terms: Terms) -> None:
        self._engine, self._store, self._terms = engine, engine.store, terms
        self._outbox, self._telemetry, self._now = engine.store.webhooks, engine.telemetry, engine.now
        self._post, self._render = post, render
        self._wake = asyncio.Event()
        self._lanes: dict[str, Lane] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._under_way: set[str] = set()  # messages: one outlives its claim while the database is away
        self._tended_at = self._swept_at = float("-inf")
        self._store.listen(self._saved)
        self._outbox.listen(self._wake.set)
        if self._store.is_shared:
            self._store.hear(self._heard)

    # --- its life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send whatever is due when it is, until cancelled; then what is under way has a moment to end."""
        try:
            while True:
                self._wake.clear()
                pause = PAUSE_SECONDS
                try:
                    await self._tend()
                    pause = min(LOOK_SECONDS, max(GAP_SECONDS, await self._look() - self._now()))
                except StorageError as error:
                    self._telemetry.storage_failed("", error)
                    await asyncio.sleep(pause)
                    continue
                except Exception as error:  # noqa: BLE001 - whatever is wrong with a look, the next must come
                    self._telemetry.step_failed("", error)
                    await asyncio.sleep(pause)
                    continue
                await asyncio.sleep(GAP_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause - GAP_SECONDS):
                        await self._wake.wait()
        finally:
            await self._end()

    async def _end(self) -> None:
        """What is not settled by then is sent once more by whoever takes it, under the same id."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=CLOSE_SECONDS)
        for sending in self._sending:
            sending.cancel()
        if self._sending:
            await asyncio.wait(self._sending)

    async def _tend(self) -> None:
        """Every LOOK_SECONDS: free what a dead process was sending, tell ages, remove what is old."""
        now = self._now()
        if now < self._tended_at + LOOK_SECONDS:
            return
        if self._store.is_shared or self._tended_at == float("-inf"):
            await self._outbox.release(self._engine.replica, now)
        oldest = await self._outbox.oldest()
        self._telemetry.webhook_oldest(0.0 if oldest is None else max(0.0, now - oldest))
        self._tended_at = now
        if now >= self._swept_at + SWEEP_SECONDS:
            has_more = await self._outbox.sweep(now - self._terms.kept_seconds)
            self._swept_at = self._swept_at if has_more else now

    # --- waking -------------------------------------------------------------------------------------

    def _saved(self, task: Task, events: tuple[Event, ...]) -> None:
        if any(event.type in PUBLISHED for event in events):
            self._wake.set()

    def _heard(self, text: str | None) -> None:
        """Of what another replica saved, its owner sends what is to be told."""
        change = None if text is None else news.read(text)
        if isinstance(change, news.VideoChanged):
            is_ours = change.is_unowned or change.replica == self._engine.replica
            if is_ours and (change.has_ended or change.state in PUBLISHED):
                self._wake.set()
        elif text is None or isinstance(change, news.WebhooksDue):
            self._wake.set()

    # --- sending ------------------------------------------------------------------------------------

    async def _look(self) -> float:
        """Begin to send what is due and has a place; when the next is due, Unix seconds."""
        targets, now = await self._outbox.targets(), self._now()
        self._telemetry.webhooks_late(max((now - at for _, at in targets if at <= now), default=0.0))
        room = SENDING_MAX - len(self._sending)
        taking = []
        for _, target in sorted((at, target) for target, at in targets if at <= now):
            lane = self._lanes.setdefault(target, Lane())
            if (taken := min(room, lane.room)) > 0:
                room -= taken
                taking.append(self._take(target, lane, taken))
        await asyncio.gather(*taking)
        pending = {target for target, _ in targets}
        self._lanes = {name: lane for name, lane in self._lanes.items() if lane.sending or name in pending}
        return min((at for _, at in targets if at > now), default=float("inf"))

    async def _take(self, target: str, lane: Lane, room: int) -> None:
        """Take up to `room` of what is due for one receiver, and send it."""
        found = await self._outbox.due(target, self._now(), room)
        new = (message for message in found if message.id not in self._under_way)
        await asyncio.gather(*(self._take_one(message, lane) for message in new))

    async def _take_one(self, message: Message, lane: Lane) -> None:
        body, claim = None, self._engine.replica
        try:
            video = told(message)
            if video is not None:
                body = self._render(message.type, message.at, video).decode()
        except Exception as error:  # noqa: BLE001 - one that cannot be read must not hold up the others
            self._telemetry.step_failed(message.video_id, error)
            letter = None
        else:
            letter = self._letter(message, message.content if body is None else body)
        if not await self._outbox.claim(message, claim, self._now() + CLAIM_SECONDS, body):
            return
        lane.sending += 1
        self._under_way.add(message.id)
        sending = asyncio.create_task(self._send(message, letter, lane, claim))
        self._sending.add(sending)
        sending.add_done_callback(partial(self._sent, message.id, lane))

    def _letter(self, message: Message, body: str) -> Letter:
        secrets = () if message.endpoint else self._terms.secrets  # an endpoint that is gone has none
        if message.signers is not None:
            secrets = tuple(one.secret for one in signing(message.signers, self._now()))
        return Letter(
            id=message.id, url=message.url, body=body, secrets=secrets, traceparent=message.traceparent
        )

    def _sent(self, message_id: str, lane: Lane, sending: asyncio.Task[None]) -> None:
        self._under_way.discard(message_id)
        self._sending.discard(sending)
        lane.sending -= 1
        self._wake.set()
        error = None if sending.cancelled() else sending.exception()
        if isinstance(error, Exception):
            self._telemetry.step_failed("", error)  # it is due again when its claim ends

    async def _send(self, message: Message, letter: Letter | None, lane: Lane, claim: str) -> None:
        """Send one message, and note what came of it until that is stored."""
        clock, began = asyncio.get_running_loop().time, self._now()
        started = clock()
        answer = Answer(error="unreadable") if letter is None else await self._post(letter, began)
        ms = round((clock() - started) * 1000)
        lane.is_failing = verdict(answer.status) == "later"
        settled = self._settled(message, answer)
        made = Try(at=began, status=answer.status, error=answer.error, ms=ms)
        is_noted = await self._engine.insist(
            message.video_id, partial(self._outbox.settle, message, claim, made, settled)
        )
        if is_noted:
            result = "retried" if settled.state == "pending" else settled.state
            self._telemetry.webhook_sent(result, message, answer.status, answer.error)

    def _settled(self, message: Message, answer: Answer) -> Settled:
        """What an answer makes of a message. A test is sent once, and if it arrives its endpoint is back."""
        now, meant = self._now(), verdict(answer.status)
        is_test = message.type == TEST_TYPE
        over = partial(Settled, step=message.step, next_at=now)
        if meant == "delivered":
            return over(state="delivered", enables=is_test)
        if meant == "gone":
            state: MessageState = "disabled" if message.endpoint else "failed"
            return over(state=state, disables=f"HTTP {answer.status}")
        next_at = None
        if not is_test:
            next_at = next_try(message.step, now, answer.retry_after_seconds, self._engine.chance)
        if next_at is None:
            return over(state="failed")
        return Settled(state="pending", step=message.step + 1, next_at=next_at)
