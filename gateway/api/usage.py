"""What was spent: sums by day, key, provider and model, as JSON or CSV.

A caller sees what its owner spent: its key, or all keys of its team. Operators and admins may ask for
everybody. Not held here: what is put aside and settled when (`gateway.core.spending`).
"""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from litestar import Request, Response, get
from msgspec import Meta, Struct, field

from gateway.api.auth import MAY
from gateway.api.gateway import caller_of, gateway_of
from gateway.api.problems import responses
from gateway.api.query import read_query
from gateway.core.spending import day_of, decimal_text
from gateway.errors import Problem, invalid
from gateway.storage.ledger import GROUPS, ROWS_MAX, Asked, Usage

DAYS_MAX: Final = 366  # of one answer
DEFAULT_DAYS: Final = 30
_CSV: Final = "text/csv"
# What a spreadsheet would take for a formula, whoever chose the name.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


class UsageQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """What `GET /v1/usage` takes."""

    start: Annotated[str | None, Meta(description="YYYY-MM-DD, UTC, inclusive")] = None
    end: Annotated[str | None, Meta(description="YYYY-MM-DD, UTC, inclusive; today unless given")] = None
    group_by: Annotated[str, Meta(description="some of day, key, provider, model, owner, with commas")] = ""
    provider: str | None = None
    model: str | None = None
    key: Annotated[str | None, Meta(description="the id of one key")] = None
    scope: Annotated[Literal["mine", "all"], Meta(description="all: everybody's")] = "mine"
    format: Literal["json", "csv"] | None = None


class UsageRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One group's sums; amounts are decimal texts in `currency`, null where nothing has a price.

    `reserved` is put aside for what is not ended, or of which nobody knows whether it was charged. Videos are
    counted on the day, and in the group, of their acceptance; at the provider that has or had them last, or
    while none had, at the first that they may go to.
    """

    day: str | None = None
    key: str | None = None
    provider: str | None = None
    model: str | None = None
    owner: str | None = None
    currency: str | None = field()
    reserved: str = field()
    settled: str = field()
    accepted: int = field()
    completed: int = field()
    failed: int = field()
    cancelled: int = field()


class UsageReport(Struct, frozen=True, kw_only=True):
    """The sums from `start` to `end`, both inclusive."""

    object: Literal["usage"] = "usage"
    start: str
    end: str
    group_by: list[str]
    data: list[UsageRow]


@get(
    "/v1/usage", opt={"role": "viewer", "scope": "usage:read", "query": UsageQuery}, responses=responses(),
    summary="What was spent", tags=["operations"],
)
async def get_usage(request: Request[Any, Any, Any]) -> Response[UsageReport]:
    """Sums by day (UTC, of acceptance) and by what `group_by` names; the last 30 days unless asked otherwise.

    `scope=all` is everybody's, for operators and admins. As CSV with `format=csv` or `Accept: text/csv`.
    Prices are those of the configuration, this is no invoice.
    """
    query = read_query(request.query_params.multi_items(), UsageQuery())
    asked = _asked(request, query)
    found = await gateway_of(request).store.ledger.usage(asked)
    if len(found) > ROWS_MAX:
        raise invalid("?group_by", f"This makes more than {ROWS_MAX} rows: ask for fewer days or groups.")
    rows = [_row(asked, usage) for usage in found]
    wants_csv = query.format is None and _CSV in request.headers.get("accept", "")
    if query.format == "csv" or wants_csv:
        name = f'attachment; filename="usage-{asked.start}-{asked.end}.csv"'
        table: Any = _table(asked, rows)
        return Response(table, media_type=_CSV, headers={"Content-Disposition": name})
    return Response(
        UsageReport(start=asked.start, end=asked.end, group_by=list(asked.group_by), data=rows)
    )


def _asked(request: Request[Any, Any, Any], query: UsageQuery) -> Asked:
    """What is asked for. Raises Problem invalid_request, permission_denied."""
    caller, today = caller_of(request), day_of(gateway_of(request).now())
    end = _day("end", query.end or today)
    before = timedelta(days=min(DEFAULT_DAYS - 1, (end - date.min).days))
    start = _day("start", query.start) if query.start else end - before
    if not 0 <= (end - start).days < DAYS_MAX:
        raise invalid("?start", f"start is to be before end, by {DAYS_MAX - 1} days at most.")
    if query.scope == "all" and "operator" not in MAY[caller.role]:
        raise Problem("permission_denied", "Everybody's usage needs the role operator or admin.")
    names = tuple(dict.fromkeys(filter(None, query.group_by.split(","))))
    for name in names:
        if name not in GROUPS:
            raise invalid("?group_by", f"{name[:40]!r} is not among {', '.join(GROUPS)}.")
    return Asked(
        start=start.isoformat(), end=end.isoformat(), owner=None if query.scope == "all" else caller.owner,
        group_by=names, provider=query.provider, model=query.model, key_id=query.key,
    )


def _day(name: str, text: str) -> date:
    try:
        found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise invalid(f"?{name}", f"{name} is to be a day such as 2026-11-21.") from None
    if found.isoformat() != text:
        raise invalid(f"?{name}", f"{name} is to be a day such as 2026-11-21.")
    return found


def _row(asked: Asked, usage: Usage) -> UsageRow:
    amounts = usage.amounts
    return UsageRow(
        **dict(zip(asked.group_by, usage.group, strict=True)), currency=usage.currency or None,
        reserved=decimal_text(amounts.reserved), settled=decimal_text(amounts.settled),
        accepted=amounts.accepted, completed=amounts.completed, failed=amounts.failed,
        cancelled=amounts.cancelled,
    )


def _table(asked: Asked, rows: list[UsageRow]) -> bytes:
    """The rows as RFC 4180; no cell begins as a formula does."""
    names = [name for name in UsageRow.__struct_fields__ if name not in GROUPS or name in asked.group_by]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for row in rows:
        writer.writerow([cell(getattr(row, name)) for name in names])
    return text.getvalue().encode()


def cell(value: str | int | None) -> str | int | None:
    """A value as a cell of the table."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
