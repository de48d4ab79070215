"""The places of many tasks in the line of all that wait, counted in one statement and one pass.

What waits between two of them is counted once, however many stand behind. Not held here: the line of one
process, which is fair between callers (`gateway.engine.line`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from gateway.core.states import Task
from gateway.storage.db import Row, Value

Statement: TypeAlias = tuple[str, tuple[Value, ...]]

PLACES_MAX: Final = 100  # tasks in one statement, whose text is the same for fewer
# Each span is a stretch of the line: one priority, from one time to another. The first of a priority has no
# beginning, and everybody of a higher one is counted with it.
_SPAN: Final = "(cast({} as bigint), cast({} as double precision), cast({} as double precision))"
_SPANS: Final = ", ".join(
    _SPAN.format(*(f"${number + place}" for place in range(3))) for number in range(1, 3 * PLACES_MAX, 3)
)
WITHIN: Final = f"""with spans (priority, since, until) as (values {_SPANS})
    select (select count(*) from videos v where v.state = 'waiting' and v.priority = s.priority
            and v.created_at >= coalesce(s.since, 0) and v.created_at < s.until)
        + case when s.since is null then (
            select count(*) from videos v where v.state = 'waiting' and v.priority > s.priority) else 0 end
    from spans s where s.priority is not null order by s.priority, s.until"""  # noqa: S608


def counting(tasks: Sequence[Task]) -> Statement:
    """What `befores` needs to know of these tasks, 1 to PLACES_MAX. Raises ValueError for more."""
    args: list[Value] = []
    before: tuple[int, float] | None = None
    for priority, at in _marks(tasks):
        since = before[1] if before is not None and before[0] == priority else None
        args += (priority, since, at)
        before = priority, at
    if len(args) > 3 * PLACES_MAX:
        raise ValueError(f"places of more than {PLACES_MAX} tasks at once")
    return WITHIN, (*args, *[None] * (3 * PLACES_MAX - len(args)))


def befores(tasks: Sequence[Task], counted: Sequence[Row]) -> list[int]:
    """How many wait before each of the tasks, by the rows of `counting`."""
    before: dict[tuple[int, float], int] = {}
    last, total = None, 0
    for (priority, at), (count,) in zip(_marks(tasks), counted, strict=True):
        total = int(count or 0) + (total if priority == last else 0)
        last, before[priority, at] = priority, total
    return [before[task.priority, task.created_at] for task in tasks]


def _marks(tasks: Sequence[Task]) -> list[tuple[int, float]]:
    """The ends of the spans: where these tasks stand, each place once, in the order of the statement."""
    return sorted({(task.priority, task.created_at) for task in tasks})
