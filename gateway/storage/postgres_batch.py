"""How writes that wait together become few statements: pure text and lists, nothing here talks to a server.

A batch of a hundred saves is one `update ... from unnest($1::text[], ...)` with a hundred elements in each
array, and the events of those saves ride in the same statement:

    with marked as (update write_marks ...),
    won as (update videos set ... from unnest(...) as u(...) where id = u._1 and ... returning u._w),
    part_1 as (insert into events (...) select ... from unnest(...) as u(...)
        where u._w in (select _w from won))
    select (select number from marked), array(select _w from won)

`_w` is the number of the write, so the server says who passed its guard, and what belongs to a loser is not
stored. All parts of one statement see the data as it was before: so nothing in it may touch one row twice,
and no part may read what another wrote. `segments` and `waves` see to the first, `Form` (plain inserts,
updates and deletes without a subquery) to the second; what is of another shape runs as it is written. One
subquery is known: an insert of what `select ... from (...) name` finds, which reads tables that the other
parts of its write leave alone, and whose first column tells its rows from those of all other writes.

Not held here: transactions, errors and connections (`postgres_writer`), any statement of the product.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from gateway.storage.db import Step, Value

# A row by (table, *primary key), or any rows of a table by (table,).
Token: TypeAlias = tuple[Value, ...]
Array: TypeAlias = Sequence[Value]
# The statements of a write, each once, in order; with True the one that guards the others.
Shape: TypeAlias = tuple[tuple[str, bool], ...]

# One row for each connection that writes; its number is that of the last batch. See `postgres_writer`.
MARKS: Final = "write_marks"
NOW: Final = "extract(epoch from clock_timestamp())"
_MARK: Final = f"update {MARKS} set number = $2, at = {NOW} where writer = $1 returning number"  # noqa: S608

_HOLE: Final = re.compile(r"\$(\d+)")
_INSERT: Final = re.compile(
    r"insert\s+into\s+(\w+)\s*\(([\w\s,]+)\)\s*values\s*\((.+?)\)(\s+on\s+conflict\b.*)?",
    re.DOTALL | re.IGNORECASE,
)
_SELECTED: Final = re.compile(
    r"insert\s+into\s+(\w+)\s*\(([\w\s,]+)\)\s*select\s+(.+?)\s+from\s+\((.+)\)\s+(\w+)",
    re.DOTALL | re.IGNORECASE,
)
_UPDATE: Final = re.compile(r"update\s+(\w+)\s+set\s+(.+?)\s+where\s+(.+)", re.DOTALL | re.IGNORECASE)
_DELETE: Final = re.compile(r"delete\s+from\s+(\w+)\s+where\s+(.+)", re.DOTALL | re.IGNORECASE)
_ASSIGNED: Final = re.compile(r"\b(\w+)\s*=\s*\$(\d+)")
_PINNED: Final = re.compile(r"(?:\A|\band\s+)(\w+)\s*=\s*\$(\d+)(?=\s+and\b|\s*\Z)", re.IGNORECASE)
# With one of these a statement may read what another part writes, or gives rows; or a hole may be no hole.
_OTHER: Final = re.compile(r"\b(?:select|returning|with)\b|'[^']*\$[^']*'|--|;", re.IGNORECASE)
_OTHER_SELECTED: Final = re.compile(r"\b(?:returning|with|conflict)\b|--|;", re.IGNORECASE)
_LITERAL: Final = re.compile(r"'[^']*'")
_OR: Final = re.compile(r"\bor\b", re.IGNORECASE)


class Table(msgspec.Struct, frozen=True):
    """What the server knows of a table: its columns' types, as it spells them, and its primary key."""

    types: Mapping[str, str]
    key: tuple[str, ...]


class Form(msgspec.Struct, frozen=True):
    """A statement that can run for many writes at once.

    `head` and `tail` stand around the source of the values; the tail of an update or delete is its condition.
    `types` are those of the arguments, `key` the places among them of the row's primary key; None: any rows.
    `beside` is what an insert selects from, for each row of the source.
    """

    verb: str
    table: str
    head: str
    tail: str
    types: tuple[str, ...]
    key: tuple[int, ...] | None
    key_columns: tuple[str, ...]
    beside: str = ""

    def token(self, args: Sequence[Value]) -> Token:
        """The row that the statement touches with these arguments."""
        if self.key is None:
            return (self.table,)
        return (self.table, *[args[place] for place in self.key])


def form_of(sql: str, tables: Mapping[str, Table]) -> Form | None:
    """`sql` as a Form; None when it has to run as it is written."""
    selected = _SELECTED.fullmatch(sql.strip())
    if selected is not None and selected[1] in tables:
        is_other = _OTHER_SELECTED.search(sql) or any("$" in text for text in _LITERAL.findall(sql))
        return None if is_other else _insert_selected(selected, tables[selected[1]])
    if _OTHER.search(sql):
        return None
    for verb, pattern, make in (
        ("insert", _INSERT, _insert), ("update", _UPDATE, _update), ("delete", _DELETE, _delete)
    ):
        found = pattern.fullmatch(sql.strip())
        if found is not None and found[1] in tables:
            return make(verb, found, tables[found[1]])
    return None


