"""`reelgate check --show`: every value in force, where it comes from, and no secret.

Not held here: whether finished videos could be stored (`test_check_files`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.__main__ import cli
from gateway.effective import effective
from gateway.settings import parse
from providers import adapters

EXAMPLE = Path(__file__).parents[2] / "deploy/config.example.toml"
SECRETS = {
    "DB": "postgresql://canary-user:canary-db@db.internal/reelgate", "PROXY": "http://canary:proxy@h:3128",
    "KEY": "canary-key", "HOOK": "whsec_Y2FuYXJ5LWhvb2s=", "ID": "canary-id", "S3": "canary-s3",
}
WHOLE = """\
default_model = "kling-v3" # a comment
[store]
url = { env = "DB" }
[files]
url = "s3://videos/some"
access_key_id = { env = "ID" }
secret_access_key = { env = "S3" }
retention = "36h"
[webhooks]
secrets = [{ env = "HOOK" }]
[egress]
allow = ["10.0.0.0/8", "sandbox.internal"]
proxy = { env = "PROXY" }

  [ providers . one ]
adapter = "highwayapi"
api_key = { file = "one.key" }
poll_min = "500ms"
retire_offerings_on = { "kling-v3.0-std-t2v" = 2027-01-31 }
[providers.one.prices]
"kling-v3.0-std-t2v" = [{ audio = true, per_second = "0.1" }, { per_second = "0.08" }]
[providers]
two = { adapter = "myrouter", api_key = { env = "KEY" }, base_url = "https://two.internal", canary = 0.05 }
"""
SHOWN = {  # value, origin, line
    "default_model": ('"kling-v3"', "file", 1),
    "server.listen": ('"127.0.0.1:8080"', "default", None),
    "server.public_url": ("none", "default", None),
    "store.url": ('"postgresql://db.internal/reelgate"', "environment variable DB", 3),
    "files.url": ('"s3://videos/some"', "file", 5),
    "files.retention": ('"36h"', "file", 8),
    "files.records_retention": ('"90d"', "default", None),
    "files.redirect": ("false", "default", None),
    "files.region": ("none", "environment variable AWS_REGION, if set", None),
    "files.secret_access_key": ("***", "environment variable S3", 7),
    "webhooks.secrets": ("[***]", "environment variable HOOK", 10),
    "egress.allow": ('["10.0.0.0/8", "sandbox.internal"]', "file", 12),
    "egress.proxy": ("***", "environment variable PROXY", 13),
    "providers.one.adapter": ('"highwayapi"', "file", 16),
    "providers.one.api_key": ("***", "secret file one.key", 17),
    "providers.one.base_url": ('"https://api.highwayapi.ai"', "adapter highwayapi", None),
    "providers.one.offerings": (
        '["kling-v3.0-std-t2v", "kling-v3.0-4k-t2v", "kling-v3.0-std-i2v"]', "adapter highwayapi", None,
    ),
    "providers.one.poll_min": ('"500ms"', "file", 18),
    "providers.one.poll_max": ('"30s"', "default", None),
    'providers.one.retire_offerings_on."kling-v3.0-std-t2v"': ("2027-01-31", "file", 19),
    'providers.one.prices."kling-v3.0-std-t2v"': (
        '[{ audio = true, per_second = "0.1", currency = "USD" }, { per_second = "0.08", currency = "USD" }]',
        "file", 21,
    ),
    "providers.two.api_key": ("***", "environment variable KEY", 23),
    "providers.two.base_url": ('"https://two.internal"', "file", 23),
    "providers.two.canary": ("0.05", "file", 23),
    "providers.two.weight": ("1", "default", None),
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "one.key").write_text("canary-one\n", "utf-8")
    file = tmp_path / "reelgate.toml"
    # Whether videos can be stored is tried; the file's own address shall not be asked for in a test.
    file.write_text(WHOLE.replace('"s3://videos/some"', '"file:videos"').replace("proxy = {", "# ="), "utf-8")
    return file


def show(config: Path, *more: str) -> Result:
    return CliRunner().invoke(cli, ["check", str(config), "--show", *more])


def shown(text: str, folder: Path) -> dict[str, tuple[str, str, int | None]]:
    settings = parse(text, folder, adapters(), SECRETS)
    return {one.path: (one.value, one.origin, one.line) for one in effective(settings, text)}


def test_every_value_has_its_origin(tmp_path: Path) -> None:
    (tmp_path / "one.key").write_text("canary-one\n", "utf-8")
    found = shown(WHOLE, tmp_path)
    assert {path: found[path] for path in SHOWN} == SHOWN
    assert "canary-" not in repr(found)
    assert not any(secret in repr(found) for secret in SECRETS.values())


def test_no_value_is_rounded_and_each_is_one_that_a_file_may_have() -> None:
    text = """\
