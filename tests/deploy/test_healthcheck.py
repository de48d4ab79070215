"""`python -m gateway.healthcheck` as containers and units call it: what it asks, where, how it ends.

Not held here: that the image and the unit name it (`test_image`, `test_systemd`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.healthcheck import health_url
from tests.serving import Served, free_port, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as one:
        yield one


def asked(*words: object) -> tuple[int, str]:
    """The exit code and what it said. A proxy of the environment is not there to answer."""
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), f"http://127.0.0.1:{free_port()}")
    done = subprocess.run(
        [sys.executable, "-m", "gateway.healthcheck", *map(str, words)],
        capture_output=True, text=True, check=False, env=os.environ | proxies,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def written(folder: Path, text: str) -> Path:
    file = folder / "reelgate.toml"
    file.write_text(text, "utf-8")
    return file


@pytest.mark.parametrize(("text", "url"), [
    ("", "http://127.0.0.1:8080/livez"),
    ('[server]\nlisten = "0.0.0.0:81"', "http://127.0.0.1:81/livez"),
    ('[server]\nlisten = "[::]:81"', "http://[::1]:81/livez"),
    ('[server]\nlisten = "0.0.0.0:81"\nmanagement = "10.0.0.1:82"', "http://10.0.0.1:82/livez"),
    ('[server]\nlisten = "video.internal:81"\nbase_path = "/x"', "http://video.internal:81/livez"),
])  # fmt: skip
def test_it_asks_where_the_configuration_says(tmp_path: Path, text: str, url: str) -> None:
    assert health_url(written(tmp_path, text), "/livez") == url


def test_alive_and_ready_are_two_questions(served: Served, tmp_path: Path) -> None:
    file = written(tmp_path, f'[server]\nlisten = "{served.settings.server.listen}"')
    assert asked("--config", file) == (0, "")
    assert asked("--config", file, "--ready") == (0, "")
    served.gateway.is_ready = False
    try:
        assert asked("--config", file) == (0, "")
        assert asked("--config", file, "--ready") == (1, f"{served.url}/readyz answers 503\n")
    finally:
        served.gateway.is_ready = True


def test_nobody_there_is_not_well() -> None:
    url = f"http://127.0.0.1:{free_port()}/livez"
    code, said = asked("--url", url)
    assert (code, said.startswith(f"{url}: ")) == (1, True), said


def test_it_waits_no_longer_than_the_process_that_it_waits_for() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    url = f"http://127.0.0.1:{free_port()}/readyz"
    pid = process.pid
    assert asked("--url", url, "--wait", 1_000, "--pid", pid) == (1, f"process {pid} has ended\n")


@pytest.mark.parametrize("text", [
    "server = 3", "[server", "[server]\nlisten = 80", '[server]\nlisten = "localhost"',
    '[server]\nlisten = "127.0.0.1:http"',
])
def test_a_file_that_does_not_say_is_named(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)
    code, said = asked("--config", file)
    assert (code, said.startswith(f"{file}: ")) == (1, True), said
    assert "Traceback" not in said


def test_it_imports_next_to_nothing() -> None:
    """It runs every few seconds, in every container."""
    script = "import sys, gateway.healthcheck; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"msgspec", "litestar", "asyncio", "httpx", "aiohttp"} & set(done.stdout.split())
