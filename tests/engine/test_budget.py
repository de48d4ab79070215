"""A budget of bytes: who has no room waits in order, or is told so; what is given up comes back."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.engine.budget import ByteBudget

pytestmark = pytest.mark.anyio
TURNS = 5


async def settle() -> None:
    """Let everybody go as far as they can."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def entering(budget: ByteBudget, *sizes: int) -> list[asyncio.Task[None]]:
    """Those who want so much, in this order."""
    tasks = [asyncio.create_task(budget.enter(size)) for size in sizes]
    await settle()
    return tasks


async def test_what_has_room_goes_in_and_the_rest_in_order() -> None:
    budget = ByteBudget(10)
    tasks = await entering(budget, 6, 4, 5, 1)
    assert [task.done() for task in tasks] == [True, True, False, False]
    assert not budget.take(0), "nobody goes before those who wait"
    budget.give(4)
    await settle()
    assert [task.done() for task in tasks] == [True, True, False, False], "the small one waits its turn"
    budget.give(6)
    await settle()
    assert all(task.done() for task in tasks)
    assert budget.used == 6


async def test_what_is_larger_than_all_goes_in_alone() -> None:
    budget = ByteBudget(10)
    tasks = await entering(budget, 1, 11, 1)
    assert [task.done() for task in tasks] == [True, False, False]
    budget.give(1)
    await settle()
    assert [task.done() for task in tasks] == [True, True, False]
    budget.give(11)
    await settle()
    assert tasks[2].done()


async def test_to_take_is_not_to_wait() -> None:
    budget = ByteBudget(10)
    assert budget.take(9)
    assert not budget.take(2)
    assert budget.take(1)
    assert budget.used == 10


async def test_who_gives_up_blocks_nobody() -> None:
    budget = ByteBudget(10)
    tasks = await entering(budget, 6, 9, 4)
    tasks[1].cancel()
    await settle()
    assert tasks[2].done()
    assert budget.used == 10


async def test_who_gives_up_in_the_moment_of_its_turn_loses_nothing() -> None:
    budget = ByteBudget(10)
    tasks = await entering(budget, 10, 10)
    budget.give(10)
    tasks[1].cancel()
    await settle()
    assert tasks[1].cancelled()
    assert budget.used == 0


async def test_held_is_given_back_whatever_happens() -> None:
    budget = ByteBudget(10)
    used = []

    async def work() -> None:
        async with budget.held(7):
            used.append(budget.used)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await work()
    assert (used, budget.used) == ([7], 0)


async def test_any_crowd_keeps_the_limit_and_ends() -> None:
    chance, budget = random.Random(5), ByteBudget(100)
    most = 0

    async def one(size: int) -> None:
        nonlocal most
        async with budget.held(size):
            most = max(most, budget.used)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(one(chance.randrange(1, 60))) for _ in range(500)]
    for _ in range(40):
        await asyncio.sleep(0)
        chance.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (budget.used, most <= 100, most > 60) == (0, True, True)
