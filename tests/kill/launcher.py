"""Starts gateways for the kill tests: imports the program once, then forks a process for each one asked for.

Held here: the fork, and what makes a process stop at each commit until the test has said whether it dies
there, and say when it is settled: only `sqlite3.connect`, the PostgreSQL driver's session and one method of
the engine are replaced, in that process alone, and the program knows nothing of it. Not held here: what is
asked (`tests.kill.process`). Run as `python -m tests.kill.launcher`, spoken to by pipes:

    stdin    `run 0 ROLE CONFIG`, or with 1 to stop at commits; then a byte for each: g (go on), d (die)
    stdout   `pid N`, `point LABEL`, the gateway's log as lines of JSON, `exit CODE` (negative: that signal)
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, cast

import granian.server.embed  # noqa: F401 - every fork would import it

from gateway.app import openapi_yaml, run
from gateway.engine.loop import Engine
from gateway.engine.replica import ReplicaRole
from gateway.storage import postgres_writer
from gateway.storage.db import Step, StorageError
from gateway.storage.postgres_transaction import Result, Session

# How a statement begins, and what the commit that it is part of is called; None: by the first event in it.
_NAMES: Final[Mapping[str, str | None]] = {
    "create table if not exists schema_version": "schema",
    "insert into schema_version": "migration",
    "update videos set replica": "claim",
    "insert into file_removals": "file_intended",
    "insert into events": None,
}
# Of the parameters of that statement, from 1: the type of the last event, and those before it (JSON).
_LAST_TYPE, _EARLIER = 4, 10


class WatchedConnection(sqlite3.Connection):
    """A connection that stops before and after every commit of something in _NAMES, a lone one too.

    What comes by the clock, such as the sums of the ledger, is committed without a stop.
    """

    _name = ""

    def execute(  # type: ignore[override]  # the program gives its parameters by position only
        self, sql: str, parameters: Sequence[object] = (), /
    ) -> sqlite3.Cursor:
        """As sqlite3's."""
        if sql.startswith("begin"):
            self._name = ""
        begins = next((begin for begin in _NAMES if sql.startswith(begin)), None)
        if begins is not None and not self._name:
            self._name = _NAMES[begins] or _first(parameters[_LAST_TYPE - 1], parameters[_EARLIER - 1])
        if sql != "commit" and (self.in_transaction or begins is None):
            return super().execute(sql, parameters)
        name, self._name = self._name, ""
        if not name:
            return super().execute(sql, parameters)
        _stop(f"commit {name} before")
        done = super().execute(sql, parameters)
        _stop(f"commit {name} after")
        return done


class WatchedSession(Session):
    """A connection to PostgreSQL that stops before and after each COMMIT of something that is in _NAMES.

    What others tell, beats above all, is committed without a stop. The loop goes on meanwhile.
    """

    _name: str | None = None

    async def run(self, batch: Sequence[Sequence[Step]], *, is_apart: bool) -> list[Result]:
        """As the driver's."""
        names = (_name_of(step) for steps in batch for step in steps)
        self._name = next((name for name in names if name is not None), None)
        return await super().run(batch, is_apart=is_apart)

    async def end(self, *, is_kept: bool, told: Sequence[bytes] = ()) -> None:
        """As the driver's."""
        name = self._name if is_kept else None
        if name is not None:
            await asyncio.to_thread(_stop, f"commit {name} before")
        await super().end(is_kept=is_kept, told=told)
        if name is not None:
            await asyncio.to_thread(_stop, f"commit {name} after")


def _name_of(step: Step) -> str | None:
    begins = next((begin for begin in _NAMES if step.sql.startswith(begin)), None)
    if begins is None:
        return None
    return _NAMES[begins] or _first(step.args[_LAST_TYPE - 1], step.args[_EARLIER - 1])


def _first(last_type: object, earlier: object) -> str:
    """The type of the first event that a save writes."""
    before = json.loads(str(earlier))
    return str(before[0]["type"] if before else last_type)


def _told(settled: Callable[[Engine], None]) -> Callable[[Engine], None]:
    """The engine's method, and a line of the log after it: from then on a new video goes straight through."""

    def tell(engine: Engine) -> None:
        settled(engine)
        _tell(json.dumps({"event": "settled"}))

    return tell


def _stop(label: str) -> None:
    """Wait for the test's word, and die on the spot if that is it, or if the test has gone."""
    _tell(f"point {label}")
    if os.read(0, 1) != b"g":
        os.kill(os.getpid(), signal.SIGKILL)


def _tell(line: str) -> None:
    # One write of less than PIPE_BUF, on a line of its own even if a log line's own end is still to come.
    os.write(1, f"\n{line}\n".encode())


def _gateway(config: Path, role: ReplicaRole, *, watched: bool) -> int:
    """The life of one gateway; its exit code."""
    _tell(f"pid {os.getpid()}")
    if watched:
        sqlite3.connect = partial(sqlite3.connect, factory=WatchedConnection)  # type: ignore[assignment]
        setattr(postgres_writer, "Session", WatchedSession)  # noqa: B010 (it is not the module's own name)
    Engine.settled = _told(Engine.settled)  # type: ignore[assignment, method-assign]
    try:
        return run(config, role)
    except StorageError as error:  # told as the command tells it
        _tell(json.dumps({"event": "not_started", "error": str(error)}))
        return 1
    except BaseException:  # noqa: BLE001 - the last thing before the process ends, told on stderr
        traceback.print_exc()
        return 1


def _leave_nobody(child: int) -> None:
    """Return when the gateway ends; it does as soon as whoever asked for it has gone."""
    ended = os.pidfd_open(child)
    either = select.poll()
    either.register(ended, select.POLLIN)
    either.register(0, 0)  # what comes on stdin is for the gateway; only its end is for us
    if ended not in dict(either.poll()):
        os.kill(child, signal.SIGKILL)
    os.close(ended)


def _asked() -> str:
    """The next line of stdin, byte by byte: what follows is for the gateway. Empty when the test has gone."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return ""
        line += byte
    return line.decode().rstrip("\n")


def main() -> None:
    """Start gateways, one after the other, until stdin ends."""
    openapi_yaml()  # what else the program imports or builds at its first start is there for every fork
    gc.collect()
    gc.freeze()  # a fork that collects would go through, and so copy, all that it shares with us
    while asked := _asked():
        # Before the word there may be a byte for one that died.
        _, watched, role, config = asked.split(" ", 3)
        child = os.fork()
        if child == 0:
            code = _gateway(Path(config), cast("ReplicaRole", role), watched=watched == "1")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _leave_nobody(child)
        _, status = os.waitpid(child, 0)
        _tell(f"exit {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
