"""What a request must be before anything looks at it: of one meaning, with a small head, its body in time.

The server has parsed it; held here is what that lets through and we do not. Not held here: how long a body
may be (each route says so), what stands in it (`reading`), how a refusal looks (`edge`, `problems`).
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from litestar.types import HTTPScope, Receive, ReceiveMessage, Scope

from gateway.errors import Problem, invalid

HEAD_MAX_BYTES: Final = 32 * 1024  # request line and headers
VALUE_MAX_BYTES: Final = 8 * 1024  # of one header
BODY_SECONDS: Final = 30.0  # that a caller may let us wait for parts of a body, all together

_LINE_BYTES: Final = 4  # of each header: colon, space, line end
# A name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,254}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_OLD_HTTP: Final = frozenset({"1", "1.0"})  # as the server spells it, and the rest of the world
_NO_HOST: Final = "Send one Host header: a name or an address, and a port if it is not the usual one."
_FRAMING: Final = "Say how long the body is in one way: Content-Length, or Transfer-Encoding: chunked alone."


def head_fault(scope: HTTPScope, hostless: frozenset[str]) -> str | None:
    """What is wrong with a request's head; None for a sound one.

    Those who watch a process by HTTP/1.0, which knows no Host, may do so at the paths `hostless`.
    """
    size, hosts, lengths, host = len(scope["raw_path"]) + len(scope["query_string"]), 0, 0, b""
    for name, value in scope["headers"]:
        size += len(name) + len(value) + _LINE_BYTES
        if len(value) > VALUE_MAX_BYTES:
            return f"A header's value has more than {VALUE_MAX_BYTES} bytes."
        if name == b"host":
            hosts, host = hosts + 1, value
        elif name == b"content-length":
            lengths += 1
        elif name == b"transfer-encoding":
            lengths += 1 if value.lower() == b"chunked" else 2
    if size > HEAD_MAX_BYTES:
        return f"The request line and the headers have more than {HEAD_MAX_BYTES} bytes."
    if lengths > 1:
        return _FRAMING
    if not scope["path"].startswith("/") and scope["method"] != "OPTIONS":
        return "The request names no path."
    if hosts == 1 and _HOST.fullmatch(host):
        return None
    is_watching = not host and scope["http_version"] in _OLD_HTTP and scope["path"] in hostless
    return None if is_watching else _NO_HOST


def check_unpacked(scope: Scope) -> None:
    """Raises Problem for a body that is packed, before it is read: it would be taken for what it is not."""
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            raise invalid("Content-Encoding", "Bodies are taken unpacked: send it without Content-Encoding.")


class Body:
    """How a request's body comes, until the answer begins: whole, and with few waits for its caller."""

    def __init__(self) -> None:
        self._left_seconds = BODY_SECONDS
        self._is_coming = True

    def stop(self) -> None:
        """What still comes of it is nobody's concern: the answer begins."""
        self._is_coming = False

    async def receive(self, receive: Receive) -> ReceiveMessage:
        """The next part. Raises Problem when it does not come in time, or never will."""
        if not self._is_coming:
            return await receive()
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        try:
            async with asyncio.timeout(self._left_seconds):
                message = await receive()
        except TimeoutError:
            detail = f"The body did not arrive within {BODY_SECONDS:g} s."
            raise Problem("invalid_request", detail, headers={"Connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise Problem("invalid_request", "The body broke off, or is not sent as its head says.")
        self._left_seconds -= loop.time() - asked_at
        self._is_coming = message["type"] == "http.request" and message["more_body"]
        return message
