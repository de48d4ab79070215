"""The engine holds to what a caller may spend, also when it sends again, and obeys the stop. In virtual time.

Not held here: the limits at acceptance (`tests/api/test_usage.py`), races (`tests/storage/test_ledger.py`).
"""

from __future__ import annotations

import asyncio
from decimal import Decimal

from gateway.core.grants import Grant, Limits
from gateway.core.spending import Amounts, decimal_text
from gateway.engine.spending import LOOK_SECONDS, Spending
from gateway.storage.db import StorageError
from gateway.storage.ledger import Asked
from gateway.storage.rows import KeyRow
from gateway.storage.stop import Stop, Stopped
from gateway.telemetry import Telemetry
from providers.spec import Adapter, Failed, Offering, Submitted, VendorError, VideoRequest
from tests.engine.life import START, Life, ScriptedVendor, SwitchedVendor, accepted, done, life
from tests.virtual import run_virtual

PRICE = 'prices = {{ "kling-v3.0-pro-t2v" = {{ per_request = "{}" }} }}'
ORDER = {"key_id": "key_1", "reserved_amount": "0.50", "reserved_currency": "USD"}
LOST = VendorError("timeout", "unknown", "no answer")


async def may_spend(one: Life, amount: str | None) -> None:
    """Give the caller a key with this much a day."""
    limits = Limits(money_per_day=None if amount is None else Decimal(amount))
    row = KeyRow(id="key_1", name="a", role="caller", digest="d", hint="h", created_at=START,
                 grant=Grant(limits=limits))  # fmt: skip
    await one.store.keys.add(row)


async def spent(one: Life) -> tuple[str, str]:
    """What is put aside and what is settled, of all time."""
    total = Amounts()
    for usage in await one.store.ledger.usage(Asked(start="2000-01-01", end="2999-12-31")):
        total = total.plus(usage.amounts)
    return decimal_text(total.reserved), decimal_text(total.settled)


def failing() -> ScriptedVendor:
    return ScriptedVendor([accepted()], [Failed(raw_status="FAILED", code="vendor_failed", message="no")])


def test_a_policy_buys_again_only_what_may_still_be_spent() -> None:
    async def main(amount: str) -> tuple[str | None, str, int]:
        second = ScriptedVendor([accepted("w-1")], [done()])
        vendors: dict[str, Adapter] = {"one": failing(), "two": second}
        price = PRICE.format("0.50")
        paid = price + '\nfailed_is_charged = "yes"'
        async with life(vendors, routing="rerun_failed = 1", one=paid, two=price) as one:
            await may_spend(one, amount)
            await one.create(providers=("one", "two"), **ORDER)
            task = await one.end()
            return task.error_code, (await spent(one))[1], len(second.sent)

    assert run_virtual(main("0.99")) == ("vendor_failed", "0.50", 0)
    assert run_virtual(main("1.00")) == (None, "1.00", 1)


def test_an_unknown_is_sent_once_more_only_where_it_may_still_be_spent() -> None:
    async def main(amount: str) -> tuple[str | None, tuple[str, str], int]:
        vendor = ScriptedVendor([LOST, accepted()], [done()])
        one_more = PRICE.format("0.50") + '\non_unknown = "resubmit"'
        async with life({"one": vendor}, one=one_more) as one:
            await may_spend(one, amount)
            await one.create(**ORDER)
            task = await one.end()
            return task.error_code, await spent(one), len(vendor.sent)

    assert run_virtual(main("0.99")) == ("submission_unknown", ("0.50", "0.00"), 1)
    assert run_virtual(main("1.00")) == (None, ("0.50", "0.50"), 2)


def test_what_became_dearer_is_held_to_the_limit_anew() -> None:
    async def main(amount: str, price: str) -> int:
        vendor = SwitchedVendor()
        async with life({"one": vendor}, one=price) as one:
            await may_spend(one, amount)
            await one.create(**ORDER)
            await asyncio.sleep(60)
            return len(vendor.sent)

    assert run_virtual(main("0.69", PRICE.format("0.70"))) == 0
    assert run_virtual(main("0.70", PRICE.format("0.70"))) == 1
    assert run_virtual(main("0.70", "")) == 0, "nobody knows any more what it costs"


