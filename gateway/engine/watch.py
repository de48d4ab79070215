"""What the engine remembers of a task beside its row, and what it is given from outside.

Not held here: the loop that uses them (`loop`), the steps themselves.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from gateway.core.facts import Candidate
from gateway.core.lease import Lease
from gateway.core.pacing import PollPlan
from gateway.core.states import Event, Task
from gateway.engine.provider import Provider
from providers.spec import VideoRequest

if TYPE_CHECKING:
    from gateway.engine.loop import Engine

Step: TypeAlias = "Callable[[Engine, Task], Awaitable[None]]"
SubmitStep: TypeAlias = "Callable[[Engine, Task, Candidate], Awaitable[None]]"
SendStep: TypeAlias = "Callable[[Engine, Task, Ticket], Awaitable[None]]"
ProbeStep: TypeAlias = "Callable[[Engine, Provider], Coroutine[None, None, None]]"


class Watch(msgspec.Struct):
    """What the engine remembers of a task beside its row: times in Unix seconds, lost with the process.

    `noted` are events that go with the next save. `is_parked`: a step would have broken a promise; nothing
    but its deadline happens to the task any more.
    """

    due: float | None = None
    is_busy: bool = False
    is_parked: bool = False
    plan: PollPlan | None = None
    polled_at: float | None = None
    failures: int = 0
    missing_since: float | None = None
    not_before: float = 0.0
    noted: tuple[Event, ...] = ()


class Ticket(msgspec.Struct, frozen=True):
    """A place at a candidate's gate for a task that is stored as `submitting` at once, and its request."""

    candidate: Candidate
    request: VideoRequest


class Outside(msgspec.Struct, frozen=True):
    """What the engine takes from outside: Unix time in seconds, randomness, its name, the right to that name.

    `replica` is the name that this process owns tasks by; it `follows` tasks, or leaves that to others.
    """

    now: Callable[[], float]
    chance: random.Random
    replica: str
    lease: Lease
    follows: bool = True


class Steps(msgspec.Struct, frozen=True):
    """What to do with a task: `submit` for an admitted one, `due` (by state) for one whose time has come.

    `send` is for one that was stored with a ticket, `end` for a parked one at its deadline, `probe` finds out
    whether a provider is back.
    """

    submit: SubmitStep
    send: SendStep
    due: Mapping[str, Step]
    end: Step
    probe: ProbeStep
