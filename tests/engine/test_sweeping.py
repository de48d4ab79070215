"""What is kept for a time goes when that is over, and nothing before; in virtual time, by the running engine.

Not held here: the statements (`tests/storage/test_file_rows`).
"""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.states import Task
from gateway.engine.sweeping import KEYS_KEPT_SECONDS, pause_seconds
from gateway.storage.audit import COMMAND_LINE, KEPT_SECONDS, AuditFilters, Entry
from gateway.storage.db import Step, StorageError
from gateway.storage.file_rows import NAMED
from gateway.storage.files import FileStoreError
from gateway.storage.rows import Page
from tests.engine.hosting import FileVendor, Host, Shelf, kept
from tests.engine.life import Life, ScriptedVendor, SwitchedVendor, accepted, configured, life, pending
from tests.virtual import run_virtual

HOUR, DAY = 3_600.0, 86_400.0
FILES = 'retention = "2h"\nrecords_retention = "5h"'


def is_stored(task: Task) -> bool:
    return task.file_key is not None


def now() -> float:
    return asyncio.get_running_loop().time()


async def has(one: Life, video_id: str) -> bool:
    return await one.store.task_get(video_id) is not None


def test_files_go_before_records_and_records_with_all_their_parts() -> None:
    async def main() -> None:
        host, shelf = Host(), Shelf()
        keeping = kept(host, shelf, 2 * HOUR)
        async with life({"one": FileVendor(host)}, keeping=keeping, files=FILES) as one:
            await one.create()
            await one.until(is_stored)
            await asyncio.sleep(1.9 * HOUR)
            assert len(shelf.files) == 1
            task = await one.until(lambda task: task.file_key is None)
            assert 2 * HOUR <= now() < 2.2 * HOUR
            assert (task.stage, task.is_followed) == ("stored", False)
            await asyncio.sleep(pause_seconds(one.settings.files))
            assert shelf.files == {}
            await asyncio.sleep(4.9 * HOUR - now())
            assert await has(one, "video_1")
            await asyncio.sleep(0.3 * HOUR)
            assert not await has(one, "video_1")
            for table in ("videos", "video_requests", "events", "file_removals"):
                assert await one.database.read(f"select 1 from {table}") == []  # noqa: S608
            assert one.sample("reelgate_videos", status="completed") == 0

    run_virtual(main())


def test_what_has_not_ended_or_has_hope_is_kept() -> None:
    async def main() -> None:
        vendor = ScriptedVendor([accepted()], [pending()])
        async with life({"one": vendor}, files=FILES) as one:
            await one.create(deadline_at=one.now() + 30 * DAY)
            await asyncio.sleep(2 * DAY)
            assert await has(one, "video_1")

    run_virtual(main())


def test_who_did_what_outlives_the_records_and_is_forgotten_in_the_end() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor()}, files=FILES) as one:
            for name, age in (("old", KEPT_SECONDS), ("young", KEPT_SECONDS - DAY)):
                made = Entry(one.now() - age, COMMAND_LINE, "key.created", name, None, None, None)
                await one.store.audit.add(made)
            await asyncio.sleep(23 * HOUR)
            found = await one.store.audit.list(AuditFilters(), Page(limit=5))
            assert [recorded.entry.object for recorded in found] == ["young"]
            await asyncio.sleep(2 * HOUR)
            assert await one.store.audit.list(AuditFilters(), Page(limit=5)) == []

    run_virtual(main())


def test_a_key_outlives_its_record_for_a_day() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor()}, files=FILES) as one:
            await one.order(key="again")
            await one.end()
            await asyncio.sleep(0.9 * KEYS_KEPT_SECONDS)
            assert not await has(one, "video_1")
            assert await one.store.idempotency_get("key_1", "again") is not None
            await asyncio.sleep(0.2 * KEYS_KEPT_SECONDS)
            assert await one.store.idempotency_get("key_1", "again") is None

    run_virtual(main())


def test_a_storage_that_refuses_is_asked_again_and_holds_up_no_record() -> None:
    async def main() -> None:
        host, shelf = Host(), Shelf()
        keeping = kept(host, shelf, 2 * HOUR)
        async with life({"one": FileVendor(host)}, keeping=keeping, files=FILES) as one:
            for number in range(3):
                await one.create(f"video_{number}")
            for number in range(3):
                await one.until(is_stored, f"video_{number}")

            def refuse(key: str, count: int | None) -> None:
                raise FileStoreError("the storage is away")

            shelf.fault = refuse
            await asyncio.sleep(6 * HOUR)
            assert [await has(one, f"video_{number}") for number in range(3)] == [False] * 3
            assert len(shelf.files) == 3
            shelf.fault = lambda key, count: None
            await asyncio.sleep(HOUR)
            assert shelf.files == {}

    run_virtual(main())


def test_what_is_named_while_its_removal_fails_is_not_removed_later() -> None:
    async def main() -> None:
        host, shelf = Host(), Shelf()
        keeping = kept(host, shelf, 30 * DAY)
        async with life({"one": FileVendor(host)}, keeping=keeping, files=FILES) as one:
            await one.store.files.intend("a.mp4", one.now())
            asked = list[str]()

            async def removal_begin(key: str) -> bool:
                asked.append(key)
                await one.database.write((Step(NAMED, (key,)),))  # by the save that has a video name it
                raise StorageError("away")

            one.store.files.removal_begin = removal_begin  # type: ignore[method-assign]
            await asyncio.sleep(HOUR)
            assert asked == ["a.mp4"]
            assert await one.database.read("select key from file_removals") == []

    run_virtual(main())


def test_a_database_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor()}, files=FILES) as one:
            await one.create()
            await one.end()
            real = one.store.files.outdated

            async def outdated(before: float, limit: int) -> list[tuple[str, str, str]]:
                if now() < 8 * HOUR:
                    raise StorageError("away")
                return await real(before, limit)

            monkeypatch.setattr(one.store.files, "outdated", outdated)
            await asyncio.sleep(7.9 * HOUR)
            assert await has(one, "video_1")
            await asyncio.sleep(0.3 * HOUR)
            assert not await has(one, "video_1")

    run_virtual(main())


def test_many_go_in_one_sweep() -> None:
    async def main() -> None:
        async with life({"one": SwitchedVendor()}, files=FILES) as one:
            for number in range(250):
                await one.create(
                    f"video_{number:03}", state="failed", stage=None, completed_at=one.now(), error_code="x"
                )
            await asyncio.sleep(5.3 * HOUR)
            assert await one.database.read("select 1 from videos") == []

    run_virtual(main())


@pytest.mark.parametrize(
    ("files", "seconds"),
    [("", 300.0), ('retention = "2s"', 1.0), ('records_retention = "100s"', 10.0),
     ('retention = "10ms"', 1.0)],
)
def test_it_sweeps_the_oftener_the_shorter_something_is_kept(files: str, seconds: float) -> None:
    assert pause_seconds(configured(files=files).files) == seconds
