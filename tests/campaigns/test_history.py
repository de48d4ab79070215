"""The history checker bites: a history that keeps every promise, and one change for each way to break one."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest

from gateway.sandbox.renders import Entry
from tests.campaigns.history import CLASSES, Evidence, Order, check

ID: Final = "video_1"
PROMPT: Final = "video 1"


def event(seq: int, kind: str, status: str) -> dict[str, Any]:
    return {"seq": seq, "type": kind, "status": status}


def charge(task_id: str = "job-1", prompt: str = PROMPT, amount: str = "0.42") -> Entry:
    return Entry(
        vendor="unified", slug="s", vendor_task_id=task_id, amount=amount, currency="USD", prompt=prompt,
        at=100.5, client_reference=None,
    )


class Past:
    """A history that ended well; a test changes one thing of it."""

    def __init__(self) -> None:
        self.order = Order(PROMPT, ids=[ID])
        self.video: dict[str, Any] = {
            "id": ID, "prompt": PROMPT, "status": "completed", "stage": "linked", "progress": 100,
            "attempts": 1, "charged": "yes", "cost": {"amount": "0.42"}, "error": None,
            "vendor_task_id": "job-1", "created_at": 100, "completed_at": 101,
        }
        self.videos = [self.video]
        self.events = [
            event(1, "accepted", "queued"), event(2, "submitting", "queued"),
            event(3, "accepted_by_vendor", "in_progress"), event(4, "completed", "completed"),
        ]
        self.ledger = [charge()]
        self.states = {("unified", "job-1"): "succeeded"}
        self.absences: list[tuple[float, float]] = []

    def evidence(self) -> Evidence:
        return Evidence(
            orders=[self.order], videos=self.videos, timelines={ID: self.events}, ledger=self.ledger,
            states=self.states, absences=self.absences,
        )

    def fail(self, code: str, charged: str) -> None:
        """Make it one that failed."""
        self.video.update(status="failed", error={"code": code}, charged=charged)
        self.events[-1] = event(4, "failed", "failed")


def unknown(past: Past) -> None:
    """A submission whose outcome nobody knows, held and given up."""
    past.fail("submission_unknown", "unknown")
    past.video["vendor_task_id"] = None
    past.events[2] = event(3, "submission_unknown", "in_progress")


def resubmitted(past: Past) -> None:
    """The same, sent again by a recorded permission; the vendor had taken both."""
    past.ledger.append(charge("job-0"))
    past.video.update(attempts=2, cost={"amount": "0.84"})
    middle = (
        ("submission_unknown", "in_progress"), ("resubmit_allowed", "in_progress"),
        ("submitting", "in_progress"), ("accepted_by_vendor", "in_progress"), ("completed", "completed"),
    )
    past.events[2:] = [event(seq, kind, status) for seq, (kind, status) in enumerate(middle, 3)]


def cancelled_while_sending(past: Past) -> None:
    """Nobody follows it any more; that it was accepted is noted late."""
    past.video.update(status="cancelled", error={"code": "cancelled"})
    past.events[2:] = [event(3, "cancelled", "cancelled"), event(4, "accepted_after_end", "cancelled")]


def never_sent(past: Past) -> None:
    past.fail("queue_timeout", "no")
    past.video.update(cost=None, attempts=0, vendor_task_id=None)
    past.events[1:] = [event(2, "failed", "failed")]
    past.ledger.clear()


def late_by_its_vendor(past: Past) -> None:
    past.fail("deadline_exceeded", "yes")
    past.order.deadline, past.video["completed_at"] = 10, 113


def late_by_an_absence(past: Past) -> None:
    late_by_its_vendor(past)
    past.video["completed_at"] = 131
    past.absences.append((109.0, 130.0))


WELL: Final = (
    lambda past: None, unknown, resubmitted, cancelled_while_sending, never_sent, late_by_its_vendor,
    late_by_an_absence,
)


@pytest.mark.parametrize("tell", WELL)
def test_what_the_contract_allows_is_no_violation(tell: Callable[[Past], None]) -> None:
    past = Past()
    tell(past)
    verdict = check(past.evidence())
    assert verdict.violations == []
    assert {name: verdict.classes[name] for name in CLASSES} == dict.fromkeys(CLASSES, 0) | {"ok": 1}
    assert verdict.difference == 0


def _lost(past: Past) -> None:
    past.videos.clear()
    past.ledger.clear()


def _endless(past: Past) -> None:
    past.video.update(status="in_progress", stage="rendering", completed_at=None)
    del past.events[-1]


def _two_videos(past: Past) -> None:
    past.videos.append(past.video | {"id": "video_2"})


def _bought_twice(past: Past) -> None:
    past.ledger.append(charge("job-2"))


def _bought_thrice(past: Past) -> None:
    resubmitted(past)
    past.ledger.append(charge("job-3"))


def _unasked(past: Past) -> None:
    past.videos.append(past.video | {"id": "video_2", "prompt": "nobody's"})


def _charged_for_nobody(past: Past) -> None:
    past.ledger.append(charge("job-2", prompt="nobody's"))


def _says_no(past: Past) -> None:
    past.fail("vendor_rejected", "no")


def _says_yes(past: Past) -> None:
    past.ledger.clear()


def _doubts_for_no_reason(past: Past) -> None:
    past.video["charged"] = "unknown"


def _forgets_the_first(past: Past) -> None:
    resubmitted(past)
    past.video["cost"] = {"amount": "0.42"}


def _wrong_price(past: Past) -> None:
    past.ledger[0] = charge(amount="0.84")


def _gap(past: Past) -> None:
    past.events[-1]["seq"] = 5


def _backwards(past: Past) -> None:
    past.events[2:2] = [event(3, "vendor_status", "in_progress"), event(4, "not_sent", "queued")]
    past.events[4]["seq"], past.events[5]["seq"] = 5, 6


def _ends_twice(past: Past) -> None:
    past.events.append(event(5, "failed", "failed"))


def _sent_without_a_count(past: Past) -> None:
    past.video["attempts"] = 2


def _paid_and_failed(past: Past) -> None:
    past.fail("vendor_failed", "yes")


def _paid_and_let_go(past: Past) -> None:
    past.video["vendor_task_id"] = "job-of-another"


def _overdue(past: Past) -> None:
    past.order.deadline, past.video["completed_at"] = 10, 120


def _bought_too_late(past: Past) -> None:
    late_by_an_absence(past)
    past.ledger[0] = msgspec.structs.replace(past.ledger[0], at=130.5)


def _refused_and_charged(past: Past) -> None:
    past.order.is_refused = True


def _went_back(past: Past) -> None:
    for status, progress in (("in_progress", 50), ("in_progress", 25)):
        past.order.see({"status": status, "progress": progress})


@pytest.mark.parametrize(
    ("tell", "words", "kind"),
    [
        (_lost, "not known any more", "lost"), (_endless, "has no end", "lost"),
        (_two_videos, "one key, several videos", "duplicated"),
        (_bought_twice, "charged 2 times with 1 permissions", "duplicated"),
        (_bought_thrice, "charged 3 times with 2 permissions", "duplicated"),
        (_unasked, "nobody ordered", "unexpected"), (_charged_for_nobody, "nobody ordered", "unexpected"),
        (_says_no, "charged 'no', and the vendors charged 1", "ok"),
        (_says_yes, "charged 'yes', and the vendors charged 0", "ok"),
        (_doubts_for_no_reason, "without a reason", "ok"), (_wrong_price, "charged 0.84", "ok"),
        (_forgets_the_first, "charged 0.84", "ok"),
        (_gap, "its numbers are", "ok"), (_backwards, "goes back", "ok"), (_ends_twice, "not one end", "ok"),
        (_sent_without_a_count, "1 sendings, 2 attempts", "ok"),
        (_paid_and_failed, "finished job-1, and the video is vendor_failed", "ok"),
        (_paid_and_let_go, "that it does not follow", "ok"), (_overdue, "ended 10.0 s after", "ok"),
        (_bought_too_late, "bought 20.5 s after", "ok"),
        (_refused_and_charged, "refused, but charged", "ok"), (_went_back, "went back", "ok"),
    ],
)
def test_a_broken_promise_is_found(tell: Callable[[Past], None], words: str, kind: str) -> None:
    past = Past()
    tell(past)
    verdict = check(past.evidence())
    assert any(words in violation for violation in verdict.violations), verdict.violations
    assert verdict.classes[kind] == 1  # type: ignore[index]


def test_the_difference_is_what_the_books_disagree_about() -> None:
    past = Past()
    _wrong_price(past)
    assert check(past.evidence()).difference == Decimal("-0.42")


def test_a_render_that_was_asked_to_go_wrong_owes_nobody_a_video() -> None:
    past = Past()
    past.order.prompt = past.video["prompt"] = f"{PROMPT} [[fault:failed]]"
    past.ledger[0] = msgspec.structs.replace(past.ledger[0], prompt=past.order.prompt)
    _paid_and_failed(past)
    assert check(past.evidence()).violations == []
    past.order.prompt = past.video["prompt"] = f"{PROMPT} [[fault:late]]"
    past.ledger[0] = msgspec.structs.replace(past.ledger[0], prompt=past.order.prompt)
    assert check(past.evidence()).violations != []


def test_an_answer_that_was_lost_is_recovered_by_sending_again() -> None:
    past = Past()
    past.order.is_replayed = True
    verdict = check(past.evidence())
    assert (verdict.classes["recovered"], verdict.violations) == (1, [])
