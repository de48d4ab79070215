"""The floor of a create: the bare accept, and one vendor call on a fresh connection before it answers.

The call goes over `providers.transport`: that is what Reelgate pays for not buying twice. Nothing is stored.
"""

from __future__ import annotations

import sys
from typing import Final

import httpx
import msgspec
from litestar import post

from providers.transport import Transport
from tests.bench.bare import Accepted, Create, accepted, ready, serve
from tests.bench.wire import HOST

_HEADERS: Final = {
    "User-Agent": "bench", "Accept": "application/json", "Accept-Encoding": "identity",
    "Content-Type": "application/json", "Authorization": "Bearer bench",
}
_TRANSPORT: Final = Transport(fresh=True, max_connections=0)
_URL: Final = httpx.URL(f"http://{HOST}:{sys.argv[2]}/v3/async/floor")


class _Job(msgspec.Struct):
    task_id: str


@post("/v1/videos", status_code=202)
async def accept(data: Create) -> Accepted:
    """Read, check, call the vendor, read its answer, answer."""
    content = msgspec.json.encode(data)
    request = httpx.Request("POST", _URL, headers=_HEADERS, content=content)
    answer = await _TRANSPORT.handle_async_request(request)
    try:
        msgspec.json.decode(await answer.aread(), type=_Job)
    finally:
        await answer.aclose()
    return accepted(data)


if __name__ == "__main__":
    serve(int(sys.argv[1]), (ready, accept))
