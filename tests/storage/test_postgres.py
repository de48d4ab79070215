"""What only the PostgreSQL driver does: batches as few statements, several drivers on one database.

Not held here: the contract that it shares with SQLite (`tests/contract/test_store.py`), cut connections and
servers that stop (`test_postgres_server.py`), how writes become statements (`test_postgres_batch.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from itertools import chain
from typing import TypeAlias

import pytest
from msgspec.structs import replace

from gateway.core.facts import SubmitStarted
from gateway.core.render_times import TimesRow
from gateway.core.states import Task
from gateway.core.tasks import apply
from gateway.storage import postgres_link, postgres_writer
from gateway.storage.db import (
    Duplicate,
    GuardFailed,
    NoRoom,
    Step,
    StorageBusy,
    StorageError,
    StorageShort,
    migrations,
)
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.replicas import Outlived, Room
from gateway.storage.rows import Hold, Idempotency, KeyRow
from gateway.storage.store import Store
from tests import postgres
from tests.core.made import NOW, ONE, make_task
from tests.storage.pg_wire import Wire
from tests.storage.stores import Admin, Two, add, ended, ids, new, sizes, until

pytestmark = pytest.mark.anyio

Both: TypeAlias = tuple[Store, Store]


@pytest.fixture
async def database(url: str) -> AsyncIterator[PostgresDatabase]:
    one = PostgresDatabase(url)
    yield one
    await one.close()


@pytest.fixture
def store(database: PostgresDatabase) -> Store:
    return Store(database)


@pytest.fixture
def both(two: Two) -> Both:
    """Two replicas' stores on one database."""
    return Store(two[0]), Store(two[1])


def kinds(results: list[object]) -> dict[str, int]:
    """How many results of each type."""
    names = [type(result).__name__ for result in results]
    return {name: names.count(name) for name in sorted(set(names))}


# --- few round trips --------------------------------------------------------------------------------------

async def trips(wire: Wire, *writes: Awaitable[object]) -> int:
    """How many round trips these take when they come at once."""
    before = wire.round_trips
    await asyncio.gather(*writes)
    return wire.round_trips - before


async def test_what_waits_is_one_transaction_of_one_statement_for_each_kind_of_write(url: str) -> None:
    async with Wire(url).open() as wire:
        database = PostgresDatabase(wire.url)
        store = Store(database)
        counts: list[tuple[int, ...]] = []
        for number in range(2):  # what is done for the first time is prepared as well
            made = [make_task(f"v{number}{place:02}") for place in range(64)]
            over = ended(f"old{number}")
            await add(store, over, a="1")
            keys = [Idempotency(f"k{task.id}", "print", task.id) for task in made]
            alike = await trips(wire, *map(store.video_add, map(new, made), keys))
            saves = [store.task_save(apply(task, SubmitStarted(ONE), NOW)) for task in made]
            labelled = store.video_add(new(make_task(f"new{number}"), {"a": "1"}))
            three = await trips(wire, *saves, store.video_delete(over.id, "key_1"), labelled)
            single = await trips(wire, store.video_add(new(make_task(f"more{number}"))))
            refused = await trips(wire, store.video_add(new(make_task(f"last{number}")), keys[0]))
            counts.append((alike, three, single, refused))
        await database.close()
    # Begin, one statement for each kind, commit; where everything is refused, roll back.
    # Whoever deletes looks first whether there is a file, apart; who is refused asks who holds the key.
    assert counts[1] == (3, 5 + 2, 3, 3 + 1)


async def test_a_place_at_a_gate_takes_few_round_trips(url: str) -> None:
    room = Room("one", 5, 5, 60.0)
    async with Wire(url).open() as wire:
        database = PostgresDatabase(wire.url)
        store = Store(database)
        made = [make_task(f"v{number}") for number in range(2)]
        await add(store, *made)
        counts = [
            await trips(wire, store.task_save(apply(task, SubmitStarted(ONE), NOW), room)) for task in made
        ]
        await database.close()
    assert counts[1] <= 7  # begin, the gate with the video and its event, four for cap and rate, commit


