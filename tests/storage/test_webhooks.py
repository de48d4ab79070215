"""The outbox on every database: what is told and to whom, that each message has one sender, and its log.

Not held here: sending (`tests/engine/test_webhooks.py`), when a message is due (`tests/core`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from gateway.core.facts import Abandoned, Cancelled, DeadlinePassed, Polled, SubmitStarted, SubmitUnknown
from gateway.core.states import Change, Event, Task
from gateway.core.tasks import apply
from gateway.core.webhooks import PUBLISHED, TYPES, Signer
from gateway.storage.db import Database, GuardFailed
from gateway.storage.store import Store
from gateway.storage.webhook_endpoints import PAGE_MAX, Endpoint
from gateway.storage.webhooks import Message, Settled, Try, told
from gateway.values import Secret
from providers.spec import Succeeded
from tests.core.made import CAUSE, NOW, ONE, make_task
from tests.storage.stores import DATABASES, ended, new, opened

pytestmark = pytest.mark.anyio

OWN = {"webhook_url": "https://own.example/hook", "webhook_origin": "https://own.example:443"}
DELIVERED = Settled(state="delivered", step=0, next_at=NOW)
LATER = Settled(state="pending", step=1, next_at=NOW + 5)
GONE = Settled(state="disabled", step=0, next_at=NOW, disables="HTTP 410")


def tried(status: int | None = 200, error: str | None = None, at: float = NOW) -> Try:
    return Try(at=at, status=status, error=error, ms=12)


@pytest.fixture(params=DATABASES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(request.param, tmp_path) as one:
        yield one


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def endpoint(
    store: Store, name: str = "we_1", owner: str = "key_1", events: tuple[str, ...] = TYPES
) -> Endpoint:
    """A stored endpoint."""
    one = Endpoint(
        id=name, owner=owner, url=f"https://{name}.example/", events=events,
        signers=(Signer(Secret("whsec_AAAA")),), created_at=NOW,
    )
    await store.endpoints.add(one)
    return one


async def cancelled(store: Store, video_id: str = "video_1", **more: object) -> Task:
    """A video that was ordered and is cancelled."""
    task = make_task(video_id)
    await store.video_add(replace(new(task, {"a": '"'}), **more))
    return await store.task_save(apply(task, Cancelled(), NOW))


async def due(store: Store, at: float = NOW) -> list[Message]:
    """All that is due by then, in the order of ids."""
    targets = await store.webhooks.targets()
    found = [one for target, _ in targets for one in await store.webhooks.due(target, at, 100)]
    return sorted(found, key=lambda message: message.id)


async def only(store: Store, at: float = NOW) -> Message:
    (message,) = await due(store, at)
    return message


async def test_nobody_to_tell_is_nothing_in_the_outbox(store: Store) -> None:
    await endpoint(store, owner="key_2")
    await cancelled(store)
    assert await store.webhooks.targets() == []
    assert await store.webhooks.oldest() is None


async def test_each_endpoint_of_the_owner_and_the_requests_own_place_are_told(store: Store) -> None:
    for name, owner in (("we_1", "key_1"), ("we_2", "key_1"), ("we_3", "key_2")):
        await endpoint(store, name, owner)
    task = await cancelled(store, **OWN)
    found = await due(store)
    assert [(one.id, one.url, one.endpoint, one.target) for one in found] == [
        ("msg_1_2_url", OWN["webhook_url"], "", "key_1 " + OWN["webhook_origin"]),
        ("msg_1_2_we_1", "https://we_1.example/", "we_1", "we_1"),
        ("msg_1_2_we_2", "https://we_2.example/", "we_2", "we_2"),
    ]
    signers = (Signer(Secret("whsec_AAAA")),)
    assert [one.signers for one in found] == [None, signers, signers]
    for message in found:
        assert (message.type, message.at, message.video_id) == ("video.cancelled", NOW, "video_1")
        video = told(message)
        assert video is not None
        assert (video.task, video.metadata) == (task, {"a": '"'})
        assert video.request == '{"prompt":"of video_1"}'
    assert await store.webhooks.oldest() == NOW


@pytest.mark.parametrize("kind", PUBLISHED)
async def test_each_published_event_is_told_to_who_wants_it(store: Store, kind: str) -> None:
    await endpoint(store, "we_1", events=(PUBLISHED[kind],))
    await endpoint(store, "we_2", events=tuple(name for name in TYPES if name != PUBLISHED[kind]))
    task = make_task()
    await store.video_add(new(task))
    event = Event(type=kind, at=NOW + 1, status="queued", stage=None, provider=None, offering=None,
                  detail={}, seq=2)
    await store.task_save(Change(task, replace(task, last_seq=2), (event,)))
    message = await only(store, NOW + 1)
    assert (message.type, message.endpoint) == (PUBLISHED[kind], "we_1")


async def test_what_else_happens_is_told_to_nobody(store: Store) -> None:
    await endpoint(store)
    task = make_task()
    await store.video_add(new(task))
    await store.task_save(apply(task, SubmitStarted(ONE), NOW))
    assert await due(store) == []


async def test_a_life_with_several_events_has_a_message_for_each(store: Store) -> None:
    await endpoint(store)
    task = make_task()
    await store.video_add(new(task))
    for fact in (SubmitStarted(ONE), SubmitUnknown(CAUSE), Abandoned("operator")):
        task = await store.task_save(apply(task, fact, NOW))
    assert [one.type for one in await due(store)] == ["video.submission_unknown", "video.failed"]


async def test_late_output_is_told(store: Store) -> None:
    await endpoint(store)
    task = ended(late_until=NOW + 9, vendor_task_id="v", ref="{}", provider="one")
    await store.video_add(new(task))
    fact = Polled(Succeeded(raw_status="ok", url="https://x.example/v"), 60.0, "unknown")
    await store.task_save(apply(task, fact, NOW))
    assert (await only(store)).type == "video.late_output"


async def test_a_task_that_was_read_before_is_told_as_it_is(store: Store) -> None:
    await endpoint(store)
    full = make_task(duration=5, audio=True, ref='{"id":null}', submitted_at=NOW, progress=3,
                     state="rendering", vendor_task_id="v", provider="one")
    await store.video_add(new(full))
    task = await store.task_get("video_1")
    assert task is not None
    saved = await store.task_save(apply(task, DeadlinePassed(), NOW))
    video = told(await only(store))
    assert video is not None
    assert video.task == replace(saved, ref=None)


@pytest.mark.parametrize("ref", [{"id": "v"}, '{"id":null}', None])
async def test_what_another_program_left_is_told_whichever_way_it_writes_a_reference(
    store: Store, ref: object
) -> None:
    await endpoint(store)
    task = await cancelled(store)
    message = await only(store)
    fields = msgspec.json.decode(message.task or "", type=dict[str, object])
    assert fields["ref"] is None  # either program reads that
    video = told(replace(message, task=msgspec.json.encode(fields | {"ref": ref}).decode()))
    assert video is not None
    assert video.task == task


async def test_a_save_that_lost_tells_nothing(store: Store) -> None:
    await endpoint(store)
    task = make_task()
    await store.video_add(new(task))
    results = await asyncio.gather(
        store.task_save(apply(task, Cancelled(), NOW)), store.task_save(apply(task, DeadlinePassed(), NOW)),
        return_exceptions=True,
    )
    assert [type(result) for result in results].count(GuardFailed) == 1
    assert len(await due(store)) == 1


async def test_many_ends_at_once_are_all_told(store: Store) -> None:
    """On PostgreSQL they are one statement."""
    for name in ("we_1", "we_2"):
        await endpoint(store, name)
    tasks = [make_task(f"video_{number}") for number in range(30)]
    await asyncio.gather(*(store.video_add(replace(new(task), **OWN)) for task in tasks))
    await asyncio.gather(*(store.task_save(apply(task, Cancelled(), NOW)) for task in tasks))
    found = await due(store)
    assert len({one.id for one in found}) == 90
    assert {one.video_id for one in found} == {task.id for task in tasks}


async def test_a_message_is_taken_once_with_a_body_that_stays(store: Store) -> None:
    await endpoint(store)
    await cancelled(store)
    message = await only(store)
    taken = await asyncio.gather(
        *(store.webhooks.claim(message, f"r{number}", NOW + 60, f"body {number}") for number in range(4))
    )
    assert sorted(taken) == [False, False, False, True]
    assert await due(store, NOW + 59) == []
    again = await only(store, NOW + 60)
    assert again.content == f"body {taken.index(True)}"
    assert told(again) is None
    assert await store.webhooks.claim(again, "r9", NOW + 120)
    assert (await only(store, NOW + 120)).content == again.content


async def test_only_who_has_it_settles_it(store: Store) -> None:
    await endpoint(store)
    await cancelled(store)
    message = await only(store)
    assert await store.webhooks.claim(message, "first", NOW + 60, "body")
    later = await only(store, NOW + 60)
    assert await store.webhooks.claim(later, "second", NOW + 120)
    assert not await store.webhooks.settle(message, "first", tried(), DELIVERED)
    assert await store.webhooks.settle(later, "second", tried(500), LATER)
    assert not await store.webhooks.settle(later, "second", tried(), DELIVERED)
    (logged,) = await store.endpoints.log("we_1", "key_1", 10)
    assert (logged.state, logged.tries, logged.next_at) == ("pending", [tried(500)], NOW + 5)


async def test_what_a_process_left_is_due_again(store: Store, database: Database) -> None:
    await endpoint(store)
    await cancelled(store)
    message = await only(store)
    await store.webhooks.claim(message, "gone", NOW + 60, "body")
    if database.is_shared:
        await store.replicas.join("gone", "here", "all", "0")
        await store.webhooks.release("mine", NOW + 1)
        assert await due(store, NOW + 1) == []
        await store.replicas.leave("gone")
    await store.webhooks.release("mine", NOW + 1)
    assert (await only(store, NOW + 1)).content == "body"


async def test_gone_disables_the_endpoint_and_a_test_brings_it_back(store: Store) -> None:
    one = await endpoint(store)
    await endpoint(store, "we_2")
    for number in range(3):
        await cancelled(store, f"video_{number}")
    message = next(each for each in await due(store) if each.endpoint == "we_1")
    await store.webhooks.claim(message, "r", NOW + 60, "body")
    assert await store.webhooks.settle(message, "r", tried(410), GONE)
    assert {each.endpoint for each in await due(store, NOW + 60)} == {"we_2"}
    assert {each.state for each in await store.endpoints.log("we_1", "key_1", 10)} == {"disabled"}
    found = await store.endpoints.get("we_1", "key_1")
    assert found is not None
    assert (found.disabled_at, found.disabled_by) == (NOW, "HTTP 410")
    await cancelled(store, "video_9")
    assert len(await store.endpoints.log("we_1", "key_1", 10)) == 3
    await store.endpoints.test_add(one, "msg_test", "webhook.test", "{}", NOW)
    (test,) = [each for each in await due(store) if each.endpoint == "we_1"]
    await store.webhooks.claim(test, "r", NOW + 60)
    assert await store.webhooks.settle(test, "r", tried(), replace(DELIVERED, enables=True))
    assert await store.endpoints.get("we_1", "key_1") == one


async def test_a_deleted_endpoint_takes_its_messages_along(store: Store, database: Database) -> None:
    await endpoint(store)
    await endpoint(store, "we_2")
    await cancelled(store)
    assert not await store.endpoints.delete("we_1", "key_2")
    assert await store.endpoints.delete("we_1", "key_1")
    assert [one.endpoint for one in await due(store)] == ["we_2"]
    assert [one.id for one in await store.endpoints.of("key_1")] == ["we_2"]


async def test_what_is_still_to_be_told_outlives_its_video(store: Store, database: Database) -> None:
    for name in ("we_1", "we_2"):
        await endpoint(store, name)
    await cancelled(store)
    first, second = await due(store)
    await store.webhooks.claim(first, "r", NOW + 60, "body")
    await store.webhooks.settle(first, "r", tried(), DELIVERED)
    assert await store.video_delete("video_1", "key_1")
    assert await store.endpoints.log("we_1", "key_1", 10) == []
    second = await only(store)
    assert second.is_orphan
    await store.webhooks.claim(second, "r", NOW + 60, "body")
    assert await store.webhooks.settle(second, "r", tried(), DELIVERED)
    assert await database.read("select 1 from webhook_messages") == []
    assert await database.read("select 1 from webhook_tries") == []


async def test_replay(store: Store) -> None:
    await endpoint(store)
    for number in range(3):
        await cancelled(store, f"video_{number}")
    for message in await due(store):
        await store.webhooks.claim(message, "r", NOW + 60, f"body of {message.id}")
        await store.webhooks.settle(message, "r", tried(), DELIVERED)
    woken: list[bool] = []
    store.webhooks.listen(lambda: woken.append(True))
    assert not await store.endpoints.replay("we_1", "key_1", "msg_nobody", NOW + 9)
    assert not await store.endpoints.replay("we_2", "key_1", "msg_1_2_we_1", NOW + 9)
    assert await store.endpoints.replay("we_1", "key_1", "msg_1_2_we_1", NOW + 9)
    again = await only(store, NOW + 9)
    assert (again.id, again.content, again.step, again.tries) == (
        "msg_1_2_we_1", "body of msg_1_2_we_1", 0, 1
    )
    assert await store.endpoints.replay_range("we_1", "key_1", NOW + 1, NOW + 2, NOW + 9) == 0
    assert await store.endpoints.replay_range("we_1", "key_1", NOW - 1, NOW, NOW + 9) == 3
    assert len(await due(store, NOW + 9)) == 3
    assert len(woken) == 3


async def test_what_was_sent_is_nobody_elses_whatever_a_route_has_checked(store: Store) -> None:
    one = await endpoint(store)
    await cancelled(store)
    message = await only(store)
    await store.webhooks.claim(message, "r", NOW + 60, "body")
    await store.webhooks.settle(message, "r", tried(), DELIVERED)
    (before,) = await store.endpoints.log("we_1", "key_1", 10)
    assert await store.endpoints.log("we_1", "key_2", 10) == []
    assert await store.endpoints.log("we_1", "key_2", 10, replace(before, at=NOW + 9)) == []
    assert await store.endpoints.logged("we_1", "key_2", message.id) is None
    assert not await store.endpoints.replay("we_1", "key_2", message.id, NOW + 9)
    assert await store.endpoints.replay_range("we_1", "key_2", 0, NOW + 9, NOW + 9) == 0
    assert not await store.endpoints.sign_by(replace(one, owner="key_2"), (Signer(Secret("whsec_2")),))
    assert await store.endpoints.log("we_1", "key_1", 10) == [before]
    assert await store.endpoints.get("we_1", "key_1") == one


async def test_an_id_that_no_database_can_be_asked_for_is_absent(store: Store) -> None:
    await endpoint(store)
    assert await store.endpoints.get("we_\0", "key_1") is None
    assert await store.endpoints.logged("we_1", "key_1", "msg_\0") is None
    assert not await store.endpoints.delete("we_\0", "key_1")


async def test_the_log_is_paged(store: Store) -> None:
    one = await endpoint(store)
    for number in range(PAGE_MAX + 5):
        await store.endpoints.test_add(one, f"msg_{number:03}", "webhook.test", "{}", NOW + number // 2)
    first = await store.endpoints.log("we_1", "key_1", PAGE_MAX)
    assert len(first) == PAGE_MAX + 1
    last = await store.endpoints.logged("we_1", "key_1", first[-2].id)
    rest = await store.endpoints.log("we_1", "key_1", PAGE_MAX, last)
    names = [each.id for each in (*first[:-1], *rest)]
    assert names == [f"msg_{number:03}" for number in reversed(range(PAGE_MAX + 5))]
    assert await store.endpoints.logged("we_2", "key_1", first[0].id) is None


async def test_a_videos_tries_are_its_owners(store: Store) -> None:
    await endpoint(store)
    await cancelled(store, **OWN)
    for message in await due(store):
        await store.webhooks.claim(message, "r", NOW + 60, "body")
        await store.webhooks.settle(message, "r", tried(None, "timeout"), LATER)
    assert [(each.endpoint, each.number, each.made.error)
            for each in await store.endpoints.tries_of("video_1", "key_1")] == [
        ("", 1, "timeout"), ("we_1", 1, "timeout"),
    ]
    assert await store.endpoints.tries_of("video_1", "key_2") == []


async def test_a_secret_is_changed_by_one(store: Store) -> None:
    one = await endpoint(store)
    old = replace(one.signers[0], until=NOW)
    new_ones = [(Signer(Secret(f"whsec_{number}")), old) for number in range(3)]
    done = await asyncio.gather(*(store.endpoints.sign_by(one, signers) for signers in new_ones))
    assert sorted(done) == [False, False, True]
    found = await store.endpoints.get("we_1", "key_1")
    assert found is not None
    assert found.signers == new_ones[done.index(True)]


async def test_what_is_over_is_swept(store: Store, database: Database) -> None:
    await endpoint(store)
    for number in range(3):
        await cancelled(store, f"video_{number}")
    first, *_ = await due(store)
    await store.webhooks.claim(first, "r", NOW + 60, "body")
    await store.webhooks.settle(first, "r", tried(), DELIVERED)
    assert not await store.webhooks.sweep(NOW)
    assert len(await store.endpoints.log("we_1", "key_1", 10)) == 3
    assert not await store.webhooks.sweep(NOW + 1)
    assert len(await store.endpoints.log("we_1", "key_1", 10)) == 2
    assert await database.read("select 1 from webhook_tries") == []
