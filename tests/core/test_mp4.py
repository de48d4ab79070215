"""Which bytes pass for a whole MP4, however they are cut into pieces."""

from __future__ import annotations

import pytest

from gateway.core.mp4 import BoxWalk, NotAVideo


def box(kind: bytes, size: int = 24, *, is_large: bool = False) -> bytes:
    head = (1 if is_large else size).to_bytes(4, "big") + kind
    head += size.to_bytes(8, "big") if is_large else b""
    return head + bytes(size - len(head))


VIDEO = box(b"ftyp") + box(b"moov", 100) + box(b"mdat", 1000)
TO_THE_END = box(b"ftyp") + box(b"moov", 100) + (0).to_bytes(4, "big") + b"mdat" + bytes(500)


def walk(data: bytes, total: int | None = None, step: int = 7) -> None:
    walked = BoxWalk(len(data) if total is None else total)
    for at in range(0, len(data), step):
        walked.feed(data[at : at + step])
    walked.end()


@pytest.mark.parametrize("step", [1, 3, 8, 9, 16, 100, 10_000])
@pytest.mark.parametrize(
    "data",
    [
        VIDEO,
        TO_THE_END,
        box(b"ftyp") + box(b"free", 8) + box(b"mdat", 1000, is_large=True) + box(b"moov", 100),
        box(b"ftyp") + box(b"moov", 100) + (box(b"moof", 50) + box(b"mdat", 60)) * 3,
    ],
    ids=["plain", "to the end", "large", "fragments"],
)
def test_a_whole_mp4_passes_in_any_pieces(data: bytes, step: int) -> None:
    walk(data, step=step)


@pytest.mark.parametrize("step", [1, 16, 10_000])
def test_none_of_its_beginnings_passes(step: int) -> None:
    for data in (VIDEO, TO_THE_END):
        for end in (0, 1, 7, 8, 23, 24, 25, 123, 124, 500, len(data) - 1):
            with pytest.raises(NotAVideo):
                walk(data[:end], total=len(data), step=step)


def test_a_box_cut_short_is_noticed_although_the_server_says_that_is_all() -> None:
    for end in (20, 30, 200, len(VIDEO) - 1):
        with pytest.raises(NotAVideo):
            walk(VIDEO[:end])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"<!DOCTYPE html><html><body>The link has expired.</body></html>", "begin with its type"),
        (b'{"error": {"code": "NoSuchKey", "message": "gone"}}', "begin with its type"),
        (box(b"moov", 100) + box(b"ftyp") + box(b"mdat"), "begin with its type"),
        (box(b"ftyp") + box(b"mdat", 500), "no moov"),
        (box(b"ftyp") + box(b"moov", 500), "no mdat"),
        (box(b"ftyp"), "no moov and no mdat"),
        (VIDEO + b"tail", "in the middle"),
        (VIDEO + b"\0\0\0\4free", "longer than the file"),
        (VIDEO + (1).to_bytes(4, "big") + b"free" + (9).to_bytes(8, "big"), "longer than the file"),
        (box(b"ftyp") + (2**31).to_bytes(4, "big") + b"mdat" + bytes(50), "longer than the file"),
    ],
)
def test_what_is_no_mp4_says_why(data: bytes, why: str) -> None:
    with pytest.raises(NotAVideo, match=why):
        walk(data)


def test_a_page_is_refused_at_its_first_bytes() -> None:
    with pytest.raises(NotAVideo):
        BoxWalk(2**31).feed(b"<html><b")


def test_nothing_is_kept_of_boxes_that_are_not_needed() -> None:
    others = b"".join(box(b"%04x" % number, 8) for number in range(32_768))
    data = VIDEO + others
    walked = BoxWalk(len(data))
    walked.feed(data)
    walked.end()
    assert walked.kinds == {b"ftyp", b"moov", b"mdat"}


def test_more_than_was_said_is_refused() -> None:
    with pytest.raises(NotAVideo):
        walk(VIDEO + box(b"free"), total=len(VIDEO))
