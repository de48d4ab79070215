"""How one input is made of good ones: bytes flipped, cut, doubled, joined, and words that parsers stumble on.

All of it follows from the random numbers that are handed in. Not held here: any good input (`corpus`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, TypeAlias

Way: TypeAlias = "Callable[[Random, bytearray, Sequence[bytes]], None]"

INPUT_MAX_BYTES: Final = 64 * 1024
CHANGES: Final = (0, 1, 1, 1, 2, 2, 3, 5, 12)
REPEATS: Final = (2, 3, 17, 130, 1_100)
_TEXTS: Final = (
    "\0", "\x01", "\x0b", "\x1b", "\x7f", "\x85", "\xa0", "\xad", "\u0130", "\u0660", "\u00b2", "\uff11",
    "\u200b", "\u2028", "\u202e", "\ufeff", "\ufffe", "\U0001f600", "\U0010ffff", "\ud800", "\udfff",
    "\\u0000", "\\ud800", "\\udc00\\ud800", "\\", "\\\\", "\\x", '"', "'", '"":', "{}", "[]", "[[", "{{",
    "null", "true", "NaN", "Infinity", "-Infinity", "1e999", "1e-999", "-0", "0x10", "1_000", "00", "-1",
    "2147483648", "-9223372036854775809", "18446744073709551616", "9" * 400, "0." + "1" * 400, ".", "1.",
    "\r\n", "\n", "\r", "\t", " ", "\r\n\r\n", "\r\n ", "; ", ",", ",,", "=", "==", "&", "%", "%00", "%zz",
    "%0d%0a", "%2e%2e%2f", "%c0%af", "%ff", "+", "..", "../", "//", "/", "?", "#", "@", ":", "::", "[::1]",
    "[", "]", "]]", "*", "$1", "${x}", "{0}", "%s", "<<<voice_1>>>", "<<<voice_9999>>>", "http://",
    "https://", "file:///", "data:", "data:image/png;base64,", "bytes=", "bytes=-", "bytes=0-0,1-1", "wait=",
    "respond-async", "Bearer ", "Basic ", "rg_", "whsec_", "chunked", "identity", "--", "--x--", "boundary=",
    'filename="', "filename*=utf-8''%ff", "name=", "' or 1=1 --", "; drop table videos", "a" * 300,
    "\xe9" * 70,
)  # fmt: skip
WORDS: Final = (
    *(text.encode("utf-8", "surrogatepass") for text in _TEXTS), b"\xff", b"\xfe\xff", b"\xc0\x80",
    b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\0\0\0\1",
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"ftyp", b"moov", b"mdat",
)  # fmt: skip
NUMBERS: Final = (
    b"0", b"-1", b"1", b"2", b"255", b"256", b"65535", b"65536", b"2147483647", b"4294967296",
    b"9007199254740993", b"9223372036854775807", b"9223372036854775808", b"1e400", b"0.1", b"-0.0", b"9" * 30,
)  # fmt: skip
_NUMBER: Final = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?")


def mutated(chance: Random, good: Sequence[bytes]) -> bytes:
    """One of the `good` inputs, changed a few times or not at all."""
    data = bytearray(chance.choice(good))
    for _ in range(chance.choice(CHANGES)):
        chance.choice(WAYS)(chance, data, good)
        del data[INPUT_MAX_BYTES:]
    return bytes(data)


def _span(chance: Random, data: bytearray) -> tuple[int, int]:
    begin = chance.randrange(len(data) + 1)
    return begin, min(len(data), begin + chance.choice((1, 1, 2, 4, 16, 200)))


def _flip(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)


def _insert(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.randbytes(chance.choice((1, 2, 7)))


def _word(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    begin, end = _span(chance, data)
    data[begin : chance.choice((begin, end))] = chance.choice(WORDS)


def _cut(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    begin, end = _span(chance, data)
    del data[begin:end]


def _end(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _repeat(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    begin, end = _span(chance, data)
    data[begin:end] = data[begin:end] * min(chance.choice(REPEATS), INPUT_MAX_BYTES // max(1, end - begin))


def _swap(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    begin, end = _span(chance, data)
    piece = bytes(data[begin:end])
    del data[begin:end]
    at = chance.randrange(len(data) + 1)
    data[at:at] = piece


def _join(chance: Random, data: bytearray, good: Sequence[bytes]) -> None:
    other = chance.choice(good)
    begin = chance.randrange(len(other) + 1)
    data[chance.randrange(len(data) + 1) :] = other[begin:]


def _number(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    found = list(_NUMBER.finditer(bytes(data[:4_096])))
    if found:
        place = chance.choice(found)
        data[place.start() : place.end()] = chance.choice(NUMBERS)


def _case(chance: Random, data: bytearray, _: Sequence[bytes]) -> None:
    begin, end = _span(chance, data)
    data[begin:end] = bytes(data[begin:end]).swapcase()


WAYS: Final[tuple[Way, ...]] = (
    _flip, _set, _insert, _word, _word, _cut, _end, _repeat, _swap, _join, _number, _number, _case,
)
