"""What is left out of an import: in a process of its own each time, because this one has imported all."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest

from gateway.client.imports import lightly

# With a file that is not there a verb gets as far as reading it, and has imported all that it needs.
ASKED = """
import json, sys
from gateway.__main__ import main
try:
    main()
except SystemExit:
    print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})), file=sys.stderr)
"""
IMPORTED = """
import gc, json
from gateway.client.imports import lightly
with lightly():
    import gateway.app
from rich.console import Console
print(json.dumps(gc.isenabled()))
"""


def told(script: str, *arguments: str) -> object:
    """The last line, as JSON, that `script` prints."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads((done.stdout + done.stderr).splitlines()[-1])


@pytest.mark.parametrize(
    "verb",
    ["serve --config nowhere.toml", "check nowhere.toml", "doctor --offline --config nowhere.toml",
     "db check --config nowhere.toml", "keys list --config nowhere.toml", "openapi",
     "videos get --key key_1 --url http://127.0.0.1:1 video_1"],
)
def test_no_verb_imports_a_library_for_terminals_because_another_library_would(verb: str) -> None:
    modules = told(ASKED, *verb.split())
    assert isinstance(modules, list)
    assert "httpx" in modules
    assert not {"rich", "pygments"} & set(modules)
    if verb.startswith("serve"):  # what answers callers comes when tasks are followed
        assert {"aiohttp", "structlog"} <= set(modules)
        assert not {"litestar", "granian"} & set(modules)


def test_afterwards_all_is_found() -> None:
    assert told(IMPORTED) is True


def test_an_import_that_fails_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in {"rich", "httpx"}]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError), lightly():
        import rich  # noqa: F401, PLC0415 - not found in here
    assert "rich" not in sys.modules
    assert gc.isenabled()
