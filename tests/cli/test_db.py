"""The verbs `reelgate db ...`, on SQLite and a real PostgreSQL: what they print, refuse and leave behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import Result

from gateway.storage.db import Step
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from tests import postgres
from tests.cli.test_verbs import GOOD, reelgate
from tests.core.made import make_task
from tests.storage.pg_wire import Order, Wire
from tests.storage.stores import add

T = TypeVar("T")


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    file = tmp_path / "old.toml"
    file.write_text(f'[store]\nurl = "sqlite:old.db"\n{GOOD}', "utf-8")
    return file


def on(path: Path, work: Callable[[SqliteDatabase], Awaitable[T]]) -> T:
    """Do something with the database in this file."""

    async def do_it() -> T:
        database = SqliteDatabase(path)
        await database.migrate()
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(do_it())


def fill(folder: Path, count: int = 3) -> None:
    tasks = [make_task(f"video_{number}") for number in range(count)]
    on(folder / "old.db", lambda database: add(Store(database), *tasks))


def videos(path: Path) -> int:
    return len(on(path, lambda database: database.read("select id from videos")))


def test_migrate_says_what_it_did(configured: Path) -> None:
    first = reelgate("db", "migrate", "--config", str(configured))
    assert (first.exit_code, first.stdout.startswith("0 migrations")) == (0, False)
    assert "0 migrations ran" in reelgate("db", "migrate", "--config", str(configured)).stdout


def test_a_backup_is_a_store_and_never_overwrites(configured: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    serving = SqliteDatabase(tmp_path / "old.db", exclusive=True)  # also beside a running `serve`
    try:
        taken = reelgate("db", "backup", str(tmp_path / "backup.db"), "--config", str(configured))
        assert (taken.exit_code, taken.stdout.count("\n")) == (0, 1)
        assert taken.stdout.startswith(f"The backup is {tmp_path / 'backup.db'};")
    finally:
        asyncio.run(serving.close())
    assert videos(tmp_path / "backup.db") == 3
    assert [path.name for path in tmp_path.glob("backup.db*")] == ["backup.db"]
    again = reelgate("db", "backup", str(tmp_path / "backup.db"), "--config", str(configured))
    assert (again.exit_code, "never overwrites" in again.stderr) == (1, True)


@pytest.mark.parametrize("verb", [["check"], ["backup", "copy.db"], ["copy", "--to", "sqlite:copy.db"]])
def test_a_store_that_is_not_there_is_neither_made_nor_taken_for_an_empty_one(
    configured: Path, tmp_path: Path, verb: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a disk that was not mounted: the backups of an empty store would push out the good ones."""
    monkeypatch.chdir(tmp_path)
    result = reelgate("db", *verb, "--config", str(configured))
    assert (result.exit_code, f"cannot open {tmp_path / 'old.db'}" in result.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.toml"]


def test_a_backup_into_nowhere_is_told(configured: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    result = reelgate("db", "backup", str(configured / "backup.db"), "--config", str(configured))
    assert (result.exit_code, "Not a directory" in result.stderr) == (1, True)


def test_a_url_of_another_kind_is_no_file_and_not_repeated(configured: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    result = reelgate("db", "copy", "--config", str(configured), "--to", "postgres://u:canary@h/d")
    assert (result.exit_code, "expected sqlite:PATH or postgresql://" in result.stderr) == (1, True)
    assert "canary" not in result.stderr


def test_check_finds_what_is_broken(configured: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    good = reelgate("db", "check", "--config", str(configured))
    assert (good.exit_code, good.stdout) == (0, "All rules hold.\n")
    on(tmp_path / "old.db", lambda database: database.write([Step("delete from video_requests", ())]))
    bad = reelgate("db", "check", "--json", "--config", str(configured))
    assert bad.exit_code == 1
    assert json.loads(bad.stdout) == {
        "ok": False, "problems": ["a video without its request: video_0, video_1, video_2"],
    }


def test_copy_needs_that_nobody_serves(configured: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    serving = SqliteDatabase(tmp_path / "old.db", exclusive=True)
    try:
        refused = reelgate("db", "copy", "--config", str(configured), "--to", f"sqlite:{tmp_path / 'new.db'}")
    finally:
        asyncio.run(serving.close())
    assert (refused.exit_code, "is using" in refused.stderr) == (1, True)
    assert not (tmp_path / "new.db").exists()


async def copy(config: Path, target: str) -> Result:
    return await asyncio.to_thread(reelgate, "db", "copy", "--config", str(config), "--to", target)


def test_the_move_to_postgresql_and_back(configured: Path, tmp_path: Path) -> None:
    fill(tmp_path, 40)

    async def move() -> None:
        async with postgres.database(is_empty=True) as url:
            new = tmp_path / "new.toml"
            new.write_text(f'[store]\nurl = "{url}"\n{GOOD}', "utf-8")
            there = await copy(configured, str(new))
            assert (there.exit_code, "never again" in there.stdout) == (0, True), there.stderr
            twice = await copy(configured, str(new))
            assert (twice.exit_code, "is not empty" in twice.stderr) == (1, True)
            database = PostgresDatabase(url)
            try:
                replicas = Store(database).replicas
                await replicas.join("r1", "host 1.2.3.4:80", "all", "0")
                back = f"sqlite:{tmp_path / 'back.db'}"
                refused = await copy(new, back)
                assert (refused.exit_code, "host 1.2.3.4:80" in refused.stderr) == (1, True)
                await replicas.leave("r1")
            finally:
                await database.close()
            done = await copy(new, back)
            assert done.exit_code == 0, done.stderr

    asyncio.run(move())
    assert videos(tmp_path / "back.db") == 40


def test_a_replica_that_was_killed_is_nobody_to_wait_for(configured: Path, tmp_path: Path) -> None:
    fill(tmp_path)

    async def move() -> None:
        async with postgres.database() as url:
            new = tmp_path / "new.toml"
            new.write_text(f'[store]\nurl = "{url}"\n{GOOD}', "utf-8")
            database = PostgresDatabase(url)
            try:
                replicas = Store(database).replicas
                await replicas.join("r1", "host 1.2.3.4:80", "all", "0")
                served = await copy(configured, str(new))
                assert (served.exit_code, "host 1.2.3.4:80" in served.stderr) == (1, True), "it follows none"
                await database.write([Step("update replicas set beat_at = beat_at - 10", ())])
            finally:
                await database.close()
            there = await copy(configured, str(new))
            assert there.exit_code == 0, there.stderr
            back = await copy(new, f"sqlite:{tmp_path / 'back.db'}")
            assert back.exit_code == 0, back.stderr

    asyncio.run(move())
    assert videos(tmp_path / "back.db") == 3


def test_the_new_stores_own_settings_are_used_for_it(configured: Path, tmp_path: Path) -> None:
    """A pooler that shares connections knows no statement that has a name."""
    fill(tmp_path)
    named: list[bytes] = []

    def note(message: bytes) -> Order:
        named.extend([message] if message[:1] == b"P" and message[5:6] != b"\0" else [])
        return Order.PASS

    async def move(cache: str) -> None:
        async with postgres.database(is_empty=True) as url, Wire(url).open() as wire:
            wire.decide = note
            new = tmp_path / "new.toml"
            new.write_text(f'[store]\nurl = "{wire.url}"\n{cache}\n{GOOD}', "utf-8")
            there = await copy(configured, str(new))
            assert there.exit_code == 0, there.stderr

    asyncio.run(move("statement_cache_size = 0"))
    assert named == []
    asyncio.run(move(""))
    assert named != []


def test_programs_are_told_what_was_done(configured: Path, tmp_path: Path) -> None:
    options = ["--config", str(configured), "--json"]
    assert json.loads(reelgate("db", "migrate", *options).stdout)["migrations"] > 0
    assert json.loads(reelgate("db", "migrate", *options).stdout) == {"migrations": 0}
    file = tmp_path / "backup.db"
    assert json.loads(reelgate("db", "backup", str(file), *options).stdout) == {"file": str(file)}
    copied = reelgate("db", "copy", "--to", f"sqlite:{tmp_path}/new.db", *options)
    assert json.loads(copied.stdout) == {"copied": True}
