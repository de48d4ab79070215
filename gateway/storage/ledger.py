"""The ledger: what each save put aside, settled or gave back, and the sums of it by day.

Entries are only ever added, each with the save that it tells of. After a few seconds they are taken into
`usage_days`, for reports, and `spent_periods`, for caps, so that the ledger stays short; whoever wants a sum
asks for it and the ledger in one statement. Held here: the statements of these tables. Not held here: what a
save is worth (`gateway.core.spending`), when they are summed up (`gateway.engine.summing`), what a caller is
held to (`allowance`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from gateway.core.spending import Amounts, day_of, entries
from gateway.core.states import Task
from gateway.storage.db import Database, GuardFailed, Step, Value

ROLL_UP_MAX: Final = 1_000  # entries that are summed up at once
ROWS_MAX: Final = 10_000  # of a report
_CHORE: Final = "usage"

AMOUNTS: Final = Amounts.__struct_fields__
USAGE_KEY: Final = ("owner", "day", "key_id", "provider", "model", "currency")
_KEY: Final = ("video_id", "version", "part")
LEDGER_COLUMNS: Final = (*_KEY, *USAGE_KEY, *AMOUNTS)


def _holes(count: int) -> str:
    return ", ".join(f"${number}" for number in range(1, count + 1))


# S608: what is put into these texts are the names of columns above, never input.
ENTRY_ADD: Final = f"""insert into ledger ({", ".join(LEDGER_COLUMNS)})
    values ({_holes(len(LEDGER_COLUMNS))})"""  # noqa: S608
ENTRIES_GET: Final = f"""select {", ".join(LEDGER_COLUMNS)} from ledger
    order by video_id, version, part limit $1"""  # noqa: S608
ENTRY_DROP: Final = "delete from ledger where video_id = $1 and version = $2 and part = $3"
USAGE_ADD: Final = f"""insert into usage_days ({", ".join((*USAGE_KEY, *AMOUNTS))})
    values ({_holes(len(USAGE_KEY) + len(AMOUNTS))}) on conflict ({", ".join(USAGE_KEY)})
    do update set {", ".join(f"{name} = usage_days.{name} + excluded.{name}" for name in AMOUNTS)}
    """  # noqa: S608
SPENT_KEY: Final = ("owner", "period", "currency", "key_id")
SPENT_ADD: Final = f"""insert into spent_periods ({", ".join((*SPENT_KEY, "amount"))})
    values ({_holes(len(SPENT_KEY) + 1)}) on conflict ({", ".join(SPENT_KEY)})
    do update set amount = spent_periods.amount + excluded.amount"""  # noqa: S608
TURN_ADD: Final = "insert into chores (name, at) values ($1, 0) on conflict do nothing"
TURN_GET: Final = "select at from chores where name = $1"
TURN_TAKE: Final = "update chores set at = $2 where name = $1 and at = $3"
# Both at one moment: an entry is in the one or in the other.
_BOTH: Final = """(select {names} from usage_days where {where}
    union all select {names} from ledger where {where})"""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Which usage is asked for: days inclusive, YYYY-MM-DD, and what it is told by.

    `owner` None is everybody's; `group_by` are names of GROUPS, currency always is one more.
    """

    start: str
    end: str
    owner: str | None = None
    group_by: tuple[str, ...] = ()
    provider: str | None = None
    model: str | None = None
    key_id: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """What was spent by one group: the values of what it is told by, its currency, and the sums."""

    group: tuple[str, ...]
    currency: str
    amounts: Amounts


class SummedElsewhere(GuardFailed):
    """Another replica took entries away meanwhile: the write was undone, nothing changed."""


def booking(before: Task | None, after: Task) -> list[Step]:
    """The steps that go with the save of `after` over `before`; None: it is new."""
    day = day_of(after.created_at) if after.key_id else ""
    return [
        Step(ENTRY_ADD, (
            after.id, after.version, part, after.owner, day, after.key_id, entry.provider, after.model,
            entry.currency, *msgspec.structs.astuple(entry.amounts),
        ))
        for part, entry in enumerate(entries(before, after))
    ]


