"""What a key or a team may still take, held to over all replicas: money, places in the line and at vendors.

Whoever takes something of an account with limits waits for the others who do, and its write is undone when
the account would have more than it may. Held here: the statements that hold it. Not held here: which limits
there are (`gateway.core.grants`), what is counted (`ledger`, the videos).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.core.grants import Grant, Limits
from gateway.core.spending import day_of, nanos
from gateway.storage.db import Bound, Database, NoRoom, Step, Value
from gateway.storage.ledger import spent

Kind: TypeAlias = Literal["team", "key"]
Limit: TypeAlias = Literal["money_per_day", "money_per_month", "max_queued", "max_in_flight"]


class OverLimit(NoRoom):
    """An account would have more than it may: the write was undone. `kind` and `limit` say what is over."""

    kind: Kind = "key"
    limit: Limit = "money_per_day"


class OverMoney(OverLimit):
    """More money than it may spend in this day or month."""


class OverQueue(OverLimit):
    """More videos that wait at once."""


class OverFlight(OverLimit):
    """More videos at vendors at once."""


_BASES: Final[dict[Limit, type[OverLimit]]] = {
    "money_per_day": OverMoney, "money_per_month": OverMoney, "max_queued": OverQueue,
    "max_in_flight": OverFlight,
}
# One class for each that can be over: a guard is a class, and says by it what it was.
OVER: Final[dict[tuple[Kind, Limit], type[OverLimit]]] = {
    (kind, limit): type(base.__name__, (base,), {"kind": kind, "limit": limit})
    for limit, base in _BASES.items() for kind in ("team", "key")
}

# Whose rows count: a team's are all of its owner's, a key's those of its own.
_MINE: Final[dict[Kind, str]] = {"team": "owner = $4", "key": "owner = $4 and key_id = $5"}
_FROM_5: Final = ("$5", "$6", "$7", "$8", "$9")
_STAGES: Final = {
    "max_queued": "stage = 'waiting'",
    "max_in_flight": "stage in ('submitting', 'rendering', 'submission_unknown')",
}
GATE_TAKE: Final = """insert into allowances (kind, id, passed) values ($1, $2, 1)
    on conflict (kind, id) do update set passed = allowances.passed + 1"""


# S608 below: what is put into these texts are the constants above, never input.
def _holds(sum_of: str) -> str:
    """A statement that meets a row only while $3 is not below the sum."""
    return f"""update allowances set passed = passed where kind = $1 and id = $2
        and $3 >= {sum_of}"""  # noqa: S608


def _money(kind: Kind) -> str:
    first, last, currency, period = {"team": _FROM_5[:4], "key": _FROM_5[1:]}[kind]
    return spent(_MINE[kind], period, (first, last), currency)


def _videos(kind: Kind, limit: str) -> str:
    return f"(select count(*) from videos where {_MINE[kind]} and {_STAGES[limit]})"  # noqa: S608


_HOLDS: Final[dict[tuple[Kind, Limit], str]] = {
    (kind, limit): _holds(_videos(kind, limit) if limit in _STAGES else _money(kind)) for kind, limit in OVER
}
_SPENT: Final[dict[Kind, str]] = {
    "team": "select " + spent("owner = $1", "$5", ("$2", "$3"), "$4"),
    "key": "select " + spent("owner = $1 and key_id = $2", "$6", ("$3", "$4"), "$5"),
}


class Account(msgspec.Struct, frozen=True):
    """Who is held to limits: a key by its id, a team by the owner that its keys have in common."""

    kind: Kind
    id: str
    owner: str
    limits: Limits

    @property
    def whose(self) -> tuple[Value, ...]:
        """By which values its rows are found."""
        return (self.owner,) if self.kind == "team" else (self.owner, self.id)


def accounts_of(key_id: str, owner: str, grant: Grant) -> tuple[Account, ...]:
    """The accounts that a caller takes from. The team's comes first: so all wait in one order."""
    return Account("team", owner, owner, grant.team_limits), Account("key", key_id, owner, grant.limits)


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What must still hold of these accounts behind a write. `at`: when the video was accepted, Unix seconds.

    What a write takes: `money`, a place in the line (`is_queued`), one at a vendor (`is_in_flight`).
    """

    accounts: tuple[Account, ...]
    at: float
    has_money: bool = False
    is_queued: bool = False
    is_in_flight: bool = False

    def before(self) -> list[Step]:
        """Steps that make everybody who takes from these accounts wait for this write's end."""
        held = (account for account in self.accounts if self._held(account))
        return [
            Step(GATE_TAKE, (account.kind, account.id), turn=f"{account.kind} {account.id}")
            for account in held
        ]

    def after(self) -> list[Step]:
        """Steps behind the write: where an account has more than it may they undo it, with its OverLimit."""
        return [
            Step(_HOLDS[account.kind, limit], self._args(account, limit, bound), OVER[account.kind, limit])
            for account in self.accounts for limit, bound in self._held(account)
        ]

    def _held(self, account: Account) -> list[tuple[Limit, int | Decimal]]:
        limits = account.limits
        wanted: tuple[tuple[bool, Limit], ...] = (
            (self.has_money, "money_per_day"), (self.has_money, "money_per_month"),
            (self.is_queued, "max_queued"), (self.is_in_flight, "max_in_flight"),
        )
        return [
            (limit, bound) for is_wanted, limit in wanted
            if is_wanted and (bound := getattr(limits, limit)) is not None
        ]

    def _args(self, account: Account, limit: Limit, bound: int | Decimal) -> tuple[Value, ...]:
        head = (account.kind, account.id)
        if limit in _STAGES:
            return (*head, int(bound), *account.whose)
        return (*head, nanos(Decimal(bound)), *account.whose, *_over(limit, self.at, account.limits.currency))


class Together(msgspec.Struct, frozen=True):
    """Several bounds of one write."""

    bounds: tuple[Bound, ...]

    def before(self) -> list[Step]:
        """The steps of all before it."""
        return [step for bound in self.bounds for step in bound.before()]

    def after(self) -> list[Step]:
        """The steps of all behind it."""
        return [step for bound in self.bounds for step in bound.after()]


def days_of(limit: Limit, at: float) -> tuple[str, str]:
    """The first and last day, inclusive, over which a limit on money counts what was accepted at `at`."""
    day = day_of(at)
    return (day, day) if limit == "money_per_day" else (f"{day[:7]}-01", f"{day[:7]}-31")


def _over(limit: Limit, at: float, currency: str) -> tuple[str, str, str, str]:
    """What a sum is taken over: the first and last day, the currency, and the period as the sums name it."""
    day = day_of(at)
    return (*days_of(limit, at), currency, day if limit == "money_per_day" else day[:7])


class Allowances:
    """What accounts have spent. Raises `StorageError` of `gateway.storage.db` throughout."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spent(self, account: Account, limit: Limit, at: float) -> int:
        """Nanos put aside and settled over the days that `limit` counts at `at`."""
        args: Sequence[Value] = (*account.whose, *_over(limit, at, account.limits.currency))
        rows = await self._database.read(_SPENT[account.kind], args)
        return int(rows[0][0] or 0)
