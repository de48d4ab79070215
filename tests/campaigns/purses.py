"""Who may spend how much in a simulated race, and whether anybody ever had more: looked up at every commit.

    reserved + settled <= cap      of each key and team, by day and month
    videos in line, at vendors <= cap    but those that came back into the line, whom nobody refuses
    what is refused had no room    at the moment of its refusal
    settled = what was surely bought, reserved = what nobody knows of, in the end, to the last nano

Held here: statements of their own over the product's tables. Not held here: who orders (`simulated_races`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import msgspec

from gateway.core.facts import Fact, LateEnded, NotSent, Polled, Rejected, RerunAllowed, SubmitStarted
from gateway.core.grants import Grant, Limits
from gateway.core.states import Task
from gateway.storage.allowance import OverLimit
from gateway.storage.db import Database, Step
from gateway.storage.ledger import ENTRY_ADD, LEDGER_COLUMNS, Asked, Ledger
from gateway.storage.rows import TASK_COLUMNS
from gateway.storage.store import VIDEO_ADD, VIDEO_SAVE
from providers.spec import Failed, Pending, Succeeded, Unrecognised

PROBLEMS_MAX: Final = 20
_NANOS: Final = 10**9
_BOTH: Final = """(select owner, key_id, day, currency, reserved, settled from usage_days
    union all select owner, key_id, day, currency, reserved, settled from ledger)"""
# Of a key and of all of its owner: in this day, and in this month.
_HELD: Final = f"""select
    coalesce(sum(case when key_id = $2 and day = $3 then reserved + settled end), 0),
    coalesce(sum(case when key_id = $2 then reserved + settled end), 0),
    coalesce(sum(case when day = $3 then reserved + settled end), 0),
    coalesce(sum(reserved + settled), 0)
    from {_BOTH} as b where owner = $1 and day like $4 and currency = $5"""  # noqa: S608 (no input)
_PLACES: Final = """select
    coalesce(sum(key_id = $2 and stage = 'waiting'), 0),
    coalesce(sum(key_id = $2 and stage <> 'waiting'), 0),
    coalesce(sum(stage = 'waiting'), 0), coalesce(sum(stage <> 'waiting'), 0)
    from videos where owner = $1 and stage in ('waiting', 'submitting', 'rendering', 'submission_unknown')
        and (stage <> 'waiting' or attempts <= $3)"""
_TOTALS: Final = f"""select key_id, day, currency, sum(reserved), sum(settled) from {_BOTH} as b
    group by key_id, day, currency"""  # noqa: S608 (no input)
_MONEY: Final = ("money_per_day", "money_per_month")
_CROWDS: Final = ("max_queued", "max_in_flight")
_RESERVED, _SETTLED, _CURRENCY = map(LEDGER_COLUMNS.index, ("reserved", "settled", "currency"))
_KEY, _CREATED_AT = map(TASK_COLUMNS.index, ("key_id", "created_at"))


class Caller(msgspec.Struct, frozen=True):
    """One key, and what it and its team may have."""

    key_id: str
    owner: str
    grant: Grant = Grant()
    currency: str = "USD"

    @property
    def limits(self) -> tuple[tuple[str, Limits], ...]:
        """Those of its key, and of its team."""
        return ("key", self.grant.limits), ("team", self.grant.team_limits)


def callers(size: int) -> tuple[Caller, ...]:
    """Twelve keys, in teams and alone, of which most want several times what they may have."""
    def money(amount: int) -> Decimal:
        return Decimal(amount) * size / 100_000

    red = Limits(money_per_day=money(900))
    blue = Limits(money_per_month=money(1800), max_queued=25, max_in_flight=20)
    alone = (
        ("day", Limits(money_per_day=money(400))),
        ("month", Limits(money_per_month=money(1000))),
        ("both", Limits(money_per_day=money(300), money_per_month=money(700))),
        ("euros", Limits(money_per_day=money(400), currency="EUR")),
        ("crowd", Limits(money_per_day=money(500), max_queued=10, max_in_flight=8)),
        ("free", Limits()),
    )
    in_teams = (
        ("red-1", "red", Limits(money_per_day=money(300)), red), ("red-2", "red", Limits(), red),
        ("red-3", "red", Limits(money_per_month=money(800)), red),
        ("red-4", "red", Limits(money_per_day=money(5)), red),
        ("blue-1", "blue", Limits(max_in_flight=6), blue), ("blue-2", "blue", Limits(), blue),
    )
    return (
        *(Caller(name, name, Grant(limits=limits), limits.currency) for name, limits in alone),
        *(Caller(name, f"team:{team}", Grant(limits=limits, team_limits=together))
          for name, team, limits, together in in_teams),
    )


class _Sending(msgspec.Struct):
    """One sending: its price in nanos, and whether it was bought, where that is sure."""

    line: tuple[str, str, str]  # key, day, currency
    price: int
    is_bought: bool | None = None


class Purses:
    """What was looked up over one race. `problems` is empty when all held."""

    def __init__(self, database: Database, who: Sequence[Caller]) -> None:
        self._database = database
        self._who = {caller.key_id: caller for caller in who}
        self._sendings: dict[str, list[_Sending]] = defaultdict(list)
        self._sums = (0, 0)
        self.problems: list[str] = []
        self.refusals: Counter[str] = Counter()
        self.days: set[str] = set()
        self.creates = self.accepted = self.commits = self.over = 0

    # --- at every commit ------------------------------------------------------------------------------

    async def committed(self, steps: Sequence[Step]) -> None:
        """A write has just been committed."""
        self.commits += 1
        for caller, day in self._concerned(steps):
            for kind, limit, most, had in await self._had(caller, day, attempts=0):
                if had > most:
                    self.over += 1
                    self._is_wrong(f"{kind} of {caller.key_id}: {had} of {most} by {limit} on {day}")

    async def refused(self, steps: Sequence[Step], error: OverLimit) -> None:
        """A write has just been undone: it would have gone beyond a limit."""
        ((caller, day),) = self._concerned(steps)
        more = 1 if error.limit in _CROWDS else sum(
            int(step.args[_RESERVED] or 0) + int(step.args[_SETTLED] or 0) for step in steps
            if step.sql == ENTRY_ADD and step.args[_CURRENCY] == caller.currency
        )
        for kind, limit, most, had in await self._had(caller, day, attempts=1_000):
            if (kind, limit) == (error.kind, error.limit) and had + more <= most:
                self._is_wrong(f"{kind} of {caller.key_id}: {more} more was refused at {had} of {most}")

    def _concerned(self, steps: Sequence[Step]) -> list[tuple[Caller, str]]:
        """Whose video is saved, and the day on which it counts; a write saves one at most."""
        saved = (step.args for step in steps if step.sql in (VIDEO_ADD, VIDEO_SAVE))
        return [(self._who[str(args[_KEY])], _day(float(args[_CREATED_AT] or 0))) for args in saved]

    async def _had(
        self, caller: Caller, day: str, *, attempts: int
    ) -> list[tuple[str, str, int, int]]:
        """Each limit of a caller: whose, which, how much, and how much of it is taken now.

        In line are those that were sent at most `attempts` times.
        """
        args = (caller.owner, caller.key_id, day, f"{day[:7]}-%", caller.currency)
        (money,) = await self._database.read(_HELD, args)
        crowds: Sequence[object] = ()
        if any(limits.max_queued or limits.max_in_flight for _, limits in caller.limits):
            (crowds,) = await self._database.read(_PLACES, (caller.owner, caller.key_id, attempts))
        return list(_compared(caller, money, crowds))

    def _is_wrong(self, what: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(what)

    # --- what was bought ------------------------------------------------------------------------------

    def ordered(self, task: Task) -> None:
        """One more create."""
        self.creates += 1
        self.days.add(_day(task.created_at))

    def sent(self, task: Task) -> None:
        """It is being sent, at the price that it tells."""
        line = (task.key_id, _day(task.created_at), task.sent_currency or "")
        self._sendings[task.id].append(_Sending(line, round(Decimal(task.sent_amount or 0) * _NANOS)))

    def happened(self, after: Task, fact: Fact) -> None:
        """A fact was saved; what it says of the latest sending."""
        match fact:
            case SubmitStarted():
                self.sent(after)
            case NotSent() | Rejected():
                self._sendings[after.id][-1].is_bought = False
            case Polled(progress=Succeeded()):
                self._sendings[after.id][-1].is_bought = True
            case Polled(progress=Failed()) | RerunAllowed():
                said = {"yes": True, "no": False}.get(fact.failed_is_charged)
                self._sendings[after.id][-1].is_bought = said
            case LateEnded():  # it was accepted, and nobody asks any more
                self._sendings[after.id][-1].is_bought = True
            case Polled(progress=Pending() | Unrecognised()) | _:
                pass

    # --- at the end -----------------------------------------------------------------------------------

    async def close(self) -> None:
        """All has ended: what the ledger says is what was bought, to the last nano."""
        known: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
        for one in (one for sendings in self._sendings.values() for one in sendings):
            known[one.line][0] += one.price if one.is_bought is None else 0
            known[one.line][1] += one.price if one.is_bought else 0
        told = {
            (str(key), str(day), str(currency)): [int(reserved or 0), int(settled or 0)]
            for key, day, currency, reserved, settled in await self._database.read(_TOTALS)
        }
        for line in sorted(known.keys() | told.keys()):
            if told.get(line, [0, 0]) != known[line]:
                self._is_wrong(f"{line}: told {told.get(line)}, and it was {known[line]}")
        everything = await Ledger(self._database).usage(Asked(start="2000-01-01", end="2999-12-31"))
        if sum(usage.amounts.accepted for usage in everything) != self.accepted:
            self._is_wrong("the ledger counts other videos than were accepted")
        reserved, settled = (sum(sums[part] for sums in told.values()) for part in (0, 1))
        reported = [sum(getattr(usage.amounts, name) for usage in everything) for name in
                    ("reserved", "settled")]
        if reported != [reserved, settled]:
            self._is_wrong(f"usage reports {reported}, the tables hold {[reserved, settled]}")
        self._sums = reserved, settled

    def rows(self) -> list[tuple[str, str]]:
        """The sums of the end, for a report."""
        reserved, settled = (Decimal(part).scaleb(-9) for part in self._sums)
        count = sum(len(sendings) for sendings in self._sendings.values())
        return [("sendings", str(count)), ("settled, still reserved", f"{settled:f}, {reserved:f}")]


def _compared(
    caller: Caller, money: Sequence[object], crowds: Sequence[object]
) -> Iterator[tuple[str, str, int, int]]:
    for number, (kind, limits) in enumerate(caller.limits):
        for names, found, unit in ((_MONEY, money, _NANOS), (_CROWDS, crowds, 1)):
            for name, had in zip(names, found[2 * number :], strict=False):
                most = getattr(limits, name)
                if most is not None:
                    yield kind, name, int(most * unit), int(str(had))


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"
