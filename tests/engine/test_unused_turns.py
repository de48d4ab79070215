"""A turn to be polled that could not be used when it came: the task is asked for all the same, and soon.

In virtual time, through the real engine and store. Not held here: whose turn it is (`test_turns`).
"""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.life import SwitchedVendor, life, pending
from tests.engine.test_crowds import Asked, rendering
from tests.engine.test_trouble import Faulty
from tests.virtual import run_virtual


@pytest.mark.parametrize("count", [1, 8])
def test_what_was_due_while_the_database_noted_no_beat_is_asked_for_once_it_does(count: int) -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor(renders=60)}) as one:
            names = [f"video_{number}" for number in range(count)]
            for name in names:
                await one.create(name)
                await one.until(lambda task: task.state == "rendering", name)
            one.engine.lease.lost()
            await asyncio.sleep(120)
            one.engine.lease.confirmed(float("inf"))
            for name in names:
                task = await one.end(name)
                assert task.state == "completed"
                assert one.now() - task.created_at < 60 + 120 + 15, "it waited for its deadline"
            assert one.fleet.providers["one"].polls.granted == 0

    run_virtual(main())


def test_whose_turn_came_while_something_else_was_saved_of_it_is_asked_for_afterwards() -> None:
    async def main() -> None:
        database, vendor = Faulty(), Asked()
        async with life({"one": vendor}, database, one="polls_per_minute = 30") as one:
            names = [await rendering(one, number) for number in range(30)]
            for name in names:
                await one.store.tasks_claim(one.engine.replica, "an earlier one", 1)
                task = await one.store.task_get(name)
                assert task is not None
                one.engine.saved(task, ())
            await asyncio.sleep(10)
            provider = one.fleet.providers["one"]
            database.fails = 60  # saving takes seconds
            for number, name in enumerate(names):
                one.engine.heard(provider, name, {"id": f"one-{number}"}, pending("ANOTHER", 60))
            await asyncio.sleep(600)
            assert database.fails == 0
            assert provider.polls.granted == 0
            assert all(watch.polled_at is not None and one.now() - watch.polled_at < 150
                       for watch in one.engine.watches.values())

    run_virtual(main())