def test_while_spending_is_stopped_nothing_that_waits_is_sent() -> None:
    async def main() -> None:
        vendor = SwitchedVendor()
        async with life({"one": vendor}, one=PRICE.format("0.50")) as one:
            await one.create("first")
            await one.end("first")
            await one.store.stop.put(Stopped("ada", START))
            await asyncio.sleep(LOOK_SECONDS)
            await one.create("second")
            await asyncio.sleep(600)
            assert (len(vendor.sent), await one.states("second")) == (1, ["waiting"])
            await one.store.stop.delete()
            await asyncio.sleep(2 * LOOK_SECONDS)
            assert len(vendor.sent) == 2
            assert (await one.end("second")).state == "completed"

    run_virtual(main())


class SlowStop(Stop):
    """The row of the stop as a slow database tells it: what it was when it was asked."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.stopped: Stopped | None = None
        self.is_broken, self.asked = is_broken, 0

    async def get(self) -> Stopped | None:
        self.asked += 1
        found = self.stopped
        await asyncio.sleep(1)
        if self.is_broken:
            raise StorageError("no answer")
        return found


def test_an_order_is_not_unsaid_by_a_question_from_before_it() -> None:
    async def main() -> None:
        stop, loop = SlowStop(), asyncio.get_running_loop()
        spending = Spending(stop, loop.time, Telemetry({}))
        looking = asyncio.create_task(spending.look())
        await asyncio.sleep(0.5)
        spending.obey("ada", is_stopped=True)
        assert await looking
        assert await spending.look()

    run_virtual(main())


def test_all_who_look_wait_for_one_answer_also_where_there_is_none() -> None:
    async def main() -> None:
        stop, loop = SlowStop(is_broken=True), asyncio.get_running_loop()
        spending, began = Spending(stop, loop.time, Telemetry({})), loop.time()
        met = await asyncio.gather(*(spending.look() for _ in range(100)), return_exceptions=True)
        assert all(isinstance(error, StorageError) for error in met)
        assert (stop.asked, loop.time() - began) == (1, 1)

    run_virtual(main())


class LaggingVendor(ScriptedVendor):
    """Answers a submit after a while."""

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        await asyncio.sleep(2 * LOOK_SECONDS)
        return await super().submit(request, offering)


def test_no_policy_sends_again_while_spending_is_stopped() -> None:
    async def main() -> None:
        second = ScriptedVendor([accepted("w-1")], [done()])
        vendors: dict[str, Adapter] = {"one": failing(), "two": second}
        async with life(vendors, routing="rerun_failed = 1") as one:
            await one.create(providers=("one", "two"))
            await one.until(lambda task: task.state == "rendering")
            await one.store.stop.put(Stopped("ada", START))
            task = await one.end()
            assert (task.error_code, task.reruns, second.sent) == ("vendor_failed", 0, [])

    async def unknown() -> None:
        vendor = LaggingVendor([LOST, accepted()], [done()])
        async with life({"one": vendor}, one='on_unknown = "resubmit"') as one:
            await one.create()
            await one.until(lambda task: task.state == "submitting")
            await one.store.stop.put(Stopped("ada", START))
            await one.until(lambda task: task.state == "submission_unknown")
            await asyncio.sleep(600)
            assert len(vendor.sent) == 1

    run_virtual(main())
    run_virtual(unknown())


def test_a_stop_outlives_the_process_and_what_renders_goes_on() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=100)
        async with life({"one": vendor}) as one:
            await one.create("first")
            await one.until(lambda task: task.state == "rendering", "first")
            await one.store.stop.put(Stopped("ada", START))
            await one.crash()
            await one.create("second")
            second = Life(one.database, {"one": vendor}, {})
            second.engine.replica = "replica-2"
            second.start()
            assert (await second.end("first")).state == "completed"
            assert (len(vendor.sent), await second.states("second")) == (1, ["waiting"])
            await second.engine.stop()

    run_virtual(main())


def test_entries_are_summed_up_while_the_engine_runs() -> None:
    async def main() -> None:
        async with life(one=PRICE.format("0.50")) as one:
            await one.create(**ORDER)
            await one.end()
            await asyncio.sleep(20)
            assert await one.database.read("select count(*) from ledger") == [(0,)]
            assert await spent(one) == ("0.00", "0.50")

    run_virtual(main())
