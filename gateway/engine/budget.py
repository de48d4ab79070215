"""How many bytes of image data may be in memory at once: beyond, one waits in order, or is refused.

Two images of 10 MB are 27 MB as data URIs, and some copies of that on their way: two hundred such creates at
once took 10 GB. Not held here: who counts what (`gateway.api.forms`, `submit`, `entering`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """`limit` bytes, shared. What is larger than all of it is let through alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def take(self, count: int) -> bool:
        """Take `count` bytes if they are free and nobody waits for any; else False, and nothing is taken."""
        if self._waiting or not self._fits(count):
            return False
        self.used += count
        return True

    def give(self, count: int) -> None:
        """Give `count` bytes back, and let those go on who have room now, in their order."""
        self.used -= count
        while self._waiting:
            turn, wanted = self._waiting[0]
            if not turn.done():
                if not self._fits(wanted):
                    return
                self.used += wanted
                turn.set_result(None)
            self._waiting.popleft()

    @asynccontextmanager
    async def held(self, count: int) -> AsyncIterator[None]:
        """Hold `count` bytes, waited for."""
        await self.enter(count)
        try:
            yield
        finally:
            self.give(count)

    def _fits(self, count: int) -> bool:
        return self.used == 0 or self.used + count <= self.limit

    async def enter(self, count: int) -> None:
        """Take `count` bytes, waited for in order."""
        if self.take(count):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, count))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.give(0)  # those behind may have waited for this one only
            else:
                self.give(count)  # its turn had come all the same
            raise
