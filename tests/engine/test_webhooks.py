"""The outbox in virtual time: days of tries, receivers that hang, a process that dies with a message in hand.

Not held here: sockets and signatures (`test_webhook_posts.py`), the statements (`tests/storage`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.core.facts import Cancelled
from gateway.core.webhooks import SCHEDULE_SECONDS
from gateway.engine import webhooks_outbox
from gateway.engine.webhooks import Answer
from gateway.engine.webhooks_outbox import CLAIM_SECONDS, PLACES, SWEEP_SECONDS
from gateway.storage.db import Step, StorageError
from gateway.storage.webhooks import SETTLE
from gateway.values import Secret
from tests.engine.life import START, life
from tests.engine.telling import KEPT_SECONDS, OK, Receivers, Stage, stage
from tests.virtual import run_virtual

DAY = 86_400.0


@pytest.fixture(autouse=True)
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days pass in seconds where nobody looks every few seconds: what is due must be found by its time."""
    monkeypatch.setattr(webhooks_outbox, "LOOK_SECONDS", 600.0)


def test_a_message_is_sent_at_once_and_once() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            await asyncio.sleep(7)
            await one.cancelled()
            (logged,) = await one.until_over("a")
            await asyncio.sleep(DAY)
            ((at, letter),) = one.receivers.of(url)
            assert at - 7 < 0.1
            assert letter.body == "video.cancelled of video_1 in version 2"
            assert (letter.id, letter.secrets) == (logged.id, (Secret("whsec_AAAA"),))
            assert (logged.state, [made.status for made in logged.tries]) == ("delivered", [200])
            assert one.life.sample("reelgate_webhook_deliveries_total", result="delivered") == 1

    run_virtual(story())


def test_ten_tries_over_three_days_and_then_it_failed_visibly() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            one.receivers.answers[url] = lambda _: Answer(status=500)
            await one.cancelled()
            (logged,) = await one.until_over("a")
            sent = one.receivers.of(url)
            times = [at for at, _ in sent]
            assert len({(letter.id, letter.body) for _, letter in sent}) == 1
            pauses = [later - before for before, later in zip([0.0, *times], times, strict=False)]
            assert len(pauses) == len(SCHEDULE_SECONDS)
            for pause, meant in zip(pauses, SCHEDULE_SECONDS, strict=True):
                assert 0.89 * meant <= pause <= 1.11 * meant + 0.2
            assert (logged.state, len(logged.tries)) == ("failed", 10)
            assert one.life.sample("reelgate_webhook_deliveries_total", result="retried") == 9
            assert one.life.sample("reelgate_webhook_deliveries_total", result="failed") == 1
            await asyncio.sleep(DAY)
            assert len(one.receivers.of(url)) == 10

    run_virtual(story())


def test_a_replay_begins_the_schedule_anew_with_the_same_message() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            one.receivers.answers[url] = lambda count: OK if count == 12 else Answer(status=500)
            await one.cancelled()
            (failed,) = await one.until_over("a")
            assert await one.store.endpoints.replay("a", "key_1", failed.id, one.life.now())
            began = one.life.now() - START
            (logged,) = await one.until_over("a")
            assert (logged.state, len(logged.tries)) == ("delivered", 12)
            assert one.receivers.of(url)[10][0] - began < 0.1
            assert len({(letter.id, letter.body) for _, letter in one.receivers.of(url)}) == 1

    run_virtual(story())


def test_a_receiver_that_says_when_is_asked_then() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            busy = Answer(status=429, retry_after_seconds=1_000.0)
            one.receivers.answers[url] = lambda count: OK if count > 1 else busy
            await one.cancelled()
            await one.until_over("a")
            first, second = (at for at, _ in one.receivers.of(url))
            assert 1_000 <= second - first < 1_001

    run_virtual(story())


def test_gone_ends_it_for_the_endpoint_and_a_test_brings_it_back() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            one.receivers.answers[url] = lambda count: OK if count > 1 else Answer(status=410)
            await one.cancelled()
            (logged,) = await one.until_over("a")
            assert logged.state == "disabled"
            await one.cancelled("video_2")
            await asyncio.sleep(10)
            assert len(one.receivers.of(url)) == 1
            found = await one.store.endpoints.get("a", "key_1")
            assert found is not None
            assert found.disabled_by == "HTTP 410"
            await one.store.endpoints.test_add(found, "msg_t", "webhook.test", "{}", one.life.now())
            await one.until_over("a")
            await one.cancelled("video_3")
            await one.until_over("a")
            assert [letter.body for _, letter in one.receivers.of(url)][1:] == [
                "{}", "video.cancelled of video_3 in version 2"
            ]

    run_virtual(story())


def test_the_age_of_what_nobody_was_told_of_is_told() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            one.receivers.answers[url] = lambda count: OK if count > 5 else Answer(status=500)
            await one.cancelled()
            await asyncio.sleep(7_200)
            age = one.life.sample("reelgate_webhook_oldest_pending_seconds")
            assert 6_000 < age < 7_201
            await one.until_over("a")
            await asyncio.sleep(700)
            assert one.life.sample("reelgate_webhook_oldest_pending_seconds") == 0

    run_virtual(story())


def test_a_test_that_does_not_arrive_is_not_tried_again() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            one.receivers.answers[url] = lambda _: Answer(error="timeout")
            found = await one.store.endpoints.get("a", "key_1")
            assert found is not None
            await one.store.endpoints.test_add(found, "msg_t", "webhook.test", "{}", one.life.now())
            (logged,) = await one.until_over("a")
            assert (logged.state, [made.error for made in logged.tries]) == ("failed", ["timeout"])

    run_virtual(story())


