"""Today's money for the metrics: what the ledger of all replicas says, and whether any may be spent.

Read every few seconds, not at a scrape: a database that hangs must not take the metrics away. Not held here:
what a save is worth (`gateway.core.spending`), the ledger's rows (`gateway.storage.ledger`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from gateway.core.spending import DIGITS, day_of
from gateway.engine.loop import Engine
from gateway.storage.db import StorageError
from gateway.storage.ledger import Asked
from gateway.telemetry import NOWHERE

SPENT_SECONDS: Final = 10.0  # between two looks at the ledger


async def tell_spent(engine: Engine) -> None:
    """Tell today's money again and again, until cancelled."""
    while True:
        try:
            await engine.spending.look()  # where nothing is bought nobody else does
            await look(engine)
        except StorageError as error:
            engine.telemetry.storage_failed("", error)
        await asyncio.sleep(SPENT_SECONDS)


async def look(engine: Engine) -> None:
    """Tell today's money once. Raises StorageError."""
    day = day_of(engine.now())
    spent: Counter[tuple[str, str, str]] = Counter()
    for usage in await engine.store.ledger.usage(Asked(start=day, end=day, group_by=("provider",))):
        where = usage.group[0] or NOWHERE, usage.currency or NOWHERE
        spent[*where, "reserved"] += usage.amounts.reserved
        spent[*where, "settled"] += usage.amounts.settled
    engine.telemetry.spent_today({line: nanos / 10**DIGITS for line, nanos in spent.items() if nanos})
