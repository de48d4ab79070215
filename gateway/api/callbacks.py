"""Where vendors call back. Without a key, behind a path that nobody can guess.

Not held here: what follows from a call (`gateway.engine.callbacks`).
"""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, post
from litestar.params import FromPath

from gateway.api.gateway import gateway_of
from gateway.api.problems import responses
from gateway.engine.callbacks import receiver
from gateway.errors import Problem

CALLBACK_MAX_BYTES: Final = 64 * 1024


@post(
    "/v1/callbacks/{provider:str}/{token:str}", status_code=204, request_max_body_size=CALLBACK_MAX_BYTES,
    opt={"public": True}, responses=responses(404, 413, 503, keyed=False),
    summary="A vendor calls back", tags=["operations"],
)
async def take_callback(
    request: Request[Any, Any, Any], provider: FromPath[str], token: FromPath[str]
) -> None:
    """For vendors only. What it says is not believed: it is a reason to ask that vendor now."""
    gateway = gateway_of(request)
    named = gateway.fleet.providers.get(provider)
    reader = receiver(named, token)
    if named is None or reader is None:
        raise Problem("not_found", "There is nothing here.")
    headers = {name.lower(): value for name, value in request.headers.items()}
    taken = await gateway.callbacks.take(named, reader, headers, await request.body())
    gateway.telemetry.log.info("called_back", provider=named.name, result=taken)
