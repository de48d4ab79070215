"""What happens between two moments of a step: a cancel, a process that stood still, a vendor that hangs."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.facts import Cancelled
from gateway.core.states import Event, Task
from gateway.core.tasks import apply
from providers.spec import Progress, Ref
from tests.engine.life import ScriptedVendor, accepted, done, life, pending
from tests.virtual import VirtualLoop, run_virtual


class Hanging(ScriptedVendor):
    """Answers a poll after a quarter of a minute."""

    async def poll(self, ref: Ref) -> Progress:
        """Late."""
        await asyncio.sleep(15)
        return await super().poll(ref)


@pytest.mark.parametrize("turns", range(6))
def test_a_cancel_at_any_turn_of_an_admission_gives_its_place_back(turns: int) -> None:
    async def main() -> None:
        async with life(one="max_in_flight = 1\n") as one:
            await asyncio.sleep(1)
            await one.create()
            for _ in range(turns):
                await asyncio.sleep(0)
            task = await one.store.task_get("video_1")
            assert task is not None
            if task.state == "waiting":
                await one.store.task_save(apply(task, Cancelled(), one.now()))
            await one.end()
            await asyncio.sleep(1)
            gate = one.fleet.providers["one"].gate
            assert (gate.in_flight, gate.sending) == (0, 0)

    run_virtual(main())


def test_what_stood_still_until_its_deadline_is_not_bought_any_more() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        vendor = ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}) as one:

            def stand_still(task: Task, events: tuple[Event, ...]) -> None:
                if task.state == "submitting":
                    loop.skew += 3_601

            one.store.listen(stand_still)
            await one.create()
            task = await one.end()
            await asyncio.sleep(10)
            after = await one.store.task_get("video_1")
            assert (task.error_code, vendor.sent) == ("deadline_exceeded", [])
            assert after is not None
            assert (after.charged, one.fleet.providers["one"].gate.in_flight) == ("no", 0)

    run_virtual(main())


def test_a_deadline_does_not_wait_for_a_poll_that_hangs() -> None:
    async def main() -> None:
        async with life({"one": Hanging([accepted()], [pending()])}) as one:
            await one.create(deadline_at=one.now() + 5)
            task = await one.end()
            assert (task.error_code, task.charged) == ("deadline_exceeded", "yes")
            assert task.completed_at is not None
            assert task.completed_at - task.deadline_at < 0.1

    run_virtual(main())


def test_a_deadline_does_not_wait_for_a_submit_that_hangs() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [done()], seconds=50.0)
        async with life({"one": vendor}) as one:
            await one.create(deadline_at=one.now() + 5)
            task = await one.end()
            assert (task.error_code, task.charged) == ("deadline_exceeded", "unknown")
            assert task.completed_at is not None
            assert task.completed_at - task.deadline_at < 0.1
            await asyncio.sleep(50)
            bought = await one.store.task_get("video_1")
            assert bought is not None
            assert (bought.state, bought.charged, bought.vendor_task_id) == ("failed", "yes", "v-1")
            late = await one.until(lambda task: task.late_url is not None)
            assert (late.state, late.late_url) == ("failed", "https://files.example/v.mp4")

    run_virtual(main())
