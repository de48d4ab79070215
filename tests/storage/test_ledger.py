"""The ledger on every database: it rides with each save, its sums lose nothing, and no cap is ever passed.

Held here: entries, roll-up, usage, allowances, races of creates against one cap, the stop. Not held here:
what a save is worth (`tests/core/test_spending.py`), what a caller is told (`tests/api/test_usage.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.core.facts import Accepted, Cancelled, Fact, Polled, SubmitStarted
from gateway.core.grants import Grant, Limits
from gateway.core.spending import Amounts, decimal_text, nanos
from gateway.core.states import Task
from gateway.core.tasks import apply
from gateway.storage import checking
from gateway.storage.allowance import (
    OVER,
    Account,
    Allowance,
    Limit,
    OverFlight,
    OverLimit,
    OverMoney,
    OverQueue,
    accounts_of,
)
from gateway.storage.db import MIGRATIONS, Database, GuardFailed, Step
from gateway.storage.ledger import Asked
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.rows import Idempotency
from gateway.storage.stop import Stopped
from gateway.storage.store import Store
from providers.spec import Succeeded
from tests.core.made import FAILED, NOW, ONE, SUBMITTED, make_task
from tests.storage.stores import DATABASES, Two, new, opened

pytestmark = pytest.mark.anyio

PRICE = ("0.42", "USD")
SENT = SubmitStarted(ONE, PRICE)
DONE = Polled(Succeeded(raw_status="DONE", url="https://files.example/v.mp4"), 3600, "unknown")
DAY = Asked(start="2027-01-15", end="2027-01-15", group_by=("day", "key", "provider", "model"))
CAPPED = Limits(money_per_day=Decimal("10.00"))


@pytest.fixture(params=DATABASES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(request.param, tmp_path) as made:
        yield made


def ordered(task_id: str = "video_1", **fields: object) -> Task:
    """A waiting task of 0.42 USD."""
    return make_task(task_id, **{
        "key_id": "key_1", "reserved_amount": "0.42", "reserved_currency": "USD", **fields,
    })


def money(account_limits: Limits = CAPPED, owner: str = "key_1", **fields: bool) -> Allowance:
    """What must hold of the key `key_1`."""
    accounts = accounts_of("key_1", owner, Grant(limits=account_limits))
    return Allowance(accounts=accounts, at=NOW, **{"has_money": True, **fields})


async def lived(store: Store, task: Task, *happened: Fact) -> Task:
    """A video after these facts, each saved."""
    await store.video_add(new(task))
    for fact in happened:
        task = await store.task_save(apply(task, fact, NOW + 1))
    return task


async def totals(store: Store, asked: Asked = DAY) -> dict[tuple[str, ...], Amounts]:
    """The sums by group."""
    found = await store.ledger.usage(asked)
    return {(*usage.group, usage.currency): usage.amounts for usage in found}


async def test_a_whole_life_is_in_the_books_and_in_the_sums(database: Database) -> None:
    store = Store(database)
    await lived(store, ordered(), SENT, Accepted(SUBMITTED), DONE)
    await lived(store, ordered("video_2"), Cancelled())
    day = ("2027-01-15", "key_1")
    expected = {
        (*day, "one", "kling-v3", "USD"): Amounts(
            settled=nanos("0.42"), accepted=2, completed=1, cancelled=1
        ),
    }
    assert await totals(store) == expected
    while await store.ledger.roll_up():
        pass
    assert await database.read("select count(*) from ledger") == [(0,)]
    assert await totals(store) == expected
    assert await totals(store, Asked(start="2027-01-16", end="2027-01-16")) == {}


async def test_what_is_refused_books_nothing(database: Database) -> None:
    store = Store(database)
    task = await lived(store, ordered(), SENT)
    change = apply(task, Accepted(SUBMITTED), NOW)
    before = await totals(store)
    task = await store.task_save(change)
    with pytest.raises(GuardFailed):
        await store.task_save(change)  # another has the row by now
    key = Idempotency("k", "print", "video_2")
    await store.video_add(new(ordered("video_2")), key)
    held = await store.video_add(new(ordered("video_3")), Idempotency("k", "print", "video_3"))
    assert held == key
    found = await totals(store)
    assert sum(amounts.accepted for amounts in found.values()) == 2
    assert sum(amounts.reserved for amounts in found.values()) == 2 * nanos("0.42")
    assert len(before) == 1


async def test_a_deleted_video_stays_in_the_books(database: Database) -> None:
    store = Store(database)
    await lived(store, ordered(), SENT, Accepted(SUBMITTED), DONE)
    assert await store.video_delete("video_1", "key_1")
    assert [amounts.settled for amounts in (await totals(store)).values()] == [nanos("0.42")]


async def test_sums_are_the_same_while_they_are_taken_together(database: Database) -> None:
    store = Store(database)
    for number in range(40):
        await lived(store, ordered(f"video_{number}"), SENT)
    seen: list[int] = []

    async def look() -> None:
        while not is_over.is_set():
            seen.append(sum(amounts.reserved for amounts in (await totals(store)).values()))
            await asyncio.sleep(0)

    is_over = asyncio.Event()
    looking = asyncio.create_task(look())
    await asyncio.gather(*(store.ledger.roll_up() for _ in range(5)))
    is_over.set()
    await looking
    assert seen
    assert set(seen) == {40 * nanos("0.42")}


async def test_replicas_sum_up_at_once_and_count_nothing_twice(two: Two) -> None:
    stores = [Store(one) for one in two]
    for number in range(60):
        await lived(stores[number % 2], ordered(f"video_{number}"), SENT)
    rounds = [asyncio.create_task(store.ledger.roll_up()) for store in stores for _ in range(6)]
    await asyncio.gather(*rounds)
    assert [amounts.reserved for amounts in (await totals(stores[0])).values()] == [60 * nanos("0.42")]
    assert [amounts.accepted for amounts in (await totals(stores[1])).values()] == [60]


async def test_a_cap_counts_the_same_before_and_after_the_sums(database: Database) -> None:
    store, limits = Store(database), Limits(money_per_day=Decimal(10), money_per_month=Decimal(10))
    await lived(store, ordered("a"), SENT, Accepted(SUBMITTED), DONE)
    await lived(store, ordered("b", created_at=NOW - 86_400), SENT)
    await lived(store, ordered("c", key_id="key_2"))
    team, key = accounts_of("key_1", "key_1", Grant(limits=limits))

    async def counted() -> list[str]:
        bounds: list[tuple[Account, Limit]] = [
            (key, "money_per_day"), (key, "money_per_month"), (team, "money_per_day"),
            (team, "money_per_month"),
        ]
        return [decimal_text(await store.allowances.spent(account, limit, NOW)) for account, limit in bounds]

    assert await counted() == ["0.42", "0.84", "0.84", "1.26"]
    await store.ledger.roll_up()
    assert await counted() == ["0.42", "0.84", "0.84", "1.26"]
    await store.task_save(apply(ordered("c", key_id="key_2"), Cancelled(), NOW))
    assert await counted() == ["0.42", "0.84", "0.42", "0.84"]
    await store.ledger.roll_up()
    assert await counted() == ["0.42", "0.84", "0.42", "0.84"]
    listed = "period, key_id, owner, currency, amount"
    everything = f"select {listed} from spent_periods where amount <> 0 order by 1, 2"  # noqa: S608
    before = await database.read(everything)
    await database.write([Step("delete from spent_periods", ())])
    made = (MIGRATIONS / "0011_spent.sql").read_text("utf-8").split(";")
    await database.write([Step(sql, ()) for sql in made if sql.strip().startswith("insert")])
    assert await database.read(everything) == before, "the migration says the same of what was there"


async def test_each_caller_and_group_has_sums_of_its_own(database: Database) -> None:
    store = Store(database)
    await lived(store, ordered("a", owner="team:video", key_id="key_1"))
    await lived(store, ordered("b", owner="team:video", key_id="key_2", model="other"))
    await lived(store, ordered("c", owner="key_3", key_id="key_3"), SubmitStarted(ONE, ("0.30", "EUR")),
                Accepted(SUBMITTED))
    asked = Asked(start="2027-01-15", end="2027-01-15", owner="team:video", group_by=("key",))
    assert set(await totals(store, asked)) == {("key_1", "USD"), ("key_2", "USD")}
    one = Asked(start="2027-01-15", end="2027-01-15", model="other", group_by=("owner",))
    assert set(await totals(store, one)) == {("team:video", "USD")}
    both = Asked(start="2027-01-15", end="2027-01-15", key_id="key_3")
    assert {key: amounts.reserved for key, amounts in (await totals(store, both)).items()} == {
        ("EUR",): nanos("0.30"), ("USD",): 0,
    }  # it is counted where it was put aside


# --- caps ---------------------------------------------------------------------------------------------

async def tried(store: Store, numbers: Sequence[int], bound: Allowance) -> int:
    """How many of these videos were taken, ordered all at once."""

    async def one(number: int) -> bool:
        try:
            await store.video_add(new(ordered(f"video_{number}")), room=bound)
        except OVER["key", "money_per_day"]:
            return False
        return True

    return sum(await asyncio.gather(*(one(number) for number in numbers)))


async def test_a_race_of_creates_never_passes_a_cap(database: Database) -> None:
    store = Store(database)
    assert await tried(store, range(600), money()) == 23  # 23 * 0.42 = 9.66
    assert await store.allowances.spent(_key(), "money_per_day", NOW) == nanos("9.66")
    assert await database.read("select count(*) from videos") == [(23,)]
    while await store.ledger.roll_up():
        pass
    assert await tried(store, range(600, 620), money()) == 0


async def test_three_replicas_race_for_one_cap(url: str) -> None:
    drivers = [PostgresDatabase(url) for _ in range(3)]
    stores = [Store(one) for one in drivers]

    async def sum_up(store: Store) -> None:
        for _ in range(30):
            await store.ledger.roll_up()

    bound = money(Limits(money_per_month=Decimal("42.00")))

    async def some(place: int) -> int:
        taken = 0
        for number in range(place, 1500, 3):
            with contextlib.suppress(OverMoney):
                await stores[place].video_add(new(ordered(f"video_{number}")), room=bound)
                taken += 1
        return taken

    taken = await asyncio.gather(*(some(place) for place in range(3)), *map(sum_up, stores))
    assert sum(count for count in taken if count is not None) == 100
    assert await stores[0].allowances.spent(_key(), "money_per_month", NOW) == nanos("42.00")
    for one in drivers:
        await one.close()


async def test_what_comes_back_can_be_spent_again(database: Database) -> None:
    store, bound = Store(database), money(Limits(money_per_day=Decimal("0.42")))
    await store.video_add(new(ordered()), room=bound)
    assert await tried(store, [2], bound) == 0
    await store.task_save(apply(ordered(), Cancelled(), NOW))
    assert await tried(store, [3, 4], bound) == 1


async def test_what_nobody_knows_of_stays_spent(database: Database) -> None:
    store, bound = Store(database), money(Limits(money_per_day=Decimal("0.42")))
    failed = Polled(FAILED, 3600, "unknown")
    await lived(store, ordered(), SENT, Accepted(SUBMITTED), failed)
    assert await tried(store, [2], bound) == 0


async def test_a_day_and_a_currency_have_a_cap_of_their_own(database: Database) -> None:
    store, bound = Store(database), money(Limits(money_per_day=Decimal("0.42")))
    await lived(store, ordered("earlier", created_at=NOW - 86_400))
    await lived(store, ordered("euros", reserved_currency="EUR"))
    assert await tried(store, [1, 2], bound) == 1
    a_month = money(Limits(money_per_month=Decimal("0.42")))
    assert await tried(store, [3], money(Limits(money_per_day=Decimal("0.84")))) == 1
    with pytest.raises(OverMoney) as met:
        await store.video_add(new(ordered("video_4")), room=a_month)
    assert met.value.limit == "money_per_month"


async def test_a_team_and_its_keys_are_held_apart(database: Database) -> None:
    store = Store(database)
    grant = Grant(limits=Limits(money_per_day=Decimal(1)), team_limits=Limits(money_per_day=Decimal("1.30")))
    met = []
    for number, key in enumerate(("key_1", "key_1", "key_1", "key_2", "key_2")):
        bound = Allowance(accounts=accounts_of(key, "team:video", grant), at=NOW, has_money=True)
        try:
            task = ordered(f"video_{number}", key_id=key, owner="team:video")
            await store.video_add(new(task), room=bound)
            met.append("taken")
        except OverMoney as error:
            met.append(error.kind)
    assert met == ["taken", "taken", "key", "taken", "team"]


async def test_places_in_line_and_at_vendors_are_counted_over_all_replicas(database: Database) -> None:
    store, limits = Store(database), Limits(max_queued=2, max_in_flight=1)
    queued = money(limits, has_money=False, is_queued=True)
    for number in range(2):
        await store.video_add(new(ordered(f"video_{number}")), room=queued)
    with pytest.raises(OverQueue):
        await store.video_add(new(ordered("video_2")), room=queued)
    flying = money(limits, has_money=False, is_in_flight=True)
    await store.task_save(apply(ordered("video_0"), SENT, NOW), flying)
    with pytest.raises(OverFlight):
        await store.task_save(apply(ordered("video_1"), SENT, NOW), flying)
    await store.video_add(new(ordered("video_2")), room=queued)  # one has left the line
    still = await store.task_get("video_1")
    assert still is not None
    assert still.state == "waiting"


def test_every_limit_of_every_kind_has_a_word_of_its_own() -> None:
    assert {(error.kind, error.limit) for error in OVER.values()} == set(OVER)
    assert all(issubclass(error, OverLimit) for error in OVER.values())


def _key() -> Account:
    return Account("key", "key_1", "key_1", CAPPED)


# --- the stop, and the rule -----------------------------------------------------------------------------

async def test_the_first_who_stops_is_kept_until_somebody_starts(database: Database) -> None:
    stop = Store(database).stop
    assert await stop.get() is None
    await stop.put(Stopped("ada", NOW))
    await stop.put(Stopped("bob", NOW + 1))
    assert await stop.get() == Stopped("ada", NOW)
    await stop.delete()
    assert await stop.get() is None


async def test_the_check_finds_books_that_do_not_add_up(database: Database) -> None:
    store = Store(database)
    await lived(store, ordered(), SENT)
    await lived(store, ordered("video_2"), SENT, Accepted(SUBMITTED), DONE)
    assert not [one for one in await checking.check(database) if "ledger" in one]
    await store.ledger.roll_up()
    assert not [one for one in await checking.check(database) if "ledger" in one]
    forged = Step("update usage_days set accepted = accepted + 1, settled = settled - $1", (nanos("0.43"),))
    await database.write([forged])
    assert [one for one in await checking.check(database) if "ledger" in one] == [
        "a ledger in which a key has other unfinished videos than are stored: key_1",
        "a ledger with less than nothing put aside or settled: key_1",
    ]
