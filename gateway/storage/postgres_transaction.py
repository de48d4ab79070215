"""One batch of writes as one transaction on one connection, up to its COMMIT.

Held here: which statements are sent and how their rows are read; a write whose guard failed, or whose
statement the server refused, leaves the others alone. Not held here: how writes become statements
(`postgres_batch`), what happens when the transaction or its connection fails (`postgres_writer`).
"""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from gateway.storage.db import GuardFailed, Row, Step
from gateway.storage.postgres_batch import (
    MARKS,
    NOW,
    Form,
    Group,
    Segment,
    Shape,
    Table,
    arrays,
    form_of,
    in_order,
    segments,
    statement,
    waves,
)
from gateway.storage.postgres_link import (
    ERRORS,
    MARK_BEGIN,
    MARK_END,
    Connection,
    Gone,
    Link,
    is_lost,
    is_of_the_database,
    is_repeatable,
    refusal,
    tables,
)

Result: TypeAlias = "list[Row] | Exception"
Prepared: TypeAlias = "PreparedStatement[asyncpg.Record]"

CHANNEL: Final = "reelgate"
# A process that stops amid a batch, or is cut off, must not keep its locks: the server ends the transaction.
IDLE_MS: Final = 5_000
# For what is not idle to the server, an answer to Parse that nothing follows; it knows this since version 17.
WHOLE_MS: Final = 12_000
_WHOLE_SINCE: Final = 17
# Less than the client's patience, so that nobody is left waiting for a lock whom nobody waits for.
LOCK_MS: Final = 8_000
_BEGIN: Final = "begin isolation level read committed"
# The statements of groups are joins by primary key, whatever the number of rows: planned once, and for good.
_PLAN_ONCE: Final = "; set local plan_cache_mode = force_generic_plan"
# The rows behind turns are taken write by write, in no order that all batches share: so two could wait for
# each other. Turns are many, and the server has room for so many locks: several share one.
TURNS: Final = 256
_TURNS: Final = "; select pg_advisory_xact_lock(1380403527, turn) from unnest('{{{}}}'::int[]) as turn"
_GIVES_ROWS: Final = re.compile(r"\s*(?:select|with)\b|.*\breturning\b", re.DOTALL | re.IGNORECASE)


class _Forms(dict[str, Form | None]):
    """How each statement can run for many writes at once, found when first needed."""

    def __init__(self, known: Mapping[str, Table]) -> None:
        super().__init__()
        self._tables = known
        self._texts: dict[Shape, str] = {}

    def __missing__(self, sql: str) -> Form | None:
        self[sql] = form = form_of(sql, self._tables)
        return form

    def statement(self, shape: Shape) -> str:
        """The text for writes of this shape."""
        if shape not in self._texts:
            self._texts[shape] = statement(shape, self)
        return self._texts[shape]


