"""What `reelgate db` refuses because it would lose something, and what a backup forbids: on both databases.

Half a copy, one beside which somebody served, one by a program that knows less than the schema, one onto
itself; and a restored backup, which buys nothing before an operator says so. Not held here: what the verbs do
when all is well (`test_db.py`), how the stop is obeyed (`tests/engine/test_spending.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from gateway import upkeep
from gateway.app import running
from gateway.settings import load
from gateway.storage.copying import Copied
from gateway.storage.db import Database, Step, StorageBusy, StorageError, migrations
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from providers import adapters
from tests import postgres
from tests.cli.test_verbs import GOOD, reelgate
from tests.core.made import NOW, make_task
from tests.storage.stores import add
from tests.storage.test_copying import quiet

UNFINISHED: Final = "was not finished"
KNOWN: Final = len(migrations())
KINDS: Final = ("sqlite", "postgres")


class Place:
    """A store with a configuration of its own."""

    def __init__(self, folder: Path, name: str, url: str) -> None:
        self.config = folder / f"{name}.toml"
        self.config.write_text(f'[store]\nurl = "{url}"\n{GOOD}', "utf-8")
        self._open: Callable[[], Database] = lambda: (
            PostgresDatabase(url) if "://" in url else SqliteDatabase(folder / url.partition(":")[2])
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Database]:
        """It, with the schema in it."""
        database = self._open()
        try:
            await database.migrate()
            yield database
        finally:
            await database.close()

    async def do(self, sql: str, *args: Any) -> None:  # noqa: ANN401 (values of a statement)
        """Run one statement there."""
        async with self.opened() as database:
            await database.write([Step(sql, args)])

    async def fill(self, videos: int = 3) -> None:
        """Store these videos."""
        async with self.opened() as database:
            await add(Store(database), *(make_task(f"video_{number}") for number in range(videos)))


@asynccontextmanager
async def place(kind: str, folder: Path, name: str) -> AsyncIterator[Place]:
    """An empty store of that kind."""
    if kind == "sqlite":
        yield Place(folder, name, f"sqlite:{name}.db")
        return
    async with postgres.database(is_empty=True) as url:  # its schema's version is changed
        yield Place(folder, name, url)


async def told(*arguments: str) -> str:
    """What a verb says when it refuses."""
    result = await asyncio.to_thread(reelgate, *arguments)
    assert result.exit_code == 1, result.output
    return result.stderr


async def serve(at: Place) -> None:
    """All of a gateway, reachable by nobody, as `reelgate serve` starts it."""
    async with running(load(at.config, adapters(), os.environ | {"SOME_KEY": "k"})):
        pass


def move(source: Place, target: Place, copied: Copied) -> Coroutine[Any, Any, None]:
    """`reelgate db copy`, in a thread: it has a loop of its own."""
    return asyncio.to_thread(upkeep.move, source.config, str(target.config), copied)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vendor's, which the configurations name."""
    monkeypatch.setenv("SOME_KEY", "k")


# --- half a copy ----------------------------------------------------------------------------------------

HALF: Final = (
    ("keys", "create", "a"), ("keys", "list"), ("spending", "status"), ("spending", "stop"), ("db", "check"),
)


class Broken(BaseException):
    """As Ctrl-C: nobody catches it on the way."""


