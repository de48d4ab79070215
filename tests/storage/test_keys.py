"""Callers' keys on every database: found by each of their secrets until it ends, listed, carried over.

Not held here: what a key is let through to (`tests/api/test_keys.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from gateway.core.grants import Grant, Limits
from gateway.storage.db import MIGRATIONS, Database, Duplicate, GuardFailed, Step
from gateway.storage.keys import GOOD_MAX, Keys
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.rows import KeyRow, Page
from gateway.storage.sqlite import SqliteDatabase
from tests import postgres
from tests.core.made import NOW
from tests.storage.stores import DATABASES, opened

pytestmark = pytest.mark.anyio

KEY: Final = KeyRow(id="key_1", name="team", role="caller", digest="d1", hint="wxyz", created_at=NOW)
FULL: Final = replace(
    KEY, scopes=("files", "videos:read"), team="red", expires_at=NOW + 100, grant=Grant(
        providers=("one",), models=("m", "n"),
        limits=Limits(max_queued=3, money_per_day=Decimal("0.000000001"), currency="EUR"),
    ),
)
FRESH: Final = replace(KEY, digest="d2", hint="abcd")
# As the version before writes and finds one; SQL of that version, so nothing of this one's is imported.
BEFORE_ADD: Final = """insert into keys (id, name, role, digest, hint, created_at)
    values ($1, $2, $3, $4, $5, $6)"""
BEFORE_FIND: Final = "select id from keys where digest = $1 and revoked_at is null"
BEFORE: Final = ("key_1", "team", "caller", "d1", "wxyz", NOW)


@pytest.fixture(params=DATABASES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


async def found(keys: Keys, now: float = NOW) -> list[str]:
    """The secrets that a caller may come with."""
    good = [digest for digest in ("d1", "d2", "d3") if await keys.find(digest, now) is not None]
    assert set(good) == await keys.good(("d1", "d2", "d3", "none"), now)
    return good


async def test_everything_of_a_key_comes_back_but_its_digest_only_where_it_was_known(keys: Keys) -> None:
    await keys.add(FULL)
    assert await keys.find("d1", NOW) == FULL
    assert await keys.get("key_1", NOW) == replace(FULL, digest="")
    assert await keys.list(Page(limit=5), NOW) == [replace(FULL, digest="")]
    assert [await keys.get(key_id, NOW) for key_id in ("key_2", "", "a\0b")] == [None] * 3


async def test_a_key_ends_at_its_time_and_is_still_listed(keys: Keys) -> None:
    await keys.add(FULL)
    assert (await found(keys, NOW + 99), await found(keys, NOW + 100)) == (["d1"], [])
    assert await keys.get("key_1", NOW + 100) is not None
    assert not await keys.rotate(replace(FULL, digest="d2"), NOW + 100, 60.0)


async def test_of_two_secrets_each_is_good_until_the_overlap_is_over(keys: Keys) -> None:
    await keys.add(KEY)
    assert await keys.rotate(FRESH, NOW, 60.0)
    assert await keys.find("d1", NOW + 59) == KEY
    assert await keys.find("d2", NOW + 59) == FRESH
    assert await found(keys, NOW + 60) == ["d2"]
    seen = await keys.get("key_1", NOW + 1)
    assert seen == replace(FRESH, digest="", overlap_until=NOW + 60)
    assert await keys.get("key_1", NOW + 60) == replace(FRESH, digest="")


async def test_another_rotation_ends_no_secret_later_than_it_was_to_end(keys: Keys) -> None:
    await keys.add(KEY)
    await keys.rotate(FRESH, NOW, 10.0)
    await keys.rotate(replace(KEY, digest="d3"), NOW + 5, 60.0)
    assert await found(keys, NOW + 9) == ["d1", "d2", "d3"]
    assert await found(keys, NOW + 10) == ["d2", "d3"]
    await keys.rotate(replace(KEY, digest="d4"), NOW + 20, 0.0)
    assert await found(keys, NOW + 20) == []


async def test_a_secret_is_never_two_keys(keys: Keys) -> None:
    await keys.add(KEY)
    for again in (replace(KEY, id="key_2"), replace(KEY, digest="d2")):
        with pytest.raises(Duplicate):
            await keys.add(again)
    with pytest.raises(Duplicate):
        await keys.rotate(KEY, NOW, 60.0)
    assert await keys.find("d1", NOW) == KEY
    assert len(await keys.list(Page(limit=5), NOW)) == 1


async def test_a_revoked_key_has_no_secret_and_gets_none(keys: Keys) -> None:
    await keys.add(KEY)
    await keys.rotate(FRESH, NOW, 60.0)
    assert await keys.revoke("key_1", NOW + 1)
    assert [await keys.revoke(key_id, NOW + 2) for key_id in ("key_1", "key_2")] == [False, False]
    assert await found(keys, NOW + 2) == []
    assert not await keys.rotate(replace(KEY, digest="d3"), NOW + 2, 60.0)
    assert [row.revoked_at for row in await keys.list(Page(limit=5), NOW)] == [NOW + 1]


@pytest.mark.parametrize("change", ["add", "rotate", "revoke"])
async def test_what_rides_along_is_written_with_the_change_or_neither_is(keys: Keys, change: str) -> None:
    await keys.add(KEY)
    never = (Step("update keys set name = 'x' where id = 'nobody'", (), GuardFailed),)
    if change == "add":
        with pytest.raises(GuardFailed):
            await keys.add(replace(FRESH, id="key_2"), never)
    else:
        work = keys.rotate(FRESH, NOW, 0.0, never) if change == "rotate" else keys.revoke("key_1", NOW, never)
        assert not await work
    assert await found(keys) == ["d1"]
    assert await keys.list(Page(limit=5), NOW) == [replace(KEY, digest="")]


async def test_pages_are_of_all_keys_each_once(keys: Keys) -> None:
    made = [replace(KEY, id=f"key_{at}", digest=f"d{at}", created_at=NOW + at // 2) for at in range(7)]
    for row in made:
        await keys.add(row)
    for newest_first in (True, False):
        seen: list[str] = []
        while True:
            last = (NOW + int(seen[-1][-1]) // 2, seen[-1]) if seen else None
            page = await keys.list(Page(limit=2, newest_first=newest_first, after=last), NOW)
            seen += [row.id for row in page[:2]]
            if len(page) <= 2:
                break
        assert seen == [row.id for row in (reversed(made) if newest_first else made)]


async def test_the_last_use_never_goes_back(keys: Keys) -> None:
    await keys.add(KEY)
    await keys.used([])
    for at in (NOW + 5, NOW + 3):
        await keys.used([("key_1", at), ("nobody", at)])
    seen = await keys.find("d1", NOW)
    assert seen is not None
    assert seen.last_used_at == NOW + 5


async def test_as_many_as_there_may_be_are_looked_for_at_once(keys: Keys) -> None:
    await keys.add(KEY)
    assert await keys.good(["none"] * (GOOD_MAX - 1) + ["d1"], NOW) == {"d1"}


# --- beside the version before ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_keys_of_before_are_carried_over(kind: str, tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for path in sorted(MIGRATIONS.glob("*.sql"))[:7]:
        shutil.copy(path, before)
    async with postgres.database(is_empty=True) as url:
        database = SqliteDatabase(tmp_path / "x.db") if kind == "sqlite" else PostgresDatabase(url)
        await database.migrate(before)
        await database.write([Step(BEFORE_ADD, BEFORE)])
        await database.migrate()
        keys = Keys(database)
        assert await keys.find("d1", NOW) == KEY
        assert await keys.rotate(FRESH, NOW, 60.0)
        assert await found(keys) == ["d1", "d2"]
        await database.close()


async def test_a_key_that_the_version_before_makes_beside_this_one_is_a_key(
    keys: Keys, database: Database
) -> None:
    await database.write([Step(BEFORE_ADD, BEFORE)])
    assert await keys.find("d1", NOW) == KEY
    assert await keys.rotate(FRESH, NOW, 60.0)
    assert await found(keys, NOW + 59) == ["d1", "d2"]
    assert await found(keys, NOW + 60) == ["d2"]
    await keys.revoke("key_1", NOW)
    assert await found(keys) == []


async def test_the_version_before_takes_no_key_that_it_could_not_hold_to_its_bounds(
    keys: Keys, database: Database
) -> None:
    await keys.add(FULL)
    assert await database.read(BEFORE_FIND, ("d1",)) == []
    await database.write([Step(BEFORE_ADD, ("key_2", "n", "caller", "d3", "hint", NOW))])
    assert await database.read(BEFORE_FIND, ("d3",)) == [("key_2",)]
    await keys.rotate(replace(KEY, id="key_2", digest="d2"), NOW, 60.0)
    assert await database.read(BEFORE_FIND, ("d3",)) == []
