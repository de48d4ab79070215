"""Whether all spending is stopped: looked up before anything new is bought, and believed for a moment.

So every replica obeys within LOOK_SECONDS, whatever news are lost, and also what was ordered beside a running
process. Not held here: the order itself (`gateway.storage.stop`), who may give it (`gateway.api.spending`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from gateway.storage.db import StorageError
from gateway.storage.stop import Stop
from gateway.telemetry import Telemetry

LOOK_SECONDS: Final = 2.0


class Spending:
    """What was seen of the stop last; each change is reported once. `now` is Unix time in seconds."""

    def __init__(self, stop: Stop, now: Callable[[], float], telemetry: Telemetry) -> None:
        self._stop, self._now, self._telemetry = stop, now, telemetry
        self.is_stopped = False
        self._orders = 0
        self._looked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._is_asked = False

    async def look(self) -> bool:
        """Whether all spending is stopped, as of LOOK_SECONDS ago at most. Raises StorageError."""
        if not self._is_fresh():
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
            # All who look now share one question and its answer, also that the database does not answer.
            await asyncio.shield(self._asking)
        return self.is_stopped

    async def _ask(self) -> None:
        asked_at, orders = self._now(), self._orders
        stopped = await self._stop.get()
        if orders == self._orders:  # else what was asked is of before an order that was obeyed meanwhile
            self._believe(asked_at, None if stopped is None else stopped.by, is_stopped=stopped is not None)

    def obey(self, by: str, *, is_stopped: bool) -> None:
        """Spending was just stopped, or begins again, by an order of `by` that is stored."""
        self._believe(self._now(), by, is_stopped=is_stopped)
        self._orders += 1

    def _believe(self, seen_at: float, by: str | None, *, is_stopped: bool) -> None:
        if is_stopped != self.is_stopped:
            self._telemetry.spending_turned(by, is_stopped=is_stopped)
        self.is_stopped, self._looked_at = is_stopped, seen_at

    def look_soon(self, group: set[asyncio.Task[None]], then: Callable[[], None]) -> None:
        """While it is stopped, see in the background whether it still is; `then` is called when it is not."""
        if self.is_stopped and not self._is_asked and not self._is_fresh():
            self._is_asked = True
            asking = asyncio.create_task(self._look_then(then))
            group.add(asking)
            asking.add_done_callback(group.discard)

    async def _look_then(self, then: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(StorageError):  # then it is asked again
                if not await self.look():
                    then()
        finally:
            self._is_asked = False

    def _is_fresh(self) -> bool:
        return 0.0 <= self._now() - self._looked_at < LOOK_SECONDS
