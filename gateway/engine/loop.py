"""The engine: it owns the unfinished tasks, knows when each is due, runs one step, and saves what followed.

Timers live in memory; only transitions are written. Every saved task comes back through the store's listener,
whoever saved it, so there is one place that schedules. Clock, randomness, store and providers are passed in.
Not held here: what a step does (`submit`, `poll`), what follows from a fact (`gateway.core.tasks`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Final, TypeVar

from gateway.core.admission import pause_seconds
from gateway.core.pacing import next_look
from gateway.core.states import UNOWNED, Event, Task, ref_of
from gateway.engine import counting, saving
from gateway.engine.accounts import Accounts
from gateway.engine.budget import ByteBudget
from gateway.engine.copies import Copies
from gateway.engine.doubts import Doubts
from gateway.engine.line import Line
from gateway.engine.provider import Fleet, Provider
from gateway.engine.pulse import Pulse
from gateway.engine.spending import Spending
from gateway.engine.timers import Timers
from gateway.engine.watch import Entry, Outside, Steps, Ticket, Watch
from gateway.storage.db import Duplicate, GuardFailed, StorageError
from gateway.storage.store import Store
from gateway.telemetry import Telemetry
from providers.spec import Progress, Ref

SUBMITS_MAX: Final = 1_000  # submits under way at once in this process
POLLS_MAX: Final = 2_000  # other steps under way at once in this process
IMAGES_MAX_BYTES: Final = 192 * 1024 * 1024  # of images (data URIs) in submits under way; sent, twice that
SAVE_PAUSE_MAX_SECONDS: Final = 5.0  # between tries to save what must not be lost
SHORT_SECONDS: Final = 1.0  # between two looks whether the database takes new spending again
TICKET_SECONDS: Final = 0.01  # between looks whether what was being stored is, when the process ends
_IDLE_SECONDS: Final = 3_600.0

T = TypeVar("T")


class Engine:
    """All tasks that this process follows, each run when it is due."""

    def __init__(
        self, store: Store, fleet: Fleet, telemetry: Telemetry, outside: Outside, steps: Steps
    ) -> None:
        self.store, self.fleet, self.telemetry = store, fleet, telemetry
        self.now, self.chance, self.lease = outside.now, outside.chance, outside.lease
        self.replica, self._follows = outside.replica, outside.follows
        self.peers = 0  # other replicas that live and follow tasks
        self.doors = 1  # replicas that live and answer callers
        self.is_running = self.is_settled = False  # settled: all that was left is taken over, and counted
        self.tasks: dict[str, Task] = {}
        self.watches: dict[str, Watch] = {}
        self.images = ByteBudget(IMAGES_MAX_BYTES)
        self.signer, self.spending = store.uploads.signer(self.now), Spending(store.stop, self.now, telemetry)
        self._steps = steps
        self.timers, self.pulse = Timers(self.watches), Pulse()
        self.accounts = Accounts(store.keys, fleet, self.now)
        self.line, self.copies, self.keeping = Line(fleet, self.accounts), Copies(), outside.keeping
        self._wake, self._wakes_at = asyncio.Event(), float("inf")
        self._is_stopping = False
        self.entering: dict[str, Entry] = {}  # of admitted tasks, not known to be started
        self.sending: set[str] = set()  # tasks whose submit is under way, ended ones among them
        self.tickets: dict[str, Ticket] = {}  # of videos that are being stored, and go at once
        self._submits: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[None]] = set()
        self._doubts = Doubts(store, self.tasks, self.insist, self.give_back)
        self.find_out = self._doubts.doubted
        self._context = Context()
        self.save = partial(saving.save, self)
        store.listen(self.saved)

    # --- its life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run every task when it is due, until stopped. What a dead process left is `takeover`'s part."""
        self.is_running, self._context = True, copy_context()
        while not self._is_stopping:
            self._wake.clear()
            self._admit()
            while len(self._others) < POLLS_MAX and (task := self._next_due()) is not None:
                if not self._lines_up(task):
                    self._begin_due(task)
            for task_id in self.fleet.turns(self.now(), POLLS_MAX - len(self._others), self.pulse):
                watch = self.watches.get(task_id)
                if watch is not None and not watch.is_busy and not watch.is_parked:
                    self._begin_due(self.tasks[task_id])  # a busy one keeps its turn for later
            while (copied := self.copies.next()) is not None:
                self._begin(self._others, copied, partial(self._steps.keep, self, self.tasks[copied]))
            probes_at = self._probe()
            now = self.now()
            has_room = len(self._others) < POLLS_MAX
            next_at = min(now + _IDLE_SECONDS, self.line.gates_at, probes_at)
            if has_room:
                next_at = min(next_at, self.timers.next_at(), self.fleet.turns_at(now))
            self._wakes_at = next_at
            alarm = asyncio.get_running_loop().call_later(max(0.0, next_at - now), self._wake.set)
            try:
                await self._wake.wait()
            finally:
                alarm.cancel()

    def recount(self) -> None:
        """The providers were changed: count what each has in flight anew, and look again who may go."""
        jobs = Counter(task.provider for task in self.tasks.values() if task.is_in_flight)
        for name, provider in self.fleet.providers.items():
            provider.gate.recount(jobs[name])
        self.line.regroup(self.tasks.values())
        self._wake.set()

    def look(self) -> None:
        """Something outside the tasks has changed: look at once who may go."""
        self._wake.set()

    @property
    def owner(self) -> str:
        """Who a new task belongs to: this process, or nobody yet where it follows none."""
        return self.replica if self._follows else UNOWNED

    def settled(self) -> None:
        """What earlier processes left is known: the gates count right, and new jobs may be bought."""
        self.is_settled = True
        self.pulse.begin()
        self._wake.set()

    def rename(self, replica: str) -> None:
        """Others may own what this process owned: forget it all, and go on under another name."""
        self.replica = replica
        for task_id in list(self.tasks):
            self.forget(task_id)

    async def stop(self) -> None:
        """Begin nothing new; return when the answers of submits under way are saved. Polls are dropped."""
        self._is_stopping = True
        self._wake.set()
        while self._submits or self.tickets.keys() - self._doubts.looks.keys():
            if self._submits:
                await asyncio.wait(self._submits)
            else:
                await asyncio.sleep(TICKET_SECONDS)
        rest = [*self._others, *self._doubts.looks.values()]
        for step in rest:
            step.cancel()
        if rest:
            await asyncio.wait(rest)

    def _probe(self) -> float:
        """Have providers that do not answer asked, free of charge; when to look again. Tell their states."""
        now, next_at = self.now(), float("inf")
        for provider in self.fleet.providers.values():
            self.telemetry.provider_is(provider.name, provider.state(now), provider.health.why)
            if provider.health.probe_at() <= now:
                provider.health.probing(now)
                probing = asyncio.create_task(self._steps.probe(self, provider))
                self._others.add(probing)
                probing.add_done_callback(self._others.discard)
            next_at = min(next_at, provider.health.probe_at())
        return next_at

    def heard(self, provider: Provider, task_id: str, ref: Ref, progress: Progress) -> None:
        """A vendor has told of the job `ref` of a task ('': of none) by another call than that job's poll."""
        task, watch = self.tasks.get(task_id), self.watches.get(task_id)
        if task is None or watch is None or watch.is_busy or watch.is_parked or task.state != "rendering":
            return
        if task.provider == provider.name and ref_of(task) == ref:
            self._begin(self._others, task.id, partial(self._steps.hear, self, task, provider, progress))

    def _begin_due(self, task: Task) -> None:
        """Begin the step of a task whose time has come; that of a file's begins in its turn."""
        if task.unstored_since is not None:
            self.copies.line_up(task)
            return
        step = self._steps.end if self.watches[task.id].is_parked else self._steps.due[task.state]
        self._begin(self._others, task.id, partial(step, self, task))

    def _lines_up(self, task: Task) -> bool:
        """Whether a due task only waits for its turn to be asked for, until its deadline at most."""
        watch, now = self.watches[task.id], self.now()
        if task.state != "rendering" or watch.is_parked or now >= task.deadline_at:
            return False
        if not self.fleet.line_up(task, watch.polled_at, now):
            return False
        self.due_at(task.id, task.deadline_at)
        return True

    def _begin(
        self, group: set[asyncio.Task[None]], task_id: str, step: Callable[[], Awaitable[None]]
    ) -> None:
        watch = self.watches[task_id]  # taken here: the task may end before its step first runs
        watch.is_busy = True
        # In a context of the engine's: what a request is logged with is not the step's.
        running = asyncio.create_task(self._run_step(task_id, watch, step), context=self._context.copy())
        group.add(running)

        def is_over(done: asyncio.Task[None]) -> None:
            group.discard(done)
            self._wake.set()  # not before: the loop must not count it any more

        running.add_done_callback(is_over)

    async def _run_step(self, task_id: str, watch: Watch, step: Callable[[], Awaitable[None]]) -> None:
        """Run one step; what goes wrong in it stays with that task, which is looked at again later."""
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - a fault in one task's step must not end the others'
            watch.failures += 1
            if isinstance(error, StorageError):
                self.telemetry.storage_failed(task_id, error)
            else:
                self.telemetry.step_failed(task_id, error)
            watch.not_before = self.now() + pause_seconds(watch.failures, None, self.chance)
            self.due_at(task_id, watch.not_before)
        finally:
            watch.is_busy = False
            if self.watches.get(task_id) is watch and watch.due is None:
                self.schedule(self.tasks[task_id])

    # --- timers -------------------------------------------------------------------------------------

    def due_at(self, task_id: str, at: float) -> None:
        """Make a task due at `at`, whatever was planned; nothing happens when it is not followed any more."""
        watch = self.watches.get(task_id)
        if watch is not None:
            watch.due = at
            self.timers.put(task_id, at)
            if at < self._wakes_at:
                self._wake.set()

    def _next_due(self) -> Task | None:
        """The next task whose time has come. A busy one is planned anew when its step ends."""
        now = self.now()
        while (task_id := self.timers.pop(now)) is not None:
            task = self.tasks[task_id]
            # The deadline of one that is being sent does not wait for its step.
            if not self.watches[task_id].is_busy or task.state == "submitting":
                return task
        return None

    def schedule(self, task: Task) -> None:
        """When a task is to be looked at next, by its state."""
        watch, now = self.watches[task.id], self.now()
        if task.unstored_since is not None:
            self.due_at(task.id, max(now, watch.not_before))
            return
        if task.is_terminal:
            looks_at = next_look(now, task.completed_at or now, self.chance)
            self.due_at(task.id, min(looks_at, task.late_until or now))
            return
        next_at = task.deadline_at
        match task.state:
            case _ if watch.is_parked:
                pass
            case "waiting":
                next_at = self.line.ends_at(task)
            case "rendering":
                next_at = now if watch.poll_at is None else watch.poll_at
            case "submission_unknown":
                next_at = now
        self.due_at(task.id, min(task.deadline_at, next_at))

    # --- admission ----------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Let waiting tasks through. While the database is in trouble nothing new is bought."""
        now = self.now()
        self.line.gates_at = now + SHORT_SECONDS
        if not self.may_buy:
            self.spending.look_soon(self._others, self.look)
            return
        for task_id, candidate in self.line.ready(now, SUBMITS_MAX - len(self._submits), self._may_go):
            task = self.tasks[task_id]
            self.entering[task_id] = Entry(candidate.provider)
            self._begin(self._submits, task_id, partial(self._steps.submit, self, task, candidate))

    @property
    def may_buy(self) -> bool:
        """Whether anything new may be sent at all."""
        is_ours = self.is_settled and not self._is_stopping and not self.spending.is_stopped
        return is_ours and not self.store.is_short and self.lease.is_held

    @property
    def has_room(self) -> bool:
        """Whether one more submit may be under way in this process."""
        return len(self._submits) + len(self.tickets) < SUBMITS_MAX

    def give_back(self, task_id: str) -> None:
        """A new task was not stored: its place at a gate is free again."""
        ticket = self.tickets.pop(task_id, None)
        if ticket is not None:
            self.entering.pop(task_id, None)
            self.images.give(ticket.image_bytes)
            gate = self.fleet.providers[ticket.candidate.provider].gate
            gate.answered()
            gate.withdraw()
            self.accounts.leave(task_id)
            self._wake.set()

    def _may_go(self, task_id: str) -> bool:
        """Whether a waiting task may go; if so it does, and has its place in its accounts."""
        task, watch = self.tasks[task_id], self.watches[task_id]
        if watch.is_busy or watch.is_parked or not watch.not_before <= self.now() < task.deadline_at:
            return False
        self.accounts.take(task)
        return True

    def queue_place(self, task: Task) -> tuple[int, float | None] | None:
        """A waiting task's place from 1, and when it may start if that can be told; None when not in line."""
        return self.line.place(task.id, self.now())

    def seconds_to_next(self, task: Task) -> float:
        """How long until something may have changed for a caller: until the next poll, 1 to 60 seconds."""
        watch = self.watches.get(task.id)
        if task.state != "rendering" or watch is None or watch.poll_at is None:
            return 1.0
        now = self.now()
        planned = min(watch.poll_at, task.deadline_at) - now
        return min(60.0, max(1.0, planned, self.fleet.wait_seconds(task, now)))

    # --- saving -------------------------------------------------------------------------------------

    async def insist(self, task_id: str, operation: Callable[[], Awaitable[T]]) -> T:
        """Try until the database has answered; GuardFailed and Duplicate are answers."""
        failures = 0
        while True:
            try:
                return await operation()
            except (GuardFailed, Duplicate):
                raise
            except StorageError as error:
                failures += 1
                self.telemetry.storage_failed(task_id, error)
                await asyncio.sleep(min(SAVE_PAUSE_MAX_SECONDS, pause_seconds(failures, None, self.chance)))

    def saved(self, task: Task, events: tuple[Event, ...]) -> None:
        """A task was saved, by this engine or by a caller's request: count, report, plan it anew."""
        if task.replica != self.replica or task.state != "submitting":
            self.give_back(task.id)  # it will not be sent with that
        if task.replica != self.replica:
            self.forget(task.id)
            return
        before = self.tasks.get(task.id)
        if task.id in self.watches:
            self.watches[task.id].noted = ()  # written, or of before what somebody else saved
        self.telemetry.task_changed(before, task, events)
        counting.count(self, before, task)
        self.tasks[task.id] = task
        if not task.is_followed:
            self.forget(task.id)
            return
        watch = self.watches.setdefault(task.id, Watch())
        watch.is_parked = watch.is_parked and not task.is_terminal
        if task.state in ("waiting", "submission_unknown"):  # what is remembered is of an earlier job
            watch.poll_at = watch.polled_at = watch.missing_since = None
            watch.failures = 0
        if task.state == "waiting":
            self.line.add(task)
        ticket = self.tickets.pop(task.id, None)
        if ticket is not None:
            self._begin(self._submits, task.id, partial(self._steps.send, self, task, ticket))
        self.schedule(task)
        if self.line:  # one of those that wait may have a place now
            self._wake.set()

    def forget(self, task_id: str) -> None:
        """A task is not followed here any more."""
        task = self.tasks.pop(task_id, None)
        self.watches.pop(task_id, None)
        self.line.remove(task_id)
        self.copies.leave(task_id)
        if task is not None:
            counting.forget(self, task)
            self.telemetry.task_forgotten(task)
        self._wake.set()

    def park(self, task_id: str, message: str) -> None:
        """Leave a task alone until its deadline: its next step would break a promise."""
        self.telemetry.violated(task_id, message)
        watch = self.watches.get(task_id)
        if watch is None or watch.is_parked:
            self.forget(task_id)  # nothing ends it; the next start tries again
            return
        watch.is_parked = True
        self.due_at(task_id, self.tasks[task_id].deadline_at)

    def oldest_unfinished_seconds(self) -> float:
        """The age of the oldest unfinished task, 0 when there is none."""
        unfinished = (task.created_at for task in self.tasks.values() if not task.is_terminal)
        oldest = min(unfinished, default=None)
        return 0.0 if oldest is None else max(0.0, self.now() - oldest)
