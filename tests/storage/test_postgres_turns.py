"""Who takes from several accounts and providers in one write waits in no ring: on PostgreSQL, two replicas.

Held here: that no transaction is chosen to die. Not held here: that no cap is passed (`test_ledger.py`).
"""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

import asyncpg
import pytest

from gateway.core.grants import Grant, Limits
from gateway.storage.allowance import Allowance, Together, accounts_of
from gateway.storage.db import Bound, Step
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.postgres_transaction import TURNS, turns_of
from gateway.storage.replicas import Room
from tests.core.made import NOW

pytestmark = pytest.mark.anyio

PLENTY = 10**6
GRANT = Grant(
    limits=Limits(money_per_day=Decimal(PLENTY), max_in_flight=PLENTY),
    team_limits=Limits(money_per_day=Decimal(PLENTY)),
)


def bound(chance: random.Random) -> Bound:
    """What a create, a submit and a submit that became dearer must agree on, of few keys and providers."""
    team, key = accounts_of(f"key_{chance.randrange(4)}", f"team:{chance.randrange(2)}", GRANT)
    money = Allowance(accounts=(team, key), at=NOW, has_money=True)
    flight = Allowance(accounts=(key,), at=NOW, is_in_flight=True)
    room = Room(f"p{chance.randrange(2)}", PLENTY, PLENTY, 61.0)
    choices: tuple[Bound, ...] = money, flight, Together((room, flight)), Together((room, flight, money))
    return chance.choice(choices)


async def deadlocks(url: str) -> int:
    """How many transactions the server has ended so far, because they waited in a ring."""
    connection = await asyncpg.connect(url)
    try:
        found = "select deadlocks from pg_stat_database where datname = current_database()"
        return int(await connection.fetchval(found))
    finally:
        await connection.close()


async def test_no_two_replicas_wait_for_each_other(url: str) -> None:
    before, drivers = await deadlocks(url), [PostgresDatabase(url) for _ in range(2)]

    async def some(driver: PostgresDatabase, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            taken = bound(chance)
            await driver.write([*taken.before(), *taken.after()])

    await asyncio.gather(*(some(driver, seed) for seed in range(20) for driver in drivers))
    for driver in drivers:
        await driver.close()
    assert await deadlocks(url) == before


def test_turns_are_taken_in_one_order_and_are_few() -> None:
    batch = [[Step("select 1", (), turn=f"key {number}")] for number in range(1_000)]
    found = turns_of(batch)
    assert found == sorted(set(found)) == turns_of(list(reversed(batch)))
    assert len(found) <= TURNS
    assert turns_of([[Step("select 1", ())]]) == []
