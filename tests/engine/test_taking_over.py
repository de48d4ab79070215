"""What an earlier process left is claimed in batches: a small one first, so that polls begin at once.

Not held here: whose tasks are whose (`tests/storage/test_takeover.py`).
"""

from __future__ import annotations

import asyncio

import pytest

from gateway.engine.takeover import CLAIM_BATCH
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from providers.spec import Pending, Progress, Ref
from tests.engine.life import Life, ScriptedVendor, accepted, pending
from tests.virtual import run_virtual

LEFT = 3 * CLAIM_BATCH


class Noting(ScriptedVendor):
    """A vendor that notes, whenever it is asked, how many tasks the gateway follows by then."""

    def __init__(self) -> None:
        super().__init__([accepted()], [pending()])
        self.follows: Life | None = None
        self.followed: list[int] = []

    async def poll(self, ref: Ref) -> Progress:
        """Still rendering."""
        assert self.follows is not None
        self.followed.append(len(self.follows.engine.tasks))
        return Pending(raw_status="PROCESSING")


def test_vendors_are_asked_for_the_first_tasks_while_the_others_are_still_claimed() -> None:
    async def main() -> None:
        database, vendor = SqliteDatabase(IN_MEMORY), Noting()
        await database.migrate()
        one = vendor.follows = Life(database, {"one": vendor}, {})
        for number in range(LEFT):
            await one.create(
                f"video_{number:04}", state="rendering", stage="rendering", provider="one",
                offering="kling-v3.0-pro-t2v", vendor_task_id=f"v-{number}", ref='{"id":"v"}', charged="yes",
                started_at=one.now(), replica="an earlier one",
            )
        one.start()
        await asyncio.sleep(1)
        assert vendor.followed[0] < CLAIM_BATCH / 2
        assert (len(one.engine.tasks), len(vendor.followed)) == (LEFT, LEFT)
        await one.engine.stop()

    run_virtual(main())


def test_what_no_configured_provider_has_or_may_get_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        await database.migrate()
        one = Life(database, {"one": ScriptedVendor([accepted()], [pending()])}, {})
        told: list[tuple[str, int]] = []
        monkeypatch.setattr(one.telemetry, "provider_missing", lambda *missing: told.append(missing))
        job = {"state": "rendering", "stage": "rendering", "ref": '{"id":"v"}', "charged": "yes"}
        for name, home in (("paid", "gone"), ("paid_too", "gone"), ("known", "one")):
            await one.create(
                name, (home,), provider=home, offering="kling-v3.0-pro-t2v", vendor_task_id=name,
                started_at=one.now(), replica="an earlier one", **job,
            )
        for name, homes in (("waits", ("gone", "away")), ("goes", ("gone", "one"))):
            await one.create(name, homes, replica="an earlier one")
        one.start()
        await asyncio.sleep(1)
        assert told == [("gone", 3)]
        await one.engine.stop()

    run_virtual(main())
