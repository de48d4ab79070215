"""Bugs on purpose: each breaks one promise in the production code, and the simulation has to find it.

A simulation that finds nothing proves nothing until it is known what it would find. Not held here: looking
for them (`campaign`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias
from unittest.mock import patch

import msgspec

from gateway.core import spending, tasks
from gateway.core.admission import Gate
from gateway.core.facts import Accepted, Fact, NotSent, SubmitUnknown
from gateway.core.lease import Lease
from gateway.core.pacing import PollPlan
from gateway.core.states import Change, Task
from gateway.core.tasks import IllegalTransition
from gateway.engine import entering, poll, submit, takeover
from gateway.engine import provider as fleet
from gateway.engine import replica as replica_life
from gateway.engine.loop import Engine
from gateway.engine.provider import Provider
from gateway.engine.replica import Replica
from gateway.engine.steps import STEPS
from gateway.storage import replicas
from gateway.storage import store as statements
from gateway.storage.db import Duplicate, GuardFailed, Step, StorageError
from gateway.storage.replicas import Room
from gateway.storage.store import Store
from providers.spec import Charged, Failed, VendorError

Patch: TypeAlias = Any  # what unittest.mock.patch makes
_FAILED: Final = Failed(raw_status="?", code="vendor_failed", message="it is not there")


def _unknown_is_not_sent() -> Patch:
    """A lost answer is taken for a request that never left."""
    real = submit._unaccepted  # noqa: SLF001 - what is to be broken

    def wrong(engine: Engine, provider: Provider, task: Task, error: VendorError) -> Fact:
        fact = real(engine, provider, task, error)
        return NotSent(fact.cause) if isinstance(fact, SubmitUnknown) else fact

    return patch.object(submit, "_unaccepted", wrong)


def _takeover_sends_again() -> Patch:
    """A task that was being sent when the process died goes back into the line."""
    return patch.object(takeover, "SubmitUnknown", NotSent)


def _no_fence() -> Patch:
    """A save does not look whether the task is as it was found, and overwrites events."""
    start, version = statements.VIDEO_SAVE.rsplit(" and version = ", 1)
    sql = f"{start} and {version} = {version}"
    add = statements.EVENTS_ADD.replace("insert into", "insert or replace into")
    return patch.multiple(statements, VIDEO_SAVE=sql, EVENTS_ADD=add)


def _missing_is_failed() -> Patch:
    """A vendor that does not know its own id yet is taken to have failed the render."""

    async def wrong(engine: Engine, task: Task, provider: Provider, error: VendorError) -> None:
        if error.kind == "not_found":
            await answered(engine, task, provider, _FAILED)
            return
        await real(engine, task, provider, error)

    real, answered = poll._could_not_ask, poll._answered  # noqa: SLF001 - what is to be broken
    return patch.object(poll, "_could_not_ask", wrong)


def _gate_is_left_open() -> Patch:
    """A provider's gate does not count those that enter."""

    def wrong(gate: Gate, now: float) -> bool:
        gate.sending += 1
        return True

    return patch.object(Gate, "enter", wrong)


def _late_answer_is_ignored() -> Patch:
    """What a vendor answers after the task has ended is thrown away."""
    real = tasks._late  # noqa: SLF001 - what is to be broken

    def wrong(task: Task, fact: Fact, now: float) -> Change:
        if isinstance(fact, Accepted):
            raise IllegalTransition(task, fact)
        return real(task, fact, now)

    return patch.object(tasks, "_late", wrong)


def _failed_save_is_believed() -> Patch:
    """A save that the database refused is taken for done."""
    real = Store.task_save

    async def wrong(store: Store, change: Change, room: Room | None = None) -> Task:
        try:
            return await real(store, change, room)
        except (GuardFailed, Duplicate):
            raise
        except StorageError:
            after = msgspec.structs.replace(change.task, version=change.before.version + 1)
            store.tell(after, change.events)
            return after

    return patch.object(Store, "task_save", wrong)


def _unknown_has_no_deadline() -> Patch:
    """An unknown submission is left alone for ever."""

    async def wrong(engine: Engine, task: Task) -> None:
        engine.due_at(task.id, engine.now() + 3600.0)

    return patch.dict(_due(), {"submission_unknown": wrong})


def _could_not_ask_is_failed() -> Patch:
    """A poll that broke is taken for a render that failed."""
    answered = poll._answered  # noqa: SLF001 - what is to be broken

    async def wrong(engine: Engine, task: Task, provider: Provider, error: VendorError) -> None:
        await answered(engine, task, provider, _FAILED)

    return patch.object(poll, "_could_not_ask", wrong)


def _key_is_not_unique() -> Patch:
    """Two requests under one idempotency key make two videos."""
    sql = statements.IDEMPOTENCY_ADD.replace("insert into", "insert or replace into")
    return patch.object(statements, "IDEMPOTENCY_ADD", sql.rsplit(" on conflict", 1)[0])


