"""`reelgate audit list` against a stub on a real socket: what is asked, and what is shown.

Not held here: what a gateway answers (`tests/api/test_audit.py`).
"""

from __future__ import annotations

import json

import pytest
from click.testing import Result

from tests.cli.stub import Stub, problem, say, told_by

PAUSED = {
    "id": "audit_2", "object": "audit_entry", "created_at": 1795247503, "actor": "operator olga (key_1)",
    "key": "key_1", "role": "operator", "action": "provider.paused", "target": "highway",
    "before": {"order": None, "state": "healthy"}, "after": {"order": "pause", "state": "healthy"},
    "request_id": "req_1",
}  # fmt: skip
CREATED = PAUSED | {
    "id": "audit_1", "actor": "command line", "key": None, "role": None, "action": "key.created",
    "target": "key_2", "before": None, "after": {"name": "al\x1b[2Jice"}, "request_id": None,
}
LISTED = {
    "object": "list", "data": [PAUSED, CREATED], "first_id": "audit_2", "last_id": "audit_1",
    "has_more": True,
}  # fmt: skip


def reelgate(stub: Stub, *arguments: str) -> Result:
    return told_by(stub, "audit", "list", *arguments)


def test_entries_are_a_table_of_who_did_what(stub: Stub) -> None:
    stub.script = [say(LISTED)]
    result = reelgate(stub)
    assert (result.exit_code, stub.asked[0].method, stub.asked[0].path) == (0, "GET", "/v1/audit")
    assert dict(stub.asked[0].query) == {"limit": "20"}
    head, paused, created = (line.split("  ") for line in result.stdout.splitlines())
    assert [cell.strip() for cell in head if cell] == ["AT", "ACTOR", "ACTION", "TARGET", "CHANGE"]
    assert [cell.strip() for cell in paused if cell] == [
        "2026-11-21 07:51:43Z", "operator olga (key_1)", "provider.paused", "highway", "order: - -> pause",
    ]  # fmt: skip
    assert [cell.strip() for cell in created if cell][1:] == [
        "command line", "key.created", "key_2", "name: - -> al [2Jice",
    ]  # fmt: skip
    assert "--after audit_1" in result.stderr
    assert json.loads(reelgate(stub, "--json").stdout) == LISTED


def test_filters_are_passed_on(stub: Stub) -> None:
    stub.script = [say(LISTED | {"data": [], "has_more": False})]
    result = reelgate(
        stub, "--action", "provider.paused", "--actor", "key_1", "--target", "a b", "--created-after", "5",
        "--created-before", "7", "--after", "audit_9", "--limit", "3",
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    assert dict(stub.asked[0].query) == {
        "action": "provider.paused", "actor": "key_1", "target": "a b", "created_after": "5",
        "created_before": "7", "after": "audit_9", "limit": "3",
    }  # fmt: skip


@pytest.mark.parametrize(("status", "code"), [(400, 1), (403, 4)])
def test_a_refusal_exits_by_http_status(stub: Stub, status: int, code: int) -> None:
    stub.script = [problem(status, detail="no such luck")]
    assert reelgate(stub).exit_code == code
