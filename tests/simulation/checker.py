"""The judge of a history: every promise of the contract, checked on what everybody has written down.

The classes are those of Jepsen's total-queue: what goes in must come out.

    ok           ended as it should, without incident
    recovered    went through an unknown submission, or through a death of the process, and ended right
    lost         accepted and vanished, not ended in time, or paid and finished without its video knowing
    unexpected   a state, a submission or an event that nothing caused
    duplicated   bought more often than was permitted

Pure: a history may be forged. Not held here: how a history comes to be (`run`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Final, TypeAlias

import msgspec

from gateway.core.states import STATUS_OF, TERMINAL
from tests.simulation.history import History, Seen, Submission

CLASSES: Final = ("ok", "recovered", "lost", "unexpected", "duplicated")
SLACK_SECONDS: Final = 30.0  # between a deadline and the end, if the gateway was there all the time
SAVED_SECONDS: Final = 10.0  # between an answer and its being stored
RATE_SECONDS: Final = 60.0
PROBE_SECONDS: Final = 15.0
PERMISSIONS: Final = frozenset({"resubmit_allowed", "rerun_allowed"})
_RANK: Final = {"queued": 0, "in_progress": 1, "completed": 2, "failed": 2, "cancelled": 2}

Problem: TypeAlias = str  # its class, a colon, and what is wrong


class Verdict(msgspec.Struct):
    """How many videos and submissions fell into each class, the unexplained money, and every problem."""

    classes: dict[str, int]
    difference_cents: int
    problems: list[Problem]

    @property
    def is_good(self) -> bool:
        """Whether no promise was broken."""
        return not self.problems and self.difference_cents == 0


def judge(history: History) -> Verdict:
    """The verdict on a history."""
    classes = Counter(dict.fromkeys(CLASSES, 0))
    problems: list[Problem] = []
    difference = 0
    by_order: dict[int, list[Seen]] = {}
    for seen in history.videos:
        by_order.setdefault(seen.order, []).append(seen)
    apart = [*_accepted(history, by_order), *_submissions(history, by_order), *_ending(history)]
    apart += [*_polls(history), *_rates(history), *_books(history), *history.notes]
    for problem in apart:
        classes[problem.split(":", 1)[0]] += 1
    problems += apart
    for seen in history.videos:
        case = Case(history, seen)
        found = [*_ended(case), *_caused(case), *_told(case), *_found(case), *_timeline(seen), *_money(case)]
        difference += _difference(case)
        problems += found
        classes[found[0].split(":", 1)[0] if found else _fine(case)] += 1
    if difference:
        problems.append(f"unexpected: the books differ by {difference} cents")
    return Verdict(dict(classes), difference, problems)


class Case:
    """One video, and the vendors' books for it."""

    def __init__(self, history: History, seen: Seen) -> None:
        self.history, self.seen, self.task = history, seen, seen.task
        self.name = f"video {seen.task.id[-6:]} of order {seen.order}"
        self.sent = [one for one in history.submissions if one.order == seen.order]
        self.job = next(
            (one for one in history.submissions
             if one.vendor_task_id is not None and one.vendor_task_id == seen.task.vendor_task_id), None,
        )
        self.charged = [one for one in self.sent if one.is_charged]
        self.permissions = sum(event.type in PERMISSIONS for event in seen.events)

    @property
    def is_misled(self) -> bool:
        """Whether its vendor once gave it the id of a job that nobody else knew: it cannot know better."""
        mine = {(one.provider, one.vendor_task_id) for one in self.sent}
        return not self.seen.jobs <= mine

    @property
    def known(self) -> list[Submission]:
        """Everything at the vendors that may explain its state."""
        return self.sent if self.job is None or self.job in self.sent else [*self.sent, self.job]


