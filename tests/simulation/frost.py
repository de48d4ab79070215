"""An event loop on which single processes can stand still: nothing of theirs runs, while the others go on.

What would run meanwhile, answers and timers alike, runs when they thaw, in the order in which it was due: as
with SIGSTOP. Not held here: who stands still when (`process`, `perils`), the time itself (`tests.virtual`).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVarTuple

from tests.virtual import VirtualLoop

if TYPE_CHECKING:
    from tests.simulation.process import Process

Ts = TypeVarTuple("Ts")
OWNER: contextvars.ContextVar[Process | None] = contextvars.ContextVar("OWNER", default=None)


class Turn:
    """Something that a process is to do when its turn comes, or when it thaws."""

    __slots__ = ("_args", "_callback", "_owner", "context", "handle")

    def __init__(
        self, owner: Process, callback: Callable[..., object], args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        self._owner, self._callback, self._args = owner, callback, args
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        """Do it, or keep it for later."""
        if self._owner.is_frozen:
            self._owner.asleep.append(self)
        else:
            self._callback(*self._args)

    def goes_on(self) -> None:
        """Do it after all, unless it was called off meanwhile."""
        if self.handle is not None and not self.handle.cancelled():
            self._callback(*self._args)


class FrostLoop(VirtualLoop):
    """Whatever is done in the context of a process (`OWNER`) waits while that process `is_frozen`."""

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As every loop has it."""
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is None:
            return super().call_soon(callback, *args, context=context)
        within = contextvars.copy_context() if context is None else context
        turn = Turn(owner, callback, args, within)
        turn.handle = super().call_soon(turn, context=within)
        return turn.handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As every loop has it."""
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is None:
            return super().call_at(when, callback, *args, context=context)
        within = contextvars.copy_context() if context is None else context
        turn = Turn(owner, callback, args, within)
        handle = super().call_at(when, turn, context=within)
        turn.handle = handle
        return handle
