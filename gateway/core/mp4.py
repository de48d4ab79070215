"""Whether bytes that stream by are a whole MP4: its boxes, one after the other, and nothing kept of them.

A page that says "not found", a file cut short and a file with something behind it all fail. Not held here:
what is inside a box: whether it plays is the vendor's affair.
"""

from __future__ import annotations

from typing import Final

_HEAD_BYTES: Final = 8
_LARGE_HEAD_BYTES: Final = 16  # where the size needs 64 bits: ISO/IEC 14496-12, 4.2
_NEEDED: Final = (b"ftyp", b"moov", b"mdat")


class NotAVideo(Exception):
    """The bytes are no MP4, or not all of one."""


class BoxWalk:
    """Follows the boxes at the top of a file of `total` bytes, as its pieces come."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._position = 0  # of all bytes seen
        self._next = 0  # where the next box begins
        self._head = b""
        self.kinds: set[bytes] = set()  # those that are needed and were seen

    def feed(self, piece: bytes) -> None:
        """The next bytes. Raises NotAVideo as soon as they cannot be those of an MP4 of that length."""
        begin, self._position = self._position, self._position + len(piece)
        while (at := self._next + len(self._head)) < self._position:
            missing = self._head_bytes() - len(self._head)
            self._head += piece[at - begin : at - begin + missing]
            if len(self._head) == self._head_bytes():
                self._begin_box()

    def end(self) -> None:
        """All bytes have come. Raises NotAVideo unless they were a whole MP4."""
        if self._position != self._total:
            raise NotAVideo(f"the file has {self._position} bytes of {self._total}")
        if self._head or self._next != self._total:
            raise NotAVideo("the file ends in the middle of an MP4 box")
        missing = [kind.decode() for kind in _NEEDED if kind not in self.kinds]
        if missing:
            raise NotAVideo(f"the file is no whole MP4: it has no {' and no '.join(missing)}")

    def _head_bytes(self) -> int:
        """How long the head of this box is; of the first bytes it can be told."""
        is_large = len(self._head) >= _HEAD_BYTES and self._head[:4] == b"\0\0\0\1"
        return _LARGE_HEAD_BYTES if is_large else _HEAD_BYTES

    def _begin_box(self) -> None:
        size, kind = int.from_bytes(self._head[:4], "big"), self._head[4:8]
        if size == 1:
            size = int.from_bytes(self._head[8:], "big")
        elif size == 0:  # to the end of the file
            size = self._total - self._next
        if self._next == 0 and kind != b"ftyp":
            raise NotAVideo("the file is no MP4: it does not begin with its type")
        if size < len(self._head) or self._next + size > self._total:
            raise NotAVideo("the file is no whole MP4: a box of it is longer than the file")
        if kind in _NEEDED:
            self.kinds.add(kind)
        self._next, self._head = self._next + size, b""