def _accepted(history: History, by_order: dict[int, list[Seen]]) -> Iterator[Problem]:
    """A 202 is kept for ever, and one wish is one video."""
    stored = {seen.task.id for seen in history.videos}
    promised: dict[int, set[str]] = {}
    for accepted in history.accepted:
        promised.setdefault(accepted.order, set()).add(accepted.video_id)
        if accepted.video_id not in stored:
            name = f"video {accepted.video_id[-6:]} of order {accepted.order}"
            yield f"lost: {name} was accepted and is not there"
    for order, videos in promised.items():
        if len(videos) > 1:
            yield f"duplicated: order {order} was accepted as {len(videos)} videos"
    for order, seen in by_order.items():
        plain = [one for one in seen if not _is_derived(one)]
        if len(plain) > 1:
            yield f"duplicated: order {order} is stored as {len(plain)} videos"


def _is_derived(seen: Seen) -> bool:
    return bool(getattr(seen.task, "rerun_of", None) or getattr(seen.task, "adopted_from", None))


def _ended(case: Case) -> Iterator[Problem]:
    """Every task is terminal, and by its deadline: in the gateway's own time, but for troubles."""
    task, history = case.task, case.history
    if task.state not in TERMINAL:
        if not history.is_shared:  # by its owner's clock it may have time: `replica_checks`
            yield f"lost: {case.name} is still {task.state}"
        return
    slack = SLACK_SECONDS + history.trouble_seconds + history.jump_seconds + history.disk_trouble_seconds
    if task.completed_at is None or task.completed_at > task.deadline_at + slack:
        late_seconds = (task.completed_at or 0) - task.deadline_at
        yield f"lost: {case.name} ended {late_seconds:.0f} s after its deadline"


def _caused(case: Case) -> Iterator[Problem]:
    """Every end has a cause that somebody outside saw."""
    task, known = case.task, case.known
    has_died = case.history.outlived > 0 or any(
        life.end not in ("alive", "is over") for life in case.history.lives
    )
    refusals = {one.refusal for one in case.sent}
    causes = {
        "completed": any(one.told_done_at is not None for one in known),
        "vendor_failed": any(one.told_failed_at is not None for one in known),
        "content_policy": "bad_content" in refusals
        or any(one.told_failure == "content_policy" and one.told_failed_at is not None for one in known),
        "insufficient_credit": "no_credit" in refusals,
        "vendor_auth": bool({"bad_key", "forbidden"} & refusals),
        "vendor_rejected": bool({"invalid", "gone"} & refusals),
        "no_output": any(one.told_linkless for one in known),
        "submission_unknown": any(one.is_unclear or one.told_missing for one in known) or has_died
        or any(one.kind == "second_hand_id" for one in case.history.submissions),
        "queue_timeout": case.history.has_queue_limit,
        "deadline_exceeded": (task.completed_at or 0) >= task.deadline_at,
        "cancelled": task.id in case.history.cancelled,
    }
    end = task.error_code or task.state
    if task.state in TERMINAL and not causes.get(end, False):
        yield f"unexpected: {case.name} is {end} and nothing caused it"
    if task.state == "completed" and task.result_url is None:
        yield f"unexpected: {case.name} is completed without a link"


def _told(case: Case) -> Iterator[Problem]:
    """What a living process was told of a job of this video, the video says."""
    task, history, job = case.task, case.history, case.job
    if job is None or job.told_done_at is None or task.state in ("completed", "cancelled"):
        return
    if _is_excused(history, job.told_done_at, job.told_done_by) or _had_ended(case, job.told_done_at):
        return
    yield f"lost: {case.name} is {task.error_code or task.state} although its job was reported done"


def _found(case: Case) -> Iterator[Problem]:
    """Where nothing goes wrong, a job that is done in time is found done in time."""
    task, history, job = case.task, case.history, case.job
    if not history.is_calm or job is None or job.fate != "done" or task.state in ("completed", "cancelled"):
        return
    found_at = history.wall_start + job.ready_at + history.poll_max[job.provider] + SLACK_SECONDS
    if found_at < task.deadline_at:
        yield f"lost: {case.name} is {task.error_code or task.state}, and its job was done in time"


