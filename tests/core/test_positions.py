"""Positions in a stream against a database with transactions that commit in another order than they began.

Held here: the algebra, with a model of snapshots. Not held here: databases (`tests.storage.test_stream`).
"""

from __future__ import annotations

import random

import pytest

from gateway.core.positions import Batch, Horizon, Position, Row, Unreadable, Within, read_position

LOG = "0123abcd"


class Model:
    """Transactions by number: what each wrote of ours, and whether it has ended."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.next = 100
        self.running: dict[int, list[Row]] = {}
        self.committed: list[Row] = []

    def step(self) -> None:
        """One begins, or ends, or is undone."""
        if self.running and self.chance.random() < 0.5:
            number = self.chance.choice(list(self.running))
            rows = self.running.pop(number)
            if self.chance.random() < 0.8:
                self.committed += rows
            return
        parts = range(self.chance.choice((0, 1, 3)))
        rows = [Row(self.next, (f"video_{part}", part), "x", b"{}") for part in parts]
        self.running[self.next] = rows
        self.next += self.chance.choice((1, 1, 3))

    def end(self) -> None:
        """All that runs commits."""
        self.committed += [row for rows in self.running.values() for row in rows]
        self.running.clear()

    def read(self, position: Position, limit: int) -> Batch:
        """A page, as the statements of the product read it."""
        begun = None if position.within is None else position.within.transaction
        found = sorted(
            (row for row in self.committed if row.transaction != begun
             and (row.transaction >= position.upto or row.transaction in position.open)),
            key=lambda row: (row.transaction, row.key),
        )
        is_whole = len(found) < limit
        found = found[:limit]
        rest = sorted((row for row in self.committed if row.transaction == begun), key=lambda row: row.key)
        return Batch([*rest, *found], Horizon(self.next, frozenset(self.running)), is_whole=is_whole)


@pytest.mark.parametrize("seed", range(100))
def test_through_cuts_at_any_event_nothing_is_missed_or_repeated(seed: int) -> None:
    chance = random.Random(seed)
    model = Model(chance)
    position, got = Position(LOG, 1), list[Row]()
    for _ in range(60):
        for _ in range(chance.randrange(6)):
            model.step()
        batch = model.read(position, limit=chance.choice((4, 50)))
        for row, behind in batch.after(position):
            got.append(row)
            if chance.random() < 0.3:  # cut here: what comes next comes from this position, as a text
                position = read_position(str(behind))
                break
        else:
            position = batch.end(LOG) if batch.is_whole else last_of(batch, position)
    model.end()
    for _ in model.committed:
        batch = model.read(position, 50)
        got += [row for row, _ in batch.after(position)]
        position = last_of(batch, position)
    wanted = sorted((row.transaction, row.key) for row in model.committed)
    assert sorted((row.transaction, row.key) for row in got) == wanted


def last_of(batch: Batch, position: Position) -> Position:
    """The position behind a page."""
    return [position, *(behind for _, behind in batch.after(position))][-1]


@pytest.mark.parametrize("seed", range(60))
def test_who_joins_others_later_gets_what_they_get(seed: int) -> None:
    """A batch that was read for one is used by another who read by itself later, and goes on from there."""
    chance = random.Random(seed)
    model = Model(chance)
    shared, mine = Position(LOG, 1), Position(LOG, 1)
    got: list[Row] = []
    for _ in range(40):
        for _ in range(chance.randrange(5)):
            model.step()
        batches = [model.read(shared, 10_000)]
        if chance.random() < 0.4:  # read by itself after the shared read, before that one is handed on
            model.step()
            batches.insert(0, model.read(mine, 10_000))
        shared = batches[-1].end(LOG)
        for batch in batches:
            if mine.covers(batch.horizon):
                continue
            for row, behind in batch.after(mine):
                got.append(row)
                if chance.random() < 0.1:
                    mine = read_position(str(behind))
                    break
            else:
                mine = batch.end(LOG)
                continue
            again = model.read(mine, 10_000)
            got += [row for row, _ in again.after(mine)]
            mine = again.end(LOG)
    last = model.read(mine, 10_000)
    got += [row for row, _ in last.after(mine)]
    assert sorted((row.transaction, row.key) for row in got) == sorted(
        (row.transaction, row.key) for row in model.committed
    )


@pytest.mark.parametrize("position", [
    Position(LOG, 1), Position(LOG, 10**18 - 1), Position(LOG, 7, (3, 5)),
    Position(LOG, 7, (3, 5), Within(5, ("video_a", 12))),
])
def test_a_text_names_the_same_position(position: Position) -> None:
    assert read_position(str(position)) == position


@pytest.mark.parametrize("text", [
    "", "7", "-7", "0123abcd-", "0123abcd-x", "0123ABCD-7", "0123abcd-7,9", "0123abcd-7,7", "0123abcd-7,",
    "0123abcd-7/5/video_a/1", "0123abcd-7,5/6/video_a/1", "0123abcd-7,5/5/video a/1", "0123abcd-7\n",
    "0123abcd-" + "9" * 19, "0123abcd-9,8/8/video_a/" + "9" * 19,
    "0123abcd-9" + ",1" * 10_000, "0123abcd-\u0661",
])
def test_any_other_text_names_none(text: str) -> None:
    with pytest.raises(Unreadable):
        read_position(text)