def breaking(table: str, _rows: int) -> None:
    """The copy ends after the videos, before their idempotency keys."""
    if table == "videos":
        raise Broken


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_broken_copy_leaves_is_neither_served_nor_called_good(kind: str, tmp_path: Path) -> None:
    async def life() -> None:
        async with place("sqlite", tmp_path, "old") as old, place(kind, tmp_path, "new") as new:
            await old.fill()
            with pytest.raises(Broken):
                await move(old, new, breaking)
            with pytest.raises(StorageError, match=UNFINISHED):
                await serve(new)
            config, third = str(new.config), tmp_path / "third.db"
            for verb in (*HALF, ("db", "backup", str(third)), ("db", "copy", "--to", f"sqlite:{third}2")):
                assert f"{UNFINISHED}: empty it" in await told(*verb, "--config", config), verb
            again = await told("db", "copy", "--config", str(old.config), "--to", config)
            assert f"a copy into the target {UNFINISHED}: empty it" in again
            assert not third.exists()

    asyncio.run(life())


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_whole_copy_leaves_is_served(kind: str, tmp_path: Path) -> None:
    async def life() -> None:
        async with place("sqlite", tmp_path, "old") as old, place(kind, tmp_path, "new") as new:
            await old.fill()
            await move(old, new, quiet)
            for verb in HALF:
                done = await asyncio.to_thread(reelgate, *verb, "--config", str(new.config))
                assert done.exit_code == 0, done.output
            await serve(new)

    asyncio.run(life())


# --- a copy beside which somebody served ----------------------------------------------------------------

SIDES: Final = (("postgres", "sqlite", 0), ("sqlite", "postgres", 1))


@pytest.mark.parametrize("is_gone", [False, True], ids=["that lives", "that is gone again"])
@pytest.mark.parametrize(("source", "target", "side"), SIDES, ids=["of the source", "on the target"])
def test_a_replica_that_began_meanwhile_spoils_the_copy(
    source: str, target: str, side: int, is_gone: bool, tmp_path: Path
) -> None:
    async def life() -> None:
        async with place(source, tmp_path, "old") as old, place(target, tmp_path, "new") as new:
            await old.fill()
            loop, begun = asyncio.get_running_loop(), [old, new][side]

            async def begin() -> None:
                async with begun.opened() as database:
                    replicas = Store(database).replicas
                    await replicas.join("r2", "host 1.2.3.4:80", "all", "0")
                    if is_gone:
                        await replicas.leave("r2")

            def meanwhile(table: str, _rows: int) -> None:
                if table == "videos":
                    asyncio.run_coroutine_threadsafe(begin(), loop).result(20)

            with pytest.raises(StorageBusy, match=r"began to serve while.*host 1\.2\.3\.4:80"):
                await move(old, new, meanwhile)
            assert UNFINISHED in await told("db", "check", "--config", str(new.config))

    asyncio.run(life())


# --- a program that knows less than the schema ----------------------------------------------------------

LATER: Final = "insert into schema_version (number, name, runs_from) values ($1, $2, $3)"


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_program_copies_nothing_that_it_would_cut_short(kind: str, tmp_path: Path) -> None:
    async def life() -> None:
        async with place(kind, tmp_path, "old") as old, place("sqlite", tmp_path, "new") as new:
            await old.fill()
            await old.do(LATER, KNOWN + 1, "0099_more", 3)
            config, file = str(old.config), tmp_path / "backup.db"
            for verb in (("backup", str(file)), ("copy", "--to", str(new.config))):
                said = await told("db", *verb, "--config", config)
                assert "use the newer program: this one would leave out what migration 0099_more" in said
            checked = await asyncio.to_thread(reelgate, "db", "check", "--config", config)
            assert checked.exit_code == 0, "what it knows of holds, and it may run"

    asyncio.run(life())
    assert not list(tmp_path.glob("backup*")), "nothing is left of it"


def test_an_older_program_copies_into_no_newer_schema(tmp_path: Path) -> None:
    async def life() -> None:
        async with place("sqlite", tmp_path, "old") as old, place("sqlite", tmp_path, "new") as new:
            await old.fill()
            await new.do(LATER, KNOWN + 1, "0099_more", 3)
            said = await told("db", "copy", "--config", str(old.config), "--to", str(new.config))
            assert "use the newer program" in said

    asyncio.run(life())


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_program_calls_nothing_good_that_it_may_not_touch(kind: str, tmp_path: Path) -> None:
    async def life() -> None:
        async with place(kind, tmp_path, "old") as old:
            await old.fill()
            await old.do(LATER, KNOWN + 1, "0099_other", KNOWN + 1)
            for verb in (("db", "check"), ("keys", "list"), ("db", "migrate")):
                said = await told(*verb, "--config", str(old.config))
                assert f"has schema version {KNOWN + 1}, this program knows {KNOWN}" in said, verb

    asyncio.run(life())


