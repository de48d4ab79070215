"""PostgreSQL that goes away: connections that are cut, a network that swallows, a server that stops.

Held here: a real server, and a proxy in front of it (`pg_wire`). Not held here: what became of a COMMIT
(`test_postgres_fate.py`), what is heard afterwards (`test_postgres_news.py`).
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from gateway.core.facts import SubmitStarted
from gateway.core.tasks import apply
from gateway.storage import postgres as driver
from gateway.storage import postgres_link, postgres_writer
from gateway.storage.db import StorageError, StorageShort
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.store import SUBMITTED_SINCE, TASKS_CLAIM, VERSIONS, Store
from tests import postgres
from tests.conversing import conversing
from tests.core.made import NOW, ONE, make_task
from tests.storage.pg_wire import Order, Wire
from tests.storage.stores import Admin, add, ids, new, stored, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(behind: PostgresDatabase) -> Store:
    return Store(behind)


async def kill(admin: Admin) -> int:
    """End the driver's connections; how many."""
    return len(await admin.fetch("""select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'reelgate' and datname = current_database()"""))


# --- connections that end ---------------------------------------------------------------------------------

async def test_who_is_cut_between_writes_does_not_notice(store: Store, admin: Admin) -> None:
    assert await kill(admin) == 2
    await add(store, make_task("second"))
    assert set(await ids(store)) == {"first", "second"} == await stored(admin)


async def test_a_quiet_driver_connects_again_by_itself(
    store: Store, behind: PostgresDatabase, wire: Wire, admin: Admin
) -> None:
    wire.is_refusing = True
    await kill(admin)
    await until(lambda: behind.trouble is not None)
    with pytest.raises(StorageShort, match=r"cannot reach PostgreSQL at 127\.0\.0\.1"):
        await add(store, make_task("second"))
    with pytest.raises(StorageShort):  # not only what is new
        await store.task_save(apply(make_task("first"), SubmitStarted(ONE), NOW))
    with pytest.raises(StorageError, match=r"cannot re(ad|ach)"):
        await store.ready()
    wire.is_refusing = False
    await until(lambda: behind.trouble is None)
    await add(store, make_task("third"))
    assert set(await ids(store)) == {"first", "third"}


async def test_who_is_cut_amid_a_batch_has_changed_nothing(
    store: Store, behind: PostgresDatabase, admin: Admin
) -> None:
    lock = admin.transaction()
    await lock.start()
    await admin.execute("lock table video_requests")
    writing = [asyncio.ensure_future(store.video_add(new(make_task(f"v{n}")))) for n in range(3)]
    async with asyncio.timeout(60):
        while not await admin.fetchval("select count(*) from pg_locks where not granted"):
            continue
    await kill(admin)
    results = await asyncio.gather(*writing, return_exceptions=True)
    await lock.rollback()
    assert [type(result) for result in results] == [StorageShort] * 3
    await add(store, make_task("v1"))
    assert await stored(admin) == {"first", "v1"}


async def test_who_is_cut_before_a_batch_begins_does_not_notice(store: Store, wire: Wire) -> None:
    left = [Order.LOSE, Order.DEAFEN]

    def at_begin(message: bytes) -> Order:
        return left.pop() if left and message[5:10] == b"begin" else Order.PASS

    wire.decide = at_begin
    await add(store, make_task("second"))
    assert (left, set(await ids(store))) == ([], {"first", "second"})
    left += [Order.LOSE] * 10  # not for ever
    with pytest.raises(StorageShort, match="nothing changed"):
        await add(store, make_task("third"))


