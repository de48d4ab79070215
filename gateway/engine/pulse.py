"""How long a round of the event loop takes while there is more to do: how a process feels a busy processor.

Its own work, somebody else's on the same processor and a quota are felt alike; waiting for a vendor is not.
Not held here: what follows from it (`capacity`).
"""

from __future__ import annotations

import asyncio
from typing import Final

LATE_SECONDS: Final = 0.005  # on average: a round with little to do takes less than one millisecond
_WEIGHT: Final = 1 / 8  # of the last round


class Pulse:
    """The length of such rounds."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._is_feeling = True  # until it begins

    def begin(self) -> None:
        """Feel from now on: what a start has to do ends by itself."""
        self._is_feeling = False

    @property
    def is_late(self) -> bool:
        """Whether what is due waits for the processor."""
        return self._seconds >= LATE_SECONDS

    def feel(self) -> None:
        """Take the time until the next round begins."""
        if not self._is_feeling:
            self._is_feeling = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._felt, loop.time())

    def _felt(self, since: float) -> None:
        self._is_feeling = False
        self._seconds += (asyncio.get_running_loop().time() - since - self._seconds) * _WEIGHT
