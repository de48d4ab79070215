"""What the processes on one PostgreSQL tell each other: LISTEN and NOTIFY, and a check that it gets through.

Every two seconds a probe is sent over another connection. If it is not heard, texts of others may be lost,
too, and `hear(None)` says so: after a cut, and for good behind a pooler that shares connections between
transactions (PgBouncer), where LISTEN is taken and nothing ever arrives. So nobody who reads the rows again
on None is more than about four seconds behind, whatever lies between.

Not held here: what is told, and how it is sent with a commit (`postgres_transaction`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

import msgspec

from gateway.storage.db import StorageError
from gateway.storage.postgres_link import ERRORS, Connection, Link, close_gently
from gateway.storage.postgres_transaction import CHANNEL

PROBE_SECONDS: Final = 2.0  # between probes, and how long one may take
DEAF_PROBES: Final = 3  # unheard probes after which the connection is made anew
MESSAGE_BYTES: Final = 7_900  # PostgreSQL takes less than 8000

Hear: TypeAlias = Callable[[str | None], None]


class _Message(msgspec.Struct, array_like=True):
    """What travels: who sent it, and texts; None among them: one was too long, read the rows."""

    sender: str
    texts: list[str | None] = []


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Message).decode


class Ear:
    """Hears what others tell, from `start` to `close`. `probe` sends a message over another connection."""

    def __init__(self, link: Link, probe: Callable[[bytes], Awaitable[None]]) -> None:
        self._link = link
        self._probe = probe
        self._sender = secrets.token_hex(8)
        self._echo = asyncio.Event()
        self._hear: Hear | None = None
        self._task: asyncio.Task[None] | None = None

    def pack(self, texts: Iterable[str]) -> list[bytes]:
        """The fewest messages that hold these texts."""
        messages: list[bytes] = []
        texts_in: list[str | None] = []
        size = 0
        for text in texts:
            length = len(_encode(text)) + 1
            whole = text if length < MESSAGE_BYTES - 64 else None
            if texts_in and size + length > MESSAGE_BYTES - 64:
                messages.append(_encode(_Message(self._sender, texts_in)))
                texts_in, size = [], 0
            texts_in.append(whole)
            size += length if whole is not None else 5
        if texts_in:
            messages.append(_encode(_Message(self._sender, texts_in)))
        return messages

    def start(self, hear: Hear) -> None:
        """Begin to listen, in the running event loop. Never fails: what cannot be heard is None."""
        self._hear = hear
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        """Hear no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _listen(self) -> None:
        while True:
            try:
                connection = await self._link.connect("primary")
            except StorageError:
                self._tell(None)
                await asyncio.sleep(PROBE_SECONDS)
                continue
            try:
                await self._listen_on(connection)
            finally:
                await close_gently(connection)

    async def _listen_on(self, connection: Connection) -> None:
        """Listen until the connection ends, or hears nothing."""
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await connection.add_listener(CHANNEL, self._heard)
        except ERRORS:
            self._tell(None)
            await asyncio.sleep(PROBE_SECONDS)
            return
        self._tell(None)  # whatever was told before
        deaf = 0
        while deaf < DEAF_PROBES and not ended.is_set():
            deaf = 0 if await self._is_heard() else deaf + 1
            if deaf:
                self._tell(None)
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await ended.wait()
            except TimeoutError:
                continue

    async def _is_heard(self) -> bool:
        """Whether a message of our own arrives."""
        self._echo.clear()
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._probe(_encode(_Message(self._sender)))
                await self._echo.wait()
        except (StorageError, TimeoutError):
            return False
        return True

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        try:
            message = _decode(str(payload))
        except msgspec.MsgspecError:
            self._tell(None)  # a newer version speaks another language
            return
        if message.sender == self._sender:
            self._echo.set()
            return
        for text in message.texts:
            self._tell(text)

    def _tell(self, text: str | None) -> None:
        """Called by the loop, which reports what goes wrong there: it must not end the listening."""
        if self._hear is not None:
            asyncio.get_running_loop().call_soon(self._hear, text)
