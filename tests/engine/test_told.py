"""What an engine tells of what it follows: gauges that go down with what is forgotten, and lines that help.

Each line is looked at through a real engine, in virtual time. Not held here: what the metrics of a served
gateway say (`tests/api/test_logs.py`, `tests/dashboards/test_told.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from io import StringIO
from typing import Any, TypeAlias

import msgspec
import pytest

from gateway.core.facts import Cancelled
from gateway.core.tasks import apply
from gateway.engine import webhooks, webhooks_outbox
from gateway.engine.spending import LOOK_SECONDS
from gateway.engine.takeover import take_over
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from gateway.storage.stop import Stopped
from gateway.storage.store import Store
from gateway.storage.webhooks import Message
from providers.spec import Unrecognised, VendorError
from tests.blank import blank
from tests.engine.life import START, Answer, Life, Outcome, ScriptedVendor, accepted, done, life, pending
from tests.engine.telling import stage
from tests.logged import logging_to
from tests.virtual import run_virtual

Line: TypeAlias = dict[str, Any]  # as it was written

LOST = VendorError("timeout", "unknown", "no answer in time")
HOUR = 3_600.0


def lines_of(story: Callable[[], Coroutine[None, None, None]], event: str) -> list[Line]:
    """The lines of an event that are logged while a story is run."""
    written = StringIO()
    with logging_to(written):
        run_virtual(story())
    lines = [msgspec.json.decode(line, type=Line) for line in written.getvalue().splitlines()]
    return [line for line in lines if line["event"] == event]


# --- gauges --------------------------------------------------------------------------------------------


def counted(one: Life) -> tuple[float, float]:
    """How many jobs it says a provider has, and how many of them nobody knows."""
    names = ("reelgate_provider_in_flight", "reelgate_submission_unknown")
    in_flight, unknown = (one.sample(name, provider="one") for name in names)
    return in_flight, unknown


def test_what_is_forgotten_is_counted_by_its_heir_alone() -> None:
    async def main() -> None:
        database, hold = blank(), 'on_unknown = "hold"'
        vendor = ScriptedVendor([LOST, accepted()], [pending()])
        async with life({"one": vendor}, database, one=hold) as before:
            await before.create("video_1")
            await before.until(lambda task: task.state == "submission_unknown", "video_1")
            await before.create("video_2")
            await before.until(lambda task: task.state == "rendering", "video_2")
            assert counted(before) == (2, 1)
            heir = Life(database, {"one": ScriptedVendor([accepted()], [done()])}, {"one": hold})
            heir.engine.rename("replica-2")
            before.engine.rename("replica-3")
            assert counted(before) == (0, 0)
            await take_over(heir.engine, "replica-1")
            assert (counted(before), counted(heir)) == ((0, 0), (2, 1))
            heir.start()
            assert (await heir.end("video_2")).state == "completed"
            assert (counted(before), counted(heir)) == ((0, 0), (1, 1))
            ended = {"provider": "one", "model": "kling-v3", "outcome": "completed"}
            name = "reelgate_video_duration_seconds_count"
            told = [one.telemetry.registry.get_sample_value(name, ended) for one in (before, heir)]
            assert told == [None, 1]
            await heir.engine.stop()

    run_virtual(main())


def test_what_ends_where_it_is_followed_is_not_counted_off_twice() -> None:
    async def main() -> None:
        async with life({"one": ScriptedVendor([accepted()], [done()])}) as one:
            await one.create()
            await one.end()
            assert one.engine.tasks == {}
            in_flight = one.sample("reelgate_provider_in_flight", provider="one")
            assert (in_flight, one.sample("reelgate_videos", status="completed")) == (0, 1)

    run_virtual(main())


def test_a_webhook_is_late_when_it_is_due_and_not_when_its_next_try_is_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks_outbox, "LOOK_SECONDS", 60.0)
    name = "reelgate_webhook_late_seconds"

    async def story() -> None:
        async with stage() as one:
            assert one.life.sample(name) == 0
            url = await one.endpoint("a")
            one.receivers.answers[url] = lambda _: webhooks.Answer(status=500)
            await one.cancelled()
            for _ in range(60):  # its receiver is away for hours, and asked as planned
                await asyncio.sleep(0.1 * HOUR)
                assert one.life.sample(name) < 1
            assert one.life.sample("reelgate_webhook_oldest_pending_seconds") > 5 * HOUR
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(one.store.webhooks, "due", nothing)
                await one.cancelled("video_2")
                await asyncio.sleep(HOUR)
            assert 0.9 * HOUR < one.life.sample(name) <= HOUR
            await asyncio.sleep(600)
            assert one.life.sample(name) == 0

    run_virtual(story())


async def nothing(*_: object) -> list[Message]:
    """What an outbox takes that is stuck."""
    return []


# --- lines ---------------------------------------------------------------------------------------------


def test_the_line_of_an_unknown_word_says_the_word() -> None:
    async def story() -> None:
        polls: list[Answer] = [Unrecognised(raw_status="TASK_STATUS_PAUSED"), done()]
        async with life({"one": ScriptedVendor([accepted()], polls)}) as one:
            await one.create()
            await one.end()

    (line,) = lines_of(story, "status_unrecognised")
    assert (line["raw_status"], line["level"]) == ("TASK_STATUS_PAUSED", "warning")


@pytest.mark.parametrize(
    ("event", "outcome", "said"),
    [
        ("submission_unknown", LOST, {"cause": "timeout", "message": "no answer in time"}),
        ("not_sent", VendorError("not_sent", "not_sent", "no route"), {"message": "no route"}),
        ("rejected", VendorError("invalid_request", "rejected", "bad: a cat", status=400),
         {"cause": "invalid_request", "http_status": 400}),
        ("submission_unknown", VendorError("junk", "unknown", "what is: a cat", status=200),
         {"cause": "junk", "http_status": 200}),
    ],
)  # fmt: skip
def test_the_line_of_a_failed_submit_says_why_but_quotes_no_answer(
    event: str, outcome: Outcome, said: Line
) -> None:
    async def story() -> None:
        async with life({"one": ScriptedVendor([outcome, accepted()], [done()])}) as one:
            await one.create()
            await one.end()

    line = lines_of(story, event)[0]
    assert line.items() >= said.items()
    assert "a cat" not in str(line)


def test_who_ordered_a_video_is_said_once() -> None:
    async def story() -> None:
        async with life() as one:
            await one.create(owner="key_7")
            await one.end()

    (line,) = lines_of(story, "accepted")
    assert (line["owner"], line["video_id"]) == ("key_7", "video_1")


def test_a_webhooks_line_says_whose_it_is_and_where_it_went() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            one.receivers.answers[url] = lambda _: webhooks.Answer(status=410)
            await one.cancelled()
            await one.until_over("a")

    (line,) = lines_of(story, "webhook_sent")
    assert (line["endpoint"], line["owner"], line["result"]) == ("a", "key_1", "disabled")
    assert "https://" not in str(line)


def test_a_stop_from_the_command_line_is_told_when_it_is_seen_and_when_it_is_over() -> None:
    async def story() -> None:
        name = "reelgate_spending_stopped"
        async with life() as one:
            assert one.sample(name) == 0
            await one.store.stop.put(Stopped("command line", START))
            await one.create()
            await asyncio.sleep(10 * LOOK_SECONDS)
            assert one.sample(name) == 1
            await one.store.stop.delete()
            await one.end()
            assert one.sample(name) == 0

    written = [lines_of(story, event) for event in ("spending_stopped", "spending_started")]
    assert [[line["level"] for line in lines] for lines in written] == [["warning"], ["info"]]
    assert written[0][0]["by"] == "command line"


def test_a_job_whose_video_was_deleted_meanwhile_is_told_in_the_log() -> None:
    async def story() -> None:
        database, vendor = SqliteDatabase(IN_MEMORY), ScriptedVendor([accepted()], [done()], seconds=20)
        async with life({"one": vendor}, database) as one:
            await asyncio.sleep(1)
            await one.order()
            other = Store(database)
            task = await other.task_get("video_1")
            assert task is not None
            await other.task_save(apply(task, Cancelled(detach=True), one.now()))
            assert await other.video_delete("video_1", task.owner)
            await asyncio.sleep(60)

    (line,) = lines_of(story, "job_of_nobody")
    assert (line["video_id"], line["provider"], line["vendor_task_id"]) == ("video_1", "one", "v-1")
