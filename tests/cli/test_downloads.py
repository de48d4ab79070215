"""`reelgate videos download` against a stub on a real socket: a whole file or none, or stdout.

Not held here: the other verbs of `videos` (`test_videos`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.stub import DROP, Answer, Stub, problem, told_by


def download(stub: Stub, *arguments: str) -> Result:
    return told_by(stub, "videos", "download", "video_1", *arguments)


def download_into(stdout: int, url: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, to what it finds as its stdout."""
    command = [sys.executable, "-m", "gateway", "videos", "download", "video_1", "-o", "-", "--url", url]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_download_writes_the_whole_file(stub: Stub, tmp_path: Path) -> None:
    stub.script = [Answer(200, b"v" * 300_000, "video/mp4")]
    result = download(stub, "-o", str(tmp_path))
    assert result.exit_code == 0
    assert (tmp_path / "video_1.mp4").read_bytes() == b"v" * 300_000
    assert result.stdout.strip() == str(tmp_path / "video_1.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["video_1.mp4"]


def test_download_to_a_dash_is_the_file_on_stdout_and_nothing_else(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = bytes(range(256)) * 2_000
    stub.script = [Answer(200, content, "video/mp4")]
    result = download(stub, "-o", "-")
    assert (result.exit_code, result.stdout_bytes) == (0, content)
    assert list(tmp_path.iterdir()) == []
    assert download(stub, "-o", "./-").exit_code == 0
    assert (tmp_path / "-").read_bytes() == content, "a file of that name can be had"


@pytest.mark.parametrize("answer", [Answer(200, b"v" * 9, "video/mp4", length=20), problem(409), DROP])
def test_download_to_stdout_that_breaks_off_does_not_pass_for_whole(stub: Stub, answer: Answer) -> None:
    stub.script = [answer]
    result = download(stub, "-o", "-")
    assert (result.exit_code, set(result.stdout_bytes) <= set(b"v")) == (1, True)


def test_download_to_stdout_tells_no_facts_there(stub: Stub) -> None:
    assert (download(stub, "-o", "-", "--json").exit_code, stub.asked) == (2, [])


def test_download_spills_nothing_over_a_terminal(stub: Stub) -> None:
    stub.script = [Answer(200, b"v", "video/mp4")]
    ours, terminal = os.openpty()
    try:
        result = download_into(terminal, stub.url)
    finally:
        os.close(terminal)
        os.close(ours)
    assert (result.returncode, stub.asked) == (2, [])
    assert "terminal" in result.stderr


def test_download_whose_reader_has_seen_enough_ends_quietly(stub: Stub) -> None:
    stub.script = [Answer(200, b"v" * 3_000_000, "video/mp4")]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = download_into(writing, stub.url)
    finally:
        os.close(writing)
    assert (result.returncode, "Error" in result.stderr) == (1, False), result.stderr


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"v" * 1000, "video/mp4", length=2000),
        problem(409, detail="not yet"),
        problem(410, detail="gone"),
        DROP,
    ],
)
def test_download_that_fails_leaves_everything_as_it_was(stub: Stub, tmp_path: Path, answer: Answer) -> None:
    target = tmp_path / "fox.mp4"
    target.write_bytes(b"the old one")
    stub.script = [answer]
    assert download(stub, "-o", str(target)).exit_code == 1
    assert target.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [target]


def test_download_into_nowhere_is_told(stub: Stub, tmp_path: Path) -> None:
    stub.script = [Answer(200, b"v", "video/mp4")]
    result = download(stub, "-o", str(tmp_path / "no" / "fox.mp4"))
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr


def test_download_beside_a_file_is_told(stub: Stub, tmp_path: Path) -> None:
    """What could not be made cannot be removed either, and that is no news."""
    (tmp_path / "fox").write_bytes(b"")
    stub.script = [Answer(200, b"v", "video/mp4")]
    result = download(stub, "-o", str(tmp_path / "fox" / "fox.mp4"))
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr


def test_download_takes_no_place_of_what_is_no_file(stub: Stub, tmp_path: Path) -> None:
    """Run by root, `-o /dev/null` would else leave every program of the machine with a file there."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    stub.script = [Answer(200, b"v", "video/mp4")]
    result = download(stub, "-o", str(pipe))
    assert (result.exit_code, stub.asked) == (1, [])
    assert "is no file" in result.stderr
    assert pipe.is_fifo()