def _insert(verb: str, found: re.Match[str], table: Table) -> Form | None:
    columns = [name.strip() for name in found[2].split(",")]
    values = _split(found[3])
    if len(columns) != len(values) or _HOLE.search(found[4] or ""):
        return None
    pairs = [(column, int(value[1:])) for column, value in zip(columns, values, strict=True)
             if _HOLE.fullmatch(value)]
    head = f"insert into {found[1]} ({found[2]}) select {_inside(found[3])} from"
    return _form(verb, found, table, pairs, (head, found[4] or ""))


def _insert_selected(found: re.Match[str], table: Table) -> Form | None:
    columns, values = [name.strip() for name in found[2].split(",")], _split(found[3])
    if len(columns) != len(values) or not _HOLE.fullmatch(values[0]):
        return None
    pairs = [(column, int(value[1:])) for column, value in zip(columns, values, strict=True)
             if _HOLE.fullmatch(value)]
    head = f"insert into {found[1]} ({found[2]}) select {_inside(found[3])} from"
    form = _form("insert", found, table, pairs, (head, ""))
    if form is None:
        return None
    beside = f", lateral ({_inside(found[4])}) {found[5]}"
    return replace(form, beside=beside, key=(pairs[0][1] - 1,), key_columns=(columns[0],))


def _update(verb: str, found: re.Match[str], table: Table) -> Form | None:
    pinned, assigned = _pinned(found[3]), dict(_ASSIGNED.findall(found[2]))
    if any(assigned.get(column, hole) != hole for column, hole in pinned.items() if column in table.key):
        return None  # it gives a row another key
    pairs = [(column, int(hole)) for column, hole in (*pinned.items(), *_ASSIGNED.findall(found[2]))]
    head = f"update {found[1]} set {_inside(found[2])} from"  # noqa: S608 (a text of the store)
    return _form(verb, found, table, pairs, (head, _inside(found[3])), pinned)


def _delete(verb: str, found: re.Match[str], table: Table) -> Form | None:
    pinned = _pinned(found[2])
    pairs = [(column, int(hole)) for column, hole in pinned.items()]
    head = f"delete from {found[1]} using"  # noqa: S608 (a text of the store)
    return _form(verb, found, table, pairs, (head, _inside(found[2])), pinned)


def _form(
    verb: str, found: re.Match[str], table: Table, pairs: Sequence[tuple[str, int]], texts: tuple[str, str],
    pinned: Mapping[str, str] | None = None,
) -> Form | None:
    """The form, when the type of every hole is known: it is that of the column that it is equal to."""
    types = {hole: table.types.get(column, "") for column, hole in pairs}
    count = max((int(hole) for hole in _HOLE.findall(found[0])), default=0)
    is_one_type_each = all(types[hole] == table.types.get(column) for column, hole in pairs)
    if not count or not is_one_type_each or set(types) != set(range(1, count + 1)):
        return None
    places = dict(pairs) if pinned is None else {column: int(hole) for column, hole in pinned.items()}
    has_key = bool(table.key) and set(table.key) <= set(places)
    return Form(
        verb, found[1], *texts, types=tuple(types[hole] for hole in range(1, count + 1)),
        key=tuple(places[column] - 1 for column in table.key) if has_key else None, key_columns=table.key,
    )


def _pinned(condition: str) -> dict[str, str]:
    """Which columns must be equal to which hole for the condition to hold."""
    return {} if _OR.search(condition) else dict(_PINNED.findall(condition))


def _inside(text: str) -> str:
    """The text with the holes as columns of the source."""
    return _HOLE.sub(r"u._\1", text)


def _split(values: str) -> list[str]:
    """The values between commas that are in no brackets, and in no text."""
    found, depth, is_text = [""], 0, False
    for character in values:
        depth += (character == "(") - (character == ")")
        is_text ^= character == "'"
        if character == "," and not depth and not is_text:
            found.append("")
        else:
            found[-1] += character
    return [value.strip() for value in found]


class Segment(msgspec.Struct):
    """Steps of one write that can be one statement. `form` None: one step that runs as it is written."""

    steps: list[Step]
    shape: Shape = ()
    tokens: tuple[Token, ...] = ()

    @property
    def guard(self) -> Step | None:
        """The step that decides whether the others count."""
        return next((step for step in self.steps if step.guard is not None), None)


def segments(steps: Iterable[Step], forms: Mapping[str, Form | None]) -> list[Segment]:
    """The steps of one write, in as few statements as can be; their order is kept from one to the next."""
    found: list[Segment] = []
    room = Room()
    has_guard = False
    for step in steps:
        form = forms[step.sql]
        if form is None:
            found.append(Segment([step]))
            room = Room(is_closed=True)
            continue
        if step.guard is not None and form.verb == "insert" and (form.key is None or form.beside):
            found.append(Segment([step]))  # which of its rows are there could not be told
            room = Room(is_closed=True)
            continue
        token = form.token(step.args)
        if not found or not room.fits((token,)) or (has_guard and step.guard is not None):
            found.append(Segment([]))
            room, has_guard = Room(), False
        room.take((token,))
        has_guard = has_guard or step.guard is not None
        segment, part = found[-1], (step.sql, step.guard is not None)
        segment.steps.append(step)
        segment.tokens += (token,)
        if part not in segment.shape:
            segment.shape += (part,)
    return found


