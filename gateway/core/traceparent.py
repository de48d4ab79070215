"""W3C Trace Context, as far as a video keeps it: one `traceparent`, read strictly.

Level 2 of the recommendation. What is no `traceparent` is as if it were not there: nothing a caller writes
here is a reason to refuse a video. Not held here: spans (`gateway.tracing`), `tracestate`, which nobody here
reads and so nobody keeps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

HEADER: Final = "traceparent"

# What comes behind the flags is a later version's, and only such a one may have it.
_FORM: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]{0,256})?"
)
_SAMPLED: Final = 1


class Place(msgspec.Struct, frozen=True):
    """A place in a trace: its id, the span that what follows belongs to, both in hex, and if it is kept."""

    trace_id: str
    span_id: str
    is_sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"


def read(text: str) -> Place | None:
    """The place that a `traceparent` names; None for one of another form.

    Of a later version only what version 00 knows is read, and no flag but `sampled` is.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "00" and more is not None:
        return None
    return Place(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def of_headers(values: Sequence[bytes]) -> Place | None:
    """The place that a request's headers of that name say; None where they are not exactly one."""
    return read(values[0].strip(b" \t").decode("latin-1")) if len(values) == 1 else None