async def test_a_network_that_swallows_everything_ends_a_write(
    store: Store, behind: PostgresDatabase, wire: Wire, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.decide = lambda message: Order.PASS if message[:1] != b"Q" else hole(wire)
    with monkeypatch.context() as impatient:
        impatient.setattr(postgres_writer, "BATCH_SECONDS", 0.2)
        impatient.setattr(postgres_link, "CONNECT_SECONDS", 0.2)
        with pytest.raises(StorageShort, match=r"nothing changed|cannot use|cannot reach"):
            async with asyncio.timeout(60):
                await add(store, make_task("second"))
    wire.may_pass.set()
    wire.decide = lambda _message: Order.PASS
    wire.cut()
    await until(lambda: behind.trouble is None)
    assert await stored(admin) == {"first"}


def hole(wire: Wire) -> Order:
    """From this message on nothing comes back."""
    wire.may_pass.clear()
    return Order.PASS


async def test_a_network_that_swallows_everything_ends_a_read(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = PostgresDatabase(wire.url)
    with monkeypatch.context() as impatient:
        impatient.setattr(driver, "READ_SECONDS", 1.0)  # a connection keeps what it was made with
        await database.read("select 1")
        wire.may_pass.clear()
        with pytest.raises(StorageError, match="no answer in time"):
            async with asyncio.timeout(60):
                await database.read("select 1")
    wire.may_pass.set()
    assert await database.read("select 1") == [(1,)]
    await database.close()


async def test_a_read_survives_a_cut(store: Store, wire: Wire, admin: Admin) -> None:
    wire.cut()
    assert await ids(store) == ["first"]
    reads = [asyncio.ensure_future(ids(store)) for _ in range(5)]
    await asyncio.sleep(0)
    await kill(admin)
    assert await asyncio.gather(*reads) == [["first"]] * 5
    wire.is_refusing = True
    wire.cut()
    with pytest.raises(StorageError, match=r"cannot re(ad|ach)"):
        await ids(store)
    wire.is_refusing = False
    assert await ids(store) == ["first"]


async def test_who_stops_waiting_for_a_read_harms_nobody(store: Store, behind: PostgresDatabase) -> None:
    for _ in range(20):
        reading = asyncio.ensure_future(behind.read("select pg_sleep(60)"))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    assert await ids(store) == ["first"]


# --- servers that stop ------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_server_that_stops_and_comes_back(server: postgres.Server, how: signal.Signals) -> None:
    database = PostgresDatabase(server.url())
    await database.migrate()
    store = Store(database)
    await add(store, make_task("first"))
    server.stop(how)
    await until(lambda: database.trouble is not None)
    with pytest.raises(StorageShort, match="cannot reach"):
        await add(store, make_task("second"))
    with pytest.raises(StorageError):
        await ids(store)
    server.start()
    await until(lambda: database.trouble is None)
    await add(store, make_task("third"))
    assert set(await ids(store)) == {"first", "third"}
    server.stop()
    await database.close()


async def test_what_is_missing_at_the_start_is_said_without_the_password() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"postgresql://me:sesame@127.0.0.1:{probe.getsockname()[1]}/reelgate"
        database = PostgresDatabase(nowhere)
        with pytest.raises(StorageError) as caught:
            await database.migrate()
        assert re.search(r"cannot reach PostgreSQL at 127.0.0.1:\d+/reelgate: .*; check", str(caught.value))
        with pytest.raises(StorageShort, match="cannot reach"):
            await Store(database).hold_delete("one")
        await database.close()
    for bad in ("postgresql://me:se/same@here/db", "postgresql://me:sesame@here:port/db"):
        with pytest.raises(StorageError) as caught:
            await PostgresDatabase(bad).migrate()
        assert "same" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("sslmode=strict", r"\[store\] url cannot be used: `sslmode` parameter must be one of"),
        ("sslmode=verify-full", r"\[store\] url cannot be used: root certificate file .* does not exist"),
        ("channel_binding=require", r'unrecognized configuration parameter "channel_binding"; take'),
        ("database=nowhere", r"3D000; make that database"),
        ("user=nobody_here", r"28000; check user and password"),
    ],
)
async def test_what_a_url_asks_in_vain_is_said(
    query: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # with no certificates
    async with postgres.database() as url:
        _, _, where = url.rpartition("@")
        server, _, name = where.partition("/")
        database = PostgresDatabase(f"postgresql://{server}?user=postgres&database={name}&{query}")
        with pytest.raises(StorageError, match=told):
            await database.migrate()


async def test_a_certificate_that_nobody_vouches_for_is_no_fault_of_the_url(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"S")
        with suppress(OSError):  # it hangs up
            await writer.start_tls(tls)
        writer.close()

    async with conversing(greet) as port:
        asked = f"sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"
        with pytest.raises(StorageShort, match=r"cannot reach .*certificate verify failed"):
            await PostgresDatabase(f"postgresql://me:sesame@127.0.0.1:{port}/d?{asked}").migrate()


async def test_a_pooler_that_gives_a_statement_to_another_connection_is_told(
    behind: PostgresDatabase
) -> None:
    with pytest.raises(StorageError, match="statement_cache_size = 0"):
        await behind.read("execute made_elsewhere")


async def test_closing_without_a_server_ends(wire: Wire) -> None:
    database = PostgresDatabase(wire.url)
    await add(Store(database), make_task())
    wire.is_refusing = True
    wire.cut()
    writing = asyncio.ensure_future(Store(database).video_add(new(make_task("second"))))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await database.close()
    with pytest.raises(StorageShort):
        await writing
    for after in (Store(database).hold_delete("one"), Store(database).ready()):
        with pytest.raises(StorageError, match="closed"):
            await after


# --- how the server goes about it -------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("statement", "args", "index"),
    [
        (TASKS_CLAIM, ("mine", "dead", 5), "videos_by_replica"),
        (VERSIONS, ("mine", "", 5), "videos_by_replica"),
        (SUBMITTED_SINCE, (NOW,), "events_of_submissions"),
    ],
)
async def test_history_slows_nobody_down(
    url: str, statement: str, args: tuple[str | float, ...], index: str
) -> None:
    database = PostgresDatabase(f"{url}?enable_seqscan=off")
    lines = [str(row[0]) for row in await database.read(f"explain {statement}", args)]
    assert any(index in line for line in lines), lines
    assert not [line for line in lines if "Seq Scan" in line]
    await database.close()
