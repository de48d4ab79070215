"""A place in the stream of one caller's events: what was delivered, exactly, in a line of text.

Events are numbered by the transaction that wrote them, and transactions commit in another order than they are
numbered in. So a place is not one number: it is a snapshot, as the database itself makes one - every
transaction below `upto` but those in `open` - and, within one transaction, the last row. Whoever goes on from
it misses nothing that commits late and meets nothing twice, on any replica. Where writers take turns (SQLite)
`open` is always empty. Not held here: how events are read (`gateway.storage.stream`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from typing import Final, TypeAlias

import msgspec

# Of a row of events: the video, and the number of the event in its timeline.
Key: TypeAlias = tuple[str, int]

TEXT_MAX_CHARS: Final = 8_192
_NUMBERS: Final = r"[0-9]{1,18}"  # what a database's integers hold, whatever the digits are
_TEXT: Final = re.compile(
    rf"([0-9a-f]{{8}})-({_NUMBERS})((?:,{_NUMBERS})*)(?:/({_NUMBERS})/([A-Za-z0-9_]{{1,64}})/({_NUMBERS}))?"
)


class Unreadable(ValueError):
    """A text that is no position."""


class Within(msgspec.Struct, frozen=True):
    """The last row delivered of `transaction`, which is delivered in part."""

    transaction: int
    key: Key


class Position(msgspec.Struct, frozen=True):
    """Delivered is what transactions below `upto` wrote, without those in `open`, and the part in `within`.

    `log` is the first letters of the name of the database that the numbers are of; the transaction of
    `within` is in `open`.
    """

    log: str
    upto: int
    open: tuple[int, ...] = ()
    within: Within | None = None

    def __str__(self) -> str:
        numbers = ",".join(map(str, (self.upto, *self.open)))
        if self.within is None:
            return f"{self.log}-{numbers}"
        video_id, seq = self.within.key
        return f"{self.log}-{numbers}/{self.within.transaction}/{video_id}/{seq}"

    def has(self, transaction: int, key: Key) -> bool:
        """Whether that event is delivered."""
        if transaction < self.upto and transaction not in self.open:
            return True
        within = self.within
        return within is not None and within.transaction == transaction and key <= within.key

    def covers(self, horizon: Horizon) -> bool:
        """Whether everything that can be seen there is delivered."""
        return horizon.upto <= self.upto and all(
            one >= horizon.upto or one in horizon.open for one in self.open
        )


def read_position(text: str) -> Position:
    """The position that `text` names. Raises Unreadable."""
    found = _TEXT.fullmatch(text) if len(text) <= TEXT_MAX_CHARS else None
    if found is None:
        raise Unreadable
    log, upto, more, transaction, video_id, seq = found.groups()
    opened = tuple(int(number) for number in more.split(",")[1:])
    within = None if transaction is None else Within(int(transaction), (video_id, int(seq)))
    if any(number >= int(upto) for number in opened) or (within and within.transaction not in opened):
        raise Unreadable
    return Position(log, int(upto), opened, within)


class Horizon(msgspec.Struct, frozen=True):
    """What a read could see: what transactions below `upto` wrote, without those in `open`."""

    upto: int
    open: frozenset[int] = frozenset()


class Row(msgspec.Struct, frozen=True):
    """An event of a stream: who wrote it, which it is, and what is told of it."""

    transaction: int
    key: Key
    type: str
    data: bytes


class Batch(msgspec.Struct, frozen=True):
    """All events that a read found and some position did not have; not `is_whole`: the first of them.

    Those of the transaction that the position had in part come first, else they are in order.
    """

    rows: Sequence[Row]
    horizon: Horizon
    is_whole: bool = True

    def after(self, position: Position) -> Iterator[tuple[Row, Position]]:
        """What `position` does not have of it, each with the position behind it.

        Other positions than the one that was read from may be given if the batch is whole and they have no
        transaction in part.
        """
        rows = [row for row in self.rows if not position.has(row.transaction, row.key)]
        opened, upto = set(position.open), position.upto
        begun = None if position.within is None else position.within.transaction
        for row, following in zip_longest(rows, rows[1:]):
            number = row.transaction
            if begun not in (None, number):
                opened.discard(begun)  # nothing of it is left
                begun = None
            if begun is None:
                # What ended without an event for us, or was told, is behind us; what still runs is not.
                opened = {one for one in opened if one > number or one in self.horizon.open}
                opened |= {one for one in self.horizon.open if upto <= one < number}
                upto = max(upto, number + 1)
            is_part = following.transaction == number if following else not self.is_whole
            left = opened | {number} if is_part else opened - {number}
            yield row, _position(position.log, upto, left, Within(number, row.key) if is_part else None)

    def end(self, log: str) -> Position:
        """The position behind all of it, if it is whole."""
        return _position(log, self.horizon.upto, self.horizon.open)


def _position(log: str, upto: int, opened: Collection[int], within: Within | None = None) -> Position:
    return Position(log, upto, tuple(sorted(opened)), within)
