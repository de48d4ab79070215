"""Keeping count of who has a place at a vendor: the gates and the accounts, in step with what is saved.

A place is taken at admission, or at taking over. Not held here: who may have one (`gateway.core.admission`,
`accounts`), the line (`line`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.admission import Gate
from gateway.core.states import Task
from gateway.engine.watch import Entry

if TYPE_CHECKING:
    from gateway.engine.loop import Engine


def count(engine: Engine, before: Task | None, after: Task) -> None:
    """A task was saved: it leaves the line, and has a place or has none any more."""
    engine.line.remove(after.id)
    _count_account(engine, after)
    _count_unknown(engine, before, -1)
    _count_unknown(engine, after, 1)
    entry = engine.entering.get(after.id)
    job = before if before is not None and before.is_in_flight else after
    provider = engine.fleet.providers.get(job.provider or "")
    if provider is None:
        return
    if job is before and not after.is_in_flight:
        provider.left(job)
        if engine.peers and provider.gate.max_in_flight is not None:
            provider.gate.crowded(engine.now(), engine.chance)
    elif job is after and after.is_in_flight and entry is not None and entry.provider == after.provider:
        del engine.entering[after.id]
        entry.is_used = True
        provider.gate.started()
    elif job is after and after.is_in_flight:
        provider.gate.in_flight += 1


def _count_account(engine: Engine, after: Task) -> None:
    """One that was admitted, and is not known to be started, keeps its place whatever is saved of it."""
    accounts = engine.accounts
    if after.is_in_flight:
        accounts.take(after)
        accounts.started(after)
    elif after.id not in engine.entering and accounts.leave(after.id) and engine.peers:
        # Whoever looks first at a free place has it, so all replicas draw lots.
        accounts.crowded(accounts.capped(after), engine.chance)


def _count_unknown(engine: Engine, task: Task | None, more: int) -> None:
    if task is not None and task.provider is not None and task.state == "submission_unknown":
        engine.fleet.unknown[task.provider] += more


def withdraw(engine: Engine, task_id: str, gate: Gate, entry: Entry) -> None:
    """The step that a task had its place at `gate` for is over: it is free, if nothing was sent.

    The task may have been given away meanwhile, taken back, and admitted or found in flight once more.
    """
    if engine.entering.get(task_id) is entry:
        del engine.entering[task_id]
    if entry.is_used:
        return
    gate.withdraw()
    known = engine.tasks.get(task_id)
    if task_id not in engine.entering and (known is None or not known.is_in_flight):
        engine.accounts.leave(task_id)


def forget(engine: Engine, task: Task) -> None:
    """A task is not followed here any more."""
    engine.accounts.leave(task.id)
    _count_unknown(engine, task, -1)
    provider = engine.fleet.providers.get(task.provider or "")
    if task.is_in_flight and provider is not None:
        provider.left(task)
