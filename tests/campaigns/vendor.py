"""The vendors of a campaign in a process of their own: the sandbox, its URL on stdout, until stdin ends.

Held here: what `reelgate sandbox` has no option for (clips without words, which are made once), and that
nothing outlives a campaign that was killed itself. Not held here: the simulators (`gateway.sandbox`).
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from gateway.sandbox.server import SandboxSettings, running


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
    asyncio.run(_serve(msgspec.json.decode(sys.argv[1], type=SandboxSettings)))