# --- who wins ---------------------------------------------------------------------------------------------

async def test_what_one_write_does_wrong_is_its_own_affair(store: Store) -> None:
    await add(store, make_task("taken"))
    names = [f"v{number}" for number in range(10)]
    names[3] = names[7] = "taken"
    tries = [store.video_add(new(make_task(name), {"a": "1"}), Idempotency(f"k{number}", "p", name))
             for number, name in enumerate(names)]
    results: list[object] = list(await asyncio.gather(*tries, return_exceptions=True))
    assert kinds(results) == {"Duplicate": 2, "NoneType": 8}
    assert [number for number, result in enumerate(results) if result is not None] == [3, 7]
    assert set(await ids(store)) == set(names)
    assert await store.idempotency_get("key_1", "k3") is None


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800"])
async def test_a_text_that_cannot_be_stored_is_refused_alone(store: Store, text: str) -> None:
    tries = [store.video_add(new(make_task("good"))), store.video_add(new(make_task("bad", model=text))),
             store.video_add(new(make_task("fine")))]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert results[0] is results[2] is None
    assert isinstance(results[1], StorageError)
    assert not isinstance(results[1], StorageBusy)
    assert set(await ids(store)) == {"good", "fine"}
    with pytest.raises(StorageError):
        await store.idempotency_get("key_1", text)
    await store.ready()


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, "many"])
async def test_a_number_that_cannot_be_stored_is_refused_alone(store: Store, number: object) -> None:
    tries = [store.video_add(new(make_task("good"))),
             store.video_add(new(make_task("bad", progress=number)))]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert results[0] is None
    assert type(results[1]) is StorageError
    assert await ids(store) == ["good"]


async def test_two_drivers_and_one_version(both: Both) -> None:
    made = [make_task(f"v{number:02}") for number in range(40)]
    await add(both[0], *made)
    saves = [[store.task_save(apply(task, SubmitStarted(ONE), NOW + at)) for task in made]
             for at, store in enumerate((*both, both[0]))]
    results = await asyncio.gather(*chain(*saves), return_exceptions=True)
    assert kinds(list(results)) == {"GuardFailed": 80, "Task": 40}
    for number, task in enumerate(made):
        (saved,) = [result for result in results[number::40] if isinstance(result, Task)]
        assert await both[1].task_get(task.id) == saved
        events = await both[1].events_get(task.id, "key_1")
        assert [event.at for event in events[1:]] == [saved.submitted_at]


async def test_two_drivers_and_one_idempotency_key(both: Both) -> None:
    tries = [both[number % 2].video_add(new(make_task(f"v{number:02}")), Idempotency(
        f"k{number // 4}", "print", f"v{number:02}")) for number in range(40)]
    holders = await asyncio.gather(*tries)
    assert holders.count(None) == 10
    stored = await ids(both[0])
    assert len(stored) == 10
    for number, holder in enumerate(holders):
        name = holder.video_id if holder is not None else f"v{number:02}"
        assert name in stored
        assert int(name[1:]) // 4 == number // 4


@pytest.mark.parametrize(("room", "places"), [
    (Room("one", 5, None, 60.0), 5), (Room("one", None, 7, 60.0), 7), (Room("one", 9, 4, 60.0), 4),
])
async def test_a_cap_or_rate_holds_over_two_drivers(both: Both, room: Room, places: int) -> None:
    made = [make_task(f"v{number:02}") for number in range(30)]
    await add(both[0], *made)
    saves = [both[number % 2].task_save(apply(task, SubmitStarted(ONE), NOW), room)
             for number, task in enumerate(made)]
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert kinds(list(results)) == {"NoRoom": 30 - places, "Task": places}
    found = [await both[0].task_get(task.id) for task in made]
    assert [task is not None and task.state == "submitting" for task in found].count(True) == places


async def test_gates_taken_in_any_order_do_not_lock_each_other_out(both: Both) -> None:
    made = [make_task(f"v{number:02}") for number in range(60)]
    await add(both[0], *made)
    rooms = [Room(f"p{number % 5}", 100, None, 60.0) for number in range(60)]
    saves = [both[number % 2].task_save(apply(task, SubmitStarted(ONE), NOW), room)
             for number, (task, room) in enumerate(zip(made, reversed(rooms), strict=True))]
    assert kinds(list(await asyncio.gather(*saves))) == {"Task": 60}


