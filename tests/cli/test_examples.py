"""The examples of every help text, run as they stand there: on a real store, and against a stub of a gateway.

Not held here: that there are some (`test_words`), the verbs that serve (`tests/test_app.py`, `test_demo`).
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner

from gateway.__main__ import cli
from gateway.core.keys import digest_of
from gateway.storage.rows import KeyRow
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from tests.cli.stub import say, stubbed, video
from tests.cli.test_words import EVERY

_COMMAND: Final = re.compile(r"reelgate [^&>|)]+")
# They run until they are stopped; each has a test of its own.
_SERVING: Final = ("reelgate serve", "reelgate demo", "reelgate sandbox --port", "reelgate sandbox\n")
_CONFIG: Final = """
[store]
url = "sqlite:{name}.db"
[server]
listen = "127.0.0.1:0"
[providers.highway]
adapter = "highwayapi"
api_key = {{ env = "KEY" }}
[teams.video]
max_in_flight = 5
"""
_KEY: Final = KeyRow(
    id="key_0123456789abcdef01234567", name="ci", role="operator", digest=digest_of("ci"), hint="ci",
    created_at=1_760_000_000.0,
)
_ROW: Final[dict[str, Any]] = {
    "name": "highway", "state": "healthy", "in_flight": 1, "max_in_flight": 20, "waiting": 0, "unknown": 0,
    "why": None, "held_by": None, "last_error": None, "seq": 1, "at": 1795247503, "type": "accepted",
    "actor": "olga", "action": "provider.paused", "target": "highway", "before": None, "after": None,
}
_ANSWER: Final = video("completed", group_by=["day"], has_more=False, last_id=None, **_ROW)


def examples(command: click.Command) -> Iterator[str]:
    """Each command in the examples of a help text."""
    for line in (command.help or "").splitlines():
        if line.strip().startswith(("reelgate ", "export ", "source ")):
            found = (text.split("   ")[0].strip() for text in _COMMAND.findall(line))
            yield from (text for text in found if not f"{text}\n".startswith(_SERVING))


EXAMPLES: Final = sorted({text for command in (cli, *EVERY.values()) for text in examples(command)})


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configurations, a store with a key in it, and a picture."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("reelgate", "reelgate-postgres"):
        (folder / f"{name}.toml").write_text(_CONFIG.format(name=name), "utf-8")
    (folder / "first.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    async def fill() -> None:
        database = SqliteDatabase(folder / "reelgate.db")
        await database.migrate()
        await Store(database).keys.add(_KEY)
        await database.close()

    asyncio.run(fill())
    return folder


def test_there_are_examples_of_every_verb() -> None:
    shown = " ".join(EXAMPLES)
    words = [" ".join(words) for words, verb in EVERY.items() if not isinstance(verb, click.Group)]
    assert [verb for verb in words if f"reelgate {verb}" not in shown] == ["demo", "serve"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_works(example: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    arguments = shlex.split(example.replace("/etc/", f"{folder}/"))[1:]
    if arguments[0] == "doctor" and "--offline" not in arguments:
        arguments.append("--offline")  # nobody is asked by a test who is not of it
    with stubbed() as stub:
        stub.script = [say(_ANSWER | {"data": [_ANSWER]})]
        environ = {"REELGATE_URL": stub.url, "REELGATE_KEY": "k", "KEY": "a-key-of-the-vendor"}
        result = CliRunner().invoke(cli, arguments, env=environ, input="y\n")
    may_find = arguments[0] == "doctor"  # as whom it runs, and on what disk, is not the test's to say
    assert result.exit_code in ({0, 1} if may_find else {0}), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
