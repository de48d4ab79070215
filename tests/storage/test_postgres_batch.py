"""How writes that wait together become few statements: which can, what must come first, what may not meet.

Held here: pure functions on texts. Not held here: what a server makes of the texts (`test_postgres.py`).
"""

from __future__ import annotations

import re

import pytest

from gateway.storage import replicas, store, webhooks
from gateway.storage.db import GuardFailed, NoRoom, Step, Value
from gateway.storage.postgres_batch import (
    Form,
    Segment,
    Table,
    arrays,
    form_of,
    in_order,
    segments,
    statement,
    waves,
)

TABLES = {
    "t": Table({"id": "text", "n": "bigint", "at": "double precision"}, ("id",)),
    "parts": Table({"id": "text", "place": "bigint", "text": "text"}, ("id", "place")),
    "bare": Table({"id": "text"}, ()),
}
ADD, SAVE = "insert into t (id, n) values ($1, $2)", "update t set n = $2 where id = $1"
PART, DROP = "insert into parts (id, place) values ($1, $2)", "delete from parts where id = $1"
ONCE = "insert into t (id, n) values ($1, $2) on conflict do nothing"


def form(sql: str) -> Form | None:
    return form_of(sql, TABLES)


class Forms(dict[str, Form | None]):
    def __missing__(self, sql: str) -> Form | None:
        return form(sql)


def split(*steps: Step) -> list[Segment]:
    return segments(steps, Forms())


def one(*steps: Step) -> Segment:
    (segment,) = split(*steps)
    return segment


@pytest.mark.parametrize(
    ("sql", "types", "key"),
    [
        (ADD, ("text", "bigint"), (0,)),
        ("insert into t\n  (n, id)\n values ($1,\n $2)", ("bigint", "text"), (1,)),
        ("insert  into t(n,id)values($1,$2)\non  conflict do nothing", ("bigint", "text"), (1,)),
        ("update t\n set n=$2\n where id=$1", ("text", "bigint"), (0,)),
        ("insert into t (id, n, at) values ($1, 1, greatest(1.0, 2.0))", ("text",), (0,)),
        ("insert into t (id, n) values ('x', $1)", ("bigint",), None),
        (f"{ADD} on conflict (id) do update set n = t.n + 1", ("text", "bigint"), (0,)),
        (SAVE, ("text", "bigint"), (0,)),
        ("update t set id = $1, n = $2 where id = $1 and n = $3", ("text", "bigint", "bigint"), (0,)),
        ("update t set n = n + 1, at = $2\n where id = $1 and at is null", ("text", "double precision"),
         (0,)),
        ("update t set n = $1 where n = $2 or id = $3", None, None),  # what it is equal to is not certain
        ("update t set n = $1 where at > 3", ("bigint",), None),
        (DROP, ("text",), None),
        ("delete from parts where id = $1 and place = $2 and text in ('a', 'b')", ("text", "bigint"), (0, 1)),
        ("insert into bare (id) values ($1)", ("text",), None),
    ],
)
def test_what_can_run_for_many_at_once(
    sql: str, types: tuple[str, ...] | None, key: tuple[int, ...] | None
) -> None:
    found = form(sql)
    assert (found and found.types, found and found.key) == (types, key)


@pytest.mark.parametrize(
    "sql",
    [
        "select id from t where id = $1",
        f"{SAVE} returning id",
        "update t set n = $1 where id in (select id from parts where id = $2)",
        "update t set n = (select count(*) from parts) where id = $1",
        "with x as (select 1) update t set n = $1 where id = $2",
        "insert into t (id, n) values ($1, $2), ($3, $4)",
        "insert into t (id) values ($1), ($2)",
        "insert into t values ($1, $2, $3)",
        "insert into t (id, n) select $1, $2",
        f"{ADD} on conflict (id) do update set n = $2",  # the source is out of sight there
        "update t set id = $1 where id = $2",  # gives a row another key
        "update t set n = $1, at = $1 where id = $2",  # two types for one value
        "update t set n = $1 where at < $2",  # no column says what type that is
        "update t set n = 1",
        "update t set n = 1 where id = 'x'",
        "insert into t (id, n) values ('$1', $2)",
        "insert into unknown (id) values ($1)",
        "update t set n = $1 where id = $2; delete from t where id = $2",
        "truncate t",
    ],
)
def test_what_runs_as_it_is_written(sql: str) -> None:
    assert form(sql) is None


