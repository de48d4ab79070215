"""What other replicas order is looked up, and looked up again where that failed.

In virtual time, over a database in memory that says it is shared. Not held here: hearing itself
(`tests/storage`), several replicas at once (`tests/replicas`, `tests/simulation`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from gateway.engine.replica import BEAT_SECONDS, Identity, follow
from gateway.storage.db import Row, StorageError, Value
from gateway.storage.rows import Hold
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from gateway.storage.store import HOLDS
from tests.engine.life import Life
from tests.virtual import run_virtual

FRONT = Identity("api", "", "0", lambda: "unused")


class Shared(SqliteDatabase):
    """A database in memory as one of several replicas has it; `unreadable` reads of the orders fail next."""

    def __init__(self) -> None:
        super().__init__(IN_MEMORY)
        self.hear: Callable[[str | None], None] | None = None
        self.unreadable = 0

    @property
    def is_shared(self) -> bool:
        """There are others."""
        return True

    def listen(self, hear: Callable[[str | None], None]) -> None:
        """What is told is what the test says."""
        self.hear = hear

    async def read(self, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        """As SQLite, unless a test wants otherwise."""
        if sql == HOLDS and self.unreadable:
            self.unreadable -= 1
            raise StorageError("made for a test: nothing was read")
        return await super().read(sql, args)


@pytest.mark.parametrize("fails", [0, 1, 3])
def test_an_order_that_could_not_be_looked_up_is_looked_up_again_at_once(fails: int) -> None:
    async def main() -> None:
        database = Shared()
        await database.migrate()
        life = Life(database, {}, {})
        following = asyncio.create_task(follow(life.engine, FRONT))
        await asyncio.sleep(1.0)
        assert database.hear is not None
        await life.store.hold_put(Hold(provider="one", action="pause", by="another", at=life.now()))
        database.unreadable = fails
        database.hear(None)  # what was told meanwhile is lost
        await asyncio.sleep(fails * BEAT_SECONDS + 0.1)
        assert life.fleet.providers["one"].health.hold == "pause"
        following.cancel()
        await asyncio.wait([following])

    run_virtual(main())