[server]
[store]
url = 'sqlite:a "b"\\c.db'
# a comment may have a \u2028 in it
[[providers.one.prices."kling-v3.0-std-t2v"]]
per_request = "0.1"
[providers.one]
adapter = "highwayapi"
api_key = { env = "KEY" }
weight = 123456.75
canary = 0.123456789
max_queue_age = "1234567s"
poll_max = "1000.5s"
unknown_timeout = "12345.678s"
"""
    found = shown(text, Path("/folder"))
    assert {key: found[f"providers.one.{key}"] for key in (
        "weight", "canary", "max_queue_age", "poll_max", "unknown_timeout",
    )} == {
        "weight": ("123456.75", "file", 10), "canary": ("0.123456789", "file", 11),
        "max_queue_age": ('"1234567s"', "file", 12), "poll_max": ('"1000500ms"', "file", 13),
        "unknown_timeout": ('"12345678ms"', "file", 14),
    }  # fmt: skip
    assert found["store.url"][0] == r'"sqlite:/folder/a \"b\"\\c.db"'
    assert found['providers.one.prices."kling-v3.0-std-t2v"'][2] == 5


def test_what_only_looks_like_a_key_within_a_long_text_is_none(tmp_path: Path) -> None:
    text = '''\
[store]
url = """sqlite:a.db
[providers.one]
weight = 2.0
"""
statement_cache_size = 100
[server]
public_url = """https://video.internal""" # of one line
[providers.one]
adapter = "highwayapi"
api_key = { env = "KEY" }
weight = 3.0
'''
    found = shown(text, tmp_path)
    assert found["providers.one.weight"] == ("3", "file", 12)
    places = "store.url", "store.statement_cache_size", "server.public_url"
    assert [found[path][2] for path in places] == [2, 6, 8]


@pytest.mark.parametrize(
    "before",
    [
        '[log] # it\'s as in """',
        '[log]\nlevel = "info" # no """ here',
        r'''[store]
url = 'sqlite:"""' ''',
        r'''[store]
url = "sqlite:a\"b\\" # """''',
        r'''[store]
url = """sqlite:\
  a\"""" # """''',
        r'''[store]
url = """sqlite:
"a""""" # it ends with two of them''',
        r"""[store]
url = '''sqlite:
'a'''''
""",
        r"""[store]
url = '''sqlite:\'''
""",
        r"""[store]
url = "sqlite:'''#\\"
""",
        """[store]\r\nurl = '''sqlite:\r\n[server]\r\n\"\"\"\r\n'''\r\n""",
        r'''[egress]
allow = ["""10.0.0.0/8""", """\
10.1.0.0/16""", """\
10.2.0.0/16"""]''',
    ],
)
def test_lines_are_right_after_any_text(tmp_path: Path, before: str) -> None:
    text = f'{before}\n[providers.one]\nadapter = "highwayapi"\napi_key = {{ env = "KEY" }}\nweight = 3.0\n'
    found = shown(text, tmp_path)
    table = 2 + before.count("\n")
    places = "providers.one.adapter", "providers.one.weight", "server.listen"
    assert [found[path][2] for path in places] == [table + 1, table + 3, None]


def test_what_is_shown_makes_the_same_configuration() -> None:
    """Each value is as a file spells it: all of them, put into a file, are the same settings."""
    environ = {"HIGHWAYAPI_KEY": "a", "MYROUTER_KEY": "b", "UNIFIED_KEY": "c"}
    text = EXAMPLE.read_text("utf-8")
    before = parse(text, Path("/folder"), adapters(), environ)
    tables: dict[str, list[str]] = {}
    for one in effective(before, text):
        table, _, key = one.path.rpartition(".")
        value = f'{{ env = "{one.origin.rpartition(" ")[2]}" }}' if one.value == "***" else one.value
        if value != "none":
            tables.setdefault(table, []).append(f"{key} = {value}")
    again = "\n".join(
        "\n".join([f"[{table}]" if table else "", *lines]) for table, lines in tables.items()
    )
    assert parse(again, Path("/elsewhere"), adapters(), environ) == before


def test_the_verb_prints_it_for_people_and_for_programs(config: Path) -> None:
    told = show(config)
    assert told.exit_code == 0, told.output
    lines = [line.split("  ") for line in told.stdout.splitlines()]
    found = {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}
    assert found["providers.one.api_key"] == ["***", "secret file one.key, reelgate.toml:17"]
    assert found["files.retention"] == ['"36h"', "reelgate.toml:8"]
    assert found["server.listen"] == ['"127.0.0.1:8080"', "default"]
    assert "canary-" not in told.output
    facts: dict[str, Any] = json.loads(show(config, "--json").stdout)
    values = {one["path"]: one for one in facts["values"]}
    assert values.keys() == found.keys()
    assert values["files.retention"] == {
        "path": "files.retention", "value": '"36h"', "origin": "file", "line": 8,
    }


def test_last_days_are_warned_of(config: Path) -> None:
    told = show(config)
    offering = "kling-v3.0-std-t2v of providers.one"
    assert f"Warning: {offering} takes nothing new from 2027-01-31 on." in told.stderr
    assert json.loads(show(config, "--json").stdout)["retiring"] == [{"path": offering, "on": "2027-01-31"}]


@pytest.mark.parametrize("verb", [["check", "--show"], ["doctor", "--offline", "--config"]])
def test_what_can_be_read_only_once_is_not_taken_for_an_empty_file(verb: list[str]) -> None:
    """As `/dev/stdin` behind `envsubst`: all that it says would be shown as a default."""
    reading, writing = os.pipe()
    os.write(writing, b'[providers.one]\nadapter = "highwayapi"\napi_key = { env = "KEY" }\n')
    os.close(writing)
    try:
        result = CliRunner().invoke(cli, [*verb, f"/dev/fd/{reading}"], env=SECRETS)
    finally:
        os.close(reading)
    assert result.exit_code == 1
    assert "is no regular file" in result.output
