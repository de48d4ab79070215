"""What a replica's row tells the others of providers: kept as told, and read whoever told it.

Not held here: what becomes of it (`tests/replicas/test_reports.py`), who lives (`test_postgres`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.core.reports import Report
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.replicas import ReplicaRow
from gateway.storage.store import Store
from tests.storage.stores import Admin

pytestmark = pytest.mark.anyio

MET = {
    "one": Report(
        state="paused", why="auth", submits_open=True, polls_open=True, refuses_us=True, last_error="auth",
        in_flight=3, waiting=2, unknown=1,
    ),
    "two": Report(in_flight=4),
    "three": Report(),
}


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """With one replica, which has not beaten yet."""
    database = PostgresDatabase(url)
    made = Store(database)
    await made.replicas.join("r1", "here:1", "engine", "1")
    yield made
    await database.close()


async def _row(store: Store) -> ReplicaRow:
    (row,) = await store.replicas.living()
    return row


async def test_what_is_told_with_a_beat_is_read_by_the_others(store: Store) -> None:
    before = await _row(store)
    assert (before.met, before.following, before.report("one")) == ({}, {}, Report())
    await store.replicas.beat("r1", MET)
    row = await _row(store)
    assert row.met == MET
    assert row.following == {"one": 3, "two": 4, "three": 0}
    assert [row.report(name) for name in (*MET, "unheard of")] == [*MET.values(), Report()]
    await store.replicas.beat("r1", {})
    assert (await _row(store)).met == {}


async def test_of_a_version_that_does_not_tell_its_jobs_are_known(store: Store, admin: Admin) -> None:
    await store.replicas.beat("r1", MET)
    await admin.execute("update replicas set met = null")
    row = await _row(store)
    assert [row.report(name) for name in MET] == [
        Report(in_flight=3), Report(in_flight=4), Report(),
    ]  # fmt: skip


@pytest.mark.parametrize("told", [
    '{"one": {"state": "asleep"}}', '{"one": {"waiting": "many"}}', '["one"]', "nothing",
])  # fmt: skip
async def test_what_this_version_does_not_understand_is_as_if_not_told(
    store: Store, admin: Admin, told: str
) -> None:
    await store.replicas.beat("r1", MET)
    await admin.execute("update replicas set met = $1", told)
    assert (await _row(store)).report("one") == Report(in_flight=3)


async def test_what_a_newer_version_adds_is_passed_over(store: Store, admin: Admin) -> None:
    await store.replicas.beat("r1", MET)
    await admin.execute("""update replicas set met = '{"one": {"state": "open", "mood": "bad"}}'""")
    assert (await _row(store)).report("one") == Report(state="open", in_flight=3)


async def test_silence_is_counted_by_the_clock_of_the_database(store: Store, admin: Admin) -> None:
    await admin.execute("update replicas set beat_at = beat_at - 1000")
    assert 1000 <= (await _row(store)).silent_seconds < 2000
    await store.replicas.beat("r1", {})
    assert (await _row(store)).silent_seconds < 1000
