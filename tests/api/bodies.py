"""Create bodies and images to make them of, and the two ways in which a body is read.

Held here: what the tests of reading share. Not held here: a test.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Final, TypeAlias

import msgspec
import pytest

from gateway.api.reading import read_object, refuse
from gateway.api.wire import Asked, Known, read_asked
from gateway.errors import Problem

KNOWN: Final = Known(("kling-v3", "kling-v3-turbo"), ("highway", "myrouter"), "kling-v3")
URL: Final = "https://files.example/first.png"
Body: TypeAlias = dict[str, object]
T2V: Final[Body] = {"prompt": "a"}
I2V: Final[Body] = {"prompt": "a", "image": URL}
VOICED: Final[Body] = {"prompt": "a", "audio": True}


def png(width: int, height: int, size: int = 33) -> bytes:
    """A file that begins as a PNG of these sides, `size` bytes long."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return head.ljust(size, b"\0")


def jpeg(width: int, height: int, before: bytes = b"") -> bytes:
    """A file that begins as a JPEG of these sides, with segments `before` its frame header."""
    frame = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", height, width) + b"\x03" + bytes(9)
    return b"\xff\xd8" + before + frame


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    """`content` as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def read_create(body: bytes, known: Known) -> Asked:
    """The request in `body`, as it is read for what is new. Raises Problem with every broken rule."""
    asked = read_asked(read_object(body), known)
    refuse(asked.unknown)
    return asked


def read(body: Body | bytes, known: Known = KNOWN) -> Asked:
    """Read a body given as values or as bytes."""
    return read_create(body if isinstance(body, bytes) else json.dumps(body).encode(), known)


def mistakes(body: Body | bytes, known: Known = KNOWN) -> dict[str, str]:
    """The pointers and sentences of the problem that `body` is; fails when it is taken."""
    with pytest.raises(Problem) as caught:
        read(body, known)
    assert caught.value.code == "invalid_request"
    assert caught.value.status == 400
    assert caught.value.detail
    msgspec.json.encode(caught.value.errors)  # whatever a caller wrote can be said back
    return {error.pointer: error.detail for error in caught.value.errors}


def shots(*seconds: int, prompt: str = "a") -> list[Body]:
    """Shots of these lengths."""
    return [{"prompt": prompt, "duration": each} for each in seconds]
