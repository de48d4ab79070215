"""The contract of the store, the same on every database: what callers and the engine may rely on.

Not held here: the databases (`DATABASES` of `tests.storage.stores`), lists and takeover (`test_lists.py` and
`test_takeover.py` there), what only one database does, what follows from a fact (`tests/core`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.facts import Accepted, Cancelled, DeadlinePassed, SubmitStarted
from gateway.core.states import STATUS_OF, Change, Event, Task, accepted_event
from gateway.core.tasks import apply
from gateway.storage.db import Database, Duplicate, GuardFailed, Step, StorageBusy, StorageError, StorageShort
from gateway.storage.rows import Asked, Filters, Hold, Idempotency, Page, Video
from gateway.storage.store import ADMIT_MAX, Store
from providers.spec import Submitted
from tests.core.made import NOW, ONE, make_task, tasks, texts
from tests.storage.stores import DATABASES, add, ended, ids, new, opened, sizes

pytestmark = pytest.mark.anyio

Told: TypeAlias = list[tuple[Task, tuple[Event, ...]]]


@pytest.fixture(params=DATABASES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(request.param, tmp_path) as one:
        yield one


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
def told(store: Store) -> Told:
    """What the listeners of the store were told."""
    heard: Told = []
    store.listen(lambda task, events: heard.append((task, events)))
    return heard


# --- one video --------------------------------------------------------------------------------------------

async def test_what_was_added_is_there(store: Store, told: Told) -> None:
    task = make_task()
    await store.video_add(new(task, {"a": "1"}, {"image": "data:image/png;base64,AAAA"}))
    assert await store.video_get("video_1", "key_1") == Video(task, '{"prompt":"of video_1"}', {"a": "1"})
    assert await store.task_get("video_1") == task
    assert await store.events_get("video_1", "key_1") == [accepted_event(task)]
    assert told == [(task, (accepted_event(task),))]


async def test_the_request_and_its_inputs_are_kept_apart(store: Store) -> None:
    inputs = {"image": "data:image/png;base64," + "A" * 200_000, "end_image": "data:image/png;base64,BBBB"}
    await store.video_add(replace(new(make_task(), {"a": "1"}, inputs), pins=("two", "one")))
    assert await store.asked_get("video_1") == Asked(
        request='{"prompt":"of video_1"}', inputs=inputs, metadata={"a": "1"}, pins=("two", "one")
    )
    video = await store.video_get("video_1", "key_1")
    assert video is not None
    assert "base64" not in video.request
    with pytest.raises(GuardFailed, match="video_9"):
        await store.asked_get("video_9")


async def test_a_request_without_pins_and_inputs(store: Store) -> None:
    await add(store, make_task())
    asked = await store.asked_get("video_1")
    assert (asked.inputs, asked.metadata, asked.pins) == ({}, {}, ())


async def test_an_operator_sees_every_video(store: Store) -> None:
    await add(store, make_task(), a="1")
    assert await store.video_any("video_1") == await store.video_get("video_1", "key_1")
    assert await store.video_any("video_9") is None


async def test_what_is_not_there(store: Store) -> None:
    assert await store.video_get("video_1", "key_1") is None
    assert await store.task_get("video_1") is None
    assert await store.events_get("video_1", "key_1") == []
    assert await store.video_delete("video_1", "key_1") is False
    assert await store.idempotency_get("key_1", "k") is None
    assert await ids(store) == []


async def test_anothers_video_looks_like_none(store: Store, database: Database) -> None:
    await store.video_add(new(ended(), {"a": "1"}), Idempotency("k", "print", "video_1"))
    before = await sizes(database)
    assert await store.video_get("video_1", "key_2") is None
    assert await store.video_get("video_1\0", "key_1") is None
    assert await store.events_get("video_1", "key_2") == []
    assert await store.video_delete("video_1", "key_2") is False
    assert await store.idempotency_get("key_2", "k") is None
    assert await ids(store, owner="key_2") == []
    assert await ids(store, Filters(metadata={"a": "1"}), owner="key_2") == []
    assert await ids(store, page=Page(limit=5, after=(NOW + 1, "")), owner="key_2") == []
    assert await sizes(database) == before


async def test_an_id_is_given_once(store: Store, database: Database, told: Told) -> None:
    await add(store, make_task())
    before = await sizes(database)
    with pytest.raises(Duplicate):
        await store.video_add(new(make_task(owner="key_2"), {"a": "1"}), Idempotency("k", "print", "video_1"))
    assert (await sizes(database), len(told)) == (before, 1)


@pytest.mark.parametrize("state", STATUS_OF)
async def test_only_an_ended_video_is_deleted(store: Store, database: Database, state: str) -> None:
    await add(store, make_task("other"), a="1")
    alone = await sizes(database)
    full = new(make_task(state=state), {"a": "1", "b": "2"}, {"image": "data:"})
    await store.video_add(full, Idempotency("k", "print", "video_1"))
    is_ended = state in ("completed", "failed", "cancelled")
    assert await store.video_delete("video_1", "key_1") is is_ended
    if is_ended:
        assert await sizes(database) == {**alone, "idempotency_keys": 1}
        assert await store.idempotency_get("key_1", "k") == Idempotency("k", "print", "video_1")
        assert await store.video_delete("video_1", "key_1") is False
    else:
        assert await store.video_get("video_1", "key_1") is not None
    assert await ids(store, Filters(metadata={"a": "1"})) == (["other"] if is_ended else ["video_1", "other"])


_numbers = count()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task=tasks, metadata=st.dictionaries(texts, texts, max_size=4))
async def test_every_value_of_a_task_comes_back(store: Store, task: Task, metadata: dict[str, str]) -> None:
    number = next(_numbers)  # the same database sees all examples
    vendor_task_id = None if task.vendor_task_id is None else f"{number}{task.vendor_task_id}"
    task = replace(task, id=f"{task.id}{number}", vendor_task_id=vendor_task_id)
    await store.video_add(new(task, metadata))
    assert await store.task_get(task.id) == task
    assert await store.video_get(task.id, task.owner) == Video(task, new(task).request, metadata)
    saved = await store.task_save(Change(task, replace(task, state="failed"), ()))
    assert saved == replace(task, state="failed", version=task.version + 1)
    assert await store.task_get(task.id) == saved


async def test_a_timeline_is_in_order_and_keeps_every_value(store: Store) -> None:
    await add(store, make_task())
    task = await store.task_get("video_1")
    assert task is not None
    values: dict[str, str | int | float | None] = {"text": "ä\n\"'$1", "int": -1, "float": 0.5, "none": None}
    details = [{}, values]
    for number, detail in enumerate(details * 6, 2):
        event = Event(
            type="vendor_status", at=NOW - number, status="in_progress", stage=None, provider="one",
            offering=None, detail=detail, seq=number,
        )
        task = await store.task_save(Change(task, replace(task, last_seq=number), (event,)))
    events = await store.events_get("video_1", "key_1")
    assert [event.seq for event in events] == list(range(1, 14))
    assert [event.detail for event in events[1:]] == details * 6
    assert (events[5].at, events[5].stage, events[5].provider) == (NOW - 6, None, "one")


async def test_counts(store: Store) -> None:
    assert await store.counts() == {}
    await add(store, make_task("a"), make_task("b", state="submitting"), ended("c"))
    await add(store, make_task("d", owner="key_2"))
    assert await store.counts() == {"queued": 3, "completed": 1}


# --- idempotency keys -------------------------------------------------------------------------------------

async def test_of_many_with_one_key_one_is_stored_and_the_others_learn_which(
    store: Store, database: Database, told: Told
) -> None:
    tries = [
        store.video_add(new(make_task(name), {"a": "1"}, {"b": ""}), Idempotency("k", f"of {name}", name))
        for name in (f"v{number}" for number in range(50))
    ]
    holders = await asyncio.gather(*tries)
    winner = holders.index(None)
    held = Idempotency("k", f"of v{winner}", f"v{winner}")
    assert holders.count(None) == 1
    assert [holder for holder in holders if holder is not None] == [held] * 49
    assert await store.idempotency_get("key_1", "k") == held
    assert await ids(store) == [f"v{winner}"]
    assert set((await sizes(database)).values()) == {1}
    assert [task.id for task, _ in told] == [f"v{winner}"]


async def test_a_key_is_its_callers_own(store: Store) -> None:
    for owner in ("key_1", "key_2"):
        task = make_task(f"of_{owner}", owner=owner)
        assert await store.video_add(new(task), Idempotency("k", f"print of {owner}", task.id)) is None
    assert await store.idempotency_get("key_1", "k") == Idempotency("k", "print of key_1", "of_key_1")
    assert await store.idempotency_get("key_2", "k") == Idempotency("k", "print of key_2", "of_key_2")


async def test_keys_differ_by_every_letter(store: Store) -> None:
    names = {"v1": "k", "v2": "K", "v3": "k ", "v4": "ķ", "v5": "%", "v6": "", "v7": "k" * 255}
    for video_id, name in names.items():
        assert await store.video_add(new(make_task(video_id)), Idempotency(name, "print", video_id)) is None
    for video_id, name in names.items():
        assert await store.idempotency_get("key_1", name) == Idempotency(name, "print", video_id)


async def test_after_a_deletion_the_key_stays_taken(store: Store) -> None:
    held = Idempotency("k", "print", "v1")
    await store.video_add(new(ended("v1")), held)
    await store.video_delete("v1", "key_1")
    assert await store.video_add(new(make_task("v2")), Idempotency("k", "print", "v2")) == held
    assert await ids(store) == []


# --- saving -----------------------------------------------------------------------------------------------

async def test_a_save_moves_the_version_on_and_tells(store: Store, told: Told) -> None:
    task = make_task()
    await add(store, task)
    change = apply(task, SubmitStarted(ONE), NOW + 1)
    saved = await store.task_save(change)
    assert saved == replace(change.task, version=2)
    assert await store.task_get("video_1") == saved
    assert await store.events_get("video_1", "key_1") == [accepted_event(task), *change.events]
    assert told[1:] == [(saved, change.events)]
    assert await ids(store, Filters(stage="submitting")) == ["video_1"]  # what lists filter by moves along


async def test_a_save_from_an_old_version_does_nothing(store: Store, database: Database, told: Told) -> None:
    old = make_task()
    await add(store, old)
    fresh = await store.task_save(apply(old, SubmitStarted(ONE), NOW + 1))
    before, events = await sizes(database), await store.events_get("video_1", "key_1")
    with pytest.raises(GuardFailed):
        await store.task_save(apply(old, Cancelled(), NOW + 2))
    assert await store.task_get("video_1") == fresh
    assert (await sizes(database), await store.events_get("video_1", "key_1")) == (before, events)
    assert len(told) == 2


async def test_of_many_saves_from_one_version_one_counts(store: Store) -> None:
    task = make_task()
    await add(store, task)
    changes = [apply(task, DeadlinePassed(), NOW + number) for number in range(20)]
    results = await asyncio.gather(*map(store.task_save, changes), return_exceptions=True)
    saved = [result for result in results if isinstance(result, Task)]
    assert len(saved) == 1
    assert [type(result) for result in results].count(GuardFailed) == 19
    assert await store.task_get("video_1") == saved[0]
    assert [event.at for event in await store.events_get("video_1", "key_1")][1:] == [saved[0].completed_at]


async def test_a_deleted_video_cannot_be_saved(store: Store) -> None:
    task = make_task(state="cancelled", charged="unknown")
    await add(store, task)
    await store.video_delete("video_1", "key_1")
    late = Accepted(Submitted(vendor_task_id="v-1", ref={}))
    with pytest.raises(GuardFailed):
        await store.task_save(apply(task, late, NOW))
    assert await store.events_get("video_1", "key_1") == []


async def test_a_vendors_job_belongs_to_one_video(store: Store, database: Database, told: Told) -> None:
    sent = [make_task(f"v{n}", state="submitting", provider="two" if n == 2 else "one") for n in range(3)]
    await add(store, *sent)
    changes = [apply(task, Accepted(Submitted(vendor_task_id="job", ref={})), NOW) for task in sent]
    await store.task_save(changes[0])
    before = await sizes(database)
    with pytest.raises(Duplicate):
        await store.task_save(changes[1])
    assert await store.task_get("v1") == sent[1]
    assert (await sizes(database), len(told)) == (before, 4)
    assert (await store.task_save(changes[2])).vendor_task_id == "job"  # another vendor's, of the same name


@pytest.mark.parametrize("kind", ["add", "save"])
async def test_who_stops_waiting_for_a_commit_keeps_nobody_from_hearing_of_it(
    store: Store, told: Told, kind: str
) -> None:
    task = make_task()
    if kind == "save":
        await add(store, task)
    count = len(told)
    heard = asyncio.Event()
    store.listen(lambda task, events: heard.set())
    change = apply(task, SubmitStarted(ONE), NOW)
    writing = asyncio.ensure_future(store.video_add(new(task)) if kind == "add" else store.task_save(change))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    async with asyncio.timeout(60):
        await heard.wait()
    saved = await store.task_get("video_1")
    assert saved is not None
    assert [some for some, _ in told[count:]] == [saved]


# --- orders of operators ----------------------------------------------------------------------------------

async def test_an_order_stays_until_it_is_lifted_or_another_takes_its_place(store: Store) -> None:
    assert await store.holds() == []
    first = Hold(provider="two", action="pause", by="key_1", at=NOW)
    other = Hold(provider="one", action="pause", by="key_2", at=NOW + 1)
    second = Hold(provider="two", action="drain", by="key_3", at=NOW + 2)
    for hold in (first, other, second):
        await store.hold_put(hold)
    assert await store.holds() == [other, second]
    await store.hold_delete("one")
    await store.hold_delete("one")
    assert await store.holds() == [second]


async def test_an_order_is_one_of_those_known(database: Database) -> None:
    with pytest.raises(StorageError):
        await database.write((Step("insert into provider_holds values ('one', 'stop', 'key_1', 1.0)", ()),))


# --- new spending is refused first ------------------------------------------------------------------------

class Pressed:
    """A database that says of itself what a test sets."""

    def __init__(self, database: Database) -> None:
        self.read, self.write = database.read, database.write
        self.migrate, self.close, self.listen = database.migrate, database.close, database.listen
        self.flaws, self.snapshot = database.flaws, database.snapshot
        self.is_shared = database.is_shared
        self.waiting = 0
        self.trouble: str | None = None


@pytest.mark.parametrize(
    ("waiting", "trouble", "refusal"),
    [
        (ADMIT_MAX - 1, None, None),
        (ADMIT_MAX, None, StorageBusy),
        (0, "the disk is full", StorageShort),
        (ADMIT_MAX, "the disk is full", StorageShort),
    ],
)
async def test_under_pressure_only_new_videos_are_refused(
    database: Database, waiting: int, trouble: str | None, refusal: type[StorageBusy] | None
) -> None:
    pressed = Pressed(database)
    store = Store(pressed)
    task = make_task()
    await add(store, task, ended("old"))
    before = await sizes(database)
    pressed.waiting, pressed.trouble = waiting, trouble
    assert store.is_short == (trouble is not None)
    if refusal is None:
        await add(store, make_task("more"))
    else:
        with pytest.raises(StorageBusy, match=trouble or f"{ADMIT_MAX} writes are waiting") as caught:
            await store.video_add(new(make_task("more")), Idempotency("k", "print", "more"))
        assert type(caught.value) is refusal
        assert await sizes(database) == before
    saved = await store.task_save(apply(task, SubmitStarted(ONE), NOW))
    assert await store.task_get("video_1") == saved
    await store.hold_put(Hold(provider="one", action="pause", by="key_1", at=NOW))
    assert await store.video_delete("old", "key_1")


# --- readiness --------------------------------------------------------------------------------------------

async def test_a_closed_database_says_so(store: Store, database: Database) -> None:
    await store.ready()
    await database.close()
    with pytest.raises(StorageError, match="closed"):
        await store.ready()
    with pytest.raises(StorageError, match="closed"):
        await store.video_add(new(make_task()))