class Session:
    """A connection that writes. It has one row in `write_marks`, with the number of its last batch."""

    def __init__(self, link: Link, connection: Connection) -> None:
        self.connection = connection
        self.mark, self.number = secrets.token_hex(8), 0
        self.has_begun = False  # whether anything of the batch can have reached the server
        self.is_committing = False  # whether its COMMIT was sent, and is not answered
        self._place = link.place
        self._forms = _Forms({})
        self._is_caching = link.statement_cache_size > 0
        self._prepared: dict[str, Prepared] = {}
        self._begin = (
            f"{_BEGIN}; set local idle_in_transaction_session_timeout = {IDLE_MS}; "
            f"set local lock_timeout = {LOCK_MS}"
        )
        if connection.get_server_version().major >= _WHOLE_SINCE:
            self._begin += f"; set local transaction_timeout = {WHOLE_MS}"

    async def prepare(self) -> None:
        """Make ready for the first batch."""
        self._forms = _Forms(await tables(self.connection))
        if await self.connection.fetchval("show synchronous_commit") == "off":
            self._begin += "; set local synchronous_commit = on"  # what is answered is on disk
        await self.connection.execute(MARK_BEGIN, self.mark)

    async def leave(self) -> None:
        """Take the mark away."""
        await self.connection.execute(MARK_END, self.mark)

    async def run(self, batch: Sequence[Sequence[Step]], *, is_apart: bool) -> list[Result]:
        """Run these writes in a new transaction, `is_apart`: each by itself; the rows of each, or why not.

        Raises what undoes them all.
        """
        self.has_begun = self.is_committing = False
        self.number += 1
        split = [segments(steps, self._forms) for steps in batch]
        together, apart = [], []
        for number, parts in enumerate(split):
            if len(parts) == 1 and parts[0].shape and not is_apart:
                together.append((number, parts[0]))
            else:
                apart.append(number)
        await self._prepare(split)
        await self._start(turns_of(batch), is_marked=not together)
        results: list[Result] = [[] for _ in batch]
        for groups in waves(together):
            for group in groups:
                await self._run_group(group, results)
        apart.sort(key=lambda number: in_order(split[number]))
        one_by_one = [(number, split[number]) for number in apart]
        await self._run_apart(one_by_one, results, is_alone=len(batch) == 1)
        return results

    async def end(self, *, is_kept: bool, told: Sequence[bytes] = ()) -> None:
        """Commit, or undo where nothing is to be kept. `told` goes to whoever listens, with the commit."""
        if not is_kept:
            await self.connection.execute("rollback")
            return
        # In hexadecimal a text needs no quoting; with the COMMIT it needs no round trip.
        news = "".join(
            f"select pg_notify('{CHANNEL}', convert_from(decode('{text.hex()}', 'hex'), 'UTF8'));"
            for text in told
        )
        self.is_committing = True
        done = await self.connection.execute(news + "commit")
        self.is_committing = False
        if done != "COMMIT":  # a transaction that had failed is rolled back, and so it says
            raise Gone(f"the server answered {done} to COMMIT")

    async def _prepare(self, split: Sequence[Sequence[Segment]]) -> None:
        """Have new statements parsed before the transaction begins: so it is idle between any two messages.

        Not behind a pooler, for which nothing outlives a transaction.
        """
        if not self._is_caching:
            return
        texts = (self._text(segment) for parts in split for segment in parts)
        for text in dict.fromkeys(text for text in texts if text not in self._prepared):
            try:
                self._prepared[text] = await self.connection.prepare(text)
            except ERRORS as error:  # told to whose write it is when it runs
                if is_lost(error) or self.connection.is_closed():
                    raise

    def _text(self, segment: Segment) -> str:
        return self._forms.statement(segment.shape) if segment.shape else segment.steps[0].sql

    async def _start(self, turns: Sequence[int], *, is_marked: bool) -> None:
        """Begin, and take turns; the batch's number goes along where no statement of a group brings it."""
        mark = f"""update {MARKS} set number = {self.number}, at = {NOW}
            where writer = '{self.mark}'"""  # noqa: S608 (a number, and hexadecimal digits)
        begin = self._begin + (_TURNS.format(",".join(map(str, turns))) if turns else "")
        done = await self.connection.execute(begin + (f"; {mark}" if is_marked else _PLAN_ONCE))
        self.has_begun = True
        if is_marked and done != "UPDATE 1":
            raise Gone("the mark of this connection is gone")

    async def _run_group(self, group: Group, results: list[Result]) -> None:
        """Run writes of one shape; whose guard met no row learns so in `results`."""
        rows, _ = await self._run_text(
            self._forms.statement(group.shape), (self.mark, self.number, *arrays(group))
        )
        if not rows or rows[0][0] is None:
            raise Gone("the mark of this connection is gone")
        won = set(rows[0][1])
        for number, segment in zip(group.numbers, group.parts, strict=True):
            guard = segment.guard
            if guard is not None and number not in won:
                results[number] = missed(guard)

    async def _run_apart(
        self, writes: Sequence[tuple[int, list[Segment]]], results: list[Result], *, is_alone: bool
    ) -> None:
        """Run writes one by one, a savepoint around each; one that is alone in its batch needs none."""
        order = "savepoint one_write"
        for number, parts in writes:
            if not is_alone:
                await self.connection.execute(order)
            results[number] = result = await self._run_one(number, parts)
            order = "release savepoint one_write; savepoint one_write"
            if isinstance(result, Exception) and not is_alone:
                await self.connection.execute("rollback to savepoint one_write")

    async def _run_one(self, number: int, parts: Sequence[Segment]) -> Result:
        """The rows of one write, or why it is to be undone. Raises what undoes the others, too."""
        rows: list[Row] = []
        results: list[Result] = [[] for _ in range(number + 1)]
        try:
            for segment in parts:
                if segment.shape:
                    await self._run_group(Group(segment.shape, [number], [segment]), results)
                    if results[number]:
                        return results[number]
                    continue
                step = segment.steps[0]
                found, count = await self._run_text(step.sql, step.args)
                if not count and step.guard is not None:
                    return missed(step)
                rows += map(tuple, found)
        except ERRORS as error:
            if is_lost(error) or is_repeatable(error) or is_of_the_database(error):
                raise
            return refusal(error, self._place)
        return rows

    async def _run_text(self, sql: str, args: Sequence[object]) -> tuple[list[asyncpg.Record], int]:
        """One statement: its rows, and how many it returned or changed."""
        if (prepared := self._prepared.get(sql)) is not None:
            try:
                rows = await prepared.fetch(*args)
            except ERRORS:
                del self._prepared[sql]  # it may have been the plan that is out of date
                raise
            return rows, int(str(prepared.get_statusmsg()).rpartition(" ")[2])
        if _GIVES_ROWS.match(sql):
            rows = await self.connection.fetch(sql, *args)
            return rows, len(rows)
        done = await self.connection.execute(sql, *args)
        return [], int(done.rpartition(" ")[2])


def turns_of(batch: Sequence[Sequence[Step]]) -> list[int]:
    """The turns that these writes take, by number, in the order in which everybody takes them."""
    names = {step.turn for steps in batch for step in steps if step.turn is not None}
    return sorted({zlib.crc32(name.encode()) % TURNS for name in names})


def missed(guard: Step) -> Exception:
    """What is told to whose guard met no row."""
    return (guard.guard or GuardFailed)(guard.sql.split("\n", 1)[0])