def test_receivers_that_hang_delay_nobody_else() -> None:
    """200 endpoints, 20 of which hang: every first try to the others within a second of its event."""

    async def story() -> None:
        async with stage() as one:
            urls = [await one.endpoint(f"e{number}") for number in range(200)]
            for url in urls[:20]:
                one.receivers.answers[url] = lambda _: 15.0
            late = []
            for number in range(30):
                began = one.life.now() - START
                await one.cancelled(f"video_{number}")
                await asyncio.sleep(1)
                got = {letter.url for at, letter in one.receivers.got if at >= began}
                late += [url for url in urls[20:] if url not in got]
            assert late == []
            for url in urls[20:]:
                assert len(one.receivers.of(url)) == 30

    run_virtual(story())


def test_one_receiver_has_a_bounded_number_at_once_and_one_while_it_fails() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            one.receivers.answers[url] = lambda _: 15.0
            for number in range(30):
                await one.cancelled(f"video_{number}")
            await asyncio.sleep(5)
            assert one.receivers.hung[url] == PLACES
            await asyncio.sleep(20)
            assert PLACES < one.receivers.hung[url] <= PLACES + 2

    run_virtual(story())


def test_what_a_dead_process_had_in_hand_is_sent_again_under_the_same_id() -> None:
    async def story() -> None:
        async with life() as made:
            one = Stage(made, Receivers(made))
            one.start()
            url = await one.endpoint("a")
            one.receivers.answers[url] = lambda count: OK if count > 1 else 15.0
            await one.cancelled()
            await asyncio.sleep(1)
            assert len(one.receivers.of(url)) == 1
            await made.crash()
            made.engine.replica = "the next"
            one.start()
            await one.until_over("a")
            first, second = one.receivers.of(url)
            assert (first[1].id, first[1].body) == (second[1].id, second[1].body)
            assert second[0] < CLAIM_SECONDS  # it did not have to wait for the claim to end
            await one.stop()

    run_virtual(story())


def test_a_database_that_fails_loses_no_message() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            write, failing = one.life.database.write, 6

            async def shaky(*args: object, **more: object) -> object:
                nonlocal failing
                failing -= 1
                if failing >= 0:
                    raise StorageError("away")
                return await write(*args, **more)  # type: ignore[arg-type]

            await one.life.create("video_1", providers=("none",))
            await one.life.happens(Cancelled())
            one.life.database.write = shaky  # type: ignore[method-assign, assignment]
            (logged,) = await one.until_over("a")
            assert logged.state == "delivered"
            assert len({letter.id for _, letter in one.receivers.of(url)}) == 1

    run_virtual(story())


def test_what_cannot_be_settled_for_longer_than_its_claim_is_not_sent_again() -> None:
    async def story() -> None:
        async with stage() as one:
            url = await one.endpoint("a")
            write = one.life.database.write

            async def shaky(steps: Sequence[Step], *more: object) -> object:
                is_away = one.life.now() - START < 3 * CLAIM_SECONDS
                if is_away and any(step.sql == SETTLE for step in steps):
                    raise StorageError("away")
                return await write(steps, *more)  # type: ignore[arg-type]

            one.life.database.write = shaky  # type: ignore[method-assign, assignment]
            for number in range(2):
                await one.cancelled(f"video_{number}")
                await asyncio.sleep(1.5 * CLAIM_SECONDS)
            assert {logged.state for logged in await one.until_over("a")} == {"delivered"}
            assert len(one.receivers.of(url)) == 2

    run_virtual(story())


def test_a_message_of_an_endpoint_that_is_gone_is_not_signed_for_it() -> None:
    async def story() -> None:
        async with stage() as one:
            await one.stop()
            url = await one.endpoint("a")
            await one.cancelled()
            one.life.database._writer.execute("delete from webhook_endpoints")  # noqa: SLF001 - no message
            one.start()
            await asyncio.sleep(1)
            ((_, letter),) = one.receivers.of(url)
            assert letter.secrets == ()

    run_virtual(story())


def test_a_message_that_cannot_be_read_holds_up_no_other() -> None:
    async def story() -> None:
        async with stage() as one:
            await one.stop()
            url = await one.endpoint("a")
            for number in (1, 2):
                await one.cancelled(f"video_{number}")
            spoil = "update webhook_messages set task = '{' where video_id = 'video_1'"
            one.life.database._writer.execute(spoil)  # noqa: SLF001 - nothing else writes such a thing
            one.start()
            await asyncio.sleep(1)
            assert [letter.body for _, letter in one.receivers.of(url)] == [
                "video.cancelled of video_2 in version 2"
            ]
            logged = await one.store.endpoints.log("a", "key_1", 10)
            assert {made.error for each in logged for made in each.tries} == {None, "unreadable"}

    run_virtual(story())


@pytest.mark.parametrize("age_seconds", [KEPT_SECONDS - 100, KEPT_SECONDS + SWEEP_SECONDS + 700])
def test_what_is_over_is_kept_for_a_while(age_seconds: float) -> None:
    async def story() -> None:
        async with stage() as one:
            await one.endpoint("a")
            await one.cancelled()
            await one.until_over("a")
            await asyncio.sleep(age_seconds)
            assert len(await one.store.endpoints.log("a", "key_1", 10)) == (age_seconds < KEPT_SECONDS)

    run_virtual(story())
