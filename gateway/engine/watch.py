"""What the engine remembers of a task beside its row, and what it is given from outside.

Not held here: the loop that uses them (`loop`), the steps themselves.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from gateway.core.facts import Candidate
from gateway.core.lease import Lease
from gateway.core.states import Event, Task
from gateway.engine.provider import Provider
from providers.spec import Progress, VideoRequest

if TYPE_CHECKING:
    from gateway.engine.keeping import Keeping
    from gateway.engine.loop import Engine

Step: TypeAlias = "Callable[[Engine, Task], Awaitable[None]]"
SubmitStep: TypeAlias = "Callable[[Engine, Task, Candidate], Awaitable[None]]"
SendStep: TypeAlias = "Callable[[Engine, Task, Ticket], Awaitable[None]]"
ProbeStep: TypeAlias = "Callable[[Engine, Provider], Coroutine[None, None, None]]"
HearStep: TypeAlias = "Callable[[Engine, Task, Provider, Progress], Awaitable[None]]"


class Watch(msgspec.Struct, gc=False):
    """What the engine remembers of a task beside its row: times in Unix seconds, lost with the process.

    `noted` are events that go with the next save; `file_key` is where its file is, or was to be, stored;
    `bad_links` counts the tries at storing it that the vendor's link stood in the way of, `bad_since` is when
    the first of those was that nothing else came between, and `renewals` counts the other links named since.
    `link` is how the present one is: not tried yet, or dead when it was; None: its own end tells.
    `denied_since`: the vendor has denied since then, whenever asked for another link, that there is one.
    `poll_at` is when its job is to be asked for by the schedule, or was; None where that is not planned yet.
    `is_parked`: a step would have broken a promise; nothing but its deadline happens to the task any more.
    """

    due: float | None = None
    is_busy: bool = False
    is_parked: bool = False
    poll_at: float | None = None
    polled_at: float | None = None
    failures: int = 0
    missing_since: float | None = None
    not_before: float = 0.0
    noted: tuple[Event, ...] = ()
    file_key: str | None = None
    bad_links: int = 0
    bad_since: float | None = None
    renewals: int = 0
    link: Literal["fresh", "refused"] | None = None
    denied_since: float | None = None


class Entry(msgspec.Struct):
    """A place at a provider's gate that a task was admitted with; `is_used`: it is known to be started."""

    provider: str
    is_used: bool = False


class Ticket(msgspec.Struct, frozen=True):
    """A place at a candidate's gate for a task that is stored as `submitting` at once, and its request.

    `image_bytes` of it are counted in the engine's budget until it is sent.
    """

    candidate: Candidate
    request: VideoRequest
    image_bytes: int = 0


class Outside(msgspec.Struct, frozen=True):
    """What the engine takes from outside: Unix time in seconds, randomness, its name, the right to that name.

    `replica` is the name that this process owns tasks by; it `follows` tasks, or leaves that to others.
    `keeping` is what files are kept with; None: they are left at their vendors.
    """

    now: Callable[[], float]
    chance: random.Random
    replica: str
    lease: Lease
    follows: bool = True
    keeping: Keeping | None = None


class Steps(msgspec.Struct, frozen=True):
    """What to do with a task: `submit` for an admitted one, `due` (by state) for one whose time has come.

    `send` is for one that was stored with a ticket, `end` for a parked one at its deadline, `keep` for one
    whose file is to be stored; `probe` finds out whether a provider is back, `hear` takes what that was told.
    """

    submit: SubmitStep
    send: SendStep
    due: Mapping[str, Step]
    end: Step
    keep: Step
    probe: ProbeStep
    hear: HearStep
