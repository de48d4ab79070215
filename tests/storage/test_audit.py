"""The record of what operators did: whole or not at all with the change it tells, in order, and for how long.

Not held here: which actions there are and who may read them (`tests/api/test_audit.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.storage.audit import COMMAND_LINE, AuditFilters, Entry, recording
from gateway.storage.db import Database, GuardFailed, Step
from gateway.storage.rows import Hold, Page
from gateway.storage.store import Store
from tests.storage.stores import DATABASES, opened

pytestmark = pytest.mark.anyio

NOW = 1_000.0
OLGA = "operator olga (key_1)"
ENTRY = Entry(
    NOW, OLGA, "provider.paused", "one", {"order": None, "tries": 0}, {"order": "pause", "is_on": True},
    "req_1", "key_1", "operator",
)
EVERYTHING = Page(limit=100)


@pytest.fixture(params=DATABASES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(request.param, tmp_path) as database:
        yield database


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def entry(at: float, **more: object) -> Entry:
    return msgspec.structs.replace(ENTRY, at=at, **more)


async def entries(store: Store, **filters: object) -> list[Entry]:
    found = await store.audit.list(msgspec.convert(filters, AuditFilters), EVERYTHING)
    return [recorded.entry for recorded in found]


async def test_an_entry_is_stored_as_it_was_given(store: Store) -> None:
    alone = Entry(NOW + 1, COMMAND_LINE, "key.created", "key_2", None, None, None)
    for one in (ENTRY, alone):
        await store.audit.add(one)
    assert await entries(store) == [alone, ENTRY]


async def test_an_entry_comes_with_its_change_or_not_at_all(store: Store, database: Database) -> None:
    await store.hold_put(Hold(provider="one", action="pause", by=OLGA, at=NOW), (recording(ENTRY),))
    await store.hold_delete("one", (recording(entry(NOW + 1)),))
    assert await entries(store) == [entry(NOW + 1), ENTRY]
    undone = Step("delete from provider_holds where provider = $1", ("nobody",), GuardFailed)
    with pytest.raises(GuardFailed):
        await database.write((recording(entry(NOW + 2)), undone))
    assert len(await entries(store)) == 2


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_meet_without_a_gap_also_within_one_moment(store: Store, newest_first: bool) -> None:
    for number in range(7):
        await store.audit.add(entry(NOW + number // 3, object=str(number)))
    seen: list[str] = []
    position = None
    while True:
        page = Page(limit=2, newest_first=newest_first, after=position)
        found = await store.audit.list(AuditFilters(), page)
        seen += [recorded.entry.object for recorded in found[:2]]
        if len(found) <= 2:
            break
        position = await store.audit.position(found[1].id, None)
        assert position is not None
    assert sorted(seen) == [str(number) for number in range(7)]
    moments = [int(name) // 3 for name in seen]
    assert moments == sorted(moments, reverse=newest_first)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"action": "provider.drained"}, [1]), ({"action": "provider"}, []),
        ({"actor": "key_2"}, [2]), ({"actor": OLGA}, [1, 0]), ({"actor": COMMAND_LINE}, [3]),
        ({"object": "two"}, [3, 2]), ({"created_after": NOW + 1}, [3, 2, 1]),
        ({"created_before": NOW + 1}, [1, 0]),
        ({"created_after": NOW + 1, "created_before": NOW + 2}, [2, 1]),
        ({"key_id": "key_1"}, [1, 0]), ({"key_id": "key_1", "actor": "key_2"}, []),
    ],
)
async def test_a_list_is_narrowed(store: Store, filters: dict[str, object], expected: list[int]) -> None:
    made = [
        ENTRY, entry(NOW + 1, action="provider.drained"),
        entry(NOW + 2, actor="operator otto (key_2)", key_id="key_2", object="two"),
        entry(NOW + 3, actor=COMMAND_LINE, key_id=None, object="two"),
    ]
    for one in made:
        await store.audit.add(one)
    assert await entries(store, **filters) == [made[index] for index in expected]


async def test_a_position_is_only_found_by_who_may_see_it(store: Store) -> None:
    await store.audit.add(ENTRY)
    (recorded,) = await store.audit.list(AuditFilters(), EVERYTHING)
    assert await store.audit.position(recorded.id, None) == (NOW, recorded.id)
    assert await store.audit.position(recorded.id, "key_1") == (NOW, recorded.id)
    assert await store.audit.position(recorded.id, "key_2") is None
    for unknown in ("", "audit_0", "\0"):
        assert await store.audit.position(unknown, None) is None


async def test_what_is_older_is_swept(store: Store) -> None:
    for at in (NOW, NOW + 1, NOW + 2):
        await store.audit.add(entry(at))
    assert await store.audit.sweep(NOW + 1) == 1
    assert await store.audit.sweep(NOW + 1) == 0
    assert [one.at for one in await entries(store)] == [NOW + 2, NOW + 1]
