"""What everybody in one simulated run shares: the time, the trace, the database, the history.

Not held here: what anybody does.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from gateway.storage.db import Row, Value
from gateway.storage.rows import events_of, task_of
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import EVENTS_GET, REQUEST_GET, TASK_GET
from tests.simulation.books import Books
from tests.simulation.frost import FrostLoop
from tests.simulation.history import History, Seen
from tests.simulation.plan import Plan, stream
from tests.simulation.shared_database import Server

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.vendor import Vendor

START = 1_800_000_000.0
LOCKED_SECONDS = 1.0  # between two starts of a process that finds the file locked


class World:
    """One run. `database` survives every process; `server` is what replicas reach it through.

    `has_faults`: until it is to be seen whether all comes to rest.
    """

    def __init__(
        self, plan: Plan, database: SqliteDatabase, loop: FrostLoop,
        make_process: Callable[[World, int], Process],
    ) -> None:
        self.plan, self.database, self.loop = plan, database, loop
        self.make_process = make_process
        self.history = History(is_calm=plan.is_calm)
        self.trace: list[str] = []
        self.vendors: dict[str, Vendor] = {}
        self.serving: dict[int, Process] = {}  # by slot; without replicas there is one
        self.processes: list[Process] = []
        self.wall_offset = 0.0
        self.is_over = False
        self.has_faults = True
        self.news_lost = 0.0 if plan.shared is None else plan.shared.news_lost
        self.crossings = self.doors = 0
        self.crash_points = list(plan.crash_points)
        self.hurdles = [] if plan.shared is None else list(plan.shared.hurdles)
        self.changed = asyncio.Event()
        self._outside = contextvars.copy_context()
        self.server = None if plan.shared is None else Server(self)
        self.books = Books(self)

    def chance(self, name: str) -> random.Random:
        """A generator for one actor."""
        return stream(self.plan.seed, name)

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self.loop.skew

    def later(self, seconds: float, callback: Callable[..., object], *args: object) -> None:
        """Do something by a timer of the world, which no process's fate touches."""
        self.loop.call_later(seconds, callback, *args, context=self._outside)

    def wall(self) -> float:
        """What the machine's clock shows: Unix seconds, and it may jump."""
        return START + self.loop.skew + self.wall_offset

    def say(self, actor: str, what: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.loop.skew:.3f} {actor} {what}")

    @property
    def process(self) -> Process | None:
        """The one that serves, where there is one at a time."""
        return self.serving.get(0)

    def reached(self, chance: random.Random) -> Process | None:
        """Whom a request reaches: any that serves."""
        slots = sorted(slot for slot, process in self.serving.items() if not process.is_frozen)
        return self.serving[chance.choice(slots)] if len(slots) > 1 else self.serving.get(*slots or (0,))

    def boot(self, slot: int = 0) -> None:
        """Start a process, unless one serves there already; again and again while a lock keeps it from it."""
        if slot in self.serving or self.is_over:
            return
        if self.is_locked:
            self.later(LOCKED_SECONDS, self.boot, slot)
            return
        self.serving[slot] = self.make_process(self, slot)
        self.serving[slot].start()

    @property
    def is_locked(self) -> bool:
        """Whether a process lives that has the database to itself, as `serve` locks its file."""
        return self.server is None and any(not process.is_dead for process in self.processes)

    def gone(self, process: Process) -> None:
        """It serves no more."""
        if self.serving.get(process.slot) is process:
            del self.serving[process.slot]

    def server_now(self) -> float:
        """What the server's clock shows; the world's where there is none."""
        return self.wall() if self.server is None else self.server.now()

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
        return Seen(order=order, task=task, events=tuple(event for row in events for event in events_of(row)))

    def is_stored(self, video_id: str) -> bool:
        """Whether there is such a video."""
        return bool(self.rows(TASK_GET, video_id))
