"""A healthy configuration with all that it names: real files, a real database, simulated vendors on sockets.

A test makes it ill in one place. Held here: the patient, and vendors that answer oddly. Not held here: any
illness, any expectation.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from gateway.doctor.examination import examine
from gateway.doctor.machine import Machine, Room
from gateway.doctor.rules import Finding

KEY: Final = "a-key-of-the-vendor"
SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8G"
HEALTHY: Final[Mapping[str, str]] = {
    "server.listen": '"127.0.0.1:0"',
    "store.url": '"sqlite:reelgate.db"',
    "providers.highway.adapter": '"highwayapi"',
    "providers.highway.api_key": '{ env = "KEY" }',
    "providers.highway.prices": '{ "kling-v3.0-std-t2v" = { per_second = "0.084" } }',
    "webhooks.secrets": '[{ env = "WEBHOOK" }]',
}


def a_machine(environ: Mapping[str, str]) -> Machine:
    """One without faults, whatever this one is like."""
    return Machine(
        environ=environ, now=time.time, user_id=lambda: 1000, room=lambda _path: Room(1, 10**12, 10**12),
        filesystem=lambda _path: "ext4", open_files=lambda: 65_536,
    )


class Patient:
    """A configuration: `keys` by their path, as TOML has the values; `None` takes one out.

    `open_folder` is one that every user of this machine can enter.
    """

    def __init__(self, folder: Path, vendors: str) -> None:
        self.folder, self.vendors = folder, vendors
        self.keys: dict[str, str] = {
            **HEALTHY, "providers.highway.base_url": f'"{vendors}/highwayapi"',
        }
        self.environ = {"KEY": KEY, "WEBHOOK": SECRET}
        self.machine = a_machine(self.environ)
        self.text: str | None = None  # in place of the keys
        self.said: list[str] = []

    @property
    def file(self) -> Path:
        """The configuration."""
        return self.folder / "reelgate.toml"

    def set(self, keys: Mapping[str, str | None]) -> None:
        """Write these keys, or take them out."""
        for name, literal in keys.items():
            if literal is None:
                del self.keys[name]
            else:
                self.keys[name] = literal

    def on(self, **changed: object) -> None:
        """Have the machine be like that."""
        self.machine = msgspec.structs.replace(self.machine, **changed)

    def opened(self) -> None:
        """Let every user of this machine into the folder."""
        for folder in (self.folder, *self.folder.parents):
            mode = folder.stat().st_mode
            if not mode & 0o001:
                folder.chmod(mode | 0o001)

    async def examined(self, *, is_offline: bool = False) -> list[Finding]:
        """What the doctor finds."""
        self.file.write_text(written(self.keys) if self.text is None else self.text, "utf-8")
        return await examine(self.file, self.machine, is_offline=is_offline, told=self.said.append)


def written(keys: Mapping[str, str]) -> str:
    """The keys as a file has them."""
    sections: dict[str, list[str]] = {}
    for name, literal in keys.items():
        section, _, key = name.rpartition(".")
        sections.setdefault(section, []).append(f"{key} = {literal}")
    top = sections.pop("", [])
    return "\n".join([*top, *(f"[{name}]\n" + "\n".join(lines) for name, lines in sections.items()), ""])


def copied(database: Path, folder: Path) -> None:
    """Give a patient the store that was made once for all."""
    shutil.copy(database, folder / "reelgate.db")
    (folder / "reelgate.db").chmod(0o600)


@contextmanager
def somebody_else(folder: Path) -> Iterator[None]:
    """Be a user to whom `folder` is closed."""
    was = os.geteuid()
    folder.chmod(0o700 if was == 0 else 0o000)
    try:
        if was == 0:
            os.seteuid(65_534)
        yield
    finally:
        os.seteuid(was)
        folder.chmod(0o700)


Answer = Callable[[str], bytes]  # what is written for a request's first line


def http(status: int, body: str = "", *headers: str) -> bytes:
    """A whole answer."""
    data = body.encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + data


@asynccontextmanager
async def odd_vendor(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that answers every request so."""

    async def conversed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            line = head.split(b"\r\n", 1)[0].decode()
            told = answer(line)
            if line.startswith("HEAD "):
                told = told.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            writer.write(told)
            await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(conversed, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
