"""A folder of files whose volume is not mounted: missed, told and found again, and never made anew.

The mount point of a volume is there and empty, or not even there. Not held here: what a folder does that is
there (`test_files`), what callers are told (`tests/api/test_content_away.py`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from gateway.storage.files import MARKER, FileMissing, FileStoreError, LocalFiles, is_there
from tests.storage.test_files import KEY, names, pieces, read

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(folder: Path, *, has_files: bool) -> AsyncIterator[LocalFiles]:
    """As a process that starts does."""
    made = LocalFiles(folder, has_files=has_files)
    yield made
    await made.close()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """One with a stored file."""
    async with opened(tmp_path / "videos", has_files=False) as files:
        await files.put(KEY, pieces(b"abc"), "video/mp4")
    return tmp_path / "videos"


@contextmanager
def unmounted(folder: Path, *, is_point_there: bool) -> Iterator[None]:
    """While the volume is away."""
    away = folder.with_name("away")
    folder.rename(away)
    if is_point_there:
        folder.mkdir()
    yield
    assert not is_point_there or list(folder.iterdir()) == [], "nothing may be hidden by the next mount"
    if is_point_there:
        folder.rmdir()
    assert not folder.exists()
    away.rename(folder)


async def refused(work: Awaitable[object]) -> None:
    with pytest.raises(FileStoreError, match="is its volume mounted") as caught:
        await work
    assert not isinstance(caught.value, FileMissing)


async def all_refused(files: LocalFiles) -> None:
    await refused(read(files, 0, 2))
    await refused(files.put("60/other.mp4", pieces(b"def"), "video/mp4"))
    await refused(files.remove(KEY))
    assert "is its volume mounted" in (await files.trouble() or "")


@pytest.mark.parametrize("is_point_there", [True, False])
async def test_a_volume_that_goes_away_meanwhile_is_missed_until_it_is_back(
    folder: Path, *, is_point_there: bool
) -> None:
    async with opened(folder, has_files=False) as files:
        assert await read(files, 0, 2) == b"abc"
        with unmounted(folder, is_point_there=is_point_there):
            await all_refused(files)
        assert (await read(files, 0, 2), await files.trouble()) == (b"abc", None)


@pytest.mark.parametrize("is_point_there", [True, False])
async def test_a_volume_that_is_away_at_the_start_is_missed_where_files_are_known(
    folder: Path, *, is_point_there: bool
) -> None:
    async with opened(folder, has_files=True) as files:
        with unmounted(folder, is_point_there=is_point_there):
            await all_refused(files)
        assert (await read(files, 0, 2), await files.trouble()) == (b"abc", None)


async def test_whoever_reads_knows_of_a_file(folder: Path) -> None:
    """Another replica stored it since this one started."""
    async with opened(folder, has_files=False) as files:
        with unmounted(folder, is_point_there=True):
            await all_refused(files)


async def test_a_single_file_that_is_missing_in_a_good_folder_is_just_that(folder: Path) -> None:
    async with opened(folder, has_files=True) as files:
        with pytest.raises(FileMissing):
            await read(files, 0, 2, "60/gone.mp4")
        await files.remove("60/gone.mp4")


async def removed(files: LocalFiles) -> None:
    await files.remove(KEY)


async def stored(files: LocalFiles) -> None:
    await files.put("60/other.mp4", pieces(b"def"), "video/mp4")


async def tried(files: LocalFiles) -> None:
    assert await files.trouble() is None


@pytest.mark.parametrize("work", [removed, stored, tried])
async def test_a_folder_of_before_there_were_markers_gets_one(
    folder: Path, work: Callable[[LocalFiles], Awaitable[None]]
) -> None:
    (folder / MARKER).unlink()
    async with opened(folder, has_files=True) as files:
        assert await read(files, 0, 2) == b"abc"
        await work(files)
        assert (folder / MARKER).exists()
        await files.remove(KEY)
        await files.remove("60/other.mp4")
        await files.put(KEY, pieces(b"abc"), "video/mp4")


async def test_a_marker_that_goes_while_the_folder_is_used_is_missed(folder: Path) -> None:
    async with opened(folder, has_files=True) as files:
        await tried(files)
        (folder / MARKER).unlink()
        await all_refused(files)


async def test_trying_marks_nothing_where_no_file_is_known(tmp_path: Path) -> None:
    """As `reelgate doctor` and `check` try."""
    async with opened(tmp_path, has_files=False) as files:
        await tried(files)
        await files.remove(KEY)
    assert names(tmp_path) == []
    assert not is_there(tmp_path)


async def test_a_folder_that_is_copied_or_moved_keeps_its_marker(folder: Path) -> None:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)  # as `cp -r` does
    async with opened(copy, has_files=True) as files:
        await removed(files)
    async with opened(copy, has_files=True) as files:
        await stored(files)
    assert names(copy) == ["60/other.mp4"]


async def test_an_empty_folder_is_begun_anew_by_whoever_puts_a_marker_there(tmp_path: Path) -> None:
    async with opened(tmp_path, has_files=True) as files:
        await all_refused(files)
        (tmp_path / MARKER).touch()
        await stored(files)


async def test_two_that_begin_a_folder_at_once_both_store(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    async with opened(folder, has_files=False) as one, opened(folder, has_files=False) as two:
        await asyncio.gather(*(
            files.put(f"{number:02}/v.mp4", pieces(b"abc"), "video/mp4")
            for number, files in enumerate([one, two] * 8)
        ))
    assert len(names(folder)) == 16


async def test_a_disk_that_fails_while_the_folder_is_begun_fails_one_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, folder = os.open, tmp_path / "videos"

    def failing(path: Path, *rest: int) -> int:
        if Path(path).name == MARKER:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *rest)

    async with opened(folder, has_files=False) as files:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", failing)
            with pytest.raises(FileStoreError, match="ENOSPC"):
                await stored(files)
        await stored(files)
