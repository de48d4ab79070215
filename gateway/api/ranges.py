"""Parts of a file over HTTP: what a Range header asks for, and what an answer says of it (RFC 9110).

Not held here: any bytes, any route.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import Problem

_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_DIGITS: Final = 18  # of a number of bytes: with these alone it is beyond every file


def asked_range(header: str | None) -> str | None:
    """One well-formed range, else None: by RFC 9110 14.2 any other is ignored, and the whole file sent."""
    match = _RANGE.fullmatch((header or "").replace(" ", "").lower())
    if match is None:
        return None
    first, last = (digits and (digits.lstrip("0")[:_DIGITS] or "0") for digits in match.groups())
    if not (first or last) or (first and last and int(last) < int(first)):
        return None
    return f"bytes={first}-{last}"


def span(asked: str | None, total: int) -> tuple[int, int]:
    """First and last byte asked of a file of `total` bytes; the first is `total` when nothing is there."""
    match = _RANGE.fullmatch(asked or "")
    if match is None:
        return 0, total - 1
    first, last = match.groups()
    if not first:
        length = min(int(last), total)
        return total - length, total - 1
    return min(int(first), total), min(int(last) if last else total - 1, total - 1)


def whole_or_part(asked: str | None, total: int, headers: dict[str, str]) -> tuple[int, tuple[int, int]]:
    """The status, and the first and last byte to send; what the headers say of them is put into `headers`.

    Raises Problem range_not_satisfiable.
    """
    start, end = span(asked, total)
    if start >= total and asked is not None:
        size = {"Content-Range": f"bytes */{total}"}
        raise Problem("range_not_satisfiable", f"The video has {total} bytes.", headers=size)
    if asked is not None:
        headers["Content-Range"] = f"bytes {start}-{end}/{total}"
    headers["Content-Length"] = str(end - start + 1)
    return (200 if asked is None else 206), (start, end)


def is_listed(tag: str, if_none_match: str | None) -> bool:
    """Whether the caller has what `tag` stands for; weak tags count as strong ones (RFC 9110, 13.1.2)."""
    if if_none_match is None:
        return False
    known = [given.strip().removeprefix("W/") for given in if_none_match.split(",")]
    return tag.removeprefix("W/") in known or "*" in known
