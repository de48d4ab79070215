"""The newest OpenAI JavaScript client, unchanged but for base URL and key; `js/life.mjs` is a video's life.

It is installed from the committed lock into `.venv`, once. Not held here: what the script does.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.bodies import png
from tests.clients.conftest import Place
from tests.serving import PATIENCE_SECONDS

HERE = Path(__file__).parent / "js"
HOME = Path(__file__).parents[2] / ".venv/clients-js"
FILES = ("package.json", "package-lock.json", ".npmrc", "life.mjs")
INSTALL_SECONDS = 120.0
PICTURE = png(640, 480)
COMMAND = "apt-get install --no-install-recommends nodejs npm"


@pytest.fixture(scope="module")
def script() -> Path:
    """The script beside what it imports."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"the JavaScript client needs {' and '.join(missing)}: {COMMAND}")
    lock = (HERE / "package-lock.json").read_bytes()
    installed = HOME / "installed.json"
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # two workers may come here at once
        for name in FILES:
            shutil.copy(HERE / name, HOME / name)
        if not installed.exists() or installed.read_bytes() != lock:
            done = subprocess.run(
                ["npm", "ci", "--no-progress"], cwd=HOME, timeout=INSTALL_SECONDS, check=False, text=True,
                capture_output=True,
            )
            assert done.returncode == 0, done.stderr
            installed.write_bytes(lock)
    return HOME / "life.mjs"


@pytest.fixture(scope="module")
def told(place: Place, script: Path) -> dict[str, Any]:
    """What the script says of the life that it saw; the render ends when the video has been created."""
    environ = {
        "PATH": os.environ["PATH"], "OPENAI_BASE_URL": place.base_url, "OPENAI_API_KEY": place.key,
        "PICTURE": base64.b64encode(PICTURE).decode(),
    }
    found: dict[str, Any] = {}
    with subprocess.Popen(
        ["node", str(script)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            found |= json.loads(line)
            if list(found) == ["created"]:
                place.served.finish(found["created"]["id"], place.client)
        complaint = process.stderr.read()
        assert process.wait(PATIENCE_SECONDS) == 0, complaint
    return found


def test_create_with_text_and_with_a_file(told: dict[str, Any]) -> None:
    created = told["created"]
    assert created["plain"] == "1280x720"
    assert created["image"]["bytes"] == len(PICTURE)
    assert created["again"] == created["id"], "the same file by the same key is the same request"


def test_lists_and_objects_arrive_whole(told: dict[str, Any]) -> None:
    rich = told["created"]["rich"]
    assert rich["shots"] == [{"prompt": "a fox", "duration": 2}, {"prompt": "a hen", "duration": 3}]
    assert (rich["resolution"], rich["audio"], rich["duration"]) == ("1080p", True, 5)
    assert told["metadata"] == {"team": "x", "a[b]": "c"}


def test_it_polls_lists_downloads_and_deletes(told: dict[str, Any]) -> None:
    video_id = told["created"]["id"]
    assert told["ended"]["status"] == "completed"
    assert video_id in told["listed"]
    assert len(told["listed"]) == len(set(told["listed"])) >= 3
    assert told["content"]["is_mp4"]
    assert told["deleted"] == {"id": video_id, "object": "video.deleted", "deleted": True}


@pytest.mark.parametrize(
    ("name", "status", "code", "param"),
    [
        ("no_thumbnail", 404, "not_found", None), ("gone", 404, "not_found", None),
        ("wrong", 400, "invalid_request", "seconds"),
    ],
)
def test_errors_are_its_own_with_our_code_and_sentence(
    told: dict[str, Any], name: str, status: int, code: str, param: str | None
) -> None:
    error = told[name]
    assert (error["status"], error["code"], error["param"], error["is_known"]) == (status, code, param, True)
    assert len(error["message"]) > 20


def test_uploads_and_models(told: dict[str, Any]) -> None:
    uploaded = told["uploaded"]
    assert (uploaded["bytes"], uploaded["image"]["bytes"]) == (len(PICTURE), len(PICTURE))
    assert uploaded["deleted"]["deleted"]
    assert told["models"] == ["kling-v3"]