async def test_a_write_sees_what_those_before_it_in_its_batch_wrote(database: PostgresDatabase) -> None:
    put = "insert into provider_holds (provider, action, by_whom, at) values ($1, $2, $3, $4)"
    steps = [
        [Step(put, ("one", "pause", "a", 1.0)),
         Step("delete from provider_holds where provider = $1", ("one",)),
         Step(put, ("one", "drain", "b", 2.0))],
        [Step("update provider_holds set at = at + 1 where provider = $1", ("one",), GuardFailed)],
        [Step("update provider_holds set at = at * 10 where provider = $1", ("one",), GuardFailed)],
    ]
    await asyncio.gather(*map(database.write, steps[:1]))
    await asyncio.gather(*map(database.write, steps[1:]))
    rows = await database.read("select action, by_whom, at from provider_holds")
    assert rows in ([("drain", "b", 30.0)], [("drain", "b", 21.0)])


async def test_what_a_guard_says_and_what_a_step_returns(database: PostgresDatabase, store: Store) -> None:
    await store.replicas.join("r1", "here:1", "all", "1")
    with pytest.raises(Outlived):
        await store.replicas.beat("r2", {})
    await add(store, make_task("v1"), make_task("v2"))
    rows = await database.write([
        Step("update videos set priority = $1 where owner = $2 returning id", (7, "key_1")),
        Step("select priority, count(*) from videos group by priority", (), NoRoom),
    ])
    assert rows == [("v1",), ("v2",), (7, 2)]
    with pytest.raises(NoRoom):
        await database.write([
            Step("update videos set priority = $1 where id = $2", (8, "v1")),
            Step("select 1 from videos where priority = $1 for update", (9,), NoRoom),
        ])
    assert await database.read("select distinct priority from videos") == [(7,)]


async def test_render_times_are_added_up(store: Store) -> None:
    kind = ("one", "slug", 5, 1)
    await store.replicas.render_times_add([TimesRow(*kind, 1, 2.0), TimesRow(*kind, 2, 4.0)])
    await store.replicas.render_times_fade([kind])
    await store.replicas.render_times_add([TimesRow(*kind, bin_, 1.0) for bin_ in (2, 3, 3)])
    rows = {row.bin: row.count for row in await store.replicas.render_times()}
    assert rows == {1: 1.0, 2: 3.0, 3: 2.0}


async def test_too_many_that_wait_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_writer, "QUEUE_MAX", 10)
    monkeypatch.setattr(postgres_writer, "BATCH_MAX", 3)
    key = KeyRow(id="k", name="n", role="caller", digest="d", hint="h", created_at=NOW)
    keys = [replace(key, id=f"k{number}", digest=f"d{number}") for number in range(15)]
    results = await asyncio.gather(*map(store.keys.add, keys), return_exceptions=True)
    assert kinds(list(results)) == {"NoneType": 10, "StorageBusy": 5}


async def test_what_was_handed_over_is_committed_before_it_closes(url: str, store: Store) -> None:
    other = PostgresDatabase(url)
    writing = [asyncio.ensure_future(Store(other).video_add(new(make_task(f"v{n}")))) for n in range(5)]
    await asyncio.sleep(0)
    assert other.waiting == 5
    await other.close()
    await asyncio.gather(*writing)
    assert len(await ids(store)) == 5


# --- what the server makes of it --------------------------------------------------------------------------

async def raising(admin: Admin, state: str, times: int) -> None:
    """The next `times` new videos are refused with this SQLSTATE, by the server itself."""
    await admin.execute(f"""
        create or replace function refuse() returns trigger language plpgsql as $$ begin
            if nextval('refusals') <= {times} then
                raise exception 'refused' using errcode = '{state}'; end if;
            return new; end $$;
        drop sequence if exists refusals; create sequence refusals;
        create or replace trigger refuse before insert on video_requests
            for each row execute function refuse()
    """)


