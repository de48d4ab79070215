"""Several processes on one file: who may serve it, who may write beside, and what is there after a `kill -9`.

Held here: tests with real processes. Not held here: one process alone (`test_sqlite.py`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeAlias

import pytest

from gateway.storage.db import Step, StorageBusy, migrations
from gateway.storage.sqlite import SqliteDatabase

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
Start: TypeAlias = Callable[[str], "Process"]

BEGIN = """
import asyncio, sys
from pathlib import Path
from gateway.storage.rows import KeyRow
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store

async def main():
    print("up", flush=True)
    sys.stdin.readline()
"""
SERVE = BEGIN + """
    database = SqliteDatabase(Path(sys.argv[1]), exclusive=True)
    print("open", flush=True)
    sys.stdin.readline()
    await database.close()
asyncio.run(main())
"""
WRITE = BEGIN + """
    database = SqliteDatabase(Path(sys.argv[1]))
    for number in range(1_000_000):
        key = KeyRow(
            id=f"key_{number}", name="n", role="caller", digest=f"d{number}", hint="hint", created_at=1.0
        )
        await Store(database).keys.add(key)
        print(key.id, flush=True)
asyncio.run(main())
"""
MIGRATE = BEGIN + """
    database = SqliteDatabase(Path(sys.argv[1]))
    print(await database.migrate(), flush=True)
    await database.close()
asyncio.run(main())
"""
COUNT = """
import sqlite3, sys
print(*sqlite3.connect(sys.argv[1]).execute("select count(*) from notes").fetchone())
"""


class Process:
    """A second process, held at its start until `go`."""

    def __init__(self, script: str, path: Path) -> None:
        self.running = subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
        )
        assert self.says() == "up"

    @property
    def output(self) -> IO[str]:
        assert self.running.stdout is not None
        return self.running.stdout

    def says(self) -> str:
        """Its next line."""
        return self.output.readline().strip()

    def go(self) -> None:
        """Let it go on."""
        assert self.running.stdin is not None
        self.running.stdin.write("\n")
        self.running.stdin.flush()

    def kill(self) -> None:
        """As `kill -9` does."""
        self.running.kill()
        self.running.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reelgate.db"


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def one(script: str) -> Process:
        started.append(Process(script, path))
        return started[-1]

    yield one
    for process in started:
        with process.running:
            process.running.kill()


async def test_one_process_serves_a_file_and_others_write_beside_it(start: Start, path: Path) -> None:
    server = start(SERVE)
    server.go()
    assert server.says() == "open"
    with pytest.raises(StorageBusy, match=rf"process {server.running.pid}\) is using .*\.db: stop it"):
        SqliteDatabase(path, exclusive=True)
    beside = SqliteDatabase(path)
    await beside.migrate()
    await beside.write((Step("insert into chores (name, at) values ('k', 1)", ()),))
    assert await beside.read("select name from chores") == [("k",)]
    await beside.close()
    with pytest.raises(StorageBusy):  # who wrote beside did not let the server's lock go
        SqliteDatabase(path, exclusive=True)


@pytest.mark.parametrize("end", [Process.kill, Process.go], ids=["kill", "close"])
async def test_the_file_is_free_when_its_server_is_gone(
    start: Start, path: Path, end: Callable[[Process], None]
) -> None:
    server = start(SERVE)
    server.go()
    assert server.says() == "open"
    end(server)
    server.running.wait()
    database = SqliteDatabase(path, exclusive=True)
    with pytest.raises(StorageBusy):  # nor twice in one process
        SqliteDatabase(path, exclusive=True)
    await database.close()
    await SqliteDatabase(path, exclusive=True).close()


async def test_what_was_answered_before_a_kill_is_there_after_it(start: Start, path: Path) -> None:
    database = SqliteDatabase(path)
    await database.migrate()
    await database.close()
    writer = start(WRITE)
    writer.go()
    answered = [writer.says() for _ in range(50)]
    writer.kill()
    answered += writer.output.read().split()
    database = SqliteDatabase(path)
    stored = [str(row[0]) for row in await database.read("select id from keys order by rowid")]
    assert stored[: len(answered)] == answered
    assert len(stored) <= len(answered) + 1  # one may have been committed and not yet told
    assert await database.read("pragma integrity_check") == [("ok",)]
    await database.close()


async def test_processes_that_migrate_at_once_run_each_migration_once(start: Start, path: Path) -> None:
    processes = [start(MIGRATE) for _ in range(3)]
    for process in processes:
        process.go()
    ran = [process.says() for process in processes]
    assert sum(map(int, ran)) == len(migrations())
    database = SqliteDatabase(path)
    assert await database.migrate() == 0
    await database.close()


async def test_whoever_reads_beside_and_leaves_takes_nothing_along(tmp_path: Path) -> None:
    """The last to leave a file takes its log along: while it is served, that is nobody from outside."""
    path = tmp_path / "reelgate.db"

    def seen_from_outside() -> int:
        command = [sys.executable, "-c", COUNT, str(path)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    database = SqliteDatabase(path, exclusive=True)
    await database.write((Step("create table notes (name text primary key)", ()),))
    for number in range(3):
        async with database.snapshot() as read:
            assert await read("select count(*) from notes", ()) == [(number,)]
        await database.write((Step("insert into notes values ($1)", (f"note {number}",)),))
        assert seen_from_outside() == number + 1
    await database.close()
    assert seen_from_outside() == 3
