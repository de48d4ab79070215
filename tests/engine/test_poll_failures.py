"""What a timeline says of polls that failed: since when, why, and until when it waited; in no more rows.

In virtual time, through the real engine and store. Not held here: what failures do to a provider
(`test_outages`), a vendor's words that wait for the next save (`test_noted`).
"""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.states import Event
from gateway.engine.saving import NOTED_MAX
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from providers.spec import VendorError
from tests.engine.life import Answer, ScriptedVendor, SwitchedVendor, accepted, done, life, pending
from tests.engine.test_noted import ROWS_MAX, check_whole, rows_written
from tests.virtual import run_virtual

AWAY = VendorError("unavailable", "unknown", "HTTP 503", status=503)
CROWDED = VendorError("rate_limited", "unknown", "slowly", status=429, retry_after_seconds=20.0)


def failed(events: list[Event]) -> list[Event]:
    """The lines of a timeline that tell of polls that failed."""
    return [event for event in events if event.type == "next_poll" and "error" in event.detail]


@pytest.mark.parametrize(("error", "why"), [(AWAY, "backoff"), (CROWDED, "retry_after")])
def test_the_first_of_polls_that_fail_is_told_with_its_reason_and_the_next_try(
    error: VendorError, why: str
) -> None:
    async def main() -> None:
        polls: list[Answer] = [pending(), *[error] * 4, pending(), *[error] * 2, done()]
        async with life({"one": ScriptedVendor([accepted()], polls)}) as one:
            await one.order()
            await one.end()
            events = await one.events()
            check_whole(events)
            told = failed(events)
            assert len(told) == 2, "each outage once"
            assert {event.detail["error"] for event in told} == {error.kind}
            assert {event.detail["http_status"] for event in told} == {error.status}
            assert {event.detail["why"] for event in told} == {why}
            assert all(float(event.detail["at"] or 0) > event.at for event in told)
            assert {(event.status, event.stage) for event in told} == {("in_progress", "rendering")}

    run_virtual(main())


def test_it_costs_no_row() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        polls: list[Answer] = [pending(), *[AWAY] * 4, done()]
        async with life({"one": ScriptedVendor([accepted()], polls)}, database) as one:
            await asyncio.sleep(1)
            before = await rows_written(database)
            await one.order(key="k")
            await one.end()
            assert await rows_written(database) - before == ROWS_MAX
            assert len(failed(await one.events())) == 1

    run_virtual(main())


def test_a_vendor_that_fails_every_other_poll_fills_no_memory() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=10**9)
        async with life({"one": vendor}) as one:
            await one.order()
            for _ in range(3 * NOTED_MAX):
                vendor.denies = AWAY
                await asyncio.sleep(60)
                vendor.denies = None
                await asyncio.sleep(60)
            assert len(one.engine.watches["video_1"].noted) <= NOTED_MAX

    run_virtual(main())


def test_where_little_is_under_way_a_failed_poll_is_soon_repeated_every_time() -> None:
    """The budget of repetitions keeps an outage from growing; one job after another makes none."""
    async def main() -> None:
        submits = [accepted(f"v-{number}") for number in range(40)]
        polls = [answer for _ in range(40) for answer in (AWAY, done())]
        async with life({"one": ScriptedVendor(submits, polls)}) as one:
            for number in range(40):
                await one.order(name := f"video_{number}")
                ended = await one.end(name)
                assert ended.completed_at is not None
                assert ended.completed_at - ended.created_at < 15, number

    run_virtual(main())
