"""Those whose key or team has all it may have at vendors stand aside in the line: others pass at no cost.

Not held here: the line where nobody has limits (`test_line`), lives with limits (`test_accounts`).
"""

from __future__ import annotations

import gc
import random
import sys
from collections import Counter

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway.core.facts import Candidate
from gateway.core.grants import Limits
from gateway.core.states import Task
from gateway.engine.accounts import Accounts
from gateway.engine.line import Line
from gateway.storage.keys import Keys
from tests.blank import blank
from tests.core.made import NOW, make_task
from tests.engine.test_line import ONE, TWO, fleet


def lined(**caps: int) -> tuple[Line, Accounts]:
    """A line before two providers, and accounts of keys with these caps."""
    providers = fleet()
    accounts = Accounts(Keys(blank()), providers, lambda: NOW)
    for key_id, cap in caps.items():
        accounts.learn(key_id, Limits(max_in_flight=cap))
    return Line(providers, accounts), accounts


def waiting(task_id: str, key_id: str, *candidates: Candidate, **fields: object) -> Task:
    return make_task(task_id, key_id=key_id, owner=key_id, candidates=candidates or (ONE,), **fields)


def go(line: Line, accounts: Accounts, tasks: dict[str, Task], room: int = 1_000) -> list[str]:
    """Who goes now, in order; they leave the line and have a place at a vendor."""

    def may_go(task_id: str) -> bool:
        accounts.take(tasks[task_id])
        return True

    going = [task_id for task_id, _ in line.ready(NOW, room, may_go)]
    for task_id in going:
        line.remove(task_id)
    return going


def calls_to_pass(crowd: int) -> int:
    """Function calls in which two others go past so many whose account has all it may have."""
    line, accounts = lined(a=1)
    tasks = {f"a{n}": waiting(f"a{n}", "a", created_at=NOW + n) for n in range(crowd)}
    tasks |= {f"b{n}": waiting(f"b{n}", "b", created_at=NOW + crowd + n) for n in range(2)}
    accounts.take(waiting("before", "a"))
    for task in tasks.values():
        line.add(task)
    assert go(line, accounts, tasks, 1) == ["b0"]
    calls: list[str] = []
    gc.disable()  # what others have called at a collection is none of the line's calls
    sys.setprofile(lambda frame, event, _: calls.append(event) if event == "call" else None)
    try:
        going = line.ready(NOW, 1_000, lambda _: True)
    finally:
        sys.setprofile(None)
        gc.enable()
    assert [task_id for task_id, _ in going] == ["b1"]
    return len(calls)


def test_however_many_wait_for_their_account_they_cost_the_others_nothing() -> None:
    assert calls_to_pass(3_000) == calls_to_pass(30)


def test_those_of_an_account_go_in_their_order_once_it_has_room() -> None:
    line, accounts = lined(a=1)
    tasks = {f"a{n}": waiting(f"a{n}", "a", created_at=NOW + n) for n in range(4)}
    for task in tasks.values():
        line.add(task)
    assert go(line, accounts, tasks) == ["a0"]
    assert go(line, accounts, tasks) == []
    assert line.place("a1", NOW) == (1, None), "only one of its own can tell"
    accounts.leave("a0")
    assert go(line, accounts, tasks) == ["a1"]
    line.remove("a2")  # while they stand aside
    line.remove("a3")
    accounts.leave("a1")
    assert go(line, accounts, tasks) == []


def test_where_others_hold_the_places_it_is_asked_again_soon_and_ever_later() -> None:
    line, accounts = lined(a=2)
    tasks = {"a0": waiting("a0", "a")}
    line.add(tasks["a0"])
    accounts.crowded(["a"], random.Random(1))
    assert go(line, accounts, tasks) == []
    assert NOW < line.gates_at < NOW + 1
    assert [task_id for task_id, _ in line.ready(line.gates_at, 1, lambda _: True)] == ["a0"]


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.data())
def test_never_more_than_the_caps_and_nobody_is_forgotten(data: st.DataObject) -> None:
    """Whatever comes, goes, ends and is let go: each cap holds, and what has room goes in the end."""
    caps = {"a": data.draw(st.integers(1, 3)), "b": data.draw(st.integers(1, 3))}
    line, accounts = lined(**caps)
    tasks: dict[str, Task] = {}
    under_way: list[str] = []
    for number in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["add", "add", "go", "end", "remove", "regroup"])):
            case "add":
                rows = data.draw(st.sampled_from([(ONE,), (TWO,), (ONE, TWO)]))
                name = f"v{number}"
                tasks[name] = waiting(
                    name, data.draw(st.sampled_from("abc")), *rows, created_at=NOW + number,
                    priority=data.draw(st.integers(0, 1)),
                )
                line.add(tasks[name])
            case "go":
                under_way += go(line, accounts, tasks, data.draw(st.integers(0, 4)))
            case "end" if under_way:
                accounts.leave(under_way.pop(data.draw(st.integers(0, len(under_way) - 1))))
            case "remove" if tasks:
                line.remove(data.draw(st.sampled_from(sorted(tasks))))
            case "regroup":
                caps["a"] = data.draw(st.integers(1, 3))
                accounts.learn("a", Limits(max_in_flight=caps["a"]))
                line.regroup(tasks.values())
        here = Counter(tasks[name].key_id for name in under_way)
        assert here["b"] <= caps["b"]
    left = [name for name in tasks if line.place(name, NOW) is not None]
    went: list[str] = []
    while left:
        for name in under_way:
            accounts.leave(name)
        under_way = go(line, accounts, tasks)
        assert under_way, left
        here = Counter(tasks[name].key_id for name in under_way)
        assert all(here[key_id] <= cap for key_id, cap in caps.items())
        went += under_way
        left = [name for name in left if name not in under_way]
    assert len(went) == len(set(went))
