"""What the gateway's ledger says of money, held against the vendors' own books at every commit of a run.

    settled <= what the vendors charged, less what they refunded <= settled + reserved

Not held here: what a single video says of its cost (`checker`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.simulation.world import World

NANOS_PER_CENT: Final = 10_000_000
_SUMS: Final = """select coalesce(sum(reserved), 0), coalesce(sum(settled), 0) from (
    select reserved, settled from usage_days union all select reserved, settled from ledger) as both"""


class Books:
    """The comparison over one run. Vendors without a price are in neither sum."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._priced = {plan.name for plan in world.plan.vendors if plan.is_priced}
        self._has_breach = False

    def compare(self) -> None:
        """Called after each commit and each charge; the first breach of a run is kept."""
        reserved, settled = self._told()
        charged = self._charged()
        if self._has_breach or settled <= charged <= settled + reserved:
            return
        self._has_breach = True
        self._world.history.money_breaches.append(
            f"at {self._world.time():.3f} s {settled} nanos are settled and {reserved} reserved,"
            f" and the vendors charged {charged}"
        )

    def close(self) -> None:
        """Called when all is over: what nobody doubts any more is settled to the last nano."""
        reserved, settled = self._told()
        self._world.history.settled_cents = settled // NANOS_PER_CENT
        self._world.history.reserved_cents = reserved // NANOS_PER_CENT
        if not reserved and settled != self._charged():
            self._world.history.money_breaches.append(
                f"in the end {settled} nanos are settled and nothing is reserved,"
                f" and the vendors charged {self._charged()}"
            )

    def _told(self) -> tuple[int, int]:
        reserved, settled = self._world.rows(_SUMS)[0]
        return int(reserved or 0), int(settled or 0)

    def _charged(self) -> int:
        cents = sum(
            one.cents for one in self._world.history.submissions
            if one.provider in self._priced and not one.is_refunded
        )
        return cents * NANOS_PER_CENT
