"""What can be set about the simulators, and the clock they live by. Not held here: anything that acts."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import msgspec


class SandboxSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the simulators behave. `port` 0 takes a free one; `key` is the only key all three vendors accept.

    A render takes a lognormal time: median `render_seconds`, and `render_spread` as the sigma of its
    logarithm (0 makes every render take the median). `link_seconds` is the life of a result link, None each
    vendor's own (one hour at the v3 async vendors, 24 hours at the unified API). `seed` None draws from the
    system, so that task ids of two runs differ. `draw_words` False leaves the prompt out of the test card, so
    that clips of one size are made once.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    key: str = "sandbox-key"
    render_seconds: float = 3.0
    render_spread: float = 0.35
    link_seconds: float | None = None
    seed: int | None = None
    draw_words: bool = True


class Clock(Protocol):
    """Time as the simulators see it."""

    def time(self) -> float:
        """Unix seconds."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Come back after that many seconds of this clock."""
        ...


class SystemClock:
    """The machine's own time."""

    def time(self) -> float:
        """Unix seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Let other tasks run for that long."""
        await asyncio.sleep(seconds)
