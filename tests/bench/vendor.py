"""A vendor of the "v3 async" protocol that costs next to nothing: it takes every job, and ends none or any.

    POST /v3/async/{slug}              -> {"task_id": a new one}
    GET  /v3/async/task-result?...     -> still processing; started with "done": done
    GET  /count/{slug}                 -> how many jobs of that slug it took

Not held here: strictness, money, faults; the simulators of `gateway.sandbox` have those, and their price.
"""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from collections import Counter
from typing import ClassVar, Final

from tests.bench.wire import HOST, message_end

_PROCESSING: Final = b'{"task":{"task_id":"%s","status":"TASK_STATUS_PROCESSING"},"videos":[]}'
_DONE: Final = (
    b'{"task":{"task_id":"%s","status":"TASK_STATUS_SUCCEED"},"videos":[{"video_url":"http://127.0.0.1/v"}]}'
)
_TASK_ID: Final = re.compile(rb"task_id=([0-9A-Za-z-]+)")


class _Vendor(asyncio.Protocol):
    taken: ClassVar[Counter[bytes]] = Counter()
    result: ClassVar[bytes] = _PROCESSING

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := message_end(self._received)) > 0:
            head = bytes(self._received[: self._received.find(b"\r\n\r\n") + 2])
            del self._received[:end]
            body = _answer(head)
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            self._transport.write(answer % (len(body), body))
            if b"\r\nconnection: close\r\n" in head.lower():
                self._transport.close()


def _answer(head: bytes) -> bytes:
    slug = head.split(b" ", 2)[1].rpartition(b"/")[2]
    if head.startswith(b"POST "):
        _Vendor.taken[slug] += 1
        return b'{"task_id":"%s"}' % str(uuid.uuid4()).encode()
    if head.startswith(b"GET /count/"):
        return b"%d" % _Vendor.taken[slug]
    asked = _TASK_ID.search(head)
    return _Vendor.result % (asked[1] if asked else b"")


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Vendor, HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    if "done" in sys.argv:
        _Vendor.result = _DONE
    asyncio.run(_serve(int(sys.argv[1])))
