"""The unit: what systemd's own tools say of it, its times, its credentials, its configuration.

Not held here: that it lives (`test_image`). Not run anywhere here: systemd itself.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.app import DRAIN_SECONDS
from gateway.settings import load
from providers import adapters
from tests.deploy.manifests import DEPLOY, MEMORY_BYTES, UNIT, seconds, size, unit

EXPOSED_AT_MOST = 13  # tenths, of `systemd-analyze security`; a unit that says nothing has 96
CONFIGURATION = DEPLOY / "systemd/reelgate.toml"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd"
)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The unit with programs that exist on this machine."""
    file = tmp_path / UNIT.name
    programs = str(Path(sys.executable).parent)
    file.write_text(UNIT.read_text("utf-8").replace("/opt/reelgate/bin", programs), "utf-8")
    return file


@needs_systemd
def test_systemd_takes_the_unit(here: Path) -> None:
    words = ["systemd-analyze", "verify", "--man=no", str(here)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_a_mistake_is_found(here: Path) -> None:
    here.write_text(here.read_text("utf-8").replace("ProtectSystem=", "ProtectSysten="), "utf-8")
    words = ["systemd-analyze", "verify", "--man=no", str(here)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "ProtectSysten" in done.stderr


@needs_systemd
def test_little_is_exposed(here: Path) -> None:
    words = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSED_AT_MOST}"]
    done = subprocess.run([*words, str(here)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_drains_and_reloads() -> None:
    told = unit()
    assert seconds(told["TimeoutStopSec"][0]) >= DRAIN_SECONDS + 5
    assert told["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert told["Type"] == ["exec"]  # the program does not notify: ExecStartPost says when it is ready
    (wait,) = told["ExecStartPost"]
    words = shlex.split(wait)
    assert words[1:3] == ["-m", "gateway.healthcheck"]
    assert float(words[words.index("--wait") + 1]) < seconds(told["TimeoutStartSec"][0])
    assert "$MAINPID" in words


def test_it_may_use_the_memory_that_it_lets_itself_use() -> None:
    """Killed for it, it would leave what it was sending as unknown."""
    (most,) = unit()["MemoryMax"]
    assert size(most) > MEMORY_BYTES


def test_its_files_are_where_it_may_write() -> None:
    told = unit()
    assert told["StateDirectory"] == ["reelgate"]
    assert told["ProtectSystem"] == ["strict"]
    text = CONFIGURATION.read_text("utf-8")
    for place in re.findall(r'url = "\w+:(/[^"]+)"', text):
        assert place.startswith("/var/lib/reelgate/")
    user = (DEPLOY / "systemd/reelgate.sysusers.conf").read_text("utf-8")
    assert re.search(rf"^u {told['User'][0]} ", user, re.MULTILINE)


def test_the_configuration_takes_the_credentials(tmp_path: Path) -> None:
    names = {one.partition(":")[0] for one in unit()["LoadCredential"]}
    text = CONFIGURATION.read_text("utf-8")
    place = f"/run/credentials/{UNIT.name}"
    assert set(re.findall(rf'file = "{place}/(\w+)"', text)) == names
    for name in names:
        (tmp_path / name).write_text("a-key", "utf-8")
    file = tmp_path / "reelgate.toml"
    file.write_text(text.replace(place, str(tmp_path)), "utf-8")
    settings = load(file, adapters(), {})
    assert settings.server.listen.is_loopback
    assert settings.server.management is not None
