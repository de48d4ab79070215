"""The demo's own parts: its frame, its checks, and that it leaves nothing running.

Not held here: the whole run, which `make demo` is.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.sandbox import demo


def test_the_frame_is_a_png_that_a_vendor_takes() -> None:
    kind, _, encoded = demo.frame(640, 360).partition(",")
    assert kind == "data:image/png;base64"
    png = base64.b64decode(encoded)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack_from(">II", png, 16) == (640, 360)


def test_the_jobs_are_the_five_endpoints_of_the_pages() -> None:
    assert sorted((job.provider, job.slug) for job in demo.jobs()) == [
        ("highway", "kling-v3.0-4k-t2v"),
        ("highway", "kling-v3.0-std-i2v"),
        ("highway", "kling-v3.0-std-t2v"),
        ("myrouter", "kling-v3.0-pro-t2v"),
        ("unified", "kling-v3-text-to-video"),
    ]


BOUGHT = [{"cost": {"amount": "0.42", "currency": "USD"}}, {"cost": {"amount": "1.26", "currency": "USD"}}]


@pytest.mark.parametrize("ledger", [{"count": 3, "total": "1.68"}, {"count": 2, "total": "1.6800001"}])
def test_a_ledger_with_anything_else_fails_the_demo(ledger: dict[str, object]) -> None:
    demo._check_ledger({"count": 2, "total": "1.680"}, BOUGHT)  # noqa: SLF001 - the seam is a whole run
    with pytest.raises(demo.DemoError, match="ledger"):
        demo._check_ledger(ledger, BOUGHT)  # noqa: SLF001


@pytest.mark.long
def test_terminated_it_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway", "demo", "--out", str(tmp_path / "out")]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environ,
    ) as process:
        assert process.stderr is not None
        ready = filter(None, (re.match(r"Ready: http://127\.0\.0\.1:(\d+)", line) for line in process.stderr))
        port = int(next(ready)[1])
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0
    assert not list(tmp_path.glob("reelgate-demo-*"))
