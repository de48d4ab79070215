"""What a video has put aside and what it has cost, as a ledger tells it: each save is worth some entries.

A position is a function of a task; the entries of a save are the difference of two positions. They ride in
the same fenced write, so nothing is put aside, settled or released twice. Pure. Not held here: what is known
of a purchase (`money`, `tasks`), the ledger's rows (`gateway.storage.ledger`), what it is held to
(`gateway.storage.allowance`).

    waiting                              reserved: what was put aside at its acceptance
    submitting                           reserved: that still, for it may be refused and wait again; or
                                         the price of this sending, where that is more
    rendering, unknown                   reserved: the price of this sending
    ended, surely bought                 settled; reserved while its vendor has not had the last word
    ended, perhaps bought                reserved, until that is known
    ended, not bought                    nothing
    allowed to be sent again             the former sending as if it had ended, and what is put aside anew
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import msgspec

from gateway.core.states import IN_FLIGHT, TERMINAL, State, Task
from providers.spec import Charged

_DAY_SECONDS: Final = 86_400
_KNOWN_MAX: Final = 4_096  # saves whose worth is remembered: most are alike
DIGITS: Final = 9  # decimals of a currency that a ledger can tell apart: no price has more

_Line: TypeAlias = tuple[str, str]  # provider, currency
_OUTCOMES: Final = ("completed", "failed", "cancelled")


class Amounts(msgspec.Struct, frozen=True):
    """Money in nanos, 1e-9 of its currency, and how many videos; in an entry each may be negative."""

    reserved: int = 0
    settled: int = 0
    accepted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to tell."""
        return self == _NOTHING

    def plus(self, other: Amounts, sign: int = 1) -> Amounts:
        """Both together, or with `sign` -1 what this one has more."""
        return Amounts(  # spelt out: it runs several times with each save
            self.reserved + sign * other.reserved, self.settled + sign * other.settled,
            self.accepted + sign * other.accepted, self.completed + sign * other.completed,
            self.failed + sign * other.failed, self.cancelled + sign * other.cancelled,
        )


_NOTHING: Final = Amounts()


class Entry(msgspec.Struct, frozen=True):
    """What one save changes at a provider (where it waits, the first candidate) in a currency ('': none)."""

    provider: str
    currency: str
    amounts: Amounts


class _Stand(NamedTuple):
    """All of a task that its position depends on; `place`: who has it, or the first that it may go to."""

    state: State
    provider: str | None
    charged_now: Charged
    is_late: bool
    permissions: int
    place: str
    reserved_amount: str | None
    reserved_currency: str | None
    sent_amount: str | None
    sent_currency: str | None


def entries(before: Task | None, after: Task) -> tuple[Entry, ...]:
    """What the save of `after` over `before` (None: a new video) changes. Nothing of a task without a key."""
    if not after.key_id:  # it was accepted before there was a ledger, and stays outside
        return ()
    return _worth(None if before is None else _stand(before), _stand(after))


def _stand(task: Task) -> _Stand:
    first = task.candidates[0].provider if task.candidates else ""
    return _Stand(
        task.state, task.provider, task.charged_now, task.late_until is not None, task.permissions,
        task.provider or first, task.reserved_amount, task.reserved_currency, task.sent_amount,
        task.sent_currency,
    )


@lru_cache(_KNOWN_MAX)
def _worth(before: _Stand | None, after: _Stand) -> tuple[Entry, ...]:
    if before is not None and before[:5] == after[:5]:  # most saves are so
        return ()
    found: dict[_Line, Amounts] = {}

    def add(parts: Iterator[tuple[_Line, Amounts]], sign: int) -> None:
        for line, amounts in parts:
            found[line] = found.get(line, _NOTHING).plus(amounts, sign)

    add(_position(after), 1)
    if before is not None:
        add(_position(before), -1)
        if after.permissions > before.permissions:
            add(_sending(before, after.charged_now), 1)
    return tuple(Entry(*line, amounts) for line, amounts in sorted(found.items()) if not amounts.is_nothing)


def _position(task: _Stand) -> Iterator[tuple[_Line, Amounts]]:
    """What is told of a task at each line: that it is there, and the money of its present sending."""
    counts = {"accepted": 1} | ({task.state: 1} if task.state in _OUTCOMES else {})
    aside = task.place, task.reserved_currency or ""
    yield aside, Amounts(**counts)
    if task.state == "waiting":
        yield aside, Amounts(reserved=nanos(task.reserved_amount))
        return
    if task.state == "submitting":
        yield aside, Amounts(reserved=_rest(task))
    if task.state in IN_FLIGHT or task.is_late:
        is_unspent = task.state in TERMINAL and task.charged_now == "no"
        yield from _sending(task, "no" if is_unspent else "unknown")
    elif task.provider is not None:
        yield from _sending(task, task.charged_now)


def _rest(task: _Stand) -> int:
    """What was put aside beyond the price of the latest sending, in nanos of that currency."""
    aside = nanos(task.reserved_amount)
    return aside if task.sent_currency != task.reserved_currency else max(0, aside - nanos(task.sent_amount))


def _sending(task: _Stand, charged: Charged) -> Iterator[tuple[_Line, Amounts]]:
    """The money of a task's latest sending, of which this is known."""
    price = nanos(task.sent_amount)
    amounts = {"yes": Amounts(settled=price), "unknown": Amounts(reserved=price), "no": Amounts()}
    yield (task.place, task.sent_currency or ""), amounts[charged]


def day_of(at: float) -> str:
    """The UTC date, YYYY-MM-DD, of a time in Unix seconds."""
    return _day(int(at // _DAY_SECONDS))


@lru_cache(64)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * _DAY_SECONDS, UTC).strftime("%Y-%m-%d")


def nanos(amount: str | Decimal | None) -> int:
    """A decimal amount as whole nanos; None is worth none. Raises ValueError for more than nine decimals."""
    if amount is None:
        return 0
    scaled = Decimal(amount).scaleb(DIGITS)
    if scaled != int(scaled):
        raise ValueError(f"{amount} has more than {DIGITS} decimals")
    return int(scaled)


def decimal_text(amount: int) -> str:
    """Nanos as a plain decimal text with at least two decimals."""
    whole = Decimal(amount).scaleb(-DIGITS).normalize()
    return f"{whole:.{max(2, -int(whole.as_tuple().exponent))}f}"
