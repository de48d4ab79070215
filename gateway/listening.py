"""Being reachable: the server in this process, a port of its own, and memory laid out for serving.

Not held here: what is served (`gateway.api`), when it begins and ends (`gateway.app`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from gateway.errors import CannotListen
from gateway.values import Address

if TYPE_CHECKING:
    from granian.server.embed import Server

LISTEN_TRIES: Final = 1_000  # 5 ms apart
BACKPRESSURE: Final = 65_536  # connections served at once; waiting callers are cheap
# Until a request's head is there, and between two requests. Only in HTTP/1 does the server count the first.
HEAD_MS: Final = 10_000
BUFFER_BYTES: Final = 65_536  # of a connection; a head that does not fit is refused


def free(address: Address) -> Address:
    """`address`, with a port found for port 0. Raises CannotListen when somebody else listens there.

    The server itself would share the port with whoever else does, silently, each getting half of the calls.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            return Address(address.host, probe.getsockname()[1])
    except OSError as error:
        raise CannotListen(f"[server] cannot listen on {address}: {error.strerror}") from error


def server(app: Callable[..., Awaitable[None]], address: Address) -> Server:
    """A server of `app` at `address`; its `serve` runs until its `stop`."""
    from granian.constants import HTTPModes, Interfaces  # noqa: PLC0415 - tasks are followed before this
    from granian.http import HTTP1Settings  # noqa: PLC0415
    from granian.server.embed import Server  # noqa: PLC0415

    logging.getLogger("_granian").setLevel(logging.ERROR)
    return Server(
        app, address=address.host, port=address.port, interface=Interfaces.ASGINL, websockets=False,
        log_access=False, log_enabled=False, backpressure=BACKPRESSURE, http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEAD_MS, max_buffer_size=BUFFER_BYTES),
    )


async def listening(address: Address) -> None:
    """Return when the server takes connections; `ready` is said no earlier. Raises CannotListen."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
    host = anywhere.get(address.host, address.host)
    for _ in range(LISTEN_TRIES):
        try:
            _, writer = await asyncio.open_connection(host, address.port)
        except OSError:
            await asyncio.sleep(0.005)
        else:
            writer.close()
            return
    raise CannotListen(f"[server] nothing listens on {address}, though it was free")


def settle_memory() -> None:
    """Leave what start-up made out of later garbage collections, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