def spent(mine: str, period: str, days: tuple[str, str], currency: str) -> str:
    """A statement's part: all that is put aside and settled where `mine` holds, in a period of these days."""
    return f"""(select cast(coalesce(sum(amount), 0) as bigint) from (
        select amount from spent_periods where {mine} and period = {period} and currency = {currency}
        union all select reserved + settled from ledger
            where {mine} and day >= {days[0]} and day <= {days[1]} and currency = {currency}) as told)
    """  # noqa: S608 (names and holes, no input)


def _periods(sums: Mapping[tuple[Value, ...], Amounts]) -> dict[tuple[Value, ...], int]:
    """The sums by day and other things as money by day and by month."""
    found: Counter[tuple[Value, ...]] = Counter()
    for (owner, day, key_id, _provider, _model, currency), amounts in sums.items():
        for period in (day, str(day)[:7]):
            found[owner, period, currency, key_id] += amounts.reserved + amounts.settled
    return {key: amount for key, amount in found.items() if amount}


class Ledger:
    """Those tables. Raises `StorageError` of `gateway.storage.db` throughout."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def roll_up(self) -> bool:
        """Take up to ROLL_UP_MAX entries into the sums of their days; whether there may be more.

        Entries never change and only this takes them away, one replica at a time: whoever reads them while
        another sums them up finds that its turn is over, and nothing changes.
        """
        done = await self._database.read(TURN_GET, (_CHORE,))
        turn = float(done[0][0] or 0) if done else 0.0
        rows = await self._database.read(ENTRIES_GET, (ROLL_UP_MAX,))
        if not rows:
            return False
        sums: dict[tuple[Value, ...], Amounts] = {}
        first, last = len(_KEY), len(_KEY) + len(USAGE_KEY)
        for row in rows:
            whose = tuple(row[first:last])
            sums[whose] = sums.get(whose, Amounts()).plus(_amounts(row[last:]))
        steps = [] if done else [Step(TURN_ADD, (_CHORE,))]
        steps.append(Step(TURN_TAKE, (_CHORE, turn + 1, turn), SummedElsewhere))
        steps += [Step(USAGE_ADD, (*whose, *msgspec.structs.astuple(amounts)))
                  for whose, amounts in sorted(sums.items(), key=repr) if not amounts.is_nothing]
        steps += [Step(SPENT_ADD, (*key, amount)) for key, amount in sorted(_periods(sums).items(), key=repr)]
        steps += [Step(ENTRY_DROP, tuple(row[: len(_KEY)])) for row in rows]
        try:
            await self._database.write(steps)
        except SummedElsewhere:
            return False
        return len(rows) == ROLL_UP_MAX

    async def usage(self, asked: Asked) -> list[Usage]:
        """The sums by group, in order, of one moment; at most ROWS_MAX + 1: one more tells of more."""
        args: list[Value] = [asked.start, asked.end]
        where = ["day >= $1", "day <= $2"]
        for column in ("owner", "provider", "model", "key_id"):
            value = getattr(asked, column)
            if value is not None:
                args.append(value)
                where.append(f"{column} = ${len(args)}")
        groups = [GROUPS[name] for name in asked.group_by]
        rows = await self._database.read(_report((*groups, "currency"), " and ".join(where)), args)
        count = len(groups)
        return [
            Usage(tuple(map(str, row[:count])), str(row[count]), _amounts(row[count + 1 :])) for row in rows
        ]


# What usage can be told by, and the column of each.
GROUPS: Final = {"day": "day", "key": "key_id", "provider": "provider", "model": "model", "owner": "owner"}


def _report(groups: Iterable[str], where: str) -> str:
    by = ", ".join(groups)
    sums = ", ".join(f"cast(sum({name}) as bigint)" for name in AMOUNTS)
    any_of = " or ".join(f"sum({name}) <> 0" for name in AMOUNTS)
    names = ", ".join((*USAGE_KEY, *AMOUNTS))
    both = _BOTH.format(names=names, where=where)
    # S608: names of columns of this file.
    return f"""select {by}, {sums} from {both} as u
        group by {by} having {any_of} order by {by} limit {ROWS_MAX + 1}"""  # noqa: S608


def _amounts(values: Sequence[Value]) -> Amounts:
    return Amounts(*(int(value or 0) for value in values))