# --- a copy onto itself ---------------------------------------------------------------------------------

SAME: Final = "source and target are the same database"


def test_a_store_is_not_copied_onto_itself(tmp_path: Path) -> None:
    async def life() -> None:
        async with place("sqlite", tmp_path, "old") as old:
            await old.fill()
            (tmp_path / "link.db").symlink_to(tmp_path / "old.db")
            for target in (str(old.config), f"sqlite:{tmp_path / 'link.db'}"):
                assert SAME in await told("db", "copy", "--config", str(old.config), "--to", target)

    asyncio.run(life())


@pytest.mark.parametrize(("one", "other"), [
    ("postgresql://u:p@h/d", "postgresql://v:q@h:5432/d?sslmode=require"),
    ("postgresql://u@/d?host=/run/pg", "postgresql://u@%2Frun%2Fpg/d"),
    ("postgresql://d@h", "postgresql://u@h/d"),
    ("postgresql://u@a,b:5433/d", "postgresql://u@a:5432,b:5433/d"),
])
def test_urls_of_one_database_are_known(one: str, other: str, tmp_path: Path) -> None:
    """Before either is opened: there is no such server."""
    source, target = Place(tmp_path, "one", one), Place(tmp_path, "other", other)
    with pytest.raises(StorageError, match=SAME):
        upkeep.move(source.config, str(target.config), quiet)


@pytest.mark.parametrize("other", [
    "postgresql://u:p@127.0.0.1:1/e", "postgresql://u:p@127.0.0.1:2/d", "postgresql://u:p@127.0.0.2:1/d",
])
def test_urls_of_two_databases_are_told_apart(other: str, tmp_path: Path) -> None:
    source = Place(tmp_path, "one", "postgresql://u:p@127.0.0.1:1/d")
    with pytest.raises(StorageError, match="cannot reach"):
        upkeep.move(source.config, str(Place(tmp_path, "other", other).config), quiet)


# --- a restored backup ----------------------------------------------------------------------------------

BY_BACKUP: Final = "Spending is stopped by backup since 20"


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_backup_buys_nothing_before_an_operator_says_so(kind: str, tmp_path: Path) -> None:
    async def life() -> None:
        async with place(kind, tmp_path, "old") as old, place(kind, tmp_path, "new") as new:
            await old.fill()
            backup = Place(tmp_path, "backup", "sqlite:backup.db")

            async def said(at: Place, *verb: str) -> str:
                result = await asyncio.to_thread(reelgate, *verb, "--config", str(at.config))
                assert result.exit_code == 0, result.output
                return result.stdout

            taken = await said(old, "db", "backup", str(tmp_path / "backup.db"))
            assert "`reelgate spending start`" in taken
            assert await said(old, "spending", "status") == "Spending is not stopped.\n"
            assert BY_BACKUP in await said(backup, "spending", "status")
            await said(backup, "db", "copy", "--to", str(new.config))
            assert BY_BACKUP in await said(new, "spending", "status")
            async with running(load(new.config, adapters(), os.environ)) as found:
                assert await found.parts.engine.spending.look()
            assert await said(new, "spending", "start") == "Spending is not stopped.\n"

    asyncio.run(life())


def test_who_had_stopped_it_before_the_backup_is_kept(tmp_path: Path) -> None:
    async def life() -> None:
        async with place("sqlite", tmp_path, "old") as old:
            await old.fill()
            await old.do("insert into spending_stops (name, by_whom, at) values ('all', 'key_1', $1)", NOW)
            await asyncio.to_thread(upkeep.backup, old.config, tmp_path / "backup.db", quiet)
            async with Place(tmp_path, "backup", "sqlite:backup.db").opened() as database:
                stopped = await Store(database).stop.get()
            assert stopped is not None
            assert (stopped.by, stopped.at) == ("key_1", NOW)

    asyncio.run(life())
