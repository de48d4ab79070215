"""`reelgate spending` on a real store, and `reelgate usage` against a stub: what is asked, and what is shown.

Not held here: obeying a stop (`tests/engine/test_spending.py`), the sums (`tests/api/test_usage.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.stub import Stub, say, told_by
from tests.cli.test_verbs import GOOD, reelgate, without_keys

REPORT = {
    "object": "usage", "start": "2026-11-01", "end": "2026-11-21", "group_by": ["day"],
    "data": [{
        "day": "2026-11-20", "currency": "USD", "reserved": "0.42", "settled": "1.26", "accepted": 4,
        "completed": 3, "failed": 0, "cancelled": 0,
    }],
}  # fmt: skip


def usage(stub: Stub, *arguments: str) -> Result:
    return told_by(stub, "usage", *arguments)


def test_spending_is_stopped_and_started_in_the_store(tmp_path: Path) -> None:
    file = tmp_path / "reelgate.toml"
    file.write_text(f'[store]\nurl = "sqlite:reelgate.db"\n{GOOD}', "utf-8")

    def spending(verb: str, *more: str) -> str:
        result = reelgate("spending", verb, "--config", str(file), *more)
        assert result.exit_code == 0, result.output
        return result.stdout

    reelgate("db", "migrate", "--config", str(file))
    assert spending("status") == "Spending is not stopped.\n"
    assert spending("stop").startswith("Spending is stopped by command line since 20")
    stopped = json.loads(spending("status", "--json"))
    assert (stopped["stopped"], stopped["stopped_by"]) == (True, "command line")
    assert json.loads(spending("stop", "--json")) == stopped
    assert spending("start") == "Spending is not stopped.\n"


@pytest.mark.parametrize("verb", ["stop", "start", "status"])
def test_a_stop_where_nothing_is_stored_stops_nobody_and_does_not_say_so(tmp_path: Path, verb: str) -> None:
    """As with the configuration of another gateway: the one that is meant would go on."""
    file = tmp_path / "reelgate.toml"
    file.write_text(f'[store]\nurl = "sqlite:reelgate.db"\n{GOOD}', "utf-8")
    result = reelgate("spending", verb, "--config", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot open" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["reelgate.toml"]


TYPO = GOOD.replace("adapter =", "adaptor =")
ELSEWHERE = 'curl -X POST $URL/v1/spending/stop -H "Authorization: Bearer $ADMIN_KEY"'


def test_a_mistake_elsewhere_in_the_file_keeps_nobody_from_stopping(tmp_path: Path) -> None:
    """As after a reload that was refused, while the gateway buys on; from a shell without a vendor's key."""
    file = tmp_path / "reelgate.toml"
    file.write_text(GOOD, "utf-8")
    assert reelgate("db", "migrate", "--config", str(file)).exit_code == 0
    file.write_text(TYPO, "utf-8")
    assert reelgate("check", str(file)).exit_code == 1
    for verb, said in (("stop", "is stopped by"), ("status", "is stopped by"), ("start", "is not stopped")):
        result = without_keys("spending", verb, "--config", str(file))
        assert (result.exit_code, result.stderr, said in result.stdout) == (0, "", True)
    for order in (["migrate"], ["check"], ["backup", str(tmp_path / "backup.db")]):
        assert without_keys("db", *order, "--config", str(file)).exit_code == 0


@pytest.mark.parametrize("written", ["[store", '[store]\nurl = { env = "NOT_THERE" }', None])
def test_where_the_store_cannot_be_known_the_other_way_to_stop_is_told(
    tmp_path: Path, written: str | None
) -> None:
    file = tmp_path / "reelgate.toml"
    if written is not None:
        file.write_text(written, "utf-8")
    result = without_keys("spending", "stop", "--config", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{file} cannot be used" in result.stderr
    assert ELSEWHERE in result.stderr


def test_usage_is_a_table_of_sums(stub: Stub) -> None:
    stub.script = [say(REPORT)]
    result = usage(stub, "--start", "2026-11-01", "--all")
    assert (result.exit_code, stub.asked[0].method, stub.asked[0].path) == (0, "GET", "/v1/usage")
    assert dict(stub.asked[0].query) == {"start": "2026-11-01", "group_by": "day", "scope": "all"}
    head, row = (line.split() for line in result.stdout.splitlines())
    assert head == [
        "DAY", "CURRENCY", "RESERVED", "SETTLED", "ACCEPTED", "COMPLETED", "FAILED", "CANCELLED"
    ]
    assert row == ["2026-11-20", "USD", "0.42", "1.26", "4", "3", "0", "0"]
    assert json.loads(usage(stub, "--json").stdout) == REPORT
