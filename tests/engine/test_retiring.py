"""Last days in virtual time: who waits is not sent to the retired, who is there is followed to the end.

Not held here: the choice of candidates (`tests/core/test_shares.py`).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from gateway.core.facts import Candidate
from providers.spec import Adapter
from tests.engine.life import START, SwitchedVendor, life
from tests.virtual import run_virtual

DAY = datetime.fromtimestamp(START, UTC).date() + timedelta(days=1)
MIDNIGHT = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC).timestamp()
BOTH = ("one", "two")
PRO = '"kling-v3.0-pro-t2v"'


def test_a_provider_takes_nothing_from_its_last_day_on_and_ends_what_it_has() -> None:
    async def main() -> None:
        leaving, staying = SwitchedVendor(renders=60), SwitchedVendor(renders=60)
        extra = f"retire_on = {DAY}\nmax_in_flight = 1"
        vendors: dict[str, Adapter] = {"one": leaving, "two": staying}
        async with life(vendors, one=extra, two="max_in_flight = 1") as one:
            await asyncio.sleep(MIDNIGHT - one.now() - 30)
            for name in ("first", "second", "waiting"):
                await one.create(name, BOTH)
            await asyncio.sleep(MIDNIGHT - one.now())
            one.fleet.retire()
            assert one.state() == "draining"
            for name in ("first", "second", "waiting"):
                assert (await one.end(name)).state == "completed"
            task = await one.store.task_get("waiting")
            assert task is not None
            assert task.provider == "two", "the other place was free sooner, and is never used again"
            assert (len(leaving.sent), len(staying.sent)) == (1, 2)
            await one.create("late", BOTH)
            assert (await one.end("late")).provider == "two"

    run_virtual(main())


def test_of_an_offering_only_that_one_takes_nothing_more() -> None:
    async def main() -> None:
        leaving, staying = SwitchedVendor(renders=60), SwitchedVendor(renders=60)
        extra = f"offerings = ['*']\nretire_offerings_on = {{ {PRO} = {DAY} }}"
        async with life({"one": leaving, "two": staying}, one=extra) as one:
            await asyncio.sleep(MIDNIGHT - one.now())
            await one.create("late", BOTH)  # its candidates are those of a task that was accepted before
            assert (one.state(), (await one.end("late")).provider) == ("healthy", "one")
            one.fleet.retire()
            await one.create("later", BOTH)
            assert (await one.end("later")).provider == "two"
            assert one.state() == "healthy", "its others are taken to"

    run_virtual(main())


def test_who_waits_for_a_retired_offering_alone_holds_up_nobody_and_is_told_no_time() -> None:
    async def main() -> None:
        leaving = SwitchedVendor(renders=60)
        extra = f"offerings = ['*']\nmax_in_flight = 1\nretire_offerings_on = {{ {PRO} = {DAY} }}"
        async with life({"one": leaving}, one=extra) as one:
            await asyncio.sleep(MIDNIGHT - one.now() - 30)
            for name in ("first", "stuck"):
                await one.create(name, ("one",))
            await asyncio.sleep(MIDNIGHT - one.now())
            one.fleet.retire()
            assert (await one.end("first")).state == "completed"
            stuck = one.engine.tasks["stuck"]
            assert one.engine.queue_place(stuck) == (1, None)
            other = Candidate("one", "kling-v3.0-std-t2v")
            new = replace(stuck, id="new", candidates=(other,))
            assert one.engine.line.straight(new, one.now()) == other

    run_virtual(main())
