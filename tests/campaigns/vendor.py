"""The vendors of a campaign in a process of their own: the sandbox, its URL on stdout, until stdin ends.

Held here: what `reelgate sandbox` has no option for (clips without words, which are made once; a file of who
asked for what), and that nothing outlives a campaign that was killed itself. Not held here: the simulators
(`gateway.sandbox`).
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from gateway.sandbox.protocols import VENDORS
from gateway.sandbox.server import SandboxSettings, running
from gateway.sandbox.vendor import Outcome, Vendor, asked_for
from gateway.sandbox.wire import Request


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """One call as a vendor saw it: when (Unix seconds), at which port of its own (who asks has one each).

    `what` is the prompt of a submit, or the id of the job that is polled.
    """

    at: float
    port: int
    kind: Literal["submit", "poll"]
    vendor: str
    what: str


_encode: Final = msgspec.json.Encoder().encode


def read_asks(path: Path) -> list[Ask]:
    """Every call that was noted in that file, oldest first."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return sorted((msgspec.json.decode(line, type=Ask) for line in lines), key=lambda ask: ask.at)


def _noting(kind: type[Vendor], to: IO[bytes]) -> type[Vendor]:
    """A vendor of that kind that notes each call before it answers."""

    class Noting(kind):  # type: ignore[valid-type, misc]  # a class made of a value
        def exchange(self, request: Request) -> Outcome:
            to.write(_encode(_ask_of(self.name, request)) + b"\n")
            to.flush()
            outcome: Outcome = super().exchange(request)
            return outcome

    return Noting


def _ask_of(vendor: str, request: Request) -> Ask:
    port = int(request.headers.get("host", "").rpartition(":")[2] or 0)
    if request.method == "POST":
        return Ask(time.time(), port, "submit", vendor, asked_for(msgspec.json.decode(request.body)))
    job = request.query.get("task_id") or request.path.rpartition("/")[2]
    return Ask(time.time(), port, "poll", vendor, job)


async def _serve(settings: SandboxSettings) -> None:
    async with running(settings) as sandbox:
        sys.stdout.write(f"{sandbox.url}\n")
        sys.stdout.flush()
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        await reader.read()


if __name__ == "__main__":
    with Path(sys.argv[2]).open("ab") as notes:
        VENDORS.update({name: _noting(kind, notes) for name, kind in VENDORS.items()})
        asyncio.run(_serve(msgspec.json.decode(sys.argv[1], type=SandboxSettings)))