def _nobody_asks() -> Patch:
    """The first poll comes a day after the acceptance."""

    def wrong(now: float, *more: object, **hints: object) -> PollPlan:
        return PollPlan(now + 86_400.0, "prior")

    return patch.object(fleet, "next_poll", wrong)


def _lease_never_ends() -> Patch:
    """A replica takes itself for alive however long nobody has noted a beat of it."""
    return patch.object(Lease, "is_held", True)


def _claim_is_no_version() -> Patch:
    """Who takes over leaves the version as it was: the one before can still save."""
    sql = statements.TASKS_CLAIM.replace(", version = version + 1", "")
    return patch.object(statements, "TASKS_CLAIM", sql)


def _caps_are_of_a_process() -> Patch:
    """Each replica counts its own jobs alone against what the provider takes."""

    def wrong(engine: Engine, name: str) -> Room | None:
        return None

    return _Both(patch.object(entering, "room_at", wrong), patch.object(submit, "room_at", wrong))


def _old_name_is_kept() -> Patch:
    """A replica that was declared dead declares itself alive, and goes on with what it knows."""
    revived = f"{replicas.REPLICA_BEAT.split(' where ', 1)[0]}, ended_at = null where id = $1"

    async def wrong(replica: Replica) -> None:
        engine = replica._engine  # noqa: SLF001 - what is to be broken
        begun = engine.lease.begun()
        step = Step(revived, (engine.replica, "{}"))
        await engine.insist("", lambda: engine.store._database.write((step,)))  # noqa: SLF001
        engine.lease.confirmed(begun)

    return patch.object(Replica, "_rejoin", wrong)


def _missed_news_are_not_looked_up() -> Patch:
    """That something may have been missed is taken for nothing new, and nobody looks by himself."""
    real = Replica._heard  # noqa: SLF001 - what is to be broken

    def wrong(replica: Replica, text: str | None) -> None:
        if text is not None:
            real(replica, text)

    return _Both(patch.object(Replica, "_heard", wrong), patch.object(replica_life, "MISSED_SECONDS", 1e9))


class _Both:
    """Two patches that belong together."""

    def __init__(self, *patches: Patch) -> None:
        self._patches = patches

    def start(self) -> None:
        """For good."""
        for one in self._patches:
            one.start()

    def __enter__(self) -> None:
        for one in self._patches:
            one.__enter__()

    def __exit__(self, *error: object) -> None:
        for one in reversed(self._patches):
            one.__exit__(*error)


def _due() -> dict[str, Callable[[Engine, Task], Awaitable[None]]]:
    table: Mapping[str, Callable[[Engine, Task], Awaitable[None]]] = STEPS.due
    assert isinstance(table, dict)
    return table


# What a save is worth is remembered: in the two below it is worked out each time.
_worth_anew: Final = spending._worth.__wrapped__  # noqa: SLF001 - what is to be broken


def _doubt_is_released() -> Patch:
    """What may have been bought is given back from the ledger as if it had not been."""
    real = spending._sending  # noqa: SLF001 - what is to be broken

    def wrong(task: spending._Stand, charged: Charged) -> Iterator[tuple[tuple[str, str], spending.Amounts]]:
        is_doubted = task.state == "submission_unknown"
        return real(task, "no" if is_doubted else charged)

    return patch.multiple(spending, _sending=wrong, _worth=_worth_anew)


def _bought_is_released_at_the_end() -> Patch:
    """At its end a video's reservation is given back, whatever it has cost."""
    real = spending._position  # noqa: SLF001 - what is to be broken

    def wrong(task: spending._Stand) -> Iterator[tuple[tuple[str, str], spending.Amounts]]:
        for line, amounts in real(task):
            yield line, msgspec.structs.replace(amounts, settled=0)

    return patch.multiple(spending, _position=wrong, _worth=_worth_anew)


PLANTED: Final[Mapping[str, Callable[[], Patch]]] = {
    "unknown taken for not sent": _unknown_is_not_sent,
    "takeover sends again": _takeover_sends_again,
    "no version fence": _no_fence,
    "404 believed at once": _missing_is_failed,
    "gate does not count": _gate_is_left_open,
    "late answer thrown away": _late_answer_is_ignored,
    "failed save believed": _failed_save_is_believed,
    "unknown never settled": _unknown_has_no_deadline,
    "could not ask taken for failed": _could_not_ask_is_failed,
    "nobody asks": _nobody_asks,
    "idempotency key not unique": _key_is_not_unique,
    "lease never ends": _lease_never_ends,
    "claim leaves the version": _claim_is_no_version,
    "caps counted per process": _caps_are_of_a_process,
    "name kept after death": _old_name_is_kept,
    "missed news not looked up": _missed_news_are_not_looked_up,
    "doubt released from the ledger": _doubt_is_released,
    "purchase never settled": _bought_is_released_at_the_end,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """With this bug in the production code, for as long as the context lasts."""
    with PLANTED[name]():
        yield


def plant(name: str) -> None:
    """Put this bug into this process for good: for a worker that does nothing else."""
    PLANTED[name]().start()
