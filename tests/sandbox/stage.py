"""A bare socket to the sandbox: what came over it, and how it ended. Held here: the player, and no test."""

from __future__ import annotations

import asyncio
import json
from typing import Literal, NamedTuple

from gateway.sandbox.catalogue import Phase
from gateway.sandbox.server import Sandbox
from tests.sandbox.conftest import SETTINGS, VirtualClock
from tests.sandbox.requests import PLAIN, create_path, poll_path

_ENOUGH_BYTES = {"endless_headers": 20_000}  # of the rest three megabytes
_SILENCE_SECONDS = 0.05  # only ever waited for where nothing may come


class Seen(NamedTuple):
    """What came, and how it ended: `open` is silence, `more` is more than we care to read."""

    data: bytes
    end: Literal["fin", "rst", "open", "more"]

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])

    def header(self, name: str) -> str:
        lines = [line.partition(b": ") for line in self.head.split(b"\r\n")[1:]]
        return next((value.decode() for key, _, value in lines if key.decode().lower() == name), "")

    def json(self) -> object:
        return json.loads(self.body)


class Stage:
    """A task at `vendor`, and the three calls as bytes."""

    def __init__(self, sandbox: Sandbox, vendor: str) -> None:
        self.sandbox, self.vendor, self.task_id, self.link = sandbox, vendor, "", ""

    def request(self, phase: Phase) -> bytes:
        slug, body = PLAIN[self.vendor]
        sent = json.dumps(body).encode() if phase == "submit" else b""
        paths = {"submit": create_path(self.vendor, slug), "poll": poll_path(self.vendor, self.task_id)}
        method, path = "POST" if phase == "submit" else "GET", paths.get(phase, self.link)
        lines = [
            f"{method} {path} HTTP/1.1", "host: sandbox", f"authorization: Bearer {SETTINGS.key}",
            "connection: close", "content-type: application/json", f"content-length: {len(sent)}", "", "",
        ]
        return "\r\n".join(lines).encode() + sent

    async def call(self, phase: Phase, fault: str = "") -> Seen:
        """Send one call and read until the end, or silence where the fault is silent, or enough."""
        patience_seconds = _SILENCE_SECONDS if fault.startswith("hang") else 20
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.sandbox.url.rsplit(":", 1)[1]))
        data = bytearray()
        try:
            writer.write(self.request(phase))
            while len(data) < _ENOUGH_BYTES.get(fault, 3_000_000):
                piece = await asyncio.wait_for(reader.read(65536), patience_seconds)
                if not piece:
                    return Seen(bytes(data), "fin")
                data += piece
        except TimeoutError:
            return Seen(bytes(data), "open")
        except ConnectionResetError:
            return Seen(bytes(data), "rst")
        finally:
            writer.close()
        return Seen(bytes(data), "more")

    async def prepare(self, clock: VirtualClock) -> None:
        """Make a task that is done, and know its link."""
        made = (await self.call("submit")).json()
        assert isinstance(made, dict)
        self.task_id = made.get("task_id") or made["id"]
        clock.now += 101
        await self.renew()

    async def renew(self) -> None:
        """Learn the link again: some faults take longer than it lives."""
        told = (await self.call("poll")).json()
        assert isinstance(told, dict)
        link = told["results"][0]["url"] if self.vendor == "unified" else told["videos"][0]["video_url"]
        self.link = link.removeprefix("http://sandbox")
