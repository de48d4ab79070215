"""What a life costs in writes, and a vendor's words that wait for the next save: in order, whole, no gap.

In virtual time, through the real engine and store. Not held here: which words are minor (`tests/core`), the
rows of events (`tests/contract`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from gateway.core.facts import Cancelled
from gateway.core.states import Event, Task
from gateway.engine.saving import NOTED_MAX
from gateway.storage.db import Step
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from providers.spec import Progress, Ref
from tests.engine.life import (
    START,
    Answer,
    Life,
    ScriptedVendor,
    SwitchedVendor,
    accepted,
    done,
    life,
    pending,
)
from tests.engine.test_trouble import Faulty
from tests.virtual import run_virtual

ROWS_MAX = 8  # of one life, whatever it is asked for
WORDS = ("PREPARING", "PROCESSING", "ENCODING")
SPOKEN = [pending(word) for word in WORDS]


class Telling(ScriptedVendor):
    """A vendor that remembers when it said what; `last` is called before it says that it is done."""

    def __init__(self, polls: Sequence[Answer], last: Callable[[], None] | None = None) -> None:
        super().__init__([accepted()], polls)
        self.said: list[tuple[str, float]] = []
        self._last = last

    async def poll(self, ref: Ref) -> Progress:
        """The next line of the script."""
        answer = await super().poll(ref)
        if answer == done() and self._last is not None:
            self._last()
            self._last = None
        self.said.append((answer.raw_status, START + asyncio.get_running_loop().time()))
        return answer


async def rows_written(database: SqliteDatabase) -> int:
    """How many rows were inserted, changed or deleted since the database was opened."""
    ((count,),) = await database.read("select total_changes()")
    return int(count or 0)


def words(events: Sequence[Event]) -> list[tuple[str, float]]:
    """The vendor's words on a timeline, and when it said them."""
    return [(str(event.detail["raw_status"]), event.at) for event in events if event.type == "vendor_status"]


