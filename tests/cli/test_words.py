"""Words: what is said of misspelt ones, help at every level, completion in real shells, what help costs.

Not held here: what a verb does.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from click.testing import CliRunner, Result

from gateway.__main__ import LATER, cli
from gateway.client.completion import SHELLS, VARIABLE
from tests.cli.test_verbs import loaded

COMMAND: Final = Path(sys.executable).parent / "reelgate"
# What is typed, and what is proposed for it.
MISSPELT: Final = [
    ("vidoes", "'videos'"), ("vidoes lst", "'videos list'"), ("videos lst", "'list'"),
    ("videos crate", "'create'"), ("kyes create", "'keys create'"), ("provider list", "'providers list'"),
    ("providers rseume highway", "'resume'"), ("keys delete", "'revoke'"), ("videos ls", "'list'"),
    ("start", "'serve'"), ("validate", "'check'"), ("docter", "'doctor'"), ("db bakcup", "'backup'"),
    ("videos list --limt 3", "'--limit'"), ("keys create x --rol admin", "'--role'"),
    ("serve --confg x", "'--config'"), ("keys create x --role opertor", "'operator'"),
    ("videos list --status compleeted", "'completed'"), ("videos create x --resolution 720", "'720p'"),
    ("completion bsh", "'bash'"), ("serve --role engin", "'engine'"),
]  # fmt: skip


def reelgate(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env=environ)


@pytest.mark.parametrize(("typed", "proposed"), MISSPELT, ids=[typed for typed, _ in MISSPELT])
def test_of_a_misspelt_word_the_right_one_is_told(typed: str, proposed: str) -> None:
    result = reelgate(*typed.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Did you mean {proposed}" in result.stderr or f"{proposed}?" in result.stderr, result.stderr


def test_of_a_word_that_is_like_none_nothing_is_proposed() -> None:
    result = reelgate("xyzzy")
    assert result.exit_code == 2
    assert "Did you mean" not in result.stderr


@pytest.mark.parametrize("given", [["create"], ["create", "--model", "kling-v3"]])
def test_a_video_of_nothing_is_a_usage_error(given: list[str]) -> None:
    result = reelgate("videos", *given)
    assert result.exit_code == 2
    assert "--shot" in result.stderr


def every(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All verbs and groups, by the words that lead to them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from every(found, (*path, name))


EVERY: Final = dict(every(cli))


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_begins_with_examples(words: tuple[str, ...]) -> None:
    result = reelgate(*words, "--help")
    assert result.exit_code == 0
    paragraphs = result.stdout.partition("\n\n")[2].split("\n\n")
    shown = [line.strip() for line in paragraphs[1].splitlines()]
    assert any(f"reelgate {' '.join(words)}" in line for line in shown), result.stdout
    assert all(line.split()[0] in {"reelgate", "export", "source", "curl"} for line in shown), result.stdout


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_option_says_what_it_is(words: tuple[str, ...]) -> None:
    for parameter in EVERY[words].params:
        if isinstance(parameter, click.Option) and isinstance(parameter.type, click.types.StringParamType):
            told = parameter.help or parameter.metavar
            assert told or parameter.name in {"model", "provider", "stage", "negative_prompt", "currency",
                                              "host"}, (words, parameter.name)  # fmt: skip


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_what_tells_something_tells_it_to_programs_as_well(words: tuple[str, ...]) -> None:
    verb = EVERY[words]
    has_json = any("--json" in parameter.opts for parameter in verb.params)
    assert has_json or isinstance(verb, click.Group) or words in {("serve",), ("demo",), ("completion",)}


@pytest.mark.parametrize("name", LATER)
def test_what_is_imported_later_is_described_as_it_describes_itself(name: str) -> None:
    module, text = LATER[name]
    verb = getattr(importlib.import_module(module), name)
    assert verb.get_short_help_str(200) == text


def test_help_imports_no_verb_that_it_only_lists() -> None:
    heavy = {"httpx", "asyncio", "msgspec", "rich", "litestar", "aiohttp", "granian", "av"}
    assert not loaded("--help") & heavy
    assert not loaded("--version") & heavy
    assert not loaded("completion", "bash") & heavy


# --- completion ---------------------------------------------------------------------------------------------

TYPED: Final = [
    ("vid", {"videos"}), ("videos cr", {"create"}), ("keys create x --role op", {"operator"}),
    ("serve --con", {"--config"}), ("doctor --off", {"--offline"}), ("openapi --js", {"--json"}),
    ("completion z", {"zsh"}), ("videos list --status comp", {"completed"}),
]  # fmt: skip
_BASH: Final = """
source <(reelgate completion bash)
COMP_WORDS=(reelgate {words}); COMP_CWORD={last}
_reelgate_completion reelgate; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# zsh's own completion needs a terminal; `compadd` and `_describe` stand in for what would show it.
_ZSH: Final = """
compdef() {{ : }}
_describe() {{ local name=$3; print -rl -- "${{(@)${{(@P)name}}%%:*}}" }}
compadd() {{ local name=$5; print -rl -- "${{(@P)name}}" }}
source <(reelgate completion zsh)
words=(reelgate {words}); CURRENT={place}; commands[reelgate]=1
_reelgate_completion
"""
_FISH: Final = "reelgate completion fish | source; complete --do-complete 'reelgate {words}'"
_SCRIPTS: Final = {
    "bash": (["bash", "--norc", "-c"], _BASH), "zsh": (["zsh", "-f", "-c"], _ZSH),
    "fish": (["fish", "--no-config", "-c"], _FISH),
}  # fmt: skip


def completed(shell: str, words: str) -> set[str]:
    """What a real shell proposes for what is typed."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here: apt-get install {shell}")
    command, script = _SCRIPTS[shell]
    count = len(words.split())
    script = script.format(words=words, last=count, place=count + 1)
    environ = os.environ | {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    done = subprocess.run([*command, script], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    return {line.split("\t")[0] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(shell: str) -> None:
    assert completed(shell, "spending st") == {"start", "status", "stop"}


@pytest.mark.parametrize(("words", "proposed"), TYPED, ids=[words for words, _ in TYPED])
def test_what_is_proposed(words: str, proposed: set[str]) -> None:
    environ = {"COMP_WORDS": f"reelgate {words}", "COMP_CWORD": str(len(words.split()))}
    result = CliRunner().invoke(cli, prog_name="reelgate", env={VARIABLE: "bash_complete", **environ})
    found = {line.partition(",")[2] for line in result.stdout.splitlines()}
    assert found == proposed
