"""What is known of a run when it is over: the vendors' ledger, the gateway's rows, the callers' notes.

Plain values, so that a history can also be forged. Not held here: any judgement (`checker`).
Times are in virtual seconds; those inside tasks and events are in the gateway's own Unix seconds.
"""

from __future__ import annotations

import msgspec

from gateway.core.states import Event, Task


class Submission(msgspec.Struct, kw_only=True):
    """One create call; `has_left`: it went out to the vendor, which charged `cents`, perhaps refunded.

    `told_at`: when its id, and its own, reached a living process, `told_by` (number). `told_done_at`,
    `told_failed_at`: the first poll answer that said so and reached one. `is_unclear`: nothing that
    arrived proved anything. `polls`: when the gateway asked for it.
    """

    number: int
    provider: str
    order: int
    at: float
    kind: str
    sent_by: int
    has_left: bool = False
    vendor_task_id: str | None = None
    cents: int = 0
    is_refunded: bool = False
    fate: str | None = None
    ready_at: float = 0.0
    is_unclear: bool = False
    refusal: str | None = None
    told_at: float | None = None
    told_by: int = -1
    told_done_at: float | None = None
    told_done_by: int = -1
    told_failed_at: float | None = None
    told_failure: str = "vendor_failed"
    told_missing: bool = False
    told_linkless: bool = False
    polls: list[float] = []

    @property
    def is_charged(self) -> bool:
        """Whether the vendor did the work."""
        return self.cents > 0


class Accepted(msgspec.Struct, frozen=True):
    """A 202 that reached its caller."""

    order: int
    video_id: str


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A video as it was stored at the end, or just before its caller deleted it at `deleted_at`."""

    order: int
    task: Task
    events: tuple[Event, ...]
    deleted_at: float | None = None

    @property
    def jobs(self) -> set[tuple[str | None, str]]:
        """Every job that it names: the provider, and the vendor's id."""
        told = [(event.provider, event.detail.get("vendor_task_id")) for event in self.events]
        last = self.task.provider, self.task.vendor_task_id
        return {(provider, str(job_id)) for provider, job_id in (last, *told) if job_id}


class Life(msgspec.Struct, kw_only=True):
    """One process: from when to when (virtual seconds), and how it ended.

    `troubles`: when it stood still or was cut off.
    """

    number: int
    born_at: float
    ended_at: float | None = None
    end: str = "alive"
    troubles: list[tuple[float, float]] = []


class Ending(msgspec.Struct, kw_only=True):
    """What the last process held when all was over; everything should be empty."""

    in_flight: dict[str, int] = {}
    sending: dict[str, int] = {}
    waiting: int = 0
    followed: list[str] = []
    leaked: list[str] = []
    violations: int = 0
    faults: list[str] = []


class History(msgspec.Struct, kw_only=True):
    """Everything. `trouble_seconds`: how long in all nothing could be done in time (down, paused, no disk).

    `notes` are breaches that were seen on the way, each with its class; `money_breaches`
    when the ledger and the vendors' books disagreed. `disk_trouble_seconds`: how long a
    save may take. With replicas: how often one was declared dead and lived (`outlived`), how long it took to
    take over from one that was killed.
    """

    wall_start: float = 1_800_000_000.0
    orders: dict[int, float] = {}
    submissions: list[Submission] = []
    accepted: list[Accepted] = []
    videos: list[Seen] = []
    lives: list[Life] = []
    cancelled: set[str] = set()
    ending: Ending = msgspec.field(default_factory=Ending)
    trouble_seconds: float = 0.0
    jump_seconds: float = 0.0
    disk_trouble_seconds: float = 0.0
    notes: list[str] = []
    money_breaches: list[str] = []
    settled_cents: int = 0
    reserved_cents: int = 0
    is_calm: bool = False
    is_shared: bool = False
    outlived: int = 0
    takeover_seconds: list[float] = []
    has_queue_limit: bool = False
    poll_min: dict[str, float] = {}
    poll_max: dict[str, float] = {}
    limits: dict[str, int] = {}
    crashes: int = 0
    disk_faults: int = 0
    vendor_faults: dict[str, int] = {}
    seconds: float = 0.0
