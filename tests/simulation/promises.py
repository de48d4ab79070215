"""What must hold while several replicas share a database, watched as it happens: at commits, and at sendings.

What the watch finds goes into the history's notes, for the judge. It asks the server's own rows and clock,
never the gateway's. Not held here: what must hold in the end (`checker`, `replica_checks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.lease import LEASE_SECONDS
from gateway.storage import store as statements
from gateway.storage.db import Row, Step
from gateway.storage.replicas import REPLICAS_END
from gateway.storage.rows import TASK_COLUMNS

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

MINUTE_SECONDS: Final = 60.0
TAKEOVER_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 8.0
OBEYED_SECONDS: Final = 5.0  # between an order at one replica and its being obeyed by all
IN_FLIGHT: Final = frozenset({"submitting", "rendering", "submission_unknown"})
ENDED: Final = frozenset({"completed", "failed", "cancelled"})
_READ: Final = ("id", "version", "provider", "state", "attempts")
_INDEX: Final = {name: TASK_COLUMNS.index(name) for name in _READ}
_JOBS: Final = """select v.id, v.replica, v.state, v.provider, v.vendor_task_id, v.resubmits + v.reruns,
    r.request from videos v join video_requests r on r.video_id = v.id"""
_LEFT: Final = """select count(*) from videos where replica = $1
    and (state in ('waiting', 'submitting', 'rendering', 'submission_unknown') or late_until is not null)"""

_BURIED: Final = "select id from replicas where ended_at is not null"


class _Stored(msgspec.Struct, frozen=True):
    """A video as far as it matters here."""

    id: str
    replica: str
    state: str
    provider: str | None
    vendor_task_id: str | None
    permissions: int
    order: int


class Promises:
    """The watch over one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._versions: dict[str, int] = {}
        self._attempts: set[tuple[str, int]] = set()
        self._intents: dict[str, list[float]] = {}
        self._held: dict[str, float] = {}  # since when nothing may be sent to a provider
        self._inherited: dict[str, float] = {}  # when something of theirs was last taken over
        self._idle: dict[tuple[str, str, int], float] = {}  # since when a sending is nobody's
        self._buried: set[str] = set()  # names that were declared dead

    # --- at a commit --------------------------------------------------------------------------------

    def committed(self, process: Process, steps: Sequence[Step], rows: Sequence[Row]) -> None:
        """A write of this process took place."""
        for step in steps:
            if step.sql in (statements.VIDEO_SAVE, statements.VIDEO_ADD):
                self._is_saved(process, step.args)
            elif step.sql == statements.TASKS_CLAIM:
                self._are_claimed(process, str(step.args[1]), rows)
            elif step.sql == REPLICAS_END:
                self._buried |= {str(name) for (name,) in self._world.rows(_BURIED)}
            elif step.sql == statements.HOLD_DELETE:
                self._held.pop(str(step.args[0]), None)

    def ordered(self, provider: str) -> None:
        """An operator has the answer that nothing more is sent there."""
        self._held.setdefault(provider, self._world.time())

    def _is_saved(self, process: Process, row: Sequence[object]) -> None:
        """Each version of a task is one save's: who saves another of the same number has overwritten it."""
        video_id, version = str(row[_INDEX["id"]]), int(str(row[_INDEX["version"]]))
        if version <= self._versions.get(video_id, -1):
            self._note(f"version {version} of video {video_id[-6:]} is saved again, by {process.name}")
        self._versions[video_id] = version
        attempt = video_id, int(str(row[_INDEX["attempts"]]))
        if row[_INDEX["state"]] == "submitting" and attempt not in self._attempts:
            self._attempts.add(attempt)
            self._is_intended(process, str(row[_INDEX["provider"]]))

    def _are_claimed(self, process: Process, owner: str, rows: Sequence[Row]) -> None:
        for row in rows:
            self._is_saved(process, row)
        if rows:
            self._world.say(process.name, f"takes over {len(rows)} of {owner or 'nobody'}")
            self._inherited[owner] = self._world.time()

    def _is_intended(self, process: Process, provider: str) -> None:
        """The intent to send is what caps, rates and orders hold for, over all replicas."""
        world, now = self._world, self._world.time()
        plan = next(one for one in world.plan.vendors if one.name == provider)
        times = self._intents.setdefault(provider, [])
        times.append(now)
        most = plan.requests_per_minute
        if most is not None and len(times) > most and now - times[-1 - most] < MINUTE_SECONDS:
            seconds = now - times[-1 - most]
            self._note(f"{most + 1} intents to send to {provider} within {seconds:.1f} s")
        in_flight = world.jobs_in_flight(provider)
        if plan.max_in_flight is not None and in_flight > plan.max_in_flight:
            self._note(f"{in_flight} jobs are stored in flight at {provider}, of {plan.max_in_flight}")
        since = self._held.get(provider)
        if since is not None and now - max(since, process.undisturbed_since()) > OBEYED_SECONDS:
            self._note(f"{process.name} sends to {provider}, held back {now - since:.1f} s ago")

    # --- at a sending -------------------------------------------------------------------------------

    def leaves(self, process: Process, provider: str, order: int) -> None:
        """A paid request of this process leaves now."""
        world = self._world
        name = process.engine.replica
        rows = world.rows("select beat_at, ended_at from replicas where id = $1", name)
        beat_at, ended_at = rows[0] if rows else (None, None)
        late_seconds = world.server_now() - float(beat_at or 0.0)
        if name in self._buried or ended_at is not None or late_seconds > LEASE_SECONDS:
            self._note(f"{name} sends order {order}, {late_seconds:.1f} s after its last beat")
        stored = self._stored()
        going = [one for one in stored if one.order == order and one.state not in ENDED]
        mine = [one for one in going if one.replica == name and one.state == "submitting"]
        if going and not mine:
            owners = ", ".join(f"{one.replica} has it as {one.state}" for one in going)
            self._note(f"{name} sends order {order}, and {owners}")
        self._is_within(provider, stored)

    def _is_within(self, provider: str, stored: Sequence[_Stored]) -> None:
        """Jobs at the vendor: the stored ones, and those of its own books that nobody counts but should."""
        world = self._world
        plan = next(one for one in world.plan.vendors if one.name == provider)
        if plan.max_in_flight is None:
            return
        count = sum(one.provider == provider and one.state in IN_FLIGHT for one in stored)
        vendor = next(one for one in world.vendors.values() if one.plan.name == provider)
        waiting = {one.order for one in stored if one.state == "waiting" and not one.permissions}
        now = world.time()
        count += sum(job.ready_at > now and job.submission.order in waiting for job in vendor.jobs.values())
        if count > plan.max_in_flight:
            self._note(f"{count} jobs in flight at {provider}, of {plan.max_in_flight}")

    def _stored(self) -> list[_Stored]:
        found = []
        for video_id, replica, state, provider, job, permissions, request in self._world.rows(_JOBS):
            prompt = str(msgspec.json.decode(str(request))["prompt"])
            found.append(_Stored(
                str(video_id), str(replica), str(state), None if provider is None else str(provider),
                None if job is None else str(job), int(permissions or 0), int(prompt.rsplit(" ", 1)[1]),
            ))
        return found

    # --- now and then -------------------------------------------------------------------------------

    def look(self) -> None:
        """What is stored as being sent is being sent, or its owner knows better: nobody waits for nothing."""
        world = self._world
        for process in [one for _, one in sorted(world.serving.items()) if not one.is_frozen]:
            engine = process.engine
            for task in engine.tasks.values():
                if task.state != "submitting" or task.id in engine.sending or task.id in engine.tickets:
                    continue
                since = self._idle.setdefault((process.name, task.id, task.attempts), world.time())
                seconds = world.time() - max(since, process.undisturbed_since())
                if seconds > IDLE_SECONDS and not world.plan.disk.fails:
                    self._note(f"{process.name} has video {task.id[-6:]} as submitting, and does not send it")

    # --- at a death ---------------------------------------------------------------------------------

    def has_died(self, process: Process) -> None:
        """A process was killed: within ten seconds somebody else has what it owned, if anybody can."""
        name, world = process.engine.replica, self._world
        world.later(TAKEOVER_SECONDS, self._is_inherited, name, world.time())

    def _is_inherited(self, name: str, died_at: float) -> None:
        world = self._world
        able = [one.name for one in world.serving.values()
                if one.role != "api" and not one.is_stopping and one.undisturbed_since() < died_at]
        left = int(world.rows(_LEFT, name)[0][0] or 0)
        if not able or world.plan.disk.fails:
            return
        if name in self._inherited:
            world.history.takeover_seconds.append(self._inherited[name] - died_at)
        if left:
            self._note(f"{left} tasks of {name} are not taken over after 10 s, by {' and '.join(able)}")

    def _note(self, what: str) -> None:
        self._world.say("promises", f"BROKEN: {what}")
        self._world.history.notes.append(f"unexpected: {what}")
