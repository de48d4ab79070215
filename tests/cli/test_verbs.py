"""The verbs that call no service, what a verb costs to start, and what Ctrl-C does.

Not held here: `videos` against a service (`test_videos`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from gateway import __version__
from gateway.__main__ import cli
from tests.cli.stub import say, stubbed, video
from tests.doctor.patient import somebody_else

GOOD = """
[server]
listen = "127.0.0.1:8181"
[providers.highway]
adapter = "highwayapi"
api_key = { env = "SOME_KEY" }
"""


def reelgate(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env={"SOME_KEY": "secret-of-the-vendor"})


def without_keys(*arguments: str) -> Result:
    """As `reelgate`, from a shell that has no vendor's key."""
    return CliRunner().invoke(cli, list(arguments), env={"SOME_KEY": None})


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.toml"
    file.write_text(GOOD, "utf-8")
    return file


def test_version() -> None:
    assert reelgate("--version").stdout == f"reelgate, version {__version__}\n"


def test_a_wrong_verb_exits_with_2_and_the_nearest_right_one() -> None:
    result = reelgate("vidoes")
    assert result.exit_code == 2
    assert "'videos'" in result.stderr


VERBS = [
    "serve", "sandbox", "demo", "check", "openapi", "keys create", "keys list", "keys rotate",
    "keys revoke", "videos create", "videos watch",
    "videos resolve", "videos rerun", "providers list", "providers pause", "providers drain",
    "providers resume", "audit list",
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_first(verb: str) -> None:
    result = reelgate(*verb.split(), "--help")
    assert result.exit_code == 0
    _, _, after = result.stdout.partition("\n\n")
    assert after.split("\n\n")[1].startswith(f"  reelgate {verb}")


def test_check_says_what_is_configured_and_no_secret(good: Path) -> None:
    result = reelgate("check", str(good))
    assert result.exit_code == 0
    assert "127.0.0.1:8181" in result.stdout
    assert "kling-v3.0-std-t2v" in result.stdout
    assert "secret-of-the-vendor" not in result.output
    assert json.loads(reelgate("check", str(good), "--json").stdout)["ok"] is True


def test_check_takes_postgresql_and_keeps_its_password(tmp_path: Path) -> None:
    file = tmp_path / "postgres.toml"
    file.write_text(f'[store]\nurl = "postgresql://u:sesame@h:5433/d"\n{GOOD}', "utf-8")
    result = reelgate("check", str(file))
    assert result.exit_code == 0
    assert "h:5433/d" in result.stdout
    assert "sesame" not in result.output + reelgate("check", str(file), "--json").output


def test_check_says_everything_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(GOOD.replace("listen", "lisen").replace("highwayapi", "highwayap"), "utf-8")
    result = reelgate("check", str(file))
    assert result.exit_code == 1
    assert result.stdout == ""
    for hint in ("server.lisen", "listen", "providers.highway.adapter", "highwayapi"):
        assert hint in result.stderr
    told = json.loads(reelgate("check", str(file), "--json").stdout)
    assert told["ok"] is False
    assert {problem["path"] for problem in told["problems"]} >= {"server.lisen", "providers.highway.adapter"}


NO_TEXT = "a\udcff"  # as Python has a byte that is not UTF-8
HERE = ["--url", "http://127.0.0.1:1", "--key", "k"]


@pytest.mark.parametrize("typed", [
    ["keys", "create", NO_TEXT], ["videos", "create", NO_TEXT, *HERE], ["videos", "get", NO_TEXT, *HERE],
    ["videos", "create", "x", "--idempotency-key", NO_TEXT, *HERE],
    ["videos", "create", "x", "--idempotency-key", "\u00e9", *HERE],
    ["videos", "create", "x", "--idempotency-key", "two\nlines", *HERE],
    ["videos", "create", "x", "--idempotency-key", " x", *HERE],
    ["videos", "create", "x", "--cfg-scale", "nan", *HERE],
    ["videos", "list", "--metadata", f"{NO_TEXT}=1", *HERE],
    ["videos", "watch", "x", "--timeout", "inf", *HERE],
    ["videos", "watch", "x", "--timeout", "nan", *HERE], ["sandbox", "--render-seconds", "nan"],
], ids=repr)  # fmt: skip
def test_what_cannot_be_sent_is_a_usage_error(good: Path, typed: list[str]) -> None:
    result = reelgate(*typed, *(["--config", str(good)] if typed[0] == "keys" else []))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""


def test_a_target_that_is_no_url_is_told_plainly(good: Path) -> None:
    result = reelgate("db", "copy", "--to", "sqlite:", "--config", str(good))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize("verb", ["check", "doctor --config", "keys list --config"])
def test_a_file_that_may_not_be_read_is_as_one_that_is_not_there(
    good: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """With the same code, and as a finding; not as a wrong usage."""
    monkeypatch.setattr(os, "access", lambda *_rest, **_more: False)  # answers for the real user, root or not
    missing = reelgate(*verb.split(), str(good.with_name("none.toml")))
    with somebody_else(good.parent):
        refused = reelgate(*verb.split(), str(good))
    assert (missing.exit_code, refused.exit_code) == (1, 1)
    assert "cannot be read: Permission denied" in refused.output


@pytest.mark.parametrize("verb", [["serve"], ["keys", "create", "x"]])
def test_without_a_usable_file_the_other_verbs_exit_with_1(tmp_path: Path, verb: list[str]) -> None:
    result = reelgate(*verb, "--config", str(tmp_path / "none.toml"))
    assert result.exit_code == 1
    assert "none.toml" in result.stderr


def test_keys_create_prints_the_key_alone_on_stdout(good: Path) -> None:
    plain = reelgate("keys", "create", "alice", "--config", str(good))
    assert plain.exit_code == 0
    assert len(plain.stdout.split()) == 1
    options = ["--role", "viewer", "--config", str(good), "--json"]
    made = json.loads(reelgate("keys", "create", "bob", *options).stdout)
    assert (made["name"], made["role"]) == ("bob", "viewer")
    assert made["key"] != plain.stdout.strip()


def test_the_description_is_the_same_in_json() -> None:
    yaml_text, json_text = reelgate("openapi").stdout, reelgate("openapi", "--json").stdout
    assert json.loads(json_text) == yaml.safe_load(yaml_text)


LOADED = """
import sys
from gateway.__main__ import main
try:
    main()
except SystemExit:
    print(*{name.split(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def loaded(*arguments: str, **environ: str) -> set[str]:
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environ)
    return set(done.stderr.split())


def test_quick_verbs_load_no_more_than_they_need() -> None:
    heavy = {"litestar", "aiohttp", "granian", "av", "structlog"}
    assert not loaded("--version") & (heavy | {"httpx", "rich"})
    with stubbed() as stub:
        stub.script = [say(video())]
        modules = loaded("videos", "get", "video_1", REELGATE_URL=stub.url)
        stub.script = [say({"object": "list", "data": []})]
        modules |= loaded("providers", "list", REELGATE_URL=stub.url)
    assert "httpx" in modules
    assert not modules & heavy


def test_interrupted_exits_with_130() -> None:
    with stubbed() as stub:
        command = [sys.executable, "-m", "gateway", "videos", "watch", "video_1", "--url", stub.url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert stub.arrived.wait(20)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert told == "Interrupted.\n"


@pytest.mark.parametrize(("raised", "code", "told"), [
    (KeyboardInterrupt, 130, "Interrupted.\n"), (EOFError, 1, "Aborted!\n"),
])  # fmt: skip
def test_interrupted_at_a_question_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: type[BaseException],
    code: int, told: str,
) -> None:
    def asked(_prompt: str) -> str:
        raise raised

    monkeypatch.setattr(click.termui, "visible_prompt_func", asked)
    with pytest.raises(SystemExit) as ended:
        cli(["videos", "resolve", "video_1", "--resubmit", *HERE])
    assert ended.value.code == code
    assert capsys.readouterr().err.endswith(told)
