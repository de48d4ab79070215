"""What an MP4 says about itself: a reader of `moov` that needs no codec and decodes no picture.

A file counts as whole when its boxes fill it to the last byte and both the index (`moov`) and the pictures
(`mdat`) are among them. Layout: ISO/IEC 14496-12.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

_MOOV_BYTES = 64 * 1024 * 1024  # more is no index of a clip of seconds


class Clip(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, pixels, and whether there is a sound track."""

    duration_seconds: float
    width: int
    height: int
    has_audio: bool


def probe(path: Path) -> Clip:
    """Read a file's index. Raises ValueError for what is not a whole MP4 with a picture, and OSError."""
    with path.open("rb") as file:
        return probe_stream(file)


def probe_stream(file: BinaryIO) -> Clip:
    """The same for anything that can be read and sought."""
    end = file.seek(0, io.SEEK_END)
    moov, names = b"", []
    for name, start, size in _boxes(file, 0, end):
        names.append(name)
        if name == b"moov":
            if size > _MOOV_BYTES:
                raise ValueError("the index is too large")
            file.seek(start)
            moov = file.read(size)
    if names[:1] != [b"ftyp"] or b"mdat" not in names or not moov:
        raise ValueError("not an MP4 with an index and pictures")
    try:
        return _clip(moov)
    except struct.error as error:
        raise ValueError("the index is cut short") from error


def _clip(moov: bytes) -> Clip:
    tracks = [_track(track) for track in _find(moov, b"trak")]
    pictures = [(width, height) for handler, width, height in tracks if handler == b"vide"]
    header = next(_find(moov, b"mvhd"), b"")
    wide = header[:1] == b"\1"  # version 1 has 64-bit times
    scale, length = struct.unpack_from(">IQ" if wide else ">II", header, 20 if wide else 12)
    if not pictures or not scale or not length:
        raise ValueError("no picture, or one of no length")
    width, height = pictures[0]
    sound = any(handler == b"soun" for handler, _, _ in tracks)
    return Clip(duration_seconds=length / scale, width=width, height=height, has_audio=sound)


def _track(trak: bytes) -> tuple[bytes, int, int]:
    """Handler, width and height: the two are the last eight bytes of `tkhd`, in 16.16 fixed point."""
    header = next(_find(trak, b"tkhd"), b"")
    media = next(_find(trak, b"mdia"), b"")
    handler = next(_find(media, b"hdlr"), b"")
    width, height = struct.unpack(">II", header[-8:])
    return handler[8:12], width >> 16, height >> 16


def _find(data: bytes, wanted: bytes) -> Iterator[bytes]:
    for name, start, size in _boxes(io.BytesIO(data), 0, len(data)):
        if name == wanted:
            yield data[start : start + size]


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of each box's content. Raises ValueError unless they fill the span exactly."""
    while start < end:
        file.seek(start)
        head = file.read(16)
        size, name = struct.unpack_from(">I4s", head) if len(head) >= 8 else (0, b"")
        skip = 8
        if size == 1 and len(head) == 16:
            size, skip = struct.unpack_from(">Q", head, 8)[0], 16
        if size == 0 and name:
            size = end - start
        if size < skip or start + size > end:
            raise ValueError(f"box at byte {start} does not fit: the file is cut short, or no MP4")
        yield name, start + skip, size - skip
        start += size
