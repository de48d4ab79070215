"""Straight through: a video that need not wait is stored with the intent to send it, and what comes of that.

In virtual time, through the real engine and store. Not held here: the route that does so and gives places
back (`tests/api/test_straight.py`), the line (`test_line`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gateway.core.facts import Cancelled
from gateway.core.states import Event, Task
from gateway.core.tasks import apply
from gateway.engine import loop
from gateway.engine.entering import at_once
from gateway.storage.db import StorageError
from gateway.storage.sqlite import IN_MEMORY, SqliteDatabase
from providers.spec import Offering, Submitted, VideoRequest
from tests.engine.life import REQUEST, Life, ScriptedVendor, SwitchedVendor, accepted, done, life
from tests.engine.test_reloads import Slow
from tests.engine.test_trouble import Faulty
from tests.virtual import run_virtual

NOTHING = (0, 0, 0)


def places(one: Life, provider: str = "one") -> tuple[int, int, int]:
    """What a gate counts: jobs, those of them whose intent is not stored yet, submits under way."""
    gate = one.fleet.providers[provider].gate
    return gate.in_flight, gate.entered, gate.sending


def goes(one: Life, video_id: str = "video_1", providers: tuple[str, ...] = ("one",)) -> str | None:
    """The provider that a new video may be sent to at once."""
    change = at_once(one.engine, one.new(video_id, providers), REQUEST)
    return None if change is None else change.task.provider


# --- who goes at once ---------------------------------------------------------------------------------

def test_acceptance_and_intent_are_one_commit_before_the_vendor_is_called() -> None:
    class Curious(ScriptedVendor):
        async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
            found.append(await one.store.task_get("video_1"))
            return await super().submit(request, offering)

    found: list[Task | None] = []
    one: Life

    async def main() -> None:
        nonlocal one
        database, vendor = SqliteDatabase(IN_MEMORY), Curious([accepted()], [done()])
        async with life({"one": vendor}, database) as one:
            await asyncio.sleep(1)
            task = await one.order(key="k")
            assert (task.state, task.status, task.attempts) == ("submitting", "queued", 1)
            assert await database.read("select seq, count from events") == [(2, 2)]
            assert places(one) == (1, 0, 1)
            assert (await one.end()).state == "completed"
            assert found == [task]
            assert (len(vendor.sent), places(one), one.engine.tickets) == (1, NOTHING, {})
            events = await one.events()
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert [event.type for event in events[:3]] == ["accepted", "submitting", "accepted_by_vendor"]

    run_virtual(main())


def test_the_place_is_taken_before_anything_is_stored() -> None:
    async def main() -> None:
        async with life(one="max_in_flight = 1") as one:
            await asyncio.sleep(1)
            assert [goes(one, "video_1"), goes(one, "video_2")] == ["one", None]
            assert places(one) == (1, 1, 1)
            one.engine.give_back("video_1")
            assert [places(one), goes(one, "video_2")] == [NOTHING, "one"]
            one.engine.give_back("video_2")

    run_virtual(main())


def _pause(one: Life) -> None:
    one.fleet.hold("one", "pause")


def _drain(one: Life) -> None:
    one.fleet.hold("one", "drain")


def _lose_the_lease(one: Life) -> None:
    one.engine.lease.lost()


def _fill(one: Life) -> None:
    one.fleet.providers["one"].gate.in_flight = 2


def _use_the_rate_up(one: Life) -> None:
    one.fleet.providers["one"].gate.rate.remember([one.now()] * 3)


def _close(one: Life) -> None:
    one.fleet.providers["one"].gate.close(one.now(), 60.0, one.chance)


def _unsettle(one: Life) -> None:
    one.engine.is_settled = False


def _switch_off(one: Life) -> None:
    del one.fleet.providers["one"].known["kling-v3.0-pro-t2v"]


def _leave_to_others(one: Life) -> None:
    one.engine.is_running = False


@pytest.mark.parametrize(
    "hinder",
    [_pause, _drain, _lose_the_lease, _fill, _use_the_rate_up, _close, _unsettle, _switch_off,
     _leave_to_others],
)
def test_nothing_goes_at_once_and_no_place_is_taken(hinder: Callable[[Life], None]) -> None:
    async def main() -> None:
        async with life(one="max_in_flight = 2\nrequests_per_minute = 3") as one:
            await asyncio.sleep(1)
            hinder(one)
            gate = one.fleet.providers["one"].gate
            before = (places(one), len(gate.rate.taken))
            assert goes(one) is None
            assert (places(one), len(gate.rate.taken)) == before
            assert (one.engine.tickets, one.engine.entering) == ({}, {})

    run_virtual(main())


def test_nothing_goes_at_once_while_the_database_is_short_or_the_process_stops() -> None:
    async def main() -> None:
        database = Faulty()
        async with life(database=database) as one:
            await asyncio.sleep(1)
            database.full = "the disk is full"
            assert goes(one) is None
            database.full = None
            assert goes(one) == "one"
            one.engine.give_back("video_1")
            await one.engine.stop()
            assert (goes(one), places(one)) == (None, NOTHING)

    run_virtual(main())


def test_before_all_that_was_left_is_counted_nothing_goes_at_once() -> None:
    async def main() -> None:
        database = SqliteDatabase(IN_MEMORY)
        await database.migrate()
        one = Life(database, {}, {})
        assert goes(one) is None
        one.start()
        await one.order()
        assert (await one.end()).state == "completed"
        await one.engine.stop()

    run_virtual(main())


def test_no_more_go_at_once_than_may_be_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SUBMITS_MAX", 2)

    async def main() -> None:
        async with life({"one": ScriptedVendor([accepted()], [done()], seconds=30)}) as one:
            await asyncio.sleep(1)
            await one.order("under way")
            assert [goes(one, "stored just now"), goes(one, "third")] == ["one", None]
            one.engine.give_back("stored just now")
            await one.end("under way")
            assert goes(one, "third") == "one"
            one.engine.give_back("third")

    run_virtual(main())


def test_a_candidate_that_is_not_free_is_passed_over() -> None:
    async def main() -> None:
        async with life(one="max_in_flight = 1") as one:
            await asyncio.sleep(1)
            both = ("one", "two")
            assert [goes(one, "video_1", both), goes(one, "video_2", both)] == ["one", "two"]
            for video_id in ("video_1", "video_2"):
                one.engine.give_back(video_id)
            assert [places(one), places(one, "two")] == [NOTHING, NOTHING]

    run_virtual(main())


def test_nobody_who_waits_is_overtaken() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=20.0)
        async with life({"one": vendor}, one="max_in_flight = 1") as one:
            await asyncio.sleep(1)
            states = [(await one.order(name)).state for name in ("first", "second")]
            assert states == ["submitting", "waiting"]
            free: list[tuple[int, int, int]] = []

            def comes_just_then(task: Task, events: tuple[Event, ...]) -> None:
                if task.id == "first" and task.is_terminal:
                    free.append(places(one))
                    assert goes(one, "third") is None
                    assert goes(one, "elsewhere", ("two",)) == "two", "where nobody waits"

            one.store.listen(comes_just_then)
            await one.end("first")
            one.engine.give_back("elsewhere")
            assert free == [NOTHING]
            assert (await one.end("second")).state == "completed"

    run_virtual(main())


def test_on_a_shared_database_only_what_needs_no_agreement_goes_at_once() -> None:
    class Shared(SqliteDatabase):
        @property
        def is_shared(self) -> bool:
            return True

    async def main() -> None:
        database = Shared(IN_MEMORY)
        await database.migrate()
        one = Life(database, {}, {"one": "max_in_flight = 5"})
        one.engine.is_running = True
        one.engine.settled()
        assert [goes(one), goes(one, "video_2", ("two",))] == [None, "two"]
        assert places(one) == NOTHING

    run_virtual(main())


# --- what was not stored ------------------------------------------------------------------------------

def test_a_place_that_is_given_back_is_given_to_who_waits_and_only_once() -> None:
    async def main() -> None:
        vendor = SwitchedVendor(renders=20.0)
        async with life({"one": vendor}, one="max_in_flight = 1") as one:
            await asyncio.sleep(1)
            assert goes(one, "refused") == "one"
            assert (await one.order("waits")).state == "waiting"
            await asyncio.sleep(60)
            assert vendor.sent == []
            given_back_at = one.now()
            for _ in range(2):
                one.engine.give_back("refused")
                one.engine.give_back("never seen")
            task = await one.until(lambda task: task.submitted_at is not None, "waits")
            assert task.submitted_at == given_back_at
            assert (await one.end("waits")).state == "completed"
            assert places(one) == NOTHING

    run_virtual(main())


@contextmanager
def _unsure() -> Iterator[None]:
    with pytest.raises(StorageError, match="made for a test"):
        yield


@pytest.mark.parametrize("unreadable", [0, 3])
def test_what_was_stored_although_the_database_denied_it_is_sent_once(unreadable: int) -> None:
    async def main() -> None:
        database, vendor = Faulty(), ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}, database, one="max_in_flight = 1") as one:
            await asyncio.sleep(1)
            database.lies, database.unreadable = 1, unreadable
            with _unsure():
                await one.order()
            assert places(one) == (1, 1, 1), "nobody knows yet"
            await asyncio.sleep(60)
            assert (await one.end()).state == "completed"
            assert (len(vendor.sent), places(one), one.engine.tickets) == (1, NOTHING, {})

    run_virtual(main())


@pytest.mark.parametrize("unreadable", [0, 3])
def test_what_was_not_stored_is_not_sent_and_its_place_is_free(unreadable: int) -> None:
    async def main() -> None:
        database, vendor = Faulty(), ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}, database, one="max_in_flight = 1") as one:
            await asyncio.sleep(1)
            database.fails, database.unreadable = 1, unreadable
            with _unsure():
                await one.order()
            await asyncio.sleep(60)
            assert (vendor.sent, places(one), one.engine.tickets) == ([], NOTHING, {})
            await one.order("next")
            assert (await one.end("next")).state == "completed"

    run_virtual(main())


# --- between the commit and the sending ---------------------------------------------------------------

def test_what_is_being_stored_when_the_process_is_to_end_is_sent_before_it_does() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [done()], seconds=5)
        async with life({"one": vendor}, Slow(IN_MEMORY)) as one:
            await asyncio.sleep(1)
            ordering = asyncio.create_task(one.order())
            await asyncio.sleep(0.1)
            await one.engine.stop()
            assert (await ordering).state == "submitting"
            assert (await one.states("video_1"), len(vendor.sent)) == (["rendering"], 1)

    run_virtual(main())


def test_what_a_reload_takes_away_while_it_is_stored_is_not_sent_there() -> None:
    async def main() -> None:
        database, vendor = Slow(IN_MEMORY), ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}, database) as one:
            await asyncio.sleep(1)
            known = one.fleet.providers["one"].known
            database.meanwhile = known.clear
            assert (await one.order(providers=("one", "two"))).provider == "one"
            task = await one.end()
            assert (task.state, task.provider, task.attempts, vendor.sent) == ("completed", "two", 2, [])
            assert "not_sent" in [event.type for event in await one.events()]
            assert (places(one), places(one, "two")) == (NOTHING, NOTHING)

    run_virtual(main())


def test_what_others_may_have_taken_over_while_it_was_stored_is_not_sent() -> None:
    async def main() -> None:
        database, vendor = Slow(IN_MEMORY), ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}, database) as one:
            await asyncio.sleep(1)
            database.meanwhile = one.engine.lease.lost
            await one.order()
            database.meanwhile = None
            await asyncio.sleep(60)
            assert (vendor.sent, await one.states("video_1")) == ([], ["submitting"])
            one.engine.lease.confirmed(float("inf"))
            assert (await one.end()).state == "completed"
            assert [event.type for event in await one.events()].count("not_sent") == 1

    run_virtual(main())


def test_a_process_that_got_another_name_meanwhile_neither_sends_nor_keeps_a_place() -> None:
    async def main() -> None:
        database, vendor = Slow(IN_MEMORY), ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}, database, one="max_in_flight = 1") as one:
            await asyncio.sleep(1)
            database.meanwhile = lambda: one.engine.rename("replica-2")
            await one.order()
            database.meanwhile = None
            await asyncio.sleep(60)
            assert (vendor.sent, await one.states("video_1")) == ([], ["submitting"])
            assert (places(one), one.engine.tickets) == (NOTHING, {})

    run_virtual(main())


def test_a_cancel_of_what_the_database_denied_to_have_stored_gives_its_place_back() -> None:
    async def main() -> None:
        database, vendor = Faulty(), ScriptedVendor([accepted()], [done()])
        async with life({"one": vendor}, database, one="max_in_flight = 1") as one:
            await asyncio.sleep(1)
            database.lies = 1
            with _unsure():
                await one.order()
            stored = await one.store.task_get("video_1")
            assert stored is not None
            await one.store.task_save(apply(stored, Cancelled(detach=True), one.now()))
            await asyncio.sleep(60)
            assert (vendor.sent, await one.states("video_1")) == ([], ["cancelled"])
            assert (places(one), one.engine.tickets) == (NOTHING, {})

    run_virtual(main())
