"""The points at which a life may end, counted as they are crossed: one enumeration for all of them.

Held here: their names, and who counts. Not held here: who stops there (`launcher`, `proxy`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import product
from typing import Final

EXCHANGES: Final = ("submit", "poll", "content")
PLACES: Final = ("before", "first", "amid", "last")  # of the bytes of one message
WIRE: Final = frozenset(
    f"{exchange} {message} {place}"
    for exchange, message, place in product(EXCHANGES, ("request", "answer"), PLACES)
)
# What is committed once a life, where the store is the process's own; in a life that nothing goes wrong in
# (acceptance and the intent to send are one commit); and in going on after a death while sending.
BIRTH: Final = ("schema", "migration")
LIFE: Final = ("accepted", "accepted_by_vendor", "vendor_status", "completed")
RECOVERY: Final = ("claim", "submission_unknown", "failed")


def commits(names: tuple[str, ...]) -> frozenset[str]:
    """The two points of each of these commits."""
    return frozenset(f"commit {name} {side}" for name, side in product(names, ("before", "after")))


class Points:
    """Counts what one process crosses, by label. `deadly`: where it dies, by number from 1 or by label."""

    def __init__(self, deadly: int | str | None = None) -> None:
        self._deadly = deadly
        self.crossed: list[str] = []
        self.passed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def cross(self, label: str) -> bool:
        """Count one; whether the process dies here. What a dying one still crosses is not counted."""
        if not self.is_reached:
            self.crossed.append(label)
            self.passed[label].set()
        return self.is_reached

    @property
    def is_reached(self) -> bool:
        """Whether the process had to die."""
        if isinstance(self._deadly, int):
            return len(self.crossed) >= self._deadly
        return self._deadly in self.crossed

    @property
    def watches(self) -> bool:
        """Whether anybody wants to know."""
        return self._deadly is not None
