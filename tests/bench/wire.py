"""The little HTTP/1.1 that both ends of the bench speak: cheap, so that the load stays light.

Held here: where a message ends, a whole request as bytes, one exchange at a time. Not held here: callers by
the dozen (`load`), the vendor's answers (`vendor`).
"""

from __future__ import annotations

import http.client
import re
from typing import Final

import msgspec

HOST: Final = "127.0.0.1"
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_PATIENCE_SECONDS: Final = 20.0


class Answer(msgspec.Struct, frozen=True):
    """One answer; the names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def message_end(received: bytes | bytearray) -> int:
    """Where the first message in `received` ends, 0 while it is not whole. Knows no chunks."""
    head = received.find(b"\r\n\r\n")
    if head < 0:
        return 0
    length = _LENGTH.search(received, 0, head)
    end = head + 4 + (int(length[1]) if length else 0)
    return end if len(received) >= end else 0


def request(method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A request as bytes, for a connection that is kept."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def exchange(
    port: int, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request on a connection of its own. Raises OSError when nobody listens."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_PATIENCE_SECONDS)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, named, answer.read())
    finally:
        connection.close()
