"""Two drivers that are cut off at any message, many times: what was answered is true afterwards.

Held here: the promises of a write, whatever breaks. Not held here: each way of breaking by itself
(`test_postgres_server.py`, `test_postgres_fate.py`).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from msgspec.structs import replace

from gateway.core.states import Change, Task
from gateway.storage import postgres_transaction, postgres_writer
from gateway.storage.db import Duplicate, GuardFailed, StorageBusy, StorageError
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.rows import Idempotency
from gateway.storage.store import Store
from tests.core.made import make_task
from tests.storage.pg_wire import Order, Wire
from tests.storage.stores import Two, new

pytestmark = pytest.mark.anyio

ROUNDS = 60  # enough that a seed without a cut COMMIT is one in a million
YES, NO, UNKNOWN = "took place", "changed nothing", "who knows"


class Storm:
    """Callers at two drivers, and what they were answered."""

    def __init__(self, stores: list[Store], chance: random.Random) -> None:
        self.stores, self.chance = stores, chance
        self.added: dict[str, str] = {}
        self.saved: dict[tuple[str, int], list[Task | str]] = {}
        self.told: Counter[tuple[str, int]] = Counter()
        for store in stores:
            store.listen(lambda task, _events: self.told.update([(task.id, task.version)]))

    async def add(self) -> None:
        """A new video; every second one has the idempotency key of the one before."""
        number = len(self.added)
        name = f"v{number:05}"
        self.added[name] = UNKNOWN
        try:
            key = Idempotency(f"k{number // 2}", "print", name)
            holder = await self.chance.choice(self.stores).video_add(new(make_task(name), {"a": "1"}), key)
            self.added[name] = YES if holder is None else NO
        except (StorageBusy, GuardFailed, Duplicate):
            self.added[name] = NO
        except StorageError:  # also when only the key's holder could not be read
            return

    async def save(self, store: Store, task: Task) -> None:
        """A change that can be told from every other."""
        answers = self.saved.setdefault((task.id, task.version), [])
        after = replace(task, raw_status=str(self.chance.random()))
        try:
            answers.append(await store.task_save(Change(task, after, ())))
        except (StorageBusy, GuardFailed):
            answers.append(NO)
        except StorageError:
            answers.append(UNKNOWN)


async def check(storm: Storm, looking: Store) -> None:
    """Compare what was answered with what is there."""
    found = {name: await looking.task_get(name) for name in storm.added}
    for name, answer in storm.added.items():
        assert answer == UNKNOWN or (found[name] is not None) is (answer == YES), (name, answer)
        assert answer == UNKNOWN or storm.told[(name, 1)] == (answer == YES), (name, answer)
    for (name, version), answers in storm.saved.items():
        task, winners = found[name], [answer for answer in answers if isinstance(answer, Task)]
        assert task is not None
        assert len(winners) <= 1, (name, version)
        if winners:
            assert task.version > version, (name, version)
            assert task.version > version + 1 or task == winners[0], (name, version)
        elif UNKNOWN not in answers:
            assert task.version == version, (name, version)


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_breaks_what_was_answered_is_true(
    two: Two, url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(postgres_writer, "PAUSE_SECONDS", (0.005, 0.02))
    monkeypatch.setattr(postgres_transaction, "IDLE_MS", 300)
    monkeypatch.setattr(postgres_transaction, "WHOLE_MS", 600)
    chance, cuts = random.Random(seed), Counter[Order]()

    def decide(message: bytes) -> Order:
        if message.endswith(b"commit\0"):
            order = chance.choice([Order.LOSE, Order.DEAFEN, *[Order.PASS] * 6])
        else:
            order = Order.LOSE if chance.random() < 0.005 else Order.PASS
        cuts.update([order])
        return order

    looking = Store(two[0])
    async with Wire(url).open() as wire:
        wire.decide = decide
        databases = [PostgresDatabase(wire.url) for _ in range(2)]
        storm = Storm([Store(one) for one in databases], chance)
        for _ in range(ROUNDS):
            await asyncio.gather(*(storm.add() for _ in range(chance.choice([1, 4, 20]))))
            names = chance.sample([name for name in storm.added if storm.added[name] == YES] or [""], k=1) * 3
            tasks = [task for name in names if (task := await looking.task_get(name)) is not None]
            await asyncio.gather(*(storm.save(store, task) for task in tasks for store in storm.stores))
        for one in databases:
            await one.close()
    await check(storm, looking)
    assert cuts[Order.LOSE]
    assert cuts[Order.DEAFEN]
