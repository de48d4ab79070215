"""The corpus of URLs that must lead nowhere (`ssrf_vectors.jsonl`), and what hears of it when one does.

A vector: `name` and `group`; `url`, where `{port}` is that of the canary; `expected` of whoever is to fetch
it or post to it with nothing listed, `refused` as it is or `not_connected` once its name is known; `image`,
whether a vendor is handed it; `dns`, what its name leads to; `places` where it can stand. Not held here: what
becomes of them (the tests).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, Literal

import httpx
import msgspec

from tests.security.egress_dns import Records

Place = Literal["webhook", "result", "redirect"]
FILE: Final = Path(__file__).with_name("ssrf_vectors.jsonl")


class Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row; see the module."""

    name: str
    group: str
    url: str
    expected: Literal["refused", "not_connected"]
    image: Literal["taken", "refused"]
    places: tuple[Place, ...]
    dns: tuple[str, ...] | None = None

    def at(self, port: int) -> str:
        """Its URL, with the canary on that port."""
        return self.url.replace("{port}", str(port))


# By the standard library: half of a surrogate pair is a letter of the corpus, too.
VECTORS: Final = tuple(msgspec.convert(json.loads(_line), Vector) for _line in FILE.read_text().splitlines())
GROUPS: Final = tuple(dict.fromkeys(row.group for row in VECTORS))


def zone() -> dict[str, list[Records]]:
    """What the names of the corpus lead to."""
    names = (row for row in VECTORS if row.dns is not None)
    return {httpx.URL(row.at(1)).raw_host.decode().rstrip("."): [row.dns or ()] for row in names}


class Canary:
    """A service that nobody but this machine should reach: how often somebody did. The same port twice."""

    def __init__(self, port: int) -> None:
        self.port, self.connections = port, 0

    def met(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Count, and hang up."""
        self.connections += 1
        writer.close()


@asynccontextmanager
async def canary(*hosts: str, port: int = 0) -> AsyncIterator[Canary]:
    """Listening on 127.0.0.1 (or `hosts`), and on ::1 where there is one."""
    found = Canary(port)
    servers = []
    for host in hosts or ("127.0.0.1", "::1"):
        try:
            server = await asyncio.start_server(found.met, host, found.port)
        except OSError:
            if host != "::1":
                raise
            continue  # a machine without IPv6
        found.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield found
    finally:
        for server in servers:
            server.close()


class _Hook:
    """Python's own report of every connect in this process, whoever makes it; a hook cannot be taken away."""

    heard: Counter[str] | None = None
    is_set = False


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and _Hook.heard is not None:
        _Hook.heard[str(arguments[1])] += 1


@contextmanager
def connects() -> Iterator[Counter[str]]:
    """Counts what is connected to, as `('host', port)`, also what does not answer: no packet goes unseen."""
    if not _Hook.is_set:
        sys.addaudithook(_audit)
        _Hook.is_set = True
    heard: Counter[str] = Counter()
    _Hook.heard = heard
    try:
        yield heard
    finally:
        _Hook.heard = None