def _had_ended(case: Case, at: float) -> bool:
    """Whether the task had ended, for its own reasons, before or while a vendor told of it."""
    ends = [event.at for event in case.seen.events if event.status in TERMINAL]
    # The gateway's clock runs ahead of virtual time by its jumps; then nothing can be said for sure.
    start = case.history.wall_start
    margin = SAVED_SECONDS + case.history.disk_trouble_seconds
    return bool(ends) and (case.history.jump_seconds > 0 or ends[0] <= start + at + margin)


def _is_excused(history: History, at: float, by: int) -> bool:
    """Whether the process that heard something may have died before it was stored."""
    margin = SAVED_SECONDS + history.disk_trouble_seconds + history.trouble_seconds
    life = next((life for life in history.lives if life.number == by), None)
    if life is not None and any(start <= at + margin and at <= end for start, end in life.troubles):
        return True
    if life is None or life.end in ("alive", "is over"):
        return False
    return life.ended_at is not None and life.ended_at <= at + margin


def _timeline(seen: Seen) -> Iterator[Problem]:
    """Numbered without gaps, never backwards, and nothing changes after the end."""
    name = f"video {seen.task.id[-6:]} of order {seen.order}"
    if [event.seq for event in seen.events] != list(range(1, seen.task.last_seq + 1)):
        yield f"unexpected: the timeline of {name} has gaps"
    ranks = [_RANK[event.status] for event in seen.events]
    if ranks != sorted(ranks):
        yield f"unexpected: the status of {name} went backwards"
    statuses = [event.status for event in seen.events]
    ends = [status for status in statuses if status in TERMINAL]
    if len(set(ends)) > 1:
        yield f"unexpected: {name} ended as {' and '.join(dict.fromkeys(ends))}"
    if seen.task.state in TERMINAL and (not statuses or statuses[-1] != STATUS_OF[seen.task.state]):
        yield f"unexpected: {name} is {seen.task.state}, and its timeline does not say so"
    progress = [event.detail["progress"] for event in seen.events if "progress" in event.detail]
    numbers = [value for value in progress if isinstance(value, int)]
    if numbers != sorted(numbers):
        yield f"unexpected: the progress of {name} fell"


def _money(case: Case) -> Iterator[Problem]:
    """What the video says of money is true, and nothing was bought twice without a permission."""
    task, charged = case.task, case.charged
    if len(charged) > 1 + case.permissions and len(_same_order(case)) == 1:
        yield f"duplicated: {case.name} was bought {len(charged)} times with {case.permissions} permissions"
    if task.charged == "no" and _net_cents(case) and not case.is_misled:
        yield f"unexpected: {case.name} says charged no, and costs {_net_cents(case)} cents"
    if task.charged == "yes" and not charged and case.job is None:
        yield f"unexpected: {case.name} says charged yes, and nobody charged"


def _books(history: History) -> Iterator[Problem]:
    """The ledger and the vendors' books agreed at every moment, unless a vendor gave another job's id."""
    if not any(Case(history, seen).is_misled for seen in history.videos):
        yield from (f"unexpected: {breach}" for breach in history.money_breaches)


def _same_order(case: Case) -> list[Seen]:
    return [seen for seen in case.history.videos if seen.order == case.seen.order]


def _net_cents(case: Case) -> int:
    return sum(one.cents for one in case.charged if not one.is_refunded)


def _difference(case: Case) -> int:
    """Cents in the vendors' books that what the video says does not explain, or the other way round."""
    task, charged = case.task, case.charged
    if len(_same_order(case)) > 1 or case.is_misled:
        return 0  # judged by count alone: the books do not say which of the videos a charge is for
    if task.charged == "no":
        return _net_cents(case)
    if task.cost_amount is None:
        return 0
    said = _cents(task.cost_amount)
    # What was told to be refunded is not owed; of another refund the gateway cannot know.
    owed = sum(one.cents for one in charged if not (one.is_refunded and _was_told(case.seen, one)))
    if task.charged == "yes" and not case.permissions:
        return abs(owed - said)
    tried = sum(_cents(str(event.detail["cost"]).split(" ")[0]) for event in case.seen.events
                if event.type == "submitting" and event.detail.get("cost"))
    return max(0, owed - said) + max(0, said - tried)


