"""The clips are real: opened by av and by our own reader, size, length and sound are what was asked.

Not held here: how they are fetched (test_protocols).
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import pytest

from gateway.sandbox.media import Clips, Spec, make
from gateway.sandbox.probe import Clip, probe, probe_stream
from gateway.sandbox.renders import Order, Task

_CLIPS = [
    ("720p", "16:9", True, (1280, 720)), ("720p", "16:9", False, (1280, 720)),
    ("720p", "9:16", True, (720, 1280)), ("720p", "1:1", False, (720, 720)),
    ("1080p", "16:9", False, (1920, 1080)), ("1080p", "9:16", True, (1080, 1920)),
    ("1080p", "1:1", True, (1080, 1080)),
    ("4k", "16:9", True, (3840, 2160)), ("4k", "9:16", False, (2160, 3840)),
    ("4k", "1:1", False, (2160, 2160)),
]


def task(resolution: str, frame: tuple[int, int]) -> Task:
    order = Order(slug="x", prompt="x", resolution=resolution, frame=frame, duration=3, audio=False)
    return Task(
        id="x", vendor="x", order=order, words="", token="x", created_at=0, render_seconds=0, faults=[]
    )


@pytest.mark.parametrize(("resolution", "ratio", "audio", "size"), _CLIPS)
def test_clip_is_what_was_asked(resolution: str, ratio: str, audio: bool, size: tuple[int, int]) -> None:
    across, down = (int(part) for part in ratio.split(":"))
    width, height = task(resolution, (across, down)).size
    assert (width, height) == size
    data = make(Spec(width=width, height=height, duration=3, audio=audio, words="A fox, running"))
    ours = probe_stream(io.BytesIO(data))
    assert (ours.width, ours.height, ours.has_audio) == (width, height, audio)
    assert ours.duration_seconds == pytest.approx(3, abs=0.1)
    with av.open(io.BytesIO(data), "r") as container:
        picture = container.streams.video[0]
        assert (picture.width, picture.height, picture.codec_context.name) == (width, height, "h264")
        assert len(container.streams.audio) == audio
        assert container.duration is not None
        assert container.duration / 1_000_000 == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(("frame", "size"), [
    ((750, 300), (1800, 720)), ((300, 750), (720, 1800)), ((1001, 1000), (720, 720)),
    ((333, 400), (720, 864)),
])
def test_first_frame_decides_the_ratio(frame: tuple[int, int], size: tuple[int, int]) -> None:
    assert task("720p", frame).size == size


def test_mark_moves_words_are_drawn_and_sound_is_heard() -> None:
    spec = Spec(width=320, height=240, duration=3, audio=True, words="FOX")
    with av.open(io.BytesIO(make(spec)), "r") as container:
        rows = [bytes(frame.planes[0]) for frame in container.decode(video=0)]
        stride = len(rows[0]) // 240
    assert len(rows) == 24
    middle = 165 * stride  # amid the band in which the mark moves, below two thirds of the height
    lefts = [next(x for x in range(320) if row[middle + x] > 150) for row in rows]
    assert lefts == sorted(lefts)
    assert lefts[0] < 10
    assert lefts[-1] > 290
    other = make(Spec(width=320, height=240, duration=3, audio=True, words="DOG"))
    with av.open(io.BytesIO(other), "r") as container:
        drawn = bytes(next(container.decode(video=0)).planes[0])
    assert drawn[190 * stride :] != rows[0][190 * stride :]
    with av.open(io.BytesIO(other), "r") as container:
        waves = [memoryview(bytes(frame.planes[0])).cast("f") for frame in container.decode(audio=0)]
        loudest = max(max(wave) for wave in waves)
    assert 0.1 < loudest < 0.4


def test_words_that_do_not_fit_are_cut_and_strange_letters_do_no_harm() -> None:
    for words in ("x" * 2500, "雨が降る " * 300, "", "\0\n\t"):
        data = make(Spec(width=300, height=120, duration=3, audio=False, words=words))
        assert probe_stream(io.BytesIO(data)).height == 120


@pytest.mark.anyio
async def test_a_clip_is_made_once() -> None:
    clips, spec = Clips(), Spec(width=160, height=90, duration=3, audio=False, words="")
    first = await clips.get(spec)
    assert await clips.get(spec) is first


@pytest.fixture(scope="module")
def clip() -> bytes:
    return make(Spec(width=320, height=240, duration=3, audio=True, words="FOX"))


def test_probe_reads_files(tmp_path: Path, clip: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip)
    assert probe(path).has_audio
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "none.mp4")


def test_probe_refuses_what_is_not_whole(clip: bytes) -> None:
    for broken in (b"", b"<html>" * 20, clip[:-1], clip[:1000], clip + b"x", clip[32:], b"\0" * 64):
        with pytest.raises(ValueError, match=r"MP4|index|picture"):
            probe_stream(io.BytesIO(broken))


def test_probe_refuses_an_index_without_pictures_or_length(clip: bytes) -> None:
    for name, other in ((b"vide", b"text"), (b"mvhd", b"free"), (b"mdat", b"free")):
        wrong = clip.replace(name, other)
        with pytest.raises(ValueError, match=r"MP4|index|picture"):
            probe_stream(io.BytesIO(wrong))


def test_probe_takes_large_boxes_and_boxes_to_the_end(clip: bytes) -> None:
    large = (24).to_bytes(8, "big")
    boxed = clip + b"\0\0\0\1free" + large + bytes(8) + b"\0\0\0\0free" + bytes(5)
    assert probe_stream(io.BytesIO(boxed)) == probe_stream(io.BytesIO(clip))
    assert isinstance(probe_stream(io.BytesIO(clip)), Clip)
