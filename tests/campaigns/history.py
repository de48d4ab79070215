"""The history checker: what callers were told, the gateway says and the vendors charged, laid together.

Held here: the five classes of Jepsen's `total-queue` for videos, the money, and one function per promise of
the contract. Pure: every campaign, and the simulation, can hand over what it has collected. Not held here:
how that is collected (`evidence`), and what happened meanwhile (the campaigns).

    ok          promised by a 202, known, terminal, and its money agrees
    recovered   likewise, though the answer to the first sending never came
    lost        promised, and not known any more or without an end
    unexpected  known to the gateway or to a vendor, but never ordered
    duplicated  one order with two videos, or charged more often than there were permissions to spend
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec

from gateway.sandbox.faults import directives
from gateway.sandbox.renders import Entry

Json: TypeAlias = Mapping[str, Any]  # a video or an event, as the gateway answered it
Class: TypeAlias = Literal["ok", "recovered", "lost", "unexpected", "duplicated"]
CLASSES: Final[tuple[Class, ...]] = ("ok", "recovered", "lost", "unexpected", "duplicated")
TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})
RANKS: Final[Mapping[str, int]] = {"queued": 0, "in_progress": 1, "completed": 2, "failed": 2, "cancelled": 2}
# Events of a timeline that are a recorded permission to buy once more.
PERMISSIONS: Final = frozenset({"resubmit_allowed", "rerun_allowed"})
OVERDUE_SECONDS: Final = 5.0  # for the whole seconds that are shown, and a machine that is busy
TOO_LATE_SECONDS: Final = 2.0  # after its deadline a vendor may still get what had left before
# What may follow the end of a video, without changing it.
_AFTERWARDS: Final = frozenset({
    "accepted_after_end", "refused_after_end", "late_output", "late_failure", "late_ended", "other_job",
})
# How a job that the vendor finished may end other than `completed`, when nothing was wrong with its render.
_UNFOLLOWED: Final = frozenset({"deadline_exceeded", "submission_unknown"})


class Order(msgspec.Struct):
    """One video that a caller wants: its prompt is its name. Filled in while the campaign runs.

    `ids` are those of the 202s; `is_replayed`: the first 202 that came was a replay, so one was lost before;
    `is_refused`: it was answered otherwise. `deadline`: the seconds that were asked for. `oddities`: what the
    caller saw and should not have.
    """

    prompt: str
    deadline: int | None = None
    ids: list[str] = []
    is_replayed: bool = False
    is_refused: bool = False
    last_rank: int = 0
    last_progress: int = 0
    oddities: list[str] = []

    def see(self, video: Json) -> None:
        """Note what a caller was shown: neither its status nor its progress may ever go back."""
        rank, progress = RANKS[video["status"]], int(video["progress"])
        if rank < self.last_rank or progress < self.last_progress:
            was = f"rank {self.last_rank}, {self.last_progress} %"
            self.oddities.append(f"went back from {was} to {video['status']}, {progress} %")
        self.last_rank, self.last_progress = max(rank, self.last_rank), max(progress, self.last_progress)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All there is to see at the end. `states`: each job's at its vendor, by (vendor, its id).

    `absences`: from when to when (Unix seconds) no gateway was there to do anything.
    """

    orders: Sequence[Order]
    videos: Sequence[Json]
    timelines: Mapping[str, Sequence[Json]]
    ledger: Sequence[Entry]
    states: Mapping[tuple[str, str], str]
    absences: Sequence[tuple[float, float]] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the history comes to. `difference` is what the gateway says it bought less what was charged, USD.

    It is over the videos that the gateway is sure of; `unsure` is what was charged for the others. `doubts`
    counts the submissions whose outcome the gateway did not know.
    """

    classes: Mapping[Class, int]
    ends: Mapping[str, int]
    charges: int
    doubts: int
    difference: Decimal
    unsure: Decimal
    violations: Sequence[str]


class Case(msgspec.Struct, frozen=True):
    """One order with everything that belongs to it."""

    order: Order
    videos: Sequence[Json]
    events: Sequence[Json]
    charges: Sequence[Entry]
    states: Mapping[tuple[str, str], str]
    absences: Sequence[tuple[float, float]]

    @property
    def video(self) -> Json:
        """Its video; asked only where there is just one."""
        return self.videos[0]

    def count(self, *types: str) -> int:
        """How many events of these types its timeline has."""
        return sum(event["type"] in types for event in self.events)

    @property
    def permissions(self) -> int:
        """How often it may be charged."""
        return 1 + self.count(*PERMISSIONS)

    @property
    def is_sure(self) -> bool:
        """Whether the gateway knows to the cent what it cost: it was sent once, and accepted."""
        return len(self.videos) == 1 and self.video["charged"] == "yes" and self.permissions == 1


def check(evidence: Evidence) -> Verdict:
    """Judge a history that has ended."""
    cases = list(_cases(evidence))
    classes: Counter[Class] = Counter(dict.fromkeys(CLASSES, 0))
    violations: list[str] = []
    for case in cases:
        classes.update(_classes(case))
        violations += [f"{_name(case)}: {problem}" for rule in RULES for problem in rule(case)]
    strangers = list(_strangers(evidence))
    classes["unexpected"] += len(strangers)
    ends = Counter(_end(video) for video in evidence.videos)
    sure = [case for case in cases if case.is_sure]
    spent = sum((_cost(case) for case in sure), Decimal(0))
    charged = {case.order.prompt: _charged(case) for case in cases}
    known = sum((charged[case.order.prompt] for case in sure), Decimal(0))
    return Verdict(
        classes=classes, ends=ends, charges=len(evidence.ledger), difference=spent - known,
        doubts=sum(case.count("submission_unknown") for case in cases),
        unsure=sum(charged.values(), Decimal(0)) - known, violations=[*violations, *strangers],
    )


def _cases(evidence: Evidence) -> Iterator[Case]:
    videos: defaultdict[str, list[Json]] = defaultdict(list)
    charges: defaultdict[str, list[Entry]] = defaultdict(list)
    for video in evidence.videos:
        videos[video["prompt"]].append(video)
    for entry in evidence.ledger:
        charges[entry.prompt].append(entry)
    for order in evidence.orders:
        mine = videos[order.prompt]
        events = [event for video in mine for event in evidence.timelines.get(video["id"], ())]
        yield Case(order, mine, events, charges[order.prompt], evidence.states, evidence.absences)


def _strangers(evidence: Evidence) -> Iterator[str]:
    ordered = {order.prompt for order in evidence.orders}
    for video in evidence.videos:
        if video["prompt"] not in ordered:
            yield f"video {video['id']}: nobody ordered {video['prompt']!r}"
    for entry in evidence.ledger:
        if entry.prompt not in ordered:
            yield f"charge {entry.vendor}/{entry.vendor_task_id}: nobody ordered {entry.prompt!r}"


def _classes(case: Case) -> list[Class]:
    """Its class; a case may be both lost and duplicated."""
    found: list[Class] = ["lost"] if any(_lost(case)) else []
    found += ["duplicated"] if any(_duplicated(case)) else []
    return found or ["recovered" if case.order.is_replayed else "ok"]


def _name(case: Case) -> str:
    ids = ", ".join(sorted({*case.order.ids, *(video["id"] for video in case.videos)}))
    return f"{case.order.prompt!r} ({ids or 'no id'})"


def _end(video: Json) -> str:
    return video["error"]["code"] if video["status"] == "failed" else str(video["status"])


def _charged(case: Case) -> Decimal:
    return sum((Decimal(entry.amount) for entry in case.charges), Decimal(0))


def _cost(case: Case) -> Decimal:
    return Decimal(0) if case.video["cost"] is None else Decimal(case.video["cost"]["amount"])


# --- the promises, one by one -----------------------------------------------------------------------


def _lost(case: Case) -> Iterator[str]:
    known = {video["id"]: video for video in case.videos}
    for video_id in sorted(set(case.order.ids) - known.keys()):
        yield f"lost: 202 was given for {video_id}, which is not known any more"
    for video_id, video in known.items():
        if video["status"] not in TERMINAL:
            yield f"lost: {video_id} has no end, it is {video['status']}, {video['stage']}"


def _duplicated(case: Case) -> Iterator[str]:
    if len({*case.order.ids, *(video["id"] for video in case.videos)}) > 1:
        yield "duplicated: one key, several videos"
    if len(case.charges) > case.permissions:
        jobs = ", ".join(f"{entry.vendor}/{entry.vendor_task_id}" for entry in case.charges)
        yield f"duplicated: charged {len(case.charges)} times with {case.permissions} permissions: {jobs}"


def _odd(case: Case) -> Iterator[str]:
    yield from case.order.oddities
    if case.order.is_refused and case.charges:
        yield "refused, but charged"


def _told(case: Case) -> Iterator[str]:
    """The timeline: whole, never backwards, nothing after its end but what is learned late."""
    if len(case.videos) != 1:
        return
    sequence = [event["seq"] for event in case.events]
    if sequence != list(range(1, len(sequence) + 1)):
        yield f"timeline: its numbers are {sequence}"
    ranks = [RANKS[event["status"]] for event in case.events]
    if ranks != sorted(ranks):
        yield f"timeline: goes back: {[event['status'] for event in case.events]}"
    ends = [event["type"] for event in case.events if event["status"] in TERMINAL]
    if len([kind for kind in ends if kind in TERMINAL]) != 1:
        yield f"timeline: not one end: {ends}"
    if {event["status"] for event in case.events if event["type"] in _AFTERWARDS} - TERMINAL:
        yield "timeline: something came late before the end"
    if case.count("submitting") != case.video["attempts"]:
        yield f"timeline: {case.count('submitting')} sendings, {case.video['attempts']} attempts"


def _honest(case: Case) -> Iterator[str]:
    """`charged` is true to what is known: it never contradicts the ledger, and doubts only for a reason."""
    if len(case.videos) != 1:
        return
    said, paid = case.video["charged"], len(case.charges)
    if (said, paid > 0) in (("yes", False), ("no", True)):
        yield f"money: charged {said!r}, and the vendors charged {paid} times"
    if said == "unknown" and not (
        case.count("submission_unknown") or case.video["status"] in ("failed", "cancelled")
    ):
        yield "money: charged 'unknown' without a reason"
    # After a doubt its cost is of all that may have been bought: never less than was.
    wrong = _cost(case) != _charged(case) if case.is_sure else _cost(case) < _charged(case)
    if said == "yes" and wrong:
        yield f"money: cost {_cost(case)}, charged {_charged(case)}"


def _delivered(case: Case) -> Iterator[str]:
    """A paid job that its vendor finished is delivered, unless nobody may have known of it or wanted it."""
    if len(case.videos) != 1 or case.video["status"] not in TERMINAL:
        return
    video, own = case.video, case.video["vendor_task_id"]
    orphans = [entry for entry in case.charges if entry.vendor_task_id != own]
    doubts = case.count("submission_unknown") + (video["status"] == "cancelled")
    if len(orphans) > doubts:
        yield f"paid: {len(orphans)} jobs at vendors that it does not follow, {doubts} doubts"
    faults = directives(case.order.prompt).faults
    for entry in case.charges:
        is_done = case.states.get((entry.vendor, entry.vendor_task_id)) == "succeeded"
        if entry.vendor_task_id != own or not is_done or any(one.phase != "submit" for one in faults):
            continue
        code = _end(video)
        if code not in {"completed", "cancelled", *_UNFOLLOWED}:
            yield f"paid: {entry.vendor} finished {own}, and the video is {code}"


def _punctual(case: Case) -> Iterator[str]:
    """A deadline is kept to, as soon as there is a gateway to do so; and nothing is bought after it."""
    limit = case.order.deadline
    if limit is None or len(case.videos) != 1 or case.video["completed_at"] is None:
        return
    due = case.video["created_at"] + limit
    back = max((end for begin, end in case.absences if begin - 1 <= due <= end), default=due)
    late = case.video["completed_at"] - back
    if late > OVERDUE_SECONDS:
        yield f"deadline: {limit} s, and it ended {late:.1f} s after that"
    for entry in case.charges:
        if entry.at > due + 1 + TOO_LATE_SECONDS:
            yield f"deadline: {limit} s, and it was bought {entry.at - due:.1f} s after that"


Rule: TypeAlias = Callable[[Case], Iterable[str]]
RULES: Final[tuple[Rule, ...]] = (_lost, _duplicated, _odd, _told, _honest, _delivered, _punctual)
