"""An event loop whose time is virtual: it jumps to the next timer as soon as nothing else can run.

Whole lives of tasks run in milliseconds, and always alike. Not held here: anything about the gateway.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")
TURNS_MAX = 20_000  # of the loop at one moment of virtual time


class Stuck(Exception):
    """Nothing can ever run again: everybody waits for something that nobody will do."""


class Spinning(Exception):
    """Time does not pass any more: somebody asks for the same thing again and again without a pause."""


class _Selector(selectors.DefaultSelector):
    """Never waits: what would be waited for is added to the loop's time."""

    loop: VirtualLoop
    turns = 0  # of the loop since time last passed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck
            self.loop.skew += timeout
            self.turns = 0 if timeout > 0 else self.turns + 1
            if self.turns > TURNS_MAX:
                raise Spinning
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at time 0; `skew` is how far it has come."""

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        self.skew = 0.0
        selector.loop = self

    def time(self) -> float:
        """The virtual time in seconds."""
        return self.skew


def run_virtual(main: Coroutine[None, None, T]) -> T:
    """Run `main` on a loop of its own, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
