"""How many requests came in the last minute: a sliding window, which never lets more through than it says.

Pure; time is passed in. Not held here: the paces of vendors (`admission`), whose requests are counted
(`gateway.api.rates`).
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import msgspec

WINDOW_SECONDS: Final = 60
# A request counts until its whole second has left the window: exact towards the limit, whatever its fraction.
KEPT_SECONDS: Final = WINDOW_SECONDS + 1


class Window(msgspec.Struct):
    """The requests of the last minute, by the second in which they came: at most 61 numbers, however many.

    Only what was let through is counted, so whoever was refused and comes back later has lost nothing by it.
    """

    seconds: deque[tuple[int, int]] = msgspec.field(default_factory=deque)
    count: int = 0
    second: int = 0  # the last one, and how many came in it
    in_second: int = 0

    def used(self, now: float) -> int:
        """How many count at `now`, in seconds of a clock that never goes back."""
        gone = int(now) - KEPT_SECONDS
        seconds = self.seconds
        while seconds and seconds[0][0] <= gone:
            self.count -= seconds.popleft()[1]
        if self.in_second and self.second <= gone:
            self.count -= self.in_second
            self.in_second = 0
        return self.count

    def take(self, now: float) -> None:
        """Count one."""
        second = int(now)
        if second != self.second:
            if self.in_second:
                self.seconds.append((self.second, self.in_second))
            self.second, self.in_second = second, 0
        self.in_second += 1
        self.count += 1

    def next_seconds(self, now: float) -> int:
        """In how many seconds, 1 to 60, the oldest that counts no longer does; 60 when none counts."""
        if not self.count:
            return WINDOW_SECONDS
        oldest = self.seconds[0][0] if self.seconds else self.second
        return min(WINDOW_SECONDS, max(1, math.ceil(oldest + KEPT_SECONDS - now)))
