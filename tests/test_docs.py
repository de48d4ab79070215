"""The documents are run: the README's first request as it stands there, its configuration, its links.

Held here: what is true of documents. Not held here: the demo (CI runs `make demo` itself), the Makefile.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from gateway.core.tasks import EDGES
from gateway.errors import CODES, TASK_ERRORS
from gateway.settings import parse
from providers import adapters

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in ROOT.rglob("*.md") if ".venv" not in path.parts)


def block(document: Path, heading: str, language: str) -> str:
    """The first code block of a language under a heading."""
    text = document.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"{document.name} has no {language} block under {heading!r}"
    return found.group(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
def test_the_first_request_of_the_readme_makes_a_video(tmp_path: Path) -> None:
    script = block(ROOT / "README.md", "A first request", "sh")
    script = script.replace("make setup ", "test -x .venv/bin/reelgate ")
    script = script.replace(".venv/bin/", f"{ROOT}/.venv/bin/")
    vendors, gateway = free_port(), free_port()
    script = script.replace("8090", str(vendors)).replace("127.0.0.1:8080", f"127.0.0.1:{gateway}")
    listen = f'[server]\nlisten = "127.0.0.1:{gateway}"\n\n[providers.highway]'
    script = script.replace("[providers.highway]", listen)
    shell = subprocess.Popen(
        ["sh", "-euc", f"{script}\necho"],  # curl ends no line
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    try:
        assert shell.stdout is not None
        lines = []
        for line in shell.stdout:
            lines.append(line)
            if line.startswith('{"id":"video_'):
                break
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait()
        assert shell.stdout is not None
        shell.stdout.close()
    video, _ = json.JSONDecoder().raw_decode(lines[-1])
    assert (video["status"], video["provider"], video["charged"]) == ("completed", "highway", "yes"), lines


def test_the_readmes_configuration_is_fine(tmp_path: Path) -> None:
    text = block(ROOT / "README.md", "A real vendor", "toml")
    settings = parse(text, tmp_path, adapters(), {"HIGHWAYAPI_KEY": "a", "UNIFIED_KEY": "b"})
    assert list(settings.providers) == ["highway", "unified"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


def test_the_diagram_of_states_has_every_state() -> None:
    text = (ROOT / "gateway" / "README.md").read_text(encoding="utf-8")
    states = {state for state, _ in EDGES} | {after for edges in EDGES.values() for after in edges}
    assert [state for state in sorted(states) if state not in text] == []


def test_every_public_error_code_is_explained() -> None:
    assert [code for code, info in CODES.items() if not info.title] == []
    assert [code for code, text in TASK_ERRORS.items() if not text.endswith(".")] == []
