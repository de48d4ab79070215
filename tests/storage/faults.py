"""Connections to SQLite that fail where a test says so. No expectation is here."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import pytest


def sqlite_error(code: int, message: str) -> sqlite3.OperationalError:
    """An error as SQLite raises it."""
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def full() -> Exception:
    return sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full")


def broken_disk() -> Exception:
    return sqlite_error(sqlite3.SQLITE_IOERR_WRITE, "disk I/O error")


def locked() -> Exception:
    return sqlite_error(sqlite3.SQLITE_BUSY, "database is locked")


def no_memory() -> Exception:
    return MemoryError("no memory")


class Plan:
    """Which statement fails, counted from `arm` on, and how; the counting stops with `disarm`."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.count = 0
        self.failed: list[str] = []
        self.fails_thrice = threading.Event()
        self._at = 0
        self._is_done_first = False
        self._for_good = False

    def arm(
        self, at: int, error: Exception, *, is_done_first: bool = False, for_good: bool = False
    ) -> None:
        """The statement of number `at` fails (`for_good`: and all later ones), `is_done_first`: once done."""
        self.error, self.count, self._at = error, 0, at
        self._is_done_first, self._for_good = is_done_first, for_good
        self.failed.clear()
        self.fails_thrice.clear()

    def disarm(self) -> None:
        """Nothing fails from now on."""
        self.error = None

    def passes(self, sql: str, *, is_done: bool) -> None:
        """Called before and after each statement. Raises the error where the plan says so."""
        if self.error is None:
            return
        self.count += not is_done
        is_due = self.count >= self._at if self._for_good else self.count == self._at
        if is_due and is_done == self._is_done_first:
            self.failed.append(sql)
            if len(self.failed) == 3:
                self.fails_thrice.set()
            raise self.error


def planned(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of every connection that is opened from now on."""
    plan = Plan()

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # noqa: ANN401 (as sqlite3 has it)
            plan.passes(sql, is_done=False)
            cursor = super().execute(sql, *args)
            plan.passes(sql, is_done=True)
            return cursor

        def rollback(self) -> None:
            plan.passes("rollback", is_done=False)
            super().rollback()
            plan.passes("rollback", is_done=True)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **named: connect(*args, factory=Failing, **named))
    return plan
