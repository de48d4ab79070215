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
NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
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


def run(script: str, folder: Path, end: str) -> list[str]:
    """What commands of the README say, on ports of their own, up to the first line that begins with `end`."""
    script = script.replace("make setup ", "test -x .venv/bin/reelgate ")
    script = script.replace(".venv/bin/", f"{ROOT}/.venv/bin/")
    vendors, gateway = free_port(), free_port()
    script = script.replace("8090", str(vendors)).replace("127.0.0.1:8080", f"127.0.0.1:{gateway}")
    listen = f'[server]\nlisten = "127.0.0.1:{gateway}"\n\n[providers.highway]'
    script = script.replace("[providers.highway]", listen)
    shell = subprocess.Popen(
        ["sh", "-euc", f"{script}\necho"],  # curl ends no line
        cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    lines = []
    try:
        assert shell.stdout is not None
        for line in shell.stdout:
            lines.append(line)
            if line.startswith(end):
                break
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait()
        assert shell.stdout is not None
        shell.stdout.close()
    return lines


@NEEDS_CURL
def test_the_first_request_of_the_readme_makes_a_video(tmp_path: Path) -> None:
    lines = run(block(ROOT / "README.md", "A first request", "sh"), tmp_path, '{"id":"video_')
    video, _ = json.JSONDecoder().raw_decode(lines[-1])
    assert (video["status"], video["provider"], video["charged"]) == ("completed", "highway", "yes"), lines


@NEEDS_CURL
def test_a_team_of_the_readme_has_a_budget(tmp_path: Path) -> None:
    first = block(ROOT / "README.md", "A first request", "sh")
    team = block(ROOT / "README.md", "A key for a team, with a budget", "sh")
    assert len(re.findall(r"(?m)^(?:cat|kill|export) ", team)) == 3
    again = first[first.index("curl ") :].replace("fox-1", "fox-2").replace('"duration": 5', '"duration": 10')
    again = again.replace("--retry 5 --retry-connrefused ", "")  # a 429 would be tried again tomorrow
    usage = ".venv/bin/reelgate usage --url http://127.0.0.1:8080 --by owner,key --json"
    script = "\n".join([first, "echo", team, again, "echo", again.replace("fox-2", "fox-3"), "echo",
                        f"echo \"usage $({usage} | tr -d '\\n')\""])
    lines = run(script.replace('money_per_day = "20"', 'money_per_day = "1"'), tmp_path, "usage ")
    told = [line for line in lines if line.startswith(('{"id":"video_', '{"type":'))]  # the rest is the log
    shown = [json.JSONDecoder().raw_decode(line)[0] for line in told]
    assert [answer.get("status") for answer in shown] == ["completed", "completed", 429], lines
    assert (shown[1]["cost"]["amount"], shown[2]["code"]) == ("0.84", "quota_exceeded")
    (spent,) = json.loads(lines[-1].removeprefix("usage "))["data"]
    assert (spent["owner"], spent["settled"]) == ("team:video", "0.84"), lines


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
