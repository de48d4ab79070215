"""One caller's way to a gateway: requests by h11 on a kept or a fresh connection, and how exactly one failed.

Held here: sending, reading, and the four ways in which an answer does not come. A client library calls three
of them the same; a campaign has to tell them apart. Not held here: what is sent, and whether it is sent again
(`callers`).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

import h11
import msgspec

HOST: Final = "127.0.0.1"
PATIENCE_SECONDS: Final = 60.0  # for one answer; the longest that a caller asks to be held is far below
_READ_BYTES: Final = 64 * 1024

# refused: nobody listens. reset: the connection ended before any byte of an answer. half: it ended amid the
# answer. late: it did not end, and nothing came.
Fate: TypeAlias = Literal["refused", "reset", "half", "late"]


class Answer(msgspec.Struct, frozen=True):
    """One whole answer; the names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - bytes enter here
        """The body as JSON."""
        return msgspec.json.decode(self.body)


class Unanswered(Exception):
    """No whole answer came. `sent_at` is when the request left, on `time.monotonic`."""

    def __init__(self, fate: Fate, what: str, sent_at: float) -> None:
        super().__init__(f"{fate}: {what}")
        self.fate: Fate = fate
        self.what, self.sent_at = what, sent_at


class Client:
    """One caller's connection, one request at a time. `keeps`: it is used again, else each is its own.

    `failures` counts the requests that had no answer.
    """

    def __init__(self, port: int, *, keeps: bool) -> None:
        self._port, self._keeps = port, keeps
        self.failures = 0
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._http = h11.Connection(h11.CLIENT)

    def turn_to(self, port: int) -> None:
        """Ask there from now on; a kept connection to elsewhere is let go."""
        if port != self._port:
            self.close()
            self._port = port

    async def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request and read its whole answer. Raises Unanswered."""
        what, sent_at = f"{method} {path}", time.monotonic()
        has_begun = asyncio.Event()  # set with the first byte of the answer
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await self._connected()
                sent_at = time.monotonic()
                await self._send(writer, method, path, (body, headers or {}))
                answer = await self._read(reader, has_begun)
        except (OSError, EOFError, h11.RemoteProtocolError) as error:
            self.close()
            self.failures += 1
            raise Unanswered(_fate(error, has_begun.is_set()), what, sent_at) from error
        except asyncio.CancelledError:
            self.close()
            raise
        if not self._keeps or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self.close()
        return answer

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The kept connection, unless the other side has ended it meanwhile."""
        if self._ends is not None and not self._ends[0].at_eof():
            self._http.start_next_cycle()
            return self._ends
        self.close()
        self._http = h11.Connection(h11.CLIENT)
        self._ends = await asyncio.open_connection(HOST, self._port)
        return self._ends

    async def _send(
        self, writer: asyncio.StreamWriter, method: str, path: str, content: tuple[object, dict[str, str]]
    ) -> None:
        body, headers = content
        data = b"" if body is None else msgspec.json.encode(body)
        named = [("host", f"{HOST}:{self._port}"), *headers.items()]
        if data:
            named += [("content-type", "application/json"), ("content-length", str(len(data)))]
        if not self._keeps:
            named.append(("connection", "close"))
        request = self._http.send(h11.Request(method=method, target=path, headers=named)) or b""
        if data:
            request += self._http.send(h11.Data(data=data)) or b""
        writer.write(request + (self._http.send(h11.EndOfMessage()) or b""))
        await writer.drain()

    async def _read(self, reader: asyncio.StreamReader, has_begun: asyncio.Event) -> Answer:
        head: h11.Response | None = None
        body = b""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(_READ_BYTES)
                if data:
                    has_begun.set()
                elif not has_begun.is_set():
                    raise EOFError
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                named = {name.decode(): value.decode("latin-1") for name, value in head.headers}
                return Answer(head.status_code, named, body)
            elif not isinstance(event, h11.InformationalResponse):
                raise EOFError

    def close(self) -> None:
        """Let the connection go."""
        if self._ends is not None:
            with suppress(RuntimeError):  # the loop that it belonged to has ended
                self._ends[1].close()
            self._ends = None


def _fate(error: Exception, has_begun: bool) -> Fate:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, TimeoutError):
        return "late"
    return "half" if has_begun else "reset"
