"""The scripts of documents themselves: a command that fails fails the test, and so does another answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import shown
from tests.docs.blocks import Block
from tests.docs.places import needs
from tests.docs.scenes import scene
from tests.docs.shell import Ran, elsewhere, run

ANSWER = "HTTP/1.1 202 Accepted\r\nretry-after: 1\r\n\r\n"
BODY = '{"id": "video_1", "status": "queued", "at": 1795307208.2, "bytes": 7, "items": [1, 2]}'


@needs("bash")
@pytest.mark.parametrize("text", ["false", "true | false | true", "X=$(false)", "echo $UNSET", "exit 3"])
def test_a_command_that_fails_fails_the_test(text: str, tmp_path: Path) -> None:
    wanted = [scene("fine", "true\n"), scene("fails", f"{text}\n"), scene("never", "touch never\n")]
    with pytest.raises(AssertionError, match="ended with"):
        run(wanted, tmp_path, elsewhere())
    assert not (tmp_path / "place/never").exists()


@needs("bash")
def test_what_a_block_leaves_behind_is_there_for_the_next_and_ends_with_the_last(tmp_path: Path) -> None:
    first = scene("first", "LEFT=behind\nsleep 600 &\necho $! > pid\n")
    ran = run([first, scene("second", "echo $LEFT\nkill -0 $(cat pid)\n")], tmp_path, elsewhere())
    assert [one.out for one in ran] == ["", "behind\n"]
    pid = (tmp_path / "place/pid").read_text("utf-8").strip()
    assert not Path(f"/proc/{pid}").exists()


@needs("bash")
def test_ports_of_documents_are_other_ones_here(tmp_path: Path) -> None:
    ports = elsewhere()
    (ran,) = run([scene("ports", "echo 127.0.0.1:8080 18080\n")], tmp_path, ports)
    assert ran.out == f"127.0.0.1:{ports['8080']} 18080\n"


def compared(kind: str, text: str) -> int:
    """What comes of comparing the answer with a block that shows `text`."""
    asked = Block("page.md", "asked", 1, "sh", "curl\n", follows=False)
    block = Block("page.md", "asked", 3, kind, text, follows=True)
    return shown.check([Ran(asked, BODY, ANSWER, 0.0)], [asked, block])


SAME = '{"id": "video_9", "status": "queued", "at": 1795300000.5, "bytes": 9, "items": [1, 2]}'


@pytest.mark.parametrize(
    "text",
    [
        f"HTTP/1.1 202 Accepted\nretry-after: 1\n\n{SAME}\n",
        'HTTP/1.1 202 Accepted\n\n{"id": "video_9", "items": [1, "..."], "...": "..."}\n',
        "HTTP/1.1 202 Accepted\n",
    ],
)
def test_an_answer_as_shown_is_taken(text: str) -> None:
    assert compared("http", text) == 1


@pytest.mark.parametrize(
    "text",
    [
        "HTTP/1.1 200 OK\n",
        "HTTP/1.1 202 Accepted\nretry-after: 2\n",
        "HTTP/1.1 202 Accepted\netag: 1\n",
        'HTTP/1.1 202 Accepted\n\n{"id": "video_9"}\n',
        'HTTP/1.1 202 Accepted\n\n{"absent": 1, "...": "..."}\n',
        'HTTP/1.1 202 Accepted\n\n{"status": "failed", "...": "..."}\n',
        'HTTP/1.1 202 Accepted\n\n{"id": "key_9", "...": "..."}\n',
        'HTTP/1.1 202 Accepted\n\n{"items": [1], "...": "..."}\n',
        'HTTP/1.1 202 Accepted\n\n{"items": [2, 1], "...": "..."}\n',
        'HTTP/1.1 202 Accepted\n\n{"at": "1795300000.5", "...": "..."}\n',
    ],
)
def test_another_answer_than_shown_fails(text: str) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:3"):
        compared("http", text)


@pytest.mark.parametrize(("text", "is_same"), [(BODY + "\n", True), ("...\n", False), ("other\n", False)])
def test_text_is_compared_line_by_line(text: str, is_same: bool) -> None:
    if is_same:
        assert compared("text", text) == 1
        return
    with pytest.raises(AssertionError, match=r"page\.md:3"):
        compared("text", "first\n" + text)
