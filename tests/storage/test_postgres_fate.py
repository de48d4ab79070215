"""What became of a COMMIT whose answer was lost: it is found out, and until then nothing is told or shown.

Not held here: connections that are lost otherwise (`test_postgres_server.py`).
"""

from __future__ import annotations

import asyncio
import signal

import asyncpg
import pytest

from gateway.core.facts import SubmitStarted
from gateway.core.tasks import apply
from gateway.storage import postgres as driver
from gateway.storage import postgres_transaction, postgres_writer
from gateway.storage.db import StorageBusy, StorageError, StorageShort
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.store import Store
from tests import postgres
from tests.core.made import NOW, ONE, make_task
from tests.storage.pg_wire import Order, Wire, at_commit
from tests.storage.stores import Admin, Two, add, ids, new, stored, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(behind: PostgresDatabase) -> Store:
    return Store(behind)


async def test_a_commit_whose_answer_is_lost_took_place(store: Store, wire: Wire, admin: Admin) -> None:
    told: list[str] = []
    store.listen(lambda task, _events: told.append(task.id))
    wire.decide = at_commit(Order.DEAFEN)
    tries = [store.video_add(new(make_task("v1"))), store.video_add(new(make_task("v2"))),
             store.video_add(new(make_task("first")))]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert results[:2] == [None, None]
    assert isinstance(results[2], StorageError)
    assert await stored(admin) == {"first", "v1", "v2"}
    assert sorted(told) == ["v1", "v2"]


async def test_a_save_whose_answer_is_lost_took_place_and_the_other_of_its_version_did_not(
    store: Store, wire: Wire
) -> None:
    wire.decide = at_commit(Order.DEAFEN)
    changes = [apply(make_task("first"), SubmitStarted(ONE), NOW + number) for number in range(2)]
    results = await asyncio.gather(*map(store.task_save, changes), return_exceptions=True)
    saved = await store.task_get("first")
    assert [result for result in results if not isinstance(result, Exception)] == [saved]


async def test_a_commit_that_never_arrived_changed_nothing(
    store: Store, behind: PostgresDatabase, wire: Wire, admin: Admin
) -> None:
    told: list[str] = []
    store.listen(lambda task, _events: told.append(task.id))
    wire.decide = at_commit(Order.LOSE)
    changes = [apply(make_task("first"), SubmitStarted(ONE), NOW + number) for number in range(2)]
    results = await asyncio.gather(*map(store.task_save, changes), return_exceptions=True)
    # Neither took place, so the one that lost to the other may not say that somebody else was faster.
    assert [type(result) for result in results] == [StorageShort] * 2
    assert told == []
    assert await store.task_get("first") == make_task("first")
    await until(lambda: behind.trouble is None)
    await add(store, make_task("second"))
    assert await stored(admin) == {"first", "second"}


async def test_while_a_commit_is_under_way_nobody_is_told_anything(
    store: Store, behind: PostgresDatabase, wire: Wire, admin: Admin
) -> None:
    wire.decide = at_commit(Order.HOLD)
    writing = asyncio.ensure_future(store.video_add(new(make_task("second"))))
    await wire.held.wait()
    await until(lambda: behind.trouble is not None)
    reading = asyncio.ensure_future(ids(store))
    async with asyncio.timeout(60):  # until the new connection waits for the old transaction
        while not await admin.fetchval("select count(*) from pg_locks where not granted"):
            continue
    assert (writing.done(), reading.done(), behind.waiting) == (False, False, 1)
    assert "whether the last writes took place" in str(behind.trouble)
    with pytest.raises(StorageShort):
        await add(store, make_task("third"))
    wire.release.set()
    assert await writing is None
    assert set(await reading) == {"first", "second"}
    await until(lambda: behind.trouble is None)


@pytest.mark.parametrize(("order", "is_there"), [(Order.DEAFEN, True), (Order.LOSE, False)])
async def test_a_fate_that_cannot_be_found_out_is_said_to_be_unknown(
    store: Store, behind: PostgresDatabase, wire: Wire, monkeypatch: pytest.MonkeyPatch,
    order: Order, is_there: bool,
) -> None:
    monkeypatch.setattr(postgres_writer, "FATE_SECONDS", 0.1)
    monkeypatch.setattr(driver, "FATE_SECONDS", 0.1)
    doubted: list[str] = []
    store.doubt(lambda task, _events: doubted.append(task.id))
    decide = at_commit(order)

    def then_refuse(message: bytes) -> Order:
        found = decide(message)
        wire.is_refusing = found is not Order.PASS
        return found

    wire.decide = then_refuse
    with pytest.raises(StorageError, match="whether the write took place is unknown") as caught:
        await add(store, make_task("second"))
    assert not isinstance(caught.value, StorageBusy)
    assert doubted == ["second"]
    with pytest.raises(StorageError, match=r"cannot re(ad|ach)"):
        await ids(store)
    wire.is_refusing = False
    await until(lambda: behind.trouble is None)
    assert ("second" in await ids(store)) is is_there


async def test_who_is_frozen_amid_a_batch_keeps_no_locks_and_finds_out_that_it_lost(
    two: Two, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_transaction, "IDLE_MS", 100)
    frozen = PostgresDatabase(wire.url)
    slow, quick = Store(frozen), Store(two[0])
    await add(slow, make_task("first"))
    wire.decide = at_commit(Order.HOLD)
    saving = asyncio.ensure_future(slow.task_save(apply(make_task("first"), SubmitStarted(ONE), NOW)))
    await wire.held.wait()
    saved = await quick.task_save(apply(make_task("first"), SubmitStarted(ONE), NOW + 1))
    wire.release.set()
    with pytest.raises(StorageShort, match="nothing changed"):
        await saving
    assert await slow.task_get("first") == saved
    await frozen.close()


async def test_a_transaction_id_that_a_crash_gives_again_proves_nothing(server: postgres.Server) -> None:
    """The server forgets a transaction, and another of the same id is committed before anybody asks."""
    direct = server.url()
    migrating = PostgresDatabase(direct)
    await migrating.migrate()
    await migrating.close()
    async with Wire(direct).open() as wire:
        database = PostgresDatabase(wire.url)
        store = Store(database)
        await add(store, make_task("first"))
        watching = await asyncpg.connect(direct)
        await watching.execute("checkpoint")
        wire.decide = at_commit(Order.HOLD)
        writing = asyncio.ensure_future(store.video_add(new(make_task("lost"))))
        await wire.held.wait()
        wire.is_refusing = True
        ours = await watching.fetchval("select max(backend_xid::text::bigint) from pg_stat_activity")
        watching.terminate()
        server.stop(signal.SIGQUIT)
        server.start()
        another = await asyncpg.connect(direct)
        theirs = None
        while theirs is None or theirs < ours:
            theirs = await another.fetchval("select pg_current_xact_id()::text::bigint")
        assert await another.fetchval("select pg_xact_status($1::text::xid8)", str(ours)) == "committed"
        wire.is_refusing = False
        with pytest.raises(StorageShort, match="nothing changed"):
            await writing
        assert await ids(store) == ["first"]
        await another.close()
        await database.close()
