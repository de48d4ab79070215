"""Real MP4 clips: a test card with the prompt's words, a moving mark, and a tone where sound was asked for.

Not held here: which task gets which clip (`renders`), and how it is served (`server`). The clip is written to
memory, where the muxer cannot move the index to the front (`movflags=faststart` needs a file), so the index
is at the end.
"""

from __future__ import annotations

import array
import asyncio
import io
import math
import textwrap
from fractions import Fraction

import msgspec

from gateway.sandbox import NEEDS_EXTRA

try:
    import av
except ImportError as error:
    raise ImportError(NEEDS_EXTRA) from error

_FRAMES_PER_SECOND = 8
_SAMPLES_PER_SECOND = 44_100
_SAMPLES_PER_FRAME = 1024
_TONE_HERTZ = 441  # one hundred samples a wave, so that frames of any length can be cut from one tape
_KEPT_CLIPS = 64

# Y, U, V (limited range) of the bars, left to right: the classic 75 % order.
_BARS = (
    (180, 128, 128), (162, 44, 142), (131, 156, 44), (112, 72, 58),
    (84, 184, 198), (65, 100, 212), (35, 212, 114),
)
_PAPER, _INK, _MARK = 24, 235, 235

# Five columns of seven dots for each character from space to underscore, the lowest bit on top.
_FONT = bytes.fromhex(
    "000000000000005f00000007000700147f147f14242a7f2a12231308646236495620500008070300001c2241000041221c00"
    "2a1c7f1c2a08083e080800807030000808080808000060600020100804023e5149453e00427f400072494949462141494d33"
    "1814127f1027454545393c4a49493141211109073649494936464949291e0000140000004034000000081422411414141414"
    "004122140802015909063e415d594e7c1211127c7f494949363e414141227f4141413e7f494949417f090909013e41415173"
    "7f0808087f00417f41002040413f017f081422417f404040407f021c027f7f0408107f3e4141413e7f090909063e4151215e"
    "7f09192946264949493203017f01033f4040403f1f2040201f3f4038403f631408146303047804036159494d43007f414141"
    "0204081020004141417f04020102044040404040",
)


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """A clip: pixels (even), whole seconds, sound or none, and the words on it."""

    width: int
    height: int
    duration: int
    audio: bool
    words: str


class Clips:
    """Clips by what they are, each made once, in a thread, two at a time; the latest used are kept."""

    def __init__(self) -> None:
        self._making: dict[Spec, asyncio.Task[bytes]] = {}
        self._room = asyncio.Semaphore(2)

    async def get(self, spec: Spec) -> bytes:
        """The whole file."""
        making = self._making.pop(spec, None) or asyncio.create_task(self._make(spec))
        self._making[spec] = making
        for oldest in list(self._making)[:-_KEPT_CLIPS]:
            del self._making[oldest]
        return await asyncio.shield(making)

    async def _make(self, spec: Spec) -> bytes:
        async with self._room:
            return await asyncio.to_thread(make, spec)


