"""A DNS server on loopback that says what a test wants, and the resolver that asks it over UDP.

Held here: as much of RFC 1035 as A, AAAA and CNAME need. Not held here: any zone, and what must come of it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

# Name: its answers, one for each time it is asked, the last for ever. A record is `A`, `AAAA` or `CNAME` and
# where that leads. No records: no such name.
Records: TypeAlias = Sequence[str]
Zone: TypeAlias = Mapping[str, Sequence[Records]]

TTL_SECONDS: Final = 0
PATIENCE_SECONDS: Final = 10.0  # only a broken server takes that long
_TYPES: Final = {"A": 1, "CNAME": 5, "AAAA": 28}
_FAMILIES: Final = {1: socket.AF_INET, 28: socket.AF_INET6}
_NO_SUCH_NAME: Final = 3
_ALIASES_MAX: Final = 8


class DNS(asyncio.DatagramProtocol):
    """The server. `asked` holds every question, oldest first, as (name, type)."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.asked: list[tuple[str, int]] = []
        self.address = ("127.0.0.1", 0)
        self._turns: dict[str, int] = {}

    def answer_through(self, transport: asyncio.DatagramTransport) -> None:
        """Where to answer from."""
        self._transport = transport
        self.address = transport.get_extra_info("sockname")

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question."""
        name, end = _name(data, 12)
        (wanted,) = struct.unpack_from("!H", data, end)
        self.asked.append((name, wanted))
        found = self._found(name, wanted)
        flags = 0x8180 | (0 if self._records(name) else _NO_SUCH_NAME)
        head = struct.pack("!HHHHHH", *struct.unpack_from("!H", data), flags, 1, len(found), 0, 0)
        self._transport.sendto(head + data[12 : end + 4] + b"".join(found), addr)

    def _records(self, name: str) -> Records:
        """Of this turn: a question for A begins one, that for AAAA belongs to it."""
        answers = self.zone.get(name, [()])
        return answers[min(self._turns.get(name, 1), len(answers)) - 1]

    def _found(self, name: str, wanted: int) -> list[bytes]:
        if wanted == _TYPES["A"]:
            self._turns[name] = self._turns.get(name, 0) + 1
        found: list[bytes] = []
        for _ in range(_ALIASES_MAX):
            alias = ""
            for kind, value in (record.split() for record in self._records(name)):
                if kind == "CNAME":
                    alias = value
                if _TYPES[kind] in (wanted, _TYPES["CNAME"]):
                    found.append(_record(name, kind, value))
            if not alias:
                return found
            name = alias
        return found


class Resolver(AbstractResolver):
    """Asks that server for both kinds of address, and nobody else."""

    def __init__(self, server: DNS) -> None:
        self._server = server

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises OSError when there is none."""
        found = [await self._ask(host, wanted) for wanted in _FAMILIES]
        results = [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=6,
                          flags=socket.AI_NUMERICHOST)
            for kind, addresses in zip(_FAMILIES.values(), found, strict=True) for address in addresses
            if family in (socket.AF_UNSPEC, kind)
        ]
        if not results:
            raise OSError(None, "no such name")
        return results

    async def close(self) -> None:
        """Nothing is kept."""

    async def _ask(self, host: str, wanted: int) -> list[str]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        head = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Question(answer), remote_addr=self._server.address
        )
        try:
            transport.sendto(head + _spelt(host) + struct.pack("!HH", wanted, 1))
            async with asyncio.timeout(PATIENCE_SECONDS):
                return _addresses(await answer, wanted)
        finally:
            transport.close()


class _Question(asyncio.DatagramProtocol):
    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._answer.set_result(data)


def _spelt(name: str) -> bytes:
    labels = name.rstrip(".").encode("idna").split(b".")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _name(data: bytes, at: int) -> tuple[str, int]:
    """The name at a place, in lower case, and where it ends. Nobody here compresses."""
    labels = []
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return b".".join(labels).decode("ascii").lower(), at + 1


def _record(name: str, kind: str, value: str) -> bytes:
    data = _spelt(value) if kind == "CNAME" else ipaddress.ip_address(value).packed
    return _spelt(name) + struct.pack("!HHIH", _TYPES[kind], 1, TTL_SECONDS, len(data)) + data


def _addresses(answer: bytes, wanted: int) -> list[str]:
    (count,) = struct.unpack_from("!H", answer, 6)
    _, at = _name(answer, 12)
    at, found = at + 4, []
    for _ in range(count):
        _, at = _name(answer, at)
        kind, _, _, length = struct.unpack_from("!HHIH", answer, at)
        at += 10 + length
        if kind == wanted:
            found.append(str(ipaddress.ip_address(answer[at - length : at])))
    return found


@asynccontextmanager
async def dns(zone: Zone) -> AsyncIterator[DNS]:
    """A server for as long as the context lasts, on a free port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: DNS(zone), local_addr=("127.0.0.1", 0))
    server.answer_through(transport)
    yield server
    transport.close()
