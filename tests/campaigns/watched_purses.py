"""What real replicas let callers spend, asked of their database and of the vendors' own books.

Held here: one statement for all accounts at one moment, and what the end is held to. Not held here: who
orders (`racing`), the replicas (`races`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final, TypeAlias

import asyncpg
import msgspec

from gateway.core.grants import Limits
from gateway.sandbox.renders import Entry
from tests.campaigns.purses import PROBLEMS_MAX, Caller

NANOS: Final = 10**9
LOOK_SECONDS: Final = 0.05
_FLYING: Final = "('submitting', 'rendering', 'submission_unknown')"
_BOTH: Final = """(select owner, key_id, day, reserved, settled from usage_days
    union all select owner, key_id, day, reserved, settled from ledger)"""
# All at one moment. What came back into the line was refused by nobody, and is not counted.
_HELD: Final = f"""select owner, key_id, day, sum(reserved + settled)::bigint, 0, 0 from {_BOTH} as b
    group by owner, key_id, day
    union all select owner, key_id, '', 0, count(*) filter (where stage = 'waiting' and attempts = 0),
        count(*) filter (where stage in {_FLYING})
    from videos where stage = 'waiting' or stage in {_FLYING} group by owner, key_id"""  # noqa: S608
# A copy of every entry: the product sums its own up.
KEEP: Final = """create table kept_entries (like ledger);
    create function keep_entry() returns trigger language plpgsql as
        'begin insert into kept_entries select new.*; return null; end';
    create trigger keep_entry after insert on ledger for each row execute function keep_entry();"""
_VIDEOS: Final = """select v.owner, v.key_id, (r.request::json)->>'prompt', min(k.day),
        sum(k.reserved)::bigint, sum(k.settled)::bigint
    from videos v join video_requests r on r.video_id = v.id join kept_entries k on k.video_id = v.id
    group by v.id, v.owner, v.key_id, r.request"""
_LOST: Final = f"""select key_id, sum(reserved)::bigint, sum(settled)::bigint from (
        select key_id, reserved, settled from {_BOTH} as b
        union all select key_id, -reserved, -settled from kept_entries) as both_ways
    group by key_id having sum(reserved) <> 0 or sum(settled) <> 0"""  # noqa: S608 (no input)
UNFINISHED: Final = f"select count(*) from videos where stage = 'waiting' or stage in {_FLYING}"  # noqa: S608

# Owner, key, day; nanos held, videos in line, videos at vendors.
Row: TypeAlias = Sequence[str | int]
_CONCERNS: Final = {"money_per_day": 3, "money_per_month": 3, "max_queued": 4, "max_in_flight": 5}


def taken(who: Iterable[Caller], rows: Iterable[Row]) -> Iterator[tuple[str, str, int, int]]:
    """Of each account and limit: whose, which (with its day or month), how much it may, how much it has."""
    found = list(rows)
    accounts: dict[str, tuple[Limits, str, str | None]] = {}
    for caller in who:
        accounts[f"key {caller.key_id}"] = caller.grant.limits, caller.owner, caller.key_id
        if caller.owner.startswith("team:"):
            accounts[caller.owner] = caller.grant.team_limits, caller.owner, None
    for name, (limits, owner, key_id) in accounts.items():
        mine = [row for row in found if row[0] == owner and key_id in (None, row[1])]
        for limit, column in _CONCERNS.items():
            most = getattr(limits, limit)
            if most is None:
                continue
            sums: defaultdict[str, int] = defaultdict(int)
            for row in mine:
                sums[_period(limit, str(row[2]))] += int(row[column])
            for period, had in sums.items():
                yield name, f"{limit} {period}".strip(), int(most * (NANOS if column == 3 else 1)), had


def _period(limit: str, day: str) -> str:
    return {"money_per_day": day, "money_per_month": day[:7]}.get(limit, "")


class Watch:
    """Looks again and again while others race. `over` counts what went beyond a limit."""

    def __init__(self, url: str, who: Sequence[Caller]) -> None:
        self._url, self._who = url, who
        self.looks = self.over = 0
        self.problems: list[str] = []

    async def look(self) -> None:
        """Look at all accounts every LOOK_SECONDS, until cancelled."""
        connection = await asyncpg.connect(self._url)
        try:
            while True:
                self.compare("in the database", await _rows(connection, _HELD))
                self.looks += 1
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            connection.terminate()

    def compare(self, where: str, rows: Iterable[Row]) -> None:
        """Note what is beyond a limit."""
        for name, limit, most, had in taken(self._who, rows):
            if had > most:
                self.over += 1
                if len(self.problems) < PROBLEMS_MAX:
                    self.problems.append(f"{where} {name} has {had} of {most} by {limit}")

    async def quiet(self) -> None:
        """Return when every video has ended."""
        connection = await asyncpg.connect(self._url)
        while await connection.fetchval(UNFINISHED):  # noqa: ASYNC110 (other processes set no event)
            await asyncio.sleep(LOOK_SECONDS)
        await connection.close()

    async def close(self, entries: Sequence[Entry], cheapest: Decimal) -> Mapping[str, Decimal | int]:
        """All has ended and all caps are spent; `cheapest` is the least that a video costs. The sums, USD."""
        connection = await asyncpg.connect(self._url)
        held, videos = await _rows(connection, _HELD), await _rows(connection, _VIDEOS)
        self.problems += [f"a sum of the ledger is not that of its entries: {row}"
                          for row in await _rows(connection, _LOST)]
        await connection.close()
        self.compare("in the end", held)
        self.problems += _unspent(self._who, held, int(cheapest * NANOS))
        paid = _paid(entries)
        self.compare("at vendors", _at_vendors(videos, paid))
        sums = _by_prompt(videos)
        for prompt in sorted(sums.keys() | paid.keys()):
            reserved, settled = sums.get(prompt, (0, 0))
            if not settled <= paid.get(prompt, 0) <= settled + reserved:
                self.problems.append(f"{prompt!r}: settled {settled}, reserved {reserved}, and the vendors "
                                     f"charged {paid.get(prompt, 0)}")
        return {
            "doubts": sum(reserved > 0 for reserved, _ in sums.values()), "videos": len(videos),
            "settled": Decimal(sum(settled for _, settled in sums.values())) / NANOS,
            "reserved": Decimal(sum(reserved for reserved, _ in sums.values())) / NANOS,
            "charged": Decimal(sum(paid.values())) / NANOS,
        }


async def _rows(connection: asyncpg.Connection[asyncpg.Record], sql: str) -> list[Row]:
    return [tuple(record) for record in await connection.fetch(sql)]


def _unspent(who: Sequence[Caller], held: Sequence[Row], cheapest: int) -> Iterator[str]:
    """Keys that were refused though there is money for one more."""
    left = {(name, limit): most - had for name, limit, most, had in taken(who, held) if "money" in limit}
    for caller in who:
        names = (f"key {caller.key_id}", caller.owner)
        mine = [rest for (name, _), rest in left.items() if name in names]
        if mine and min(mine) >= cheapest:
            yield f"{caller.key_id} was refused, and has {min(mine)} nanos left"


def _paid(entries: Iterable[Entry]) -> dict[str, int]:
    """What the vendors charged, by prompt."""
    found: defaultdict[str, int] = defaultdict(int)
    for entry in entries:
        found[entry.prompt] += round(Decimal(entry.amount) * NANOS)
    return dict(found)


def _by_prompt(videos: Iterable[Row]) -> dict[str, tuple[int, int]]:
    """Reserved and settled of all videos of one prompt: a rerun has that of its original."""
    found: dict[str, tuple[int, int]] = {}
    for _, _, prompt, _, reserved, settled in videos:
        before = found.get(str(prompt), (0, 0))
        found[str(prompt)] = before[0] + int(reserved), before[1] + int(settled)
    return found


def _at_vendors(videos: Iterable[Row], paid: Mapping[str, int]) -> list[Row]:
    """What each key has spent at vendors, as rows that limits are held against; each prompt once."""
    first = {str(prompt): (str(owner), str(key), str(day)) for owner, key, prompt, day, _, _ in videos}
    return [(*whose, paid.get(prompt, 0), 0, 0) for prompt, whose in first.items()]


def entries_of(told: object) -> list[Entry]:
    """The vendors' books, as their own route tells them."""
    return msgspec.convert(told, list[Entry])
