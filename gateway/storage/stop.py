"""The stop of all spending: while there is a row nothing new is bought, by any replica, until it is gone.

Held here: the statements of this table. Not held here: who obeys it (`gateway.engine.spending`), who may
order it (`gateway.api.spending`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.storage.db import Database, Step

_NAME: Final = "all"

STOP_GET: Final = "select by_whom, at from spending_stops where name = $1"
STOP_PUT: Final = """insert into spending_stops (name, by_whom, at) values ($1, $2, $3)
    on conflict (name) do nothing"""
STOP_DELETE: Final = "delete from spending_stops where name = $1"


class Stopped(msgspec.Struct, frozen=True):
    """Who stopped all spending, and when (Unix seconds)."""

    by: str
    at: float


class Stop:
    """That row. Raises `StorageError` of `gateway.storage.db` throughout."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self) -> Stopped | None:
        """Who stopped all spending; None: nobody."""
        rows = await self._database.read(STOP_GET, (_NAME,))
        return Stopped(str(rows[0][0]), float(rows[0][1] or 0)) if rows else None

    async def put(self, stopped: Stopped, also: Sequence[Step] = ()) -> None:
        """Stop all spending, and write `also`; whoever stopped it first is kept."""
        await self._database.write((Step(STOP_PUT, (_NAME, stopped.by, stopped.at)), *also))

    async def delete(self, also: Sequence[Step] = ()) -> None:
        """Let spending begin again, and write `also`."""
        await self._database.write((Step(STOP_DELETE, (_NAME,)), *also))
