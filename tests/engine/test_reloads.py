"""What is counted of a provider over a reload and a restart: its places and its rates, exactly.

In virtual time, through the real engine and store. Not held here: what else a reload keeps
(`test_providers`), when it is refused (`tests/test_app.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise

from gateway.core.facts import Cancelled
from gateway.engine.provider import make_provider
from gateway.storage.db import Row, Step
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from tests.engine.life import Life, SwitchedVendor, life
from tests.virtual import run_virtual


def reload(one: Life) -> None:
    """What SIGHUP does with a file that says the same."""
    before = one.fleet.providers.values()
    one.fleet.use(one.fleet.settings, [make_provider(some.settings, some.adapter, some) for some in before])
    one.engine.recount()


class Slow(SqliteDatabase):
    """A database in memory whose writes take a second. `meanwhile` is called within each."""

    meanwhile: Callable[[], None] | None = None

    async def write(
        self, steps: Sequence[Step], committed: Callable[[], None] | None = None, tell: str | None = None
    ) -> list[Row]:
        """Late."""
        await asyncio.sleep(0.5)
        if self.meanwhile is not None:
            self.meanwhile()
        await asyncio.sleep(0.5)
        return await super().write(steps, committed, tell)


def most_in(jobs: Sequence[float], seconds: float) -> int:
    """How many of these times lie within so many seconds at most."""
    return max(sum(start <= at < start + seconds for at in jobs) for start in jobs)


# --- places -------------------------------------------------------------------------------------------

def test_a_place_that_is_left_while_its_submit_is_under_way_is_not_counted_for_ever() -> None:
    async def main() -> None:
        vendor = SwitchedVendor()
        vendor.seconds = 5
        async with life({"one": vendor}, one="max_in_flight = 1") as one:
            await one.create("detached")
            await one.until(lambda task: task.state == "submitting", "detached")
            await one.happens(Cancelled(detach=True), "detached")
            reload(one)
            await one.create("later")
            assert (await one.end("later")).state == "completed"
            gate = one.fleet.providers["one"].gate
            assert (gate.in_flight, gate.sending, gate.entered) == (0, 0, 0)

    run_virtual(main())


def test_a_place_that_was_taken_and_is_not_stored_yet_is_counted() -> None:
    async def main() -> None:
        database, vendor = Slow(IN_MEMORY), SwitchedVendor(renders=60)
        async with life({"one": vendor}, database, one="max_in_flight = 4") as one:
            gate = one.fleet.providers["one"].gate
            counted: list[tuple[int, int]] = []
            jobs: list[int] = []

            def reloading() -> None:
                before = gate.in_flight
                reload(one)
                counted.append((before, gate.in_flight))
                jobs.append(sum(task.is_in_flight for task in one.engine.tasks.values()))

            database.meanwhile = reloading
            for number in range(12):
                await one.create(f"video_{number}")
            for number in range(12):
                assert (await one.end(f"video_{number}")).state == "completed"
            assert all(before == after for before, after in counted), counted
            assert max(jobs) == 4
            await asyncio.sleep(10)
            assert (gate.in_flight, gate.sending, gate.entered) == (0, 0, 0)

    run_virtual(main())


# --- rates --------------------------------------------------------------------------------------------

def test_a_reload_does_not_give_the_polls_their_minute_anew() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=10**9)
        async with life({"one": vendor}, one="polls_per_minute = 10") as one:
            for number in range(30):
                await one.create(f"video_{number}")
            for _ in range(20):
                await asyncio.sleep(13)
                reload(one)
            assert len(vendor.asked_at) >= 40
            assert most_in(vendor.asked_at, 60) == 10

    run_virtual(main())


def test_after_a_restart_what_was_sent_and_has_ended_within_the_minute_counts_against_the_rate() -> None:
    async def main() -> None:
        database, vendor = SqliteDatabase(IN_MEMORY), SwitchedVendor(renders=5)
        extra = {"one": "requests_per_minute = 5"}
        async with life({"one": vendor}, database, one=extra["one"]) as first:
            for number in range(15):
                await first.create(f"video_{number}")
            for number in range(5):
                await first.end(f"video_{number}")
            await first.crash()
        assert len(vendor.sent) == 5
        second = Life(database, {"one": vendor}, extra)
        second.engine.replica = "replica-2"
        second.start()
        for number in range(5, 15):
            assert (await second.end(f"video_{number}")).state == "completed"
        assert len(vendor.sent) == 15
        assert all(later - earlier >= 60 for earlier, later in pairwise(vendor.sent_at[::5]))
        assert most_in(vendor.sent_at, 60) == 5
        await second.engine.stop()

    run_virtual(main())