def check_whole(events: Sequence[Event]) -> None:
    """Numbered without a gap, and in the order of their times."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.at for event in events] == sorted(event.at for event in events)


# --- writes -------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("key", "polls", "rows"),
    [("k", [*SPOKEN, *[pending(WORDS[-1])] * 120, done()], ROWS_MAX), ("k", [done()], ROWS_MAX),
     ("k", [pending(progress=part) for part in range(50)] + [done()], ROWS_MAX),
     (None, [*SPOKEN, done()], ROWS_MAX - 1), ("k", [pending(progress=70), done()], ROWS_MAX + 2)],
    ids=["often polled", "polled once", "little progress", "without a key", "one step of progress"],
)
def test_what_a_life_costs_in_rows(key: str | None, polls: list[Answer], rows: int) -> None:
    async def main() -> None:
        database, count = SqliteDatabase(IN_MEMORY), len(polls)
        vendor = ScriptedVendor([accepted()], polls)
        async with life({"one": vendor}, database) as one:
            await asyncio.sleep(1)
            before = await rows_written(database)
            await one.order(key=key)
            assert (await one.end()).state == "completed"
            assert (await rows_written(database) - before, vendor.asked) == (rows, count)

    run_virtual(main())


def test_one_that_had_to_wait_costs_its_intent_more() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        async with life({"one": SwitchedVendor()}, database, one="max_in_flight = 1") as one:
            await asyncio.sleep(1)
            one.fleet.hold("one", "pause")
            before = await rows_written(database)
            await one.order(key="k")
            one.fleet.hold("one", None)
            assert (await one.end()).state == "completed"
            assert await rows_written(database) - before == ROWS_MAX + 2

    run_virtual(main())


# --- words that wait ----------------------------------------------------------------------------------

def test_words_are_written_with_the_next_save_in_order_and_with_their_own_times() -> None:
    async def main() -> None:
        database, vendor = SqliteDatabase(IN_MEMORY), Telling([*SPOKEN, done()])
        async with life({"one": vendor}, database) as one:
            await asyncio.sleep(1)
            await one.order()
            await one.end()
            events = await one.events()
            check_whole(events)
            assert words(events) == vendor.said[:-1]
            assert [event.type for event in events[-4:]] == ["vendor_status"] * 3 + ["completed"]
            assert {(event.status, event.stage) for event in events[-4:-1]} == {("in_progress", "rendering")}
            assert await database.read("select count from events order by seq") == [(2,), (2,), (4,)]

    run_virtual(main())


def test_until_then_nothing_is_written_and_a_word_is_noted_once() -> None:
    async def main() -> None:
        async with life({"one": ScriptedVendor([accepted()], [*SPOKEN, pending(WORDS[-1])])}) as one:
            await asyncio.sleep(1)
            await one.order()
            await asyncio.sleep(300)
            watch, known = one.engine.watches["video_1"], one.engine.tasks["video_1"]
            assert [str(event.detail["raw_status"]) for event in watch.noted] == list(WORDS)
            stored = await one.store.task_get("video_1")
            assert stored is not None
            assert (stored.version, stored.raw_status, known.raw_status) == (2, "QUEUED", WORDS[-1])
            assert known.last_seq == stored.last_seq
            assert words(await one.events()) == []

    run_virtual(main())


def test_progress_writes_what_was_noted_before_it() -> None:
    async def main() -> None:
        vendor = Telling([*SPOKEN, pending("ENCODING", 70), pending("UPLOADING", 80), done()])
        async with life({"one": vendor}) as one:
            await asyncio.sleep(1)
            await one.order()
            task = await one.until(lambda task: task.progress == 70)
            assert (task.raw_status, words(await one.events())) == ("ENCODING", vendor.said[:4])
            await one.end()
            events = await one.events()
            check_whole(events)
            assert words(events) == vendor.said[:-1]

    run_virtual(main())


def test_a_vendor_that_never_says_the_same_twice_is_written_down_now_and_then() -> None:
    async def main() -> None:
        database, count = SqliteDatabase(IN_MEMORY), 3 * (NOTED_MAX + 1) + 5
        vendor = Telling([*(pending(f"WORD-{number}") for number in range(count)), done()])
        async with life({"one": vendor}, database) as one:
            await asyncio.sleep(1)
            before = await rows_written(database)
            await one.order()
            await one.end()
            assert await rows_written(database) - before == ROWS_MAX - 1 + 3 * 2
            events = await one.events()
            check_whole(events)
            assert words(events) == vendor.said[:-1]

    run_virtual(main())


# --- trouble ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("fault", ["fails", "lies"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_save_that_has_to_be_repeated_loses_no_word(fault: str, count: int) -> None:
    async def main() -> None:
        database = Faulty()
        vendor = Telling([*SPOKEN, done()], lambda: setattr(database, fault, count))
        async with life({"one": vendor}, database) as one:
            await asyncio.sleep(1)
            await one.order()
            assert (await one.end()).state == "completed"
            await asyncio.sleep(60)
            events = await one.events()
            check_whole(events)
            assert words(events) == vendor.said[:-1]
            assert one.engine.watches == {}

    run_virtual(main())


async def disturb(one: Life) -> Task:
    """Let another process save the task, as it is."""
    touch = "update videos set version = version + 1 where id = $1"
    await one.database.write((Step(touch, ("video_1",)),))
    task = await one.store.task_get("video_1")
    assert task is not None
    return task


@pytest.mark.parametrize("is_heard", [False, True])
def test_when_the_row_changed_meanwhile_no_number_is_missing_and_a_word_is_noticed_again(
    *, is_heard: bool
) -> None:
    async def main() -> None:
        vendor = Telling([*SPOKEN, *[pending(WORDS[-1])] * 10, done()])
        async with life({"one": vendor}) as one:
            await asyncio.sleep(1)
            await one.order()
            await asyncio.sleep(30)
            assert len(one.engine.watches["video_1"].noted) == len(WORDS)
            fresh = await disturb(one)
            if is_heard:
                one.engine.saved(fresh, ())  # as a replica does that was told of it
            assert (await one.end()).state == "completed"
            events = await one.events()
            check_whole(events)
            assert words(events) == [said for said in vendor.said if said in words(events)], "each once"
            assert not is_heard or words(events)[-1][0] == WORDS[-1]

    run_virtual(main())


def test_a_caller_who_stops_following_ends_what_was_noted() -> None:
    async def main() -> None:
        async with life({"one": ScriptedVendor([accepted()], [*SPOKEN, pending(WORDS[-1])])}) as one:
            await asyncio.sleep(1)
            await one.order()
            await asyncio.sleep(60)
            await one.happens(Cancelled(detach=True))
            await asyncio.sleep(7_200)
            events = await one.events()
            check_whole(events)
            assert (events[-1].type, (await one.end()).state) == ("cancelled", "cancelled")
            assert one.engine.watches["video_1"].noted == ()

    run_virtual(main())


def test_a_crash_loses_nothing_but_those_lines_and_the_last_word_is_noticed_again() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        vendor = Telling([*SPOKEN, *[pending(WORDS[-1])] * 20, done()])
        async with life({"one": vendor}, database) as first:
            await asyncio.sleep(1)
            await first.order(key="k")
            await asyncio.sleep(60)
            before = await first.events()
            assert len(first.engine.watches["video_1"].noted) == len(WORDS)
            await first.crash()
        second = Life(database, {"one": vendor}, {})
        second.engine.replica = "replica-2"
        second.start()
        task = await second.end()
        assert (task.state, task.charged, task.vendor_task_id) == ("completed", "yes", "v-1")
        events = await second.events()
        check_whole(events)
        assert events[: len(before)] == before
        ((word, at),) = words(events)
        assert (word, (word, at) in vendor.said) == (WORDS[-1], True)
        assert len(vendor.sent) == 1
        await second.engine.stop()

    run_virtual(main())
