"""The statements of lists: a page is a walk along one index in the order of creation.

Each filter by a value has an index in that order (`videos_by_...`, the key of `video_labels`). With one of
them, and with times, a page takes as many steps as it has videos. With several, one leads: that whose next
videos reach farthest in time. The others are asked of each video that it leads to, so the steps are bounded
by how many videos have the seldomest value; they are many only where each value is common and all of them
together are not.

Not held here: what the filters mean to callers (`gateway.api.query`), the other statements (`store`).
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from gateway.storage.db import Row, Value
from gateway.storage.rows import TASK_COLUMNS, Filters, Page

Statement: TypeAlias = tuple[str, tuple[Value, ...]]

VIDEO_NAMES: Final = ", ".join(f"v.{name}" for name in TASK_COLUMNS) + ", r.request, r.metadata"
REACH_ROWS: Final = 256  # of each filter, that are looked at before one of several leads: a fraction of a ms
_COLUMNS: Final = ("status", "stage", "model", "provider")


class Equal(msgspec.Struct, frozen=True):
    """A filter by a value: of a column of `videos`, or of a label."""

    name: str
    value: str
    is_label: bool = False


class _Holes:
    """The arguments of a statement that is being written."""

    def __init__(self) -> None:
        self.args: list[Value] = []

    def of(self, value: Value) -> str:
        """The placeholder of one more argument."""
        self.args.append(value)
        return f"${len(self.args)}"


class _Walk(msgspec.Struct, frozen=True):
    """An index to go along: its table, what it is narrowed by, and the two columns of its order."""

    table: str
    where: list[str]
    at: str
    video_id: str

    def order(self, page: Page) -> str:
        """The order of the page's videos."""
        direction = "desc" if page.newest_first else "asc"
        return f"{self.at} {direction}, {self.video_id} {direction}"


def equals(filters: Filters) -> list[Equal]:
    """The filters that could lead."""
    columns = ((name, getattr(filters, name)) for name in _COLUMNS)
    labels = (Equal(name, value, is_label=True) for name, value in filters.metadata.items())
    return [*(Equal(name, value) for name, value in columns if value is not None), *labels]


def reach(owner: str, filters: Filters, page: Page) -> Statement:
    """How far the next REACH_ROWS videos of each filter go: a row of times; null where there are fewer."""
    holes = _Holes()
    mine = holes.of(owner)
    found = []
    for equal in equals(filters):
        walk = _walk(equal, mine, filters, page, holes)
        found.append(
            f"(select {walk.at} from {walk.table} where {' and '.join(walk.where)}"  # noqa: S608
            f" order by {walk.order(page)} limit 1 offset {REACH_ROWS - 1})"
        )
    return f"select {', '.join(found)}", tuple(holes.args)


def leader(filters: Filters, page: Page, reached: Row) -> Equal:
    """Which filter leads, by the row of `reach`: the one that is passed through fastest."""
    sign = 1.0 if page.newest_first else -1.0
    far = [float("-inf") if at is None else sign * float(at) for at in reached]
    return equals(filters)[far.index(min(far))]


def page_of(owner: str, filters: Filters, page: Page, lead: Equal | None) -> Statement:
    """The page, along the index of `lead`, which is one of `equals`; None where there are none of them.

    At most `page.limit + 1` rows of VIDEO_NAMES. Only texts of this file reach the SQL.
    """
    holes = _Holes()
    mine = holes.of(owner)
    walk = _walk(lead, mine, filters, page, holes)
    videos = "join videos v on v.id = l.video_id" if lead is not None and lead.is_label else ""
    where = [*walk.where, *(_asked(equal, mine, holes) for equal in equals(filters) if equal != lead)]
    sql = f"""select {VIDEO_NAMES} from {walk.table} {videos} join video_requests r on r.video_id = v.id
        where {" and ".join(where)}
        order by {walk.order(page)} limit {holes.of(page.limit + 1)}"""  # noqa: S608
    return sql, tuple(holes.args)


def _walk(lead: Equal | None, mine: str, filters: Filters, page: Page, holes: _Holes) -> _Walk:
    """Along the index of `lead`, from where the page begins, within the times asked for."""
    if lead is not None and lead.is_label:
        where = [f"l.owner = {mine} and l.name = {holes.of(lead.name)} and l.value = {holes.of(lead.value)}"]
        walk = _Walk("video_labels l", where, "l.created_at", "l.video_id")
    else:
        where = [f"v.owner = {mine}", *([] if lead is None else [f"v.{lead.name} = {holes.of(lead.value)}"])]
        walk = _Walk("videos v", where, "v.created_at", "v.id")
    if filters.created_after is not None:
        where.append(f"{walk.at} >= {holes.of(filters.created_after)}")
    if filters.created_before is not None:
        where.append(f"{walk.at} <= {holes.of(filters.created_before)}")
    if page.after is not None:
        at, video_id = page.after
        sign = "<" if page.newest_first else ">"
        where.append(f"({walk.at}, {walk.video_id}) {sign} ({holes.of(at)}, {holes.of(video_id)})")
    return walk


def _asked(equal: Equal, mine: str, holes: _Holes) -> str:
    """A filter that does not lead. In a `coalesce` no database takes it for a reason to use its index."""
    if not equal.is_label:
        return f"coalesce(v.{equal.name} = {holes.of(equal.value)}, false)"
    name, value = holes.of(equal.name), holes.of(equal.value)
    return f"""coalesce((select true from video_labels o where o.owner = {mine} and o.name = {name}
        and o.value = {value} and o.created_at = v.created_at and o.video_id = v.id), false)"""  # noqa: S608
