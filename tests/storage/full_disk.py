"""A life on a disk that is full, as a program of its own: `python -m tests.storage.full_disk FOLDER`.

It fills the file system of FOLDER to the last byte; `test_full_disk.py` gives it one. Ends with 0, or an
AssertionError.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from gateway.core.states import Change, Event, Task
from gateway.storage import sqlite
from gateway.storage.db import Step, StorageError, StorageShort
from gateway.storage.reserve import RESERVE_BYTES
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from tests.core.made import NOW, make_task
from tests.storage.stores import held_up, new

LARGE = Step("insert into video_inputs values ('v0', 'image', $1)", ("x" * 30_000_000,))


class Life:
    """A store with some tasks under way, and the ballast beside it that fills the disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "reelgate.db"
        self.held = folder / "reelgate.db-reserve"
        self.ballast = folder / "ballast"
        self.tasks = {f"v{n}": make_task(f"v{n}") for n in range(20)}
        self.database = SqliteDatabase(self.path, exclusive=True)
        self.store = Store(self.database)

    def fill(self) -> None:
        """Leave not one byte free."""
        with self.ballast.open("ab", buffering=0) as file:
            for size in (2**20, 4096, 1):
                with suppress(OSError):  # the rest shows that it was for want of space
                    while True:
                        file.write(bytes(size))

    async def save(self, task: Task) -> None:
        """A save as of a poll, with its event."""
        event = Event(
            type="vendor_status", at=NOW, status="in_progress", stage=None, provider="one", offering=None,
            detail={"raw": "RUN"}, seq=task.last_seq + 1,
        )
        self.tasks[task.id] = await self.store.task_save(
            Change(task, replace(task, last_seq=event.seq), (event,))
        )

    async def save_all(self) -> list[BaseException]:
        """Save every task once; what was raised."""
        outcomes = await asyncio.gather(*map(self.save, self.tasks.values()), return_exceptions=True)
        return [outcome for outcome in outcomes if outcome is not None]

    async def is_refused(self) -> bool:
        """Whether a new video is refused because the disk is full."""
        try:
            await self.store.video_add(new(make_task("refused")))
        except StorageShort as error:
            return "disk is full" in str(error)
        return False

    async def stored(self) -> Iterable[Task | None]:
        """The tasks as they are stored."""
        return [await self.store.task_get(name) for name in self.tasks]


async def paid_work_goes_on(life: Life) -> None:
    """What does not fit is among it and fails alone."""
    life.fill()
    with held_up(life.path):
        waiting = asyncio.gather(life.save_all(), life.database.write((LARGE,)), life.save_all(),
                                 return_exceptions=True)
        await asyncio.sleep(0.01)
    first, large, second = await waiting
    assert first == []
    assert isinstance(large, StorageShort)
    assert isinstance(second, list)
    assert len(second) == len(life.tasks)  # saved from an old version: they were asked for at the same time
    assert life.store.is_short
    assert not life.held.exists()
    assert await life.is_refused()
    for _ in range(100):
        assert await life.save_all() == []
    assert life.store.is_short


async def nothing_is_left(life: Life) -> None:
    """What fails says so, and what was answered stays."""
    life.fill()
    failed: list[BaseException] = []
    while not failed:
        failed = await life.save_all()
    assert {type(error) for error in failed} == {StorageError}
    assert await life.is_refused()
    assert await life.stored() == list(life.tasks.values())


async def there_is_room_again(life: Life) -> None:
    life.ballast.unlink()
    while life.store.is_short:  # noqa: ASYNC110 (nobody is told)
        await asyncio.sleep(0.01)
    assert life.held.stat().st_blocks * 512 >= RESERVE_BYTES
    assert await life.save_all() == []
    await life.store.video_add(new(make_task("taken")))
    assert await life.database.read("pragma integrity_check") == [("ok",)]


async def main(folder: Path) -> None:
    """The whole life."""
    sqlite.TRY_SECONDS = 0.01  # type: ignore[misc]
    life = Life(folder)
    await life.database.migrate()
    for task in life.tasks.values():
        await life.store.video_add(new(task))
    assert life.held.stat().st_blocks * 512 >= RESERVE_BYTES
    await paid_work_goes_on(life)
    await nothing_is_left(life)
    await life.database.close()
    tasks, life = life.tasks, Life(folder)  # a start on a full disk serves what is there
    life.tasks = tasks
    assert await life.is_refused()
    assert await life.stored() == list(tasks.values())
    await there_is_room_again(life)
    await life.database.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