def _was_told(seen: Seen, one: Submission) -> bool:
    """Whether it was told, while the video was there, that the render failed.

    An ended video that is still asked for has yet to know: whoever heard it may have been taken for dead.
    """
    at, task = one.told_failed_at, seen.task
    is_asked_for = task.late_until is not None and task.vendor_task_id == one.vendor_task_id
    if at is None or is_asked_for:
        return False
    return seen.deleted_at is None or at < seen.deleted_at


def _cents(amount: str) -> int:
    return int(Decimal(amount) * 100)


def _submissions(history: History, by_order: dict[int, list[Seen]]) -> Iterator[Problem]:
    """Every submission has a video, and every answer that arrived is known to one."""
    margin = SAVED_SECONDS + history.disk_trouble_seconds
    known = {job for seen in history.videos for job in seen.jobs}
    for one in history.submissions:
        if one.order not in by_order:
            yield f"unexpected: submission {one.number} is for order {one.order}, of which there is no video"
        elif one.told_at is not None and (one.provider, one.vendor_task_id) not in known:
            gone = [seen for seen in by_order[one.order]
                    if seen.deleted_at is not None and seen.deleted_at <= one.told_at + margin]
            if not gone and not _is_excused(history, one.told_at, one.told_by):
                yield f"lost: {one.vendor_task_id} for order {one.order} is paid, and no video knows it"


def _ending(history: History) -> Iterator[Problem]:
    """At the end nothing is left over in the process."""
    ending = history.ending
    for name in ending.in_flight:
        if ending.in_flight[name] or ending.sending[name]:
            left = f"{ending.in_flight[name]} in flight and {ending.sending[name]} being sent"
            yield f"unexpected: the gate of {name} counts {left}, and all is over"
    if ending.followed:
        yield f"unexpected: {len(ending.followed)} tasks are still followed"
    for task in ending.leaked:
        yield f"unexpected: an asyncio task is left over: {task}"
    for fault in ending.faults:
        yield f"unexpected: {fault}"


def _polls(history: History) -> Iterator[Problem]:
    """No job is asked for more often than poll_min allows; a new process, or a jump, may ask at once."""
    extra = 3 + len(history.lives) + (2 if history.jump_seconds or history.trouble_seconds else 0)
    extra += 5 * history.outlived  # who does not know yet that others have taken over asks, too
    for one in history.submissions:
        if len(one.polls) < 2:
            continue
        least = history.poll_min[one.provider]
        if history.vendor_faults:
            least = min(least, PROBE_SECONDS)  # its latest job is what a vendor that is down is asked for
        most = (one.polls[-1] - one.polls[0]) / least + extra
        if len(one.polls) > most:
            yield f"unexpected: {one.vendor_task_id} was asked for {len(one.polls)} times, at most {most:.0f}"


def _rates(history: History) -> Iterator[Problem]:
    """No more submits in a minute than the provider takes, as it counts; a slow disk may hold two back."""
    if history.disk_trouble_seconds or history.jump_seconds or history.trouble_seconds:
        return
    if history.is_shared:
        return  # watched as it happens, over all of them: `promises`
    for name, most in history.limits.items():
        by_process: dict[int, list[float]] = {}
        for one in history.submissions:
            if one.provider == name and one.has_left:
                by_process.setdefault(one.sent_by, []).append(one.at)
        for times in by_process.values():
            for first, later in zip(times, times[most:], strict=False):
                if later - first < RATE_SECONDS:
                    yield f"unexpected: {most + 1} submits to {name} within {later - first:.1f} s"


def _fine(case: Case) -> str:
    """The class of a video with which all is well."""
    was_unknown = any(event.type == "submission_unknown" for event in case.seen.events)
    died = [life.ended_at for life in case.history.lives if life.end not in ("alive", "is over")]
    began = case.history.orders.get(case.seen.order, 0.0)
    ended = (case.task.completed_at or 0.0) - case.history.wall_start
    return "recovered" if was_unknown or any(began <= (at or 0.0) <= ended for at in died) else "ok"