def test_the_statements_of_a_videos_life_can() -> None:
    """Each of these is one statement for all that wait; were one not, every write would cost its own."""
    texts = (store.VIDEO_SAVE, store.EVENTS_ADD, store.VIDEO_ADD, store.REQUEST_ADD, store.INPUT_ADD,
             store.LABEL_ADD, store.IDEMPOTENCY_ADD, store.VIDEO_DELETE, *store.PARTS_DELETE,
             replicas.GATE_TAKE, replicas.REPLICA_BEAT, webhooks.TELL, webhooks.CLAIM,
             webhooks.CLAIM_RENDERED, webhooks.SETTLE, webhooks.TRY_ADD, *webhooks.VIDEO_FORGET)
    words = re.findall(r"\w+", " ".join(texts))  # among them every table and column
    known = dict.fromkeys(words, Table(dict.fromkeys(words, "text"), ("id",)))
    assert [sql for sql in texts if form_of(sql, known) is None] == []


TOLD = """insert into parts (id, place, text) select $1, $2, e.text || ',x' || $1 || 'x'
    from (select b.id as text from bare b where b.id = $1 union all select $1) e"""


def test_an_insert_of_what_is_found_elsewhere_runs_for_many() -> None:
    """It selects for each of its writes, and only for those that won."""
    found = form(TOLD)
    assert found is not None
    assert (found.types, found.token(("a", 1))) == (("text", "bigint"), ("parts", "a"))
    segment = one(Step(SAVE, ("a", 1), GuardFailed), Step(TOLD, ("a", 1)))
    text = statement(segment.shape, Forms())
    assert "as u(_1, _2, _w), lateral (select b.id as text from bare b where b.id = u._1" in text
    assert text.count("u._w in (select _w from won)") == 1
    groups = [group.numbers for wave in waves([
        (number, one(Step(SAVE, (name, 1), GuardFailed), Step(TOLD, (name, 1))))
        for number, name in enumerate("aab")
    ]) for group in wave]
    assert groups == [[0, 2], [1]]


@pytest.mark.parametrize(
    "sql",
    [
        TOLD.replace("select $1, $2,", "select 'x', $2,"),  # nothing tells its rows from another write's
        TOLD.replace("union all select $1", "union all select $3"),  # no column says what type that is
        f"{TOLD} on conflict do nothing",
        f"{TOLD} returning id",
        TOLD.replace("(id, place, text)", "(id, place)"),
        TOLD.replace("'x'", "'$1'"),
    ],
)
def test_another_insert_of_what_is_found_runs_as_it_is_written(sql: str) -> None:
    assert form(sql) is None


def test_an_insert_of_what_is_found_guards_nothing() -> None:
    assert not one(Step(TOLD, ("a", 1), GuardFailed)).shape


def test_a_write_is_one_statement_where_it_touches_no_row_twice_and_has_one_guard() -> None:
    guarded = Step(SAVE, ("a", 1), GuardFailed)
    parts = [Step(PART, ("a", place)) for place in range(3)]
    segment = one(guarded, *parts)
    assert segment.shape == ((SAVE, True), (PART, False))
    assert segment.guard is guarded
    assert [len(found.steps) for found in split(*parts, guarded)] == [4]
    assert [len(found.steps) for found in split(guarded, *parts, Step(PART, ("a", 1)))] == [4, 1]
    assert [len(found.steps) for found in split(guarded, Step(SAVE, ("b", 1), NoRoom), *parts)] == [1, 4]
    assert [len(found.steps) for found in split(Step(DROP, ("a",)), parts[0], guarded)] == [1, 2]
    assert [len(found.steps) for found in split(parts[0], Step(DROP, ("b",)), guarded)] == [1, 2]


