"""Where the bytes of finished videos are kept: what any such place does, and a folder of this machine.

A file is there whole and durable, or not at all: written under another name, flushed to the disk, then
renamed, and the folder flushed, too. The folder has a marker, by which it is told from the empty place where
its volume is not mounted. Not held here: S3 (`files_s3`), which files there are (`file_rows`).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

PIECE_BYTES: Final = 256 * 1024  # at a time towards a caller
WRITE_BYTES: Final = 1024 * 1024  # at a time towards the disk
THREADS: Final = 8
_PARTIAL: Final = ".partial"
_PROBE: Final = ".probe"  # one name, so that no more than one is ever left
MARKER: Final = ".reelgate"  # in every folder of files, and copied with it
_FILES: Final = "*/*.mp4"  # what is in one that was made before there were markers


class FileStoreError(Exception):
    """The place did not do what was asked; it may later. Of what was being written nothing is there."""


class FileMissing(FileStoreError):
    """There is no such file."""


class FileStore(Protocol):
    """A place for files, by key: letters, digits, `_ - . /`."""

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str) -> None:
        """Store what `chunks` give, durably, or nothing. Raises FileStoreError, or what `chunks` raise."""
        ...

    def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes `start` to `end`, both included. Raises FileMissing, FileStoreError."""
        ...

    async def remove(self, key: str) -> None:
        """Have no such file, nor what is left of an attempt to write it. Raises FileStoreError."""
        ...

    async def link(self, key: str, seconds: float) -> str | None:
        """A URL under which anybody gets the file for that long; None where there is no such thing."""
        ...

    async def trouble(self) -> str | None:
        """Why nothing can be stored, in a sentence, found out by trying; None: it can."""
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


class LocalFiles:
    """Files in a folder, which is made, once, when the first one comes.

    `has_files`: some are stored already, so that the folder is there, or its volume is not mounted: then
    everything raises FileStoreError, until it is.
    """

    def __init__(self, folder: Path, *, has_files: bool = False) -> None:
        self._folder, self._home = folder, _Home(folder, has_files=has_files)
        # Of its own: a disk that hangs holds up nothing but files.
        self._threads = ThreadPoolExecutor(THREADS, "files")

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str) -> None:
        """Write to another name, flush, rename, flush the folder."""
        await self._do(partial(self._home.mark, is_new_too=True))
        writing = _Writing(self._folder / key)
        try:
            await self._do(writing.begin)
            waiting = bytearray()
            async for chunk in chunks:
                waiting += chunk
                if len(waiting) >= WRITE_BYTES:
                    await self._do(writing.write, waiting)
                    waiting = bytearray()
            await self._do(writing.write, waiting)
            await self._do(writing.finish)
        except BaseException:
            await self._do(writing.abandon)
            raise

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Piece by piece; a file that ends early is trouble."""
        await self._do(partial(self._home.find, has_files=True))
        reading = _Reading(self._folder / key)
        try:
            position = start
            while position <= end:
                piece = await self._do(reading.read, min(PIECE_BYTES, end + 1 - position), position)
                if not piece:
                    raise FileStoreError("a stored file is shorter than it was when it was stored")
                position += len(piece)
                yield piece
        finally:
            await self._do(reading.close)

    async def remove(self, key: str) -> None:
        """Unlink it, and what an attempt left under the other name."""
        await self._do(self._home.mark)
        await self._do(_Writing(self._folder / key).abandon)

    async def link(self, key: str, seconds: float) -> str | None:
        """A folder has no URLs."""
        return None

    async def trouble(self) -> str | None:
        """Try to write a small file."""
        try:
            await self._do(self._home.mark)
            await self._do(_probe, self._folder)
        except FileStoreError as error:
            return str(error)
        return None

    async def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    async def _do(self, work: Callable[..., T], *arguments: object) -> T:
        """Call `work` in a thread. Who is cancelled meanwhile waits for its end: what it uses stays open."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise
        except FileNotFoundError as error:
            raise FileMissing("the file is not there") from error
        except OSError as error:
            raise FileStoreError(_told(self._folder, error)) from error


def _told(folder: Path, error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return f"{folder} cannot be used: {error.strerror or error} ({name})"


def is_there(folder: Path) -> bool:
    """Whether it is a folder of files: marked, or older than markers. An empty one may be any. Blocks."""
    return (folder / MARKER).exists() or next(folder.glob(_FILES), None) is not None


class _Home:
    """The folder itself, in a thread's words. Once it was there it is found or missed, and not made again."""

    def __init__(self, folder: Path, *, has_files: bool) -> None:
        self._folder, self._has_files = folder, has_files
        self._was_marked = False

    def find(self, *, has_files: bool = False) -> bool:
        """Whether it is marked; one that is not is new, or too old. Raises FileStoreError where it is gone.

        `has_files`: the caller knows of one, whoever stored it.
        """
        self._has_files |= has_files
        if (self._folder / MARKER).exists():
            self._was_marked = True
            return True
        if self._was_marked or (self._has_files and not is_there(self._folder)):
            why = f"is its volume mounted? {self._folder} has no {MARKER}"
            raise FileStoreError(f"the folder of files is not there: {why}")
        return False

    def mark(self, *, is_new_too: bool = False) -> None:
        """Have it marked, and lasting: an old one, and where it may be made a new one. Raises as `find`."""
        if not self.find() and (self._has_files or is_new_too):
            _make(self._folder)
            os.close(os.open(self._folder / MARKER, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
            _flush(self._folder)
            self._was_marked = True


class _Writing:
    """A file on its way, in a thread's words. It is at its own name only when `finish` has returned."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(path.name + _PARTIAL)
        self._descriptor: int | None = None

    def begin(self) -> None:
        """A new file under the other name, whatever was there. The folders above it are made, and last."""
        _make(self._partial.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(self._partial, flags, 0o640)

    def write(self, data: bytearray) -> None:
        """More of it."""
        rest = memoryview(data)
        while rest and self._descriptor is not None:
            rest = rest[os.write(self._descriptor, rest) :]

    def finish(self) -> None:
        """All is written: bytes first, then the name, then the folder that has the name."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            self._close()
            self._partial.rename(self._path)
            _flush(self._path.parent)

    def abandon(self) -> None:
        """Have neither name."""
        self._close()
        for path in (self._partial, self._path):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class _Reading:
    """A file that is read, in a thread's words."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def read(self, length: int, position: int) -> bytes:
        """At most so many bytes from there."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._descriptor, length, position)

    def close(self) -> None:
        """Let go of it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _make(folder: Path) -> None:
    """Have it there with all above it, each by a name that lasts."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        _flush(place.parent)


def _flush(folder: Path) -> None:
    """Have what is in the folder by name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _probe(folder: Path) -> None:
    """Write to the folder; while it is not there yet, to the one that it will be made in."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    path = there / _PROBE
    with path.open("wb") as file:
        file.write(b"reelgate")
        file.flush()
        os.fsync(file.fileno())
    path.unlink(missing_ok=True)
