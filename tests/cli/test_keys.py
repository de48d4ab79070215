"""`reelgate keys ...`: what is made, shown, turned and ended, and what is refused in words."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.client.output import clock
from gateway.core.keys import is_well_formed
from tests.cli.test_verbs import GOOD, reelgate, without_keys
from tests.serving import Json


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "good.toml"
    file.write_text(f"{GOOD}[teams.red]\nmax_queued = 5\n", "utf-8")
    return str(file)


@pytest.fixture
def empty(config: str) -> str:
    """A configuration whose store is there, and holds nothing."""
    assert reelgate("db", "migrate", "--config", config).exit_code == 0
    return config


def told(config: str, *arguments: str) -> Json:
    result = reelgate("keys", *arguments, "--json", "--config", config)
    assert result.exit_code == 0, result.stderr
    found: Json = json.loads(result.stdout)
    return found


def test_a_key_is_made_as_it_was_asked_for(config: str) -> None:
    made = told(
        config, "create", "ci", "--role", "operator", "--scope", "files", "--scope", "audit", "--team", "red",
        "--provider", "highway", "--model", "kling-v3", "--expires", "90d", "--max-in-flight", "2",
        "--money-per-day", "1.50", "--currency", "EUR",
    )
    assert is_well_formed(made.pop("key"))
    assert (made["role"], made["scopes"], made["team"]) == ("operator", ["files", "audit"], "red")
    assert (made["providers"], made["models"]) == (["highway"], ["kling-v3"])
    assert made["expires_at"] - made["created_at"] == 90 * 86_400
    bounds = {name: value for name, value in made["limits"].items() if value is not None}
    assert bounds == {"max_in_flight": 2, "money_per_day": "1.50", "currency": "EUR"}
    assert told(config, "list")["data"] == [made]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--team", "rad"], "red"), (["--provider", "highwy"], "highway"), (["--model", "kling"], "kling-v3"),
        (["--scope", "all"], "videos:read"), (["--money-per-day", "1e3"], "money_per_day"),
        (["--expires", "soon"], "duration"), (["--expires", "0s"], "expires_in"),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_what_can(empty: str, options: list[str], said: str) -> None:
    result = reelgate("keys", "create", "x", *options, "--config", empty)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert told(empty, "list")["data"] == []


@pytest.mark.parametrize("verb", [["list"], ["rotate", "key_0"], ["revoke", "key_0"]])
def test_where_nothing_is_stored_there_is_no_store_made_to_hold_no_keys(
    config: str, verb: list[str], tmp_path: Path
) -> None:
    """As with the configuration of another gateway: the key that is meant would go on."""
    result = reelgate("keys", *verb, "--config", config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "mind [store] url" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["good.toml"]


def test_a_key_is_listed_turned_and_ended(config: str, tmp_path: Path) -> None:
    made = told(config, "create", "alice")
    turned = told(config, "rotate", made["id"], "--overlap", "1h")
    assert (turned["id"], turned["key"] == made["key"]) == (made["id"], False)
    assert 3_590 <= turned["overlap_until"] - made["created_at"] <= 3_700
    shown = reelgate("keys", "list", "--config", config).stdout
    assert made["id"] in shown
    assert told(config, "revoke", made["id"])["revoked_at"] is not None
    assert "revoked" in reelgate("keys", "list", "--config", config).stdout
    assert reelgate("keys", "rotate", made["id"], "--config", config).exit_code == 1
    assert "no key" in reelgate("keys", "revoke", "key_0", "--config", config).stderr
    with closing(sqlite3.connect(tmp_path / "reelgate.db")) as database:
        rows = database.execute("select actor, action, object from audit order by at").fetchall()
        assert [what for _, what, _ in rows] == ["key.created", "key.rotated", "key.revoked"]
        assert {(who, of) for who, _, of in rows} == {("command line", made["id"])}
        assert not [line for line in database.iterdump() if made["key"] in line or turned["key"] in line]


def test_while_an_old_secret_is_taken_it_is_said(config: str) -> None:
    made = told(config, "create", "alice", "--expires", "90d")
    turned = reelgate("keys", "rotate", made["id"], "--overlap", "1h", "--config", config)
    until = clock(told(config, "list")["data"][0]["overlap_until"])
    assert f"The old one is taken until {until}; `keys revoke` ends all of them." in turned.stderr
    assert is_well_formed(turned.stdout.strip())
    shown = reelgate("keys", "list", "--config", config).stdout
    assert shown.endswith(f"until {clock(made['expires_at'])}, old secret until {until}\n")
    at_once = reelgate("keys", "rotate", made["id"], "--overlap", "0s", "--config", config)
    assert "The old one" not in at_once.stderr
    assert "old secret" not in reelgate("keys", "list", "--config", config).stdout


def test_a_mistake_elsewhere_in_the_file_keeps_no_leaked_key(config: str) -> None:
    """As after a reload that was refused, while the gateway lets the key in; no vendor's key is there."""
    made = told(config, "create", "alice")
    file = Path(config)
    file.write_text(file.read_text("utf-8").replace("max_queued", "max_queud") + "[loog]\n", "utf-8")
    assert reelgate("check", config).exit_code == 1
    for verb in (
        ["create", "bob", "--team", "red", "--provider", "highway", "--model", "kling-v3"],
        ["list"], ["rotate", made["id"]], ["revoke", made["id"]],
    ):
        result = without_keys("keys", *verb, "--config", config)
        assert result.exit_code == 0, result.stderr
    refused = without_keys("keys", "create", "eve", "--team", "rad", "--config", config)
    assert (refused.exit_code, "red" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("verb", "call"),
    [
        (["create", "x"], """curl $URL/v1/keys -d '{"name": "NAME"}' -H"""),
        (["list"], "curl $URL/v1/keys -H"),
        (["rotate", "key_0"], "curl -X POST $URL/v1/keys/ID/rotate -H"),
        (["revoke", "key_0"], "curl -X DELETE $URL/v1/keys/ID -H"),
    ],
)
def test_where_the_store_cannot_be_known_the_other_way_is_told(
    config: str, verb: list[str], call: str
) -> None:
    Path(config).write_text("[store", "utf-8")
    result = reelgate("keys", *verb, "--config", config)
    assert (result.exit_code, "not TOML" in result.stderr) == (1, True)
    assert f'{call} "Authorization: Bearer $ADMIN_KEY"' in result.stderr
