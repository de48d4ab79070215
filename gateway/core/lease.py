"""How long this process may be sure that nobody has declared it dead. Pure; elapsed time is passed in.

A replica beats, and the database notes when. Others declare it dead LEASE_SECONDS after its last beat, by the
clock of the database; that beat was noted no earlier than it was sent. So until LEASE_SECONDS after sending
a beat that was answered, it lives, whatever any clock shows. Time has to go on while the process is frozen.
Not held here: beating, and what follows from being declared dead (`gateway.engine.replica`).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Final

LEASE_SECONDS: Final = 6.0
_SENT_IN: Final = contextvars.ContextVar("sent_in", default=-1)  # by which term of a lease a task sends
SPARE_SECONDS: Final = 1.0  # nothing that cannot be taken back begins in the last second of a lease


class Lease:
    """The right to act as an owner: for ever, unless it `is_shared`. `elapsed`: seconds, never going back."""

    def __init__(self, elapsed: Callable[[], float], *, is_shared: bool = False) -> None:
        self._elapsed = elapsed
        self._ends_at = float("-inf") if is_shared else float("inf")
        self._renewed = asyncio.Event()
        self._term = 0  # how often it was lost

    async def held(self) -> None:
        """Return when it is held: at once, or after a beat was answered."""
        while not self.is_held:
            self._renewed.clear()
            await self._renewed.wait()

    @property
    def is_held(self) -> bool:
        """Whether nobody can have declared this process dead."""
        return self._elapsed() < self._ends_at - SPARE_SECONDS

    def sends(self) -> None:
        """What this asyncio task sends from now on is sent by the right that there is now, or not at all."""
        _SENT_IN.set(self._term)

    @property
    def may_send(self) -> bool:
        """Whether it is held, and was not lost meanwhile: then others have taken over, however it is now."""
        return self.is_held and _SENT_IN.get() == self._term

    def begun(self) -> float:
        """What a beat that is sent now is to be confirmed with."""
        return self._elapsed()

    def confirmed(self, begun: float) -> None:
        """A beat sent then was noted."""
        self._ends_at = max(self._ends_at, begun + LEASE_SECONDS)
        self._renewed.set()

    def lost(self) -> None:
        """Somebody declared this process dead."""
        self._ends_at = float("-inf")
        self._term += 1
