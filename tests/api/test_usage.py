"""What callers spend, over HTTP: sums, caps and the stop switch, against the vendors' own ledger.

Held here: a real gateway with real simulators. Not held here: more races for a cap
(`tests/storage/test_ledger.py`), what each fact is worth (`tests/core/test_spending.py`).
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import httpx
import pytest

from gateway.api.quotas import renewal
from gateway.api.usage import cell
from gateway.core.grants import Grant, Limits
from gateway.engine.spending import LOOK_SECONDS
from gateway.storage.stop import Stopped
from tests.serving import Json, Served, problem, read, serving

HIGHWAY: Final = {"provider": "highway"}  # 0.084 USD a second, so 0.42 for 5


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, auth="keys") as started:
        yield started


def alice(served: Served, **limits: object) -> httpx.Client:
    """A caller with these limits."""
    return served.as_caller("alice", grant=Grant(limits=Limits(**limits)))  # type: ignore[arg-type]


def usage(client: httpx.Client, **query: str) -> list[Json]:
    """The rows of a report."""
    answer = client.get("/v1/usage", params=query)
    assert answer.status_code == 200, answer.text
    rows: list[Json] = read(answer)["data"]
    return rows


def order(client: httpx.Client) -> httpx.Response:
    """A create for 0.42 USD."""
    return client.post("/v1/videos", json={"prompt": "a fox", **HIGHWAY})


# --- sums ---------------------------------------------------------------------------------------------

def test_what_is_put_aside_is_settled_at_the_end(served: Served) -> None:
    caller = alice(served)
    video = served.rendering(caller, **HIGHWAY)
    row = {"currency": "USD", "reserved": "0.42", "settled": "0.00", "accepted": 1, "completed": 0,
           "failed": 0, "cancelled": 0}  # fmt: skip
    assert usage(caller) == [row]
    served.finish(video["id"], caller)
    assert usage(caller) == [row | {"reserved": "0.00", "settled": "0.42", "completed": 1}]
    served.run(served.gateway.store.ledger.roll_up)
    assert usage(caller) == [row | {"reserved": "0.00", "settled": "0.42", "completed": 1}]


def test_sums_are_told_by_what_is_asked_for(served: Served) -> None:
    caller = alice(served)
    served.completed(caller, **HIGHWAY)
    served.completed(caller, provider="unified")
    today = datetime.now(UTC).date().isoformat()
    found = usage(caller, group_by="provider,day")
    assert [(row["provider"], row["day"], row["currency"], row["settled"]) for row in found] == [
        ("highway", today, "USD", "0.42"), ("unified", today, None, "0.00"),
    ]
    assert [row["accepted"] for row in usage(caller, provider="unified", group_by="model")] == [1]
    assert usage(caller, start="2020-01-01", end="2020-01-31") == []


def test_everybodys_sums_are_for_operators(served: Served) -> None:
    caller, other, ada = alice(served), served.as_caller("bob"), served.as_caller("ada", "operator")
    served.completed(caller, **HIGHWAY)
    assert usage(other) == []
    assert usage(ada) == []
    problem(caller.get("/v1/usage", params={"scope": "all"}), 403, "permission_denied")
    (row,) = usage(ada, scope="all", group_by="key,owner")
    assert row["key"] == row["owner"]
    assert usage(other, key=row["key"]) == []


def test_a_table_is_for_a_spreadsheet_and_holds_no_formula(served: Served) -> None:
    caller = alice(served)
    served.completed(caller, **HIGHWAY)
    answer = caller.get("/v1/usage", params={"group_by": "provider"}, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith('attachment; filename="usage-')
    head, row = csv.reader(io.StringIO(answer.text))
    assert dict(zip(head, row, strict=True)) == {
        "provider": "highway", "currency": "USD", "reserved": "0.00", "settled": "0.42", "accepted": "1",
        "completed": "1", "failed": "0", "cancelled": "0",
    }
    assert [cell(value) for value in ("=1+1", "-x", "@x", "+x", "plain", None, 3)] == [
        "'=1+1", "'-x", "'@x", "'+x", "plain", None, 3,
    ]


@pytest.mark.parametrize(("query", "at_fault"), [
    ({"start": "yesterday"}, "start"), ({"end": "2026-2-1"}, "end"), ({"group_by": "day,prompt"}, "group_by"),
    ({"start": "2026-02-01", "end": "2026-01-01"}, "start"), ({"start": "2020-01-01"}, "start"),
    ({"colour": "red"}, "colour"), ({"format": "xlsx"}, "format"), ({"scope": "ours"}, "scope"),
])
def test_a_query_is_strict(served: Served, query: dict[str, str], at_fault: str) -> None:
    found = problem(alice(served).get("/v1/usage", params=query), 400, "invalid_request")
    assert found["param"] == at_fault


# --- caps ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("end", ["0001-01-01", "0001-01-29", "9999-12-31"])
def test_time_begins_and_ends_somewhere(served: Served, end: str) -> None:
    answer = served.as_caller("alice").get("/v1/usage", params={"end": end})
    assert (answer.status_code, read(answer)["end"], read(answer)["data"]) == (200, end, [])


def test_over_a_cap_nothing_is_stored_or_sent_and_the_refusal_says_what_is_left(served: Served) -> None:
    caller = alice(served, money_per_day=Decimal("1.00"))
    for _ in range(2):
        served.completed(caller, **HIGHWAY)
    refused = problem(order(caller), 429, "quota_exceeded")
    assert (refused["retryable"], refused["charged"]) == (False, "no")
    assert "This key may spend 1.00 USD per day; 0.16 is left and 0.42 is needed." in refused["detail"]
    answer = order(caller)
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    assert answer.headers["x-should-retry"] == "false"
    assert len(read(caller.get("/v1/videos"))["data"]) == len(served.ledger) == 2
    again = read(caller.get("/v1/videos"))["data"][0]["id"]
    problem(caller.post(f"/v1/videos/{again}/rerun"), 429, "quota_exceeded")


def test_a_race_takes_as_many_as_there_is_money_for(served: Served) -> None:
    caller = alice(served, money_per_month=Decimal("4.20"))
    with ThreadPoolExecutor(16) as crowd:
        found = [answer.status_code for answer in crowd.map(lambda _: order(caller), range(80))]
    assert (found.count(202), found.count(429)) == (10, 70)
    assert sum(Decimal(row["reserved"]) for row in usage(caller)) == Decimal("4.20")
    assert len(served.ledger) <= 10


def test_whose_spending_is_bounded_meets_only_what_has_a_price(served: Served) -> None:
    caller = alice(served, money_per_day=Decimal("1.00"))
    served.completed(caller)
    problem(caller.post("/v1/videos", json={"prompt": "a", "provider": "unified"}), 422, "no_route")
    euros = alice(served, money_per_day=Decimal("1.00"), currency="EUR")
    found = problem(euros.post("/v1/videos", json={"prompt": "a"}), 422, "no_route")
    reasons = {reason for one in found["candidates"] for reason in one["reasons"]}
    assert "price: is not known in EUR, in which what this key may spend is limited" in reasons


def test_who_has_all_it_may_at_vendors_waits_for_one_of_its_own(served: Served) -> None:
    caller = alice(served, max_in_flight=1, max_queued=1)
    first = served.rendering(caller, **HIGHWAY)
    second = served.create(caller, **HIGHWAY)
    assert (second["status"], second["stage"]) == ("queued", "waiting")
    refused = problem(order(caller), 429, "quota_exceeded")
    assert refused["retryable"]
    assert "may have 1 videos waiting at once" in refused["detail"]
    assert len(served.ledger) == 1
    served.finish(first["id"], caller)
    served.finish(second["id"], caller)
    assert len(served.ledger) == 2


def test_a_limit_on_money_begins_anew_at_midnight_utc() -> None:
    at = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert renewal("money_per_day", at) == renewal("money_per_month", at) == datetime(2027, 1, 1, tzinfo=UTC)
    at = datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp()
    assert renewal("money_per_month", at) == datetime(2027, 2, 1, tzinfo=UTC)


# --- the stop -----------------------------------------------------------------------------------------

def test_a_stop_takes_nothing_new_and_finishes_what_was_begun(served: Served) -> None:
    caller, ada = alice(served, max_in_flight=1), served.as_caller("ada", "operator")
    rendering = served.rendering(caller, **HIGHWAY)
    waiting = served.create(caller, **HIGHWAY)
    stopped = read(ada.post("/v1/spending/stop"))
    assert stopped["stopped"]
    assert stopped["stopped_by"].startswith("operator ada")
    refused = problem(order(caller), 503, "spending_stopped")
    assert (refused["retryable"], refused["charged"]) == (True, "no")
    problem(caller.post(f"/v1/videos/{rendering['id']}/rerun"), 503, "spending_stopped")
    assert served.finish(rendering["id"], caller)["status"] == "completed"
    assert read(caller.get(f"/v1/videos/{waiting['id']}"))["stage"] == "waiting"
    assert len(served.ledger) == 1
    assert read(ada.get("/v1/spending")) == stopped
    assert read(ada.post("/v1/spending/start")) == stopped | {
        "stopped": False, "stopped_by": None, "since": None,
    }
    assert served.finish(waiting["id"], caller)["status"] == "completed"
    actions = read(served.as_caller("root", "admin").get("/v1/audit"))["data"]
    assert [entry["action"] for entry in actions] == ["spending.started", "spending.stopped"]


def test_a_stop_that_was_ordered_elsewhere_is_obeyed_within_seconds(served: Served) -> None:
    caller, spending = alice(served), served.gateway.engine.spending
    served.completed(caller, **HIGHWAY)
    later = [LOOK_SECONDS]
    spending._now = lambda: time.time() + later[0]  # noqa: SLF001 - a moment later, without waiting for it
    served.run(served.gateway.store.stop.put, Stopped("command line", 1.0))
    problem(order(caller), 503, "spending_stopped")
    served.run(served.gateway.store.stop.delete)
    later[0] *= 2
    assert order(caller).status_code == 202


def test_only_operators_touch_the_stop(served: Served) -> None:
    caller = alice(served)
    for answer in (caller.get("/v1/spending"), caller.post("/v1/spending/stop")):
        problem(answer, 403, "permission_denied")
    assert order(caller).status_code == 202
