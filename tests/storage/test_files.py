"""A folder as the place for files: whole and durable or not there, in the order that a power cut asks for."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.storage.files import MARKER, FileMissing, FileStoreError, LocalFiles

KEY = "60/video_1-0.mp4"
BIG = os.urandom(3 * 1024 * 1024 + 17)


async def pieces(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def broken(data: bytes, error: BaseException) -> AsyncIterator[bytes]:
    yield data
    raise error


async def read(files: LocalFiles, start: int, end: int, key: str = KEY) -> bytes:
    return b"".join([piece async for piece in files.read(key, start, end)])


async def failure_of(work: Awaitable[None]) -> str | None:
    try:
        await work
    except FileStoreError as error:
        return str(error)
    return None


def block(folder: Path) -> None:
    """Have a file where a folder without files was."""
    shutil.rmtree(folder)
    folder.write_bytes(b"in the way")


def is_there(folder: Path) -> bool:
    return folder.exists()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def names(folder: Path) -> list[str]:
    """All that is there but the marker."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != MARKER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "not" / "there" / "yet"


@pytest.fixture
async def files(folder: Path) -> AsyncIterator[LocalFiles]:
    made = LocalFiles(folder)
    yield made
    await made.close()


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 65_536, 10_000_000])
async def test_what_was_put_can_be_read_whole_and_in_parts(
    files: LocalFiles, folder: Path, size: int
) -> None:
    await files.put(KEY, pieces(BIG, size) if size > 1 else pieces(BIG[:1000], 1), "video/mp4")
    data = BIG if size > 1 else BIG[:1000]
    assert await read(files, 0, len(data) - 1) == data
    assert await read(files, 5, 5) == data[5:6]
    assert await read(files, 900, len(data) - 1) == data[900:]
    assert names(folder) == [KEY]


@pytest.mark.anyio
@pytest.mark.parametrize("error", [ValueError("no video"), asyncio.CancelledError()], ids=repr)
async def test_of_a_source_that_breaks_nothing_stays(
    files: LocalFiles, folder: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        await files.put(KEY, broken(BIG, error), "video/mp4")
    assert names(folder) == []


@pytest.mark.anyio
async def test_who_is_cancelled_in_the_middle_leaves_nothing(files: LocalFiles, folder: Path) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield BIG
        reached.set()
        await never.wait()

    putting = asyncio.create_task(files.put(KEY, slow(), "video/mp4"))
    await reached.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert names(folder) == []


Call = tuple[str, str]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What is done to files and folders, in order, by name."""
    calls: list[Call] = []
    opened: dict[int, str] = {}
    real_open, real_fsync, real_write, real_rename = os.open, os.fsync, os.write, Path.rename

    def open_(path: Path, *rest: int) -> int:
        descriptor = real_open(path, *rest)
        opened[descriptor] = Path(path).name
        return descriptor

    def fsync(descriptor: int) -> None:
        calls.append(("fsync", opened[descriptor]))
        real_fsync(descriptor)

    def write(descriptor: int, data: memoryview) -> int:
        calls.append(("write", opened[descriptor]))
        return real_write(descriptor, data)

    def rename(self: Path, target: Path) -> Path:
        calls.append(("rename", Path(target).name))
        return real_rename(self, target)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(Path, "rename", rename)
    return calls


@pytest.mark.anyio
async def test_bytes_then_name_then_folder_are_flushed(
    files: LocalFiles, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = watched(monkeypatch)
    await files.put(KEY, pieces(b"abc"), "video/mp4")
    partial, name = "video_1-0.mp4.partial", "video_1-0.mp4"
    assert calls[-4:] == [("write", partial), ("fsync", partial), ("rename", name), ("fsync", "60")]
    # Every folder that was made is flushed in the one above it before anything is in it; so is the marker.
    above = [folder.parents[2].name, "not", "there", "yet", "yet"]
    assert calls[:-4] == [("fsync", parent) for parent in above]


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_fails_at_any_call_leaves_nothing(
    files: LocalFiles, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    await files.put("60/other.mp4", pieces(b"abc"), "video/mp4")
    home: object = Path if call == "rename" else os
    real: Callable[..., object] = getattr(home, call)
    left = 0
    for count in range(20):
        left = count

        def failing(*arguments: object) -> object:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(home, call, failing)
            told = await failure_of(files.put(KEY, pieces(BIG), "video/mp4"))
        if told is None:
            break
        assert errno.errorcode[code] in told
        assert names(folder) == ["60/other.mp4"], (call, count)
    assert left >= 0, "the calls never ended"
    assert await read(files, 0, len(BIG) - 1) == BIG


@pytest.mark.anyio
async def test_a_short_write_is_continued(files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:100_000]))
    await files.put(KEY, pieces(BIG), "video/mp4")
    assert await read(files, 0, len(BIG) - 1) == BIG


@pytest.mark.anyio
async def test_what_is_removed_is_gone_and_so_is_what_an_attempt_left(
    files: LocalFiles, folder: Path
) -> None:
    await files.put(KEY, pieces(b"abc"), "video/mp4")
    (folder / "60" / "video_1-0.mp4.partial").write_bytes(b"ab")
    for _ in range(2):
        await files.remove(KEY)
        assert names(folder) == []
    with pytest.raises(FileMissing):
        await read(files, 0, 2)


@pytest.mark.anyio
async def test_a_file_that_shrank_is_no_whole_file(files: LocalFiles, folder: Path) -> None:
    await files.put(KEY, pieces(b"abcdef"), "video/mp4")
    (folder / KEY).write_bytes(b"abc")
    with pytest.raises(FileStoreError, match="shorter"):
        await read(files, 0, 5)


@pytest.mark.anyio
async def test_trouble_is_found_by_trying(files: LocalFiles, folder: Path) -> None:
    assert await files.trouble() is None
    assert not is_there(folder), "nothing is made by trying"
    await files.put(KEY, pieces(b"abc"), "video/mp4")
    await files.remove(KEY)
    assert await files.trouble() is None
    assert names(folder) == []
    block(folder)
    assert str(folder) in (await files.trouble() or "")
    with pytest.raises(FileStoreError):
        await files.put(KEY, pieces(b"abc"), "video/mp4")


@pytest.mark.anyio
async def test_no_descriptor_stays_open(files: LocalFiles) -> None:
    await files.put(KEY, pieces(BIG), "video/mp4")
    before = descriptors()
    for _ in range(20):
        reading = files.read(KEY, 0, len(BIG) - 1)
        await anext(reading)
        await reading.aclose()
        with pytest.raises(ValueError, match="no"):
            await files.put("60/b.mp4", broken(b"a", ValueError("no")), "video/mp4")
    assert descriptors() == before
