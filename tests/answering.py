"""An application behind a real socket, and whether all that it answered is told in the log.

Held here: the server as `gateway.app` uses it, and who counts the answers. Not held here: what is served
(`serving`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from gateway.listening import server
from gateway.settings import Address

STOP_SECONDS: Final = 30.0  # only a broken server takes that long


class Answering:
    """The application, as the server asks it: of how many requests the answer is out, and the end to come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.ending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        is_ending = False

        async def counted(message: Message) -> None:
            nonlocal is_ending
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self.ending += not is_ending
                is_ending = True
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self.ending -= is_ending


@asynccontextmanager
async def bound(app: ASGIApp, listen: Address) -> AsyncIterator[None]:
    """The server that `gateway.app` uses."""
    served = server(app, listen)
    task = asyncio.create_task(served.serve())
    try:
        while not await _is_listening(listen):  # each look gives the server a turn
            assert not task.done(), task.result()
        yield
    finally:
        served.stop()  # type: ignore[no-untyped-call]  # the server has no types
        await asyncio.wait([task], timeout=STOP_SECONDS)


async def _is_listening(listen: Address) -> bool:
    try:
        _, writer = await asyncio.open_connection(listen.host, listen.port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
