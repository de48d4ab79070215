"""What everybody in one simulated run shares: the time, the trace, the database, the history.

Not held here: what anybody does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from gateway.storage.db import Row, Value
from gateway.storage.rows import event_of, task_of
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import EVENTS_GET, REQUEST_GET, TASK_GET
from tests.simulation.history import History, Seen
from tests.simulation.plan import Plan, stream
from tests.virtual import VirtualLoop

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.vendor import Vendor

START = 1_800_000_000.0


class World:
    """One run. `database` survives every process; `process` is the one that callers reach, if any."""

    def __init__(
        self, plan: Plan, database: SqliteDatabase, loop: VirtualLoop,
        make_process: Callable[[World], Process],
    ) -> None:
        self.plan, self.database, self.loop = plan, database, loop
        self.make_process = make_process
        self.history = History(is_calm=plan.is_calm)
        self.trace: list[str] = []
        self.vendors: dict[str, Vendor] = {}
        self.process: Process | None = None
        self.processes: list[Process] = []
        self.wall_offset = 0.0
        self.is_over = False
        self.crossings = 0
        self.crash_points = list(plan.crash_points)
        self.changed = asyncio.Event()

    def chance(self, name: str) -> random.Random:
        """A generator for one actor."""
        return stream(self.plan.seed, name)

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self.loop.skew

    def wall(self) -> float:
        """What the machine's clock shows: Unix seconds, and it may jump."""
        return START + self.loop.skew + self.wall_offset

    def say(self, actor: str, what: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.loop.skew:.3f} {actor} {what}")

    def boot(self) -> None:
        """Start a process, unless one serves already."""
        if self.process is None and not self.is_over:
            self.process = self.make_process(self)
            self.process.start()

    def jobs_in_flight(self, provider: str) -> int:
        """How many stored videos have, or may have, a job at this provider."""
        rows = self.rows(
            "select count(*) from videos where provider = $1"
            " and state in ('submitting', 'rendering', 'submission_unknown')", provider,
        )
        return int(rows[0][0] or 0)

    def unfinished(self) -> int:
        """How many stored videos have not ended."""
        ended = "('completed', 'failed', 'cancelled')"
        rows = self.rows(f"select count(*) from videos where state not in {ended}")  # noqa: S608 (no input)
        return int(rows[0][0] or 0)

    def rows(self, sql: str, *args: Value) -> list[Row]:
        """What the database holds, read beside every process."""
        reading = self.database.read(sql, args)
        try:
            reading.send(None)
        except StopIteration as done:
            return list(done.value)
        raise RuntimeError("a database in memory answers at once")

    def see(self, video_id: str) -> Seen:
        """A video as it is stored now, with its timeline."""
        task = task_of(self.rows(TASK_GET, video_id)[0])
        events = self.rows(EVENTS_GET, video_id, task.owner)
        prompt = str(msgspec.json.decode(str(self.rows(REQUEST_GET, video_id)[0][0]))["prompt"])
        order = int(prompt.rsplit(" ", 1)[1])
        return Seen(order=order, task=task, events=tuple(event_of(row) for row in events))

    def is_stored(self, video_id: str) -> bool:
        """Whether there is such a video."""
        return bool(self.rows(TASK_GET, video_id))