def test_what_runs_as_it_is_written_keeps_its_place() -> None:
    check = Step("select 1 from t where n = $1", (1,), NoRoom)
    found = split(Step(ADD, ("a", 1)), Step(PART, ("a", 1)), check, Step(PART, ("a", 2)))
    assert [len(segment.steps) for segment in found] == [2, 1, 1]
    assert [bool(segment.shape) for segment in found] == [True, False, True]
    assert found[1].guard is check
    blind = Step("insert into bare (id) values ($1)", ("x",), GuardFailed)  # no key tells who made the row
    assert not one(blind).shape


def test_what_touches_one_row_is_never_in_one_wave() -> None:
    def save(key: str, value: int) -> Segment:
        return one(Step(SAVE, (key, value), GuardFailed), Step(PART, (key, value)))

    add = one(Step(ADD, ("a", 9)))
    batch = list(enumerate([save("b", 1), save("a", 1), save("b", 2), save("b", 3), add]))
    found = [[(group.shape[0][0], group.numbers) for group in groups] for groups in waves(batch)]
    assert found == [[(SAVE, [1, 0])], [(ADD, [4]), (SAVE, [2])], [(SAVE, [3])]]


def test_who_empties_part_of_a_table_is_alone_in_it() -> None:
    batch = list(enumerate([one(Step(PART, ("a", 1))), one(Step(DROP, ("b",))), one(Step(DROP, ("c",))),
                            one(Step(PART, ("a", 2)))]))
    numbers = [sorted(number for group in groups for number in group.numbers) for groups in waves(batch)]
    assert sorted(map(len, numbers)) == [1, 1, 2]
    assert [0, 3] in numbers


def test_rows_are_in_an_order_that_is_everybodys() -> None:
    batch = [(number, one(Step(SAVE, (key, 1)))) for number, key in enumerate("dbca")]
    ((group,),) = list(waves(batch))
    assert group.numbers == [3, 1, 2, 0]
    assert [in_order([part]) for part in group.parts] == sorted(in_order([part]) for _, part in batch)


def test_the_arguments_are_columns_with_the_numbers_of_their_writes() -> None:
    writes: list[list[Step]] = [
        [Step(ONCE, ("a", 1), GuardFailed), Step(PART, ("a", 7)), Step(PART, ("a", 8))],
        [Step(PART, ("b", 9)), Step(ONCE, ("b", None), GuardFailed)],
    ]
    first = [(4, one(*writes[0]))]
    ((group,),) = list(waves(first))
    assert list(map(list, arrays(group))) == [["a"], [1], [4], ["a", "a"], [7, 8], [4, 4]]
    ((other,),) = list(waves([(5, one(*writes[1]))]))
    assert other.shape == ((PART, False), (ONCE, True))
    assert list(map(list, arrays(other))) == [["b"], [9], [5], ["b"], [None], [5]]


@pytest.mark.parametrize("shape", [((SAVE, True), (PART, False)), ((PART, False), (SAVE, True))])
def test_the_part_that_decides_comes_before_those_that_follow(shape: tuple[tuple[str, bool], ...]) -> None:
    text = statement(shape, Forms())
    assert text.index("won as (update t set") < text.index("u._w in (select _w from won)")
    # Two for the mark, then the values of each part in its place, each with the number of its write.
    for number in range(1, 9):
        assert f"${number}" in text
    assert "$9" not in text


def test_a_statement_needs_forms() -> None:
    with pytest.raises(ValueError, match="select 1"):
        statement((("select 1", False),), Forms())


def test_values_of_any_kind_are_passed_on() -> None:
    values: list[Value] = ["a", 1, None, 2.5]
    for value in values:
        ((group,),) = list(waves([(0, one(Step(SAVE, ("k", value))))]))
        assert list(map(list, arrays(group))) == [["k"], [value], [0]]
