"""A vendor as an actor: it takes jobs, charges for them, answers polls, and misbehaves as planned.

Held here: what each fault does (tables), the jobs, the ledger. Not held here: the words of the protocols
(`tongues`), how bytes and failures reach the gateway (`wire`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from tests.simulation.history import Submission
from tests.simulation.plan import CENTS_PER_SECOND, DURATION_SECONDS, Outage, VendorPlan
from tests.simulation.tongues import Said, Tongue

if TYPE_CHECKING:
    from tests.simulation.world import World

# How a call ends for the gateway: an answer, or a failure of the transport.
End: TypeAlias = Literal[
    "answer", "refused", "connect_timeout", "silent", "reset", "cut", "slow", "slow_connect"
]


class Row(msgspec.Struct, frozen=True):
    """What a fault does: whether the work is done and charged, how the call ends, and what is said.

    `word` is a row of the tongue's errors, or a way to spoil a good answer.
    """

    works: bool
    end: End = "answer"
    word: str = "ok"
    retry_after: str | None = None


SUBMITS: Final = {
    "fine": Row(True),
    "no_connection": Row(False, "refused"),
    "connect_timeout": Row(False, "connect_timeout"),
    "lost_before_work": Row(False, "silent"),
    "lost_after_work": Row(True, "silent"),
    "reset_before_work": Row(False, "reset"),
    "reset_after_work": Row(True, "reset"),
    "cut_after_work": Row(True, "cut"),
    "error_before_work": Row(False, word="error"),
    "error_after_work": Row(True, word="error"),
    "gateway_timeout_after_work": Row(True, word="gateway_timeout"),
    "throttled": Row(False, word="throttled", retry_after="7"),
    "throttled_until_a_date": Row(False, word="throttled", retry_after="date"),
    "throttled_oddly": Row(False, word="throttled", retry_after="-3 parsecs"),
    "busy": Row(False, word="busy", retry_after="20"),
    "busy_after_work": Row(True, word="busy", retry_after="20"),
    "bad_key": Row(False, word="bad_key"),
    "no_credit": Row(False, word="no_credit"),
    "forbidden": Row(False, word="forbidden"),
    "invalid": Row(False, word="invalid"),
    "bad_content": Row(False, word="bad_content"),
    "gone": Row(False, word="gone"),
    "html_after_work": Row(True, word="html"),
    "broken_json_after_work": Row(True, word="broken_json"),
    "empty_before_work": Row(False, word="empty"),
    "no_id": Row(True, word="no_id"),
    "odd_id": Row(True, word="odd_id"),
    "second_hand_id": Row(True, word="second_hand_id"),
    "slow": Row(True, "slow"),
    "slow_connect": Row(True, "slow_connect"),
}
POLLS: Final = {
    "fine": Row(False),
    "reset": Row(False, "reset"),
    "silent": Row(False, "silent"),
    "refused": Row(False, "refused"),
    "cut": Row(False, "cut"),
    "error": Row(False, word="error"),
    "throttled": Row(False, word="throttled", retry_after="30"),
    "bad_key": Row(False, word="bad_key"),
    "html": Row(False, word="html"),
    "broken_json": Row(False, word="broken_json"),
    "other_task": Row(False, word="other_task"),
    "unknown_word": Row(False, word="unknown_word"),
    "other_case": Row(False, word="other_case"),
    "backwards": Row(False, word="backwards"),
}
OUTAGES: Final = {
    "refused": Row(False, "refused"),
    "silent": Row(False, "silent"),
    "unavailable": Row(False, word="busy", retry_after="30"),
    "auth": Row(False, word="bad_key"),
    "credit": Row(False, word="no_credit"),
}
# Words that prove to the gateway that nothing was accepted.
REFUSALS: Final = frozenset(
    {"throttled", "bad_key", "no_credit", "forbidden", "invalid", "bad_content", "gone"}
)
_SLOW_SECONDS: Final = (10.0, 70.0)
_SLOW_CONNECT_SECONDS: Final = (1.0, 9.5)
_ANSWERED: Final = ("answer", "slow", "slow_connect")


class Job(msgspec.Struct, kw_only=True):
    """A render that was accepted. Its troubles are windows in seconds since acceptance."""

    submission: Submission
    accepted_at: float
    ready_at: float
    forgotten: tuple[float, float] = (0.0, 0.0)
    linkless: tuple[float, float] = (0.0, 0.0)
    failure: str = "vendor_failed"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """How one call ends: `delay` seconds from its arrival; `on_delivered` when a living process has it."""

    end: End
    delay: float
    said: Said | None = None
    on_delivered: Callable[[int], None] | None = None


class Vendor:
    """One vendor's service and its books."""

    def __init__(self, world: World, plan: VendorPlan, tongue: Tongue) -> None:
        self.world, self.plan, self.tongue = world, plan, tongue
        self.jobs: dict[str, Job] = {}
        self._chance = world.chance(f"vendor {plan.name}")

    # --- submits ------------------------------------------------------------------------------------

    def connects(self) -> tuple[str, Row]:
        """Decide what will come of a submit, before it is sent; the kind and its row."""
        outage = self._outage(is_submit=True)
        if outage is not None:
            self._count(f"outage:{outage.kind}")
            return f"outage:{outage.kind}", OUTAGES[outage.kind]
        kind = "fine"
        if self.plan.submits and self._chance.random() < self.plan.trouble:
            kind = self._chance.choice(self.plan.submits)
            self._count(kind)
        return kind, SUBMITS[kind]

    def connects_late(self) -> float:
        """For how many seconds its door stays shut although somebody is behind it."""
        return self._chance.uniform(*_SLOW_CONNECT_SECONDS)

    def submit(self, submission: Submission, kind: str, row: Row) -> Reply:
        """A create call has arrived: do the work or not, charge or not, and answer somehow."""
        if row.works:
            self._accept(submission)
        delay = self.plan.latency * self._chance.uniform(0.5, 1.5)
        if row.end == "slow":
            delay += self._chance.uniform(*_SLOW_SECONDS)
        said = self._answer_submit(submission, row)

        def on_delivered(process: int) -> None:
            if row.word == "ok" and row.end in _ANSWERED:
                submission.told_at, submission.told_by = self.world.time(), process
            elif row.word in REFUSALS:
                submission.refusal = row.word
            submission.is_unclear = submission.told_at is None and submission.refusal is None

        end = "answer" if row.end in _ANSWERED else row.end
        return Reply(end=end, delay=delay, said=said, on_delivered=on_delivered)

    def _accept(self, submission: Submission) -> None:
        """Take the job, and the money."""
        now, plan, chance = self.world.time(), self.plan, self._chance
        submission.vendor_task_id = f"{plan.name}-{len(self.jobs) + 1}"
        submission.cents = CENTS_PER_SECOND[plan.name] * DURATION_SECONDS
        seconds = chance.uniform(*plan.render_seconds)
        job = Job(submission=submission, accepted_at=now, ready_at=now + seconds)
        fate = "done"
        if plan.fates and chance.random() < plan.fate_trouble:
            fate = chance.choice(plan.fates)
            self._count(f"render:{fate}")
        if fate == "stuck":
            job.ready_at = float("inf")
        elif fate == "fails":
            job.failure = chance.choice(("vendor_failed", "vendor_failed", "content_policy"))
        elif fate == "forgets":
            start = chance.choice((0.0, 0.0, seconds))
            job.forgotten = (start, start + chance.choice((60.0, 400.0, float("inf"))))
        elif fate == "linkless":
            job.linkless = (0.0, seconds + chance.choice((30.0, 200.0, float("inf"))))
        submission.fate, submission.ready_at = fate, job.ready_at
        self.jobs[submission.vendor_task_id] = job
        self.world.books.compare()

    def _answer_submit(self, submission: Submission, row: Row) -> Said:
        if row.word == "ok":
            return self.tongue.created(submission.vendor_task_id or "")
        if row.word == "second_hand_id":
            return self.tongue.created(next(iter(self.jobs)))
        return self.tongue.spoiled_created(row.word, self._hint(row))

    # --- polls --------------------------------------------------------------------------------------

    def poll(self, task_id: str) -> tuple[str, Reply]:
        """Somebody asks for a task: how that ends."""
        job = self.jobs.get(task_id)
        if job is not None:
            job.submission.polls.append(self.world.time())
        kind, row = self._poll_row()
        delay = self.plan.latency * self._chance.uniform(0.5, 1.5)
        if row.end != "answer" or row.word not in ("ok", "unknown_word", "other_case", "backwards"):
            said = self.tongue.spoiled_task(row.word, self._hint(row))
            return kind, Reply(end=row.end, delay=delay, said=said)
        return kind, self._truth(job, row.word, delay)

    def _poll_row(self) -> tuple[str, Row]:
        outage = self._outage(is_submit=False)
        if outage is not None:
            self._count(f"outage:{outage.kind}")
            return f"outage:{outage.kind}", OUTAGES[outage.kind]
        if self.plan.polls and self._chance.random() < self.plan.trouble:
            kind = self._chance.choice(self.plan.polls)
            self._count(f"poll:{kind}")
            return kind, POLLS[kind]
        return "fine", POLLS["fine"]

    def _truth(self, job: Job | None, word: str, delay: float) -> Reply:
        """What is true of a job now, unless `word` bends it."""
        now = self.world.time()
        age = 0.0 if job is None else now - job.accepted_at
        if job is None or job.forgotten[0] <= age < job.forgotten[1]:
            return Reply(end="answer", delay=delay, said=self.tongue.missing(),
                         on_delivered=None if job is None else self._note(job, "missing"))
        submission = job.submission
        if now < job.ready_at or word == "backwards":
            share = 0.0 if job.ready_at == float("inf") else age / (job.ready_at - job.accepted_at)
            said = self.tongue.pending(submission.vendor_task_id or "", min(99, int(share * 100)))
            return Reply(end="answer", delay=delay, said=self.tongue.bent(said, word))
        if submission.fate == "fails":
            self._refund(submission)
            said = self.tongue.failed(submission.vendor_task_id or "", job.failure)
            return self._final(job, said, word, delay, "failed")
        is_linkless = job.linkless[0] <= age < job.linkless[1]
        said = self.tongue.done(submission.vendor_task_id or "", has_link=not is_linkless)
        return self._final(job, said, word, delay, "linkless" if is_linkless else "done")

    def _final(self, job: Job, said: Said, word: str, delay: float, what: str) -> Reply:
        """An answer that ends a task, unless its word is bent: then nobody can read it."""
        on_delivered = self._note(job, what) if word == "ok" else None
        return Reply(end="answer", delay=delay, said=self.tongue.bent(said, word), on_delivered=on_delivered)

    def _note(self, job: Job, what: str) -> Callable[[int], None]:
        """Keep what a living process was told."""
        submission = job.submission

        def on_delivered(process: int) -> None:
            now = self.world.time()
            if what == "done" and submission.told_done_at is None:
                submission.told_done_at, submission.told_done_by = now, process
            elif what == "failed" and submission.told_failed_at is None:
                submission.told_failed_at, submission.told_failure = now, job.failure
            submission.told_missing |= what == "missing"
            submission.told_linkless |= what == "linkless"

        return on_delivered

    def _refund(self, submission: Submission) -> None:
        """A failed render is paid for or not, by the vendor's terms; where nobody knows them, either way."""
        policy = self.plan.failed_is_charged
        if policy == "no" or (policy != "yes" and submission.number % 2):
            submission.is_refunded = True
            self.world.books.compare()

    # --- both ---------------------------------------------------------------------------------------

    def _outage(self, *, is_submit: bool) -> Outage | None:
        now = self.world.time()
        for outage in self.plan.outages:
            if outage.start <= now < outage.end and (is_submit or outage.kind != "credit"):
                return outage
        return None

    def _hint(self, row: Row) -> str | None:
        if row.retry_after == "date":
            return self.tongue.date(self.world.wall() + 25)
        return row.retry_after

    def _count(self, kind: str) -> None:
        faults = self.world.history.vendor_faults
        faults[kind] = faults.get(kind, 0) + 1