class Room:
    """The rows that one statement touches already."""

    def __init__(self, *, is_closed: bool = False) -> None:
        self._is_closed = is_closed
        self._rows: set[Token] = set()
        self._tables: set[Value] = set()

    def fits(self, tokens: Sequence[Token]) -> bool:
        """Whether these rows are all others."""
        if self._is_closed:
            return False
        rows, tables = self._rows, self._tables
        return not any(
            token in rows or (token[0],) in rows or (len(token) == 1 and token[0] in tables)
            for token in tokens
        )

    def take(self, tokens: Sequence[Token]) -> None:
        """Count these rows as touched."""
        self._rows.update(tokens)
        self._tables.update(token[0] for token in tokens)


class Group(msgspec.Struct):
    """Writes of one shape: one statement. `numbers` are their places in the batch."""

    shape: Shape
    numbers: list[int]
    parts: list[Segment]


def waves(batch: Sequence[tuple[int, Segment]]) -> Iterator[list[Group]]:
    """The writes of a batch, by number, in groups; what touches a row that is taken waits for the next wave.

    Rows and groups are in an order that is the same for everybody, so that two replicas seldom wait for each
    other in a ring.
    """
    left = sorted(batch, key=lambda item: in_order([item[1]]))
    while left:
        room, later = Room(), []
        groups: dict[Shape, Group] = {}
        for number, segment in left:
            if not room.fits(segment.tokens):
                later.append((number, segment))
                continue
            room.take(segment.tokens)
            group = groups.setdefault(segment.shape, Group(segment.shape, [], []))
            group.numbers.append(number)
            group.parts.append(segment)
        yield [groups[shape] for shape in sorted(groups)]
        left = later


def in_order(parts: Sequence[Segment]) -> str:
    """What writes are sorted by: the row that they lock first."""
    return repr(parts[0].tokens[0]) if parts and parts[0].tokens else ""


def statement(shape: Shape, forms: Mapping[str, Form | None]) -> str:
    """One statement for any number of writes of this shape.

    Its arguments are a mark's writer and number, then those of `arrays`; its row is the number, None where
    there is no such mark, and the numbers of the writes whose guard met a row.
    """
    guard = next((sql for sql, is_guard in shape if is_guard), None)
    deciding, others = [f"marked as ({_MARK})"], list[str]()  # a part can name only those before it
    taken = 2
    for index, (sql, is_guard) in enumerate(shape):
        form = forms[sql]
        if form is None:
            raise ValueError(sql)
        source = _source(form, taken)
        taken += len(form.types) + 1
        if is_guard:
            deciding += _guard(form, source)
        else:
            others.append(_part(form, source, index, guard is not None))
    won = "array(select _w from won)" if guard is not None else "array[]::bigint[]"
    parts = ",\n".join([*deciding, *others])
    return f"with {parts}\nselect (select number from marked), {won}"  # noqa: S608 (the store's texts)


def arrays(group: Group) -> list[Array]:
    """The arguments of the statement for this group, after the mark's."""
    found: list[Array] = []
    for sql, is_guard in group.shape:
        rows, numbers = [], []
        for number, segment in zip(group.numbers, group.parts, strict=True):
            for step in segment.steps:
                if step.sql == sql and (step.guard is not None) is is_guard:
                    rows.append(step.args)
                    numbers.append(number)
        found += zip(*rows, strict=True)
        found.append(numbers)
    return found


def _source(form: Form, taken: int) -> str:
    """The values of all writes as rows `u`: the holes as `_1`, `_2`, ..., the number of the write as `_w`."""
    types = [*form.types, "bigint"]
    holes = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, taken + 1))
    names = ", ".join([*(f"_{number}" for number in range(1, len(types))), "_w"])
    return f"unnest({holes}) as u({names})"


def _guard(form: Form, source: str) -> list[str]:
    """The part that decides, and `won`: the numbers of the writes whose row it met or made."""
    if form.verb != "insert":
        return [f"won as ({form.head} {source} where {form.tail} returning u._w)"]
    columns, key = form.key_columns, form.key or ()
    same = " and ".join(f"k.{name} = u._{place + 1}" for name, place in zip(columns, key, strict=True))
    return [
        f"kept as ({form.head} {source}{form.tail} returning {', '.join(columns)})",
        f"won as (select u._w from {source} join kept k on {same})",  # noqa: S608 (names of columns)
    ]


def _part(form: Form, source: str, index: int, is_guarded: bool) -> str:
    """A part of the winners' only."""
    condition = "u._w in (select _w from won)" if is_guarded else ""
    if form.verb == "insert":
        where = f" where {condition}" if condition else ""
        return f"part_{index} as ({form.head} {source}{form.beside}{where}{form.tail})"
    own = f"({form.tail}) and {condition}" if condition else form.tail
    return f"part_{index} as ({form.head} {source} where {own})"