def make(spec: Spec) -> bytes:
    """Encode a clip: H.264 at 8 frames a second, AAC. Takes a second or more for 4k; call it in a thread."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"preset": "ultrafast", "crf": "30"}
        video = container.add_stream("libx264", rate=_FRAMES_PER_SECOND, options=options)
        video.width, video.height, video.pix_fmt = spec.width, spec.height, "yuv420p"
        sound = container.add_stream("aac", rate=_SAMPLES_PER_SECOND, layout="mono") if spec.audio else None
        card = _Card(spec)
        for number in range(spec.duration * _FRAMES_PER_SECOND):
            container.mux(video.encode(card.frame(number)))
        container.mux(video.encode(None))
        if sound is not None:
            for tone in _tones(spec.duration):
                container.mux(sound.encode(tone))
            container.mux(sound.encode(None))
    return file.getvalue()


class _Card:
    """The planes of the test card, drawn once; each frame only moves the mark."""

    def __init__(self, spec: Spec) -> None:
        self._picture = av.VideoFrame(spec.width, spec.height, "yuv420p")
        self._frames = spec.duration * _FRAMES_PER_SECOND
        self._width = spec.width
        self._side = min(spec.width, spec.height) // 12
        self._track = spec.height * 2 // 3
        strides = [plane.line_size for plane in self._picture.planes]
        self._stride = strides[0]
        self._luma = bytearray(self._draw(spec, 0, strides[0], spec.height, spec.width))
        top = self._track + self._side
        for line, text in enumerate(_lettering(spec.words, spec.width, spec.height - top)):
            start = (top + line) * strides[0]
            self._luma[start : start + len(text)] = text
        for index in (1, 2):
            drawn = self._draw(spec, index, strides[index], spec.height // 2, spec.width // 2)
            self._picture.planes[index].update(drawn)

    def _draw(self, spec: Spec, index: int, stride: int, height: int, width: int) -> bytes:
        bars = b"".join(
            bytes([colour[index]]) * (width * (bar + 1) // len(_BARS) - width * bar // len(_BARS))
            for bar, colour in enumerate(_BARS)
        )
        paper = bytes([_PAPER if index == 0 else 128])
        shown = self._track * height // spec.height
        return bars.ljust(stride, b"\0") * shown + (paper * width).ljust(stride, b"\0") * (height - shown)

    def frame(self, number: int) -> av.VideoFrame:
        """The card at that frame: the mark crosses the picture once in the whole clip."""
        luma = bytearray(self._luma)
        left = (self._width - self._side) * number // max(1, self._frames - 1)
        for line in range(self._track, self._track + self._side):
            start = line * self._stride + left
            luma[start : start + self._side] = bytes([_MARK]) * self._side
        self._picture.planes[0].update(bytes(luma))
        self._picture.pts, self._picture.time_base = number, Fraction(1, _FRAMES_PER_SECOND)
        return self._picture


def _lettering(words: str, width: int, height: int) -> list[bytes]:
    """The words as lines of luma, as many as fit. What the font does not have is a question mark."""
    dot = max(2, width // (6 * 40))
    lines = textwrap.wrap(words.upper(), width // (6 * dot) - 2) or [""]
    drawn: list[bytes] = []
    for text in lines[: max(0, height // (9 * dot))]:
        drawn += [b""] * dot
        for row in range(7):
            drawn += [_dots(text, row, dot)] * dot
        drawn += [b""] * dot
    return drawn


def _dots(text: str, row: int, dot: int) -> bytes:
    ink, paper = bytes([_INK]) * dot, bytes([_PAPER]) * dot
    cells = [paper * 6]
    for character in text:
        place = (ord(character) if " " <= character <= "_" else ord("?")) - ord(" ")
        columns = _FONT[place * 5 : place * 5 + 5]
        cells.append(b"".join(ink if column >> row & 1 else paper for column in columns) + paper)
    return b"".join(cells)


def _tones(duration: int) -> list[av.AudioFrame]:
    period = _SAMPLES_PER_SECOND // _TONE_HERTZ
    wave = array.array("f", [0.2 * math.sin(2 * math.pi * step / period) for step in range(period)])
    tape = (wave * (_SAMPLES_PER_FRAME // period + 2)).tobytes()
    frames, total = [], duration * _SAMPLES_PER_SECOND
    for start in range(0, total, _SAMPLES_PER_FRAME):
        samples = min(_SAMPLES_PER_FRAME, total - start)
        frame = av.AudioFrame("fltp", "mono", samples)
        offset = start % period * 4
        frame.planes[0].update(tape[offset : offset + frame.planes[0].buffer_size])
        frame.sample_rate, frame.pts = _SAMPLES_PER_SECOND, start
        frame.time_base = Fraction(1, _SAMPLES_PER_SECOND)
        frames.append(frame)
    return frames