async def relent(admin: Admin) -> None:
    await admin.execute("drop trigger refuse on video_requests; drop function refuse; drop sequence refusals")


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_what_was_undone_for_anothers_sake_is_repeated(
    store: Store, admin: Admin, state: str
) -> None:
    await raising(admin, state, 2)
    await add(store, make_task())
    await raising(admin, state, 1_000)
    with pytest.raises(StorageShort):
        await add(store, make_task("other"))
    await relent(admin)
    assert await ids(store) == ["video_1"]


@pytest.mark.parametrize("state", ["53100", "58030", "XX000"])
async def test_a_full_disk_refuses_everybody_until_a_commit_succeeds(
    database: PostgresDatabase, store: Store, admin: Admin, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_writer, "TRY_SECONDS", 0.01)
    await raising(admin, state, 1)
    results = await asyncio.gather(
        *(store.video_add(new(make_task(f"v{n}"))) for n in range(3)), return_exceptions=True
    )
    assert kinds(list(results)) == {"StorageShort": 3}
    assert database.trouble is not None
    await until(lambda: database.trouble is None)
    await add(store, make_task("v9"))
    await relent(admin)
    assert await ids(store) == ["v9"]


async def test_what_is_answered_is_on_disk_whatever_the_server_is_set_to(
    url: str, store: Store, admin: Admin
) -> None:
    name = url.rpartition("/")[2]
    await admin.execute(f'alter database "{name}" set synchronous_commit = off')
    await admin.execute("""create function check_it() returns trigger language plpgsql as $$ begin
        if current_setting('synchronous_commit') <> 'on' then raise exception 'not on disk'; end if;
        return new; end $$;
        create trigger check_it before insert on videos for each row execute function check_it()""")
    try:
        await add(store, make_task())
    finally:
        await admin.execute("drop trigger check_it on videos; drop function check_it")
        await admin.execute(f'alter database "{name}" reset synchronous_commit')


async def test_several_processes_may_migrate_at_once() -> None:
    async with postgres.database(is_empty=True) as url:
        some = [PostgresDatabase(url) for _ in range(4)]
        counts = await asyncio.gather(*(one.migrate() for one in some))
        assert sum(counts) == len(migrations())
        await add(Store(some[0]), make_task())
        assert await ids(Store(some[1])) == ["video_1"]
        for one in some:
            await one.close()


async def test_without_prepared_statements(url: str) -> None:
    database = PostgresDatabase(url, statement_cache_size=0)
    assert await database.migrate() == 0
    store = Store(database)
    made = [make_task(f"v{number}") for number in range(5)]
    await asyncio.gather(*(store.video_add(new(task, {"a": "1"})) for task in made))
    room = Room("one", 3, None, 60.0)
    saves = [store.task_save(apply(task, SubmitStarted(ONE), NOW), room) for task in made]
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert kinds(list(results)) == {"NoRoom": 2, "Task": 3}
    await store.hold_put(Hold(provider="one", action="pause", by="key_1", at=NOW))
    assert (await sizes(database))["videos"] == 5
    await database.close()


async def of_nothing(database: PostgresDatabase) -> None:
    async with database.snapshot() as read:
        await read("select nothing", ())


async def test_a_snapshot_stays_as_it_was(database: PostgresDatabase, store: Store) -> None:
    await add(store, make_task("v1"))
    async with database.snapshot() as read:
        assert await read("select count(*) from videos where owner = $1", ("key_1",)) == [(1,)]
        await add(store, make_task("v2"))
        assert await read("select count(*) from videos", ()) == [(1,)]
    with pytest.raises(StorageError, match="cannot read"):
        await of_nothing(database)
    assert await database.flaws() == []


async def test_a_server_that_is_too_old_is_refused(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "OLDEST_MAJOR", 99)
    with pytest.raises(StorageError, match="version 99 or newer"):
        await database.migrate()


async def test_a_duplicate_of_another_driver(both: Both) -> None:
    tries = [store.video_add(new(make_task("v1"))) for store in both]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(result) for result in results].count(Duplicate) == 1
