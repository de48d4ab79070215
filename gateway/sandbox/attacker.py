"""An origin that belongs to no vendor: it takes whatever comes, and tells whether a vendor's key was in it.

Name it wherever a vendor could name a place of its own: in a redirect, in a link, in a field. Not held here:
how a vendor is made to name it (`faults`, and the tests).

POST /admin/attacker   opens it, once; returns what GET returns
GET /admin/attacker    `{"url": ..., "connections": n, "requests": [...], "keys": n}`: every request as it
                       came, and how many of them held the key, plain or in a common disguise
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})", re.IGNORECASE)
_READ_BYTES: Final = 64 * 1024
_TELLING: Final = 6  # so many letters of base64 do not come by chance
_BODY: Final = b'{"status": "ok"}'
_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)


class Report(msgspec.Struct, frozen=True):
    """What it has seen so far; `url` is empty while it is not open."""

    url: str
    connections: int
    requests: list[str]
    keys: int


class Attacker:
    """The listener. `requests` are raw; a connection that says nothing whole counts with what it said."""

    def __init__(self, host: str, keys: Iterable[str]) -> None:
        self._host = host
        self._spellings = [spelling for key in keys for spelling in _spellings(key)]
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""
        self.connections = 0
        self.requests: list[bytes] = []

    async def open(self) -> None:
        """Listen on a free port, if it does not yet. Raises OSError."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._connected, self._host, 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Listen no more; what was seen stays."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.close()

    def report(self) -> Report:
        """What was seen."""
        shown = [request.decode("latin-1") for request in self.requests]
        return Report(self.url, self.connections, shown, sum(map(self.holds_key, self.requests)))

    def holds_key(self, request: bytes) -> bool:
        """Whether a key is in any line or byte of it, plain, percent-encoded or in base64."""
        seen = (request, unquote_to_bytes(request))
        return any(spelling in text for spelling in self._spellings for text in seen)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        taken = bytearray()
        try:
            while not _is_whole(taken) and (more := await reader.read(_READ_BYTES)):
                taken += more
            self.requests.append(bytes(taken))
            writer.write(_ANSWER)
            await writer.drain()
        except ConnectionError:
            self.requests.append(bytes(taken))  # the other side has gone
        finally:
            self._writers.discard(writer)
            writer.close()


def _is_whole(taken: bytes | bytearray) -> bool:
    head, end, body = taken.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def _spellings(key: str) -> set[bytes]:
    """A key plain and encoded; of base64 all three alignments, less the letters that neighbours share.

    What is left of a short key would be found anywhere, and is not looked for.
    """
    raw = key.encode()
    shifted = (base64.b64encode(b"." * shift + raw)[-(-shift * 8 // 6):-4] for shift in range(3))
    plain = {raw, quote(key, safe="").encode(), key.replace("/", "\\/").encode()}
    return {spelling for spelling in plain if spelling} | {code for code in shifted if len(code) >= _TELLING}
