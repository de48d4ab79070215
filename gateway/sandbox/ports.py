"""Ports of their own to the sandbox, which can be shut, deafened or made to botch TLS: faults below HTTP.

Point a provider's `base_url` at one; its fault can be changed while it is in use, and its number stays. Not
held here: what is answered over a port that is open (`server`).

POST /admin/ports      `{"fault": NAME}` opens one, and returns `{"port": n, "url": ...}`; with `"port": n` it
                       changes that one. NAME is a fault below HTTP, or `none`
DELETE /admin/ports    closes all of them
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable
from typing import Literal, TypeAlias

PortState: TypeAlias = Literal["open", "refused", "blackhole", "handshake_reset", "handshake_silence"]
Connected: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]

_FILLERS = 4  # connections that fill the queue of a listener that never accepts


class Port:
    """One port on `host`. `connected` gets what connects while it is open; raises OSError where it cannot."""

    def __init__(self, host: str, connected: Connected) -> None:
        self._host, self._connected, self._number = host, connected, 0
        self._sockets: list[socket.socket] = []
        self._server: asyncio.Server | None = None
        self._silent: set[asyncio.StreamWriter] = set()
        self._is_tls = False

    @property
    def number(self) -> int:
        """The port's number, the same through all its faults."""
        return self._number

    @property
    def url(self) -> str:
        """Without path or final slash; https once the port has a certificate."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._is_tls else 'http'}://{host}:{self._number}"

    async def become(self, state: PortState, tls: ssl.SSLContext | None = None) -> None:
        """Do this from now on. `tls` is the certificate that an open port shows; none: plain HTTP."""
        self.close()
        self._is_tls = self._is_tls or tls is not None
        listener = self._bound()
        if state == "refused":
            self._sockets = [listener]  # bound and not listening: nobody else gets the number
        elif state == "blackhole":
            self._sockets = [listener, *self._filled(listener)]
        else:
            on = {"handshake_reset": _reset, "handshake_silence": self._keep}.get(state, self._connected)
            start = functools.partial(asyncio.start_server, on, sock=listener)
            self._server = await (start() if tls is None else start(ssl=tls))

    def close(self) -> None:
        """Let go of the port, and of the connections that a fault keeps."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for held in self._sockets:
            held.close()
        for writer in self._silent:
            writer.close()
        self._sockets = []
        self._silent.clear()

    def _bound(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # By name: asyncio turns Nagle's algorithm off only where it sees that the protocol is TCP.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self._host, self._number))
            made.setblocking(False)
        except OSError:
            made.close()
            raise
        self._number = made.getsockname()[1]
        return made

    @staticmethod
    def _filled(listener: socket.socket) -> list[socket.socket]:
        listener.listen(0)
        fillers = [socket.socket(listener.family, socket.SOCK_STREAM) for _ in range(_FILLERS)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        return fillers

    def _keep(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._silent.add(writer)


def _reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


class Ports:
    """All ports that were opened by hand."""

    def __init__(self, host: str, connected: Connected) -> None:
        self._host, self._connected = host, connected
        self._open: dict[int, Port] = {}

    async def set(
        self, state: PortState, number: int | None = None, tls: ssl.SSLContext | None = None
    ) -> Port:
        """Open a port, or change one. Raises LookupError for a number that was not opened here, OSError."""
        if number is not None and number not in self._open:
            raise LookupError(f"port {number} was not opened here")
        port = Port(self._host, self._connected) if number is None else self._open[number]
        await port.become(state, tls)
        self._open[port.number] = port
        return port

    def close(self) -> None:
        """Close them all."""
        with contextlib.ExitStack() as stack:
            for port in self._open.values():
                stack.callback(port.close)
        self._open.clear()
