"""A stored request, put together again: what is shown apart from the image bytes that only a vendor gets.

And how much memory those bytes take. Not held here: checking a request (`gateway.api.wire`), statements
(`gateway.storage`), what a vendor is handed of an image (`handing`).
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import imagesize  # type: ignore[import-untyped]
import msgspec

from gateway.engine.budget import ByteBudget
from gateway.storage.rows import Asked
from gateway.storage.store import Store
from providers.spec import AspectRatio, VideoRequest

IMAGE_FIELDS: Final = ("image", "end_image")
_RATIO_TOLERANCE: Final = 0.02  # how far a frame may be off the ratio that it is said to have
_RATIOS: Final[Mapping[AspectRatio, tuple[int, int]]] = {"16:9": (16, 9), "9:16": (9, 16), "1:1": (1, 1)}
# The frame header of a JPEG may stand behind megabytes of metadata, but the search for it must end.
_SIDES_MAX_BYTES: Final = 2_000_000


class StoredImage(msgspec.Struct, frozen=True):
    """What is shown of an image given as data."""

    bytes: int
    sha256: str


def sides_of(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG or JPEG in pixels as displayed; (-1, -1) where they cannot be read."""
    width, height = imagesize.get(io.BytesIO(content[:_SIDES_MAX_BYTES]))
    return width, height


def is_shaped(sides: tuple[int, int], like: tuple[int, int]) -> bool:
    """Whether a frame with these sides has the ratio of `like`, width to height, to within two percent."""
    return abs(sides[0] * like[1] / (sides[1] * like[0]) - 1) <= _RATIO_TOLERANCE


def split_request(
    request: VideoRequest, asked: Mapping[str, object] | None = None
) -> tuple[str, dict[str, str]]:
    """The request as it is stored (JSON), and the data URIs taken out of it, by field.

    Stored with it is what else was `asked` for, which goes to no vendor. Of a first frame taken out, `frame`
    keeps its ratio where a request could have named it.
    """
    shown = msgspec.to_builtins(request) | (asked or {})
    inputs: dict[str, str] = {}
    for field in IMAGE_FIELDS:
        value = shown[field]
        if value is not None and value.startswith("data:"):
            inputs[field] = value
            content = base64.b64decode(value.partition(",")[2])
            shown[field] = msgspec.to_builtins(StoredImage(len(content), hashlib.sha256(content).hexdigest()))
            if field == "image":
                shown["frame"] = _ratio_of(sides_of(content))
    return msgspec.json.encode(shown).decode(), inputs


def _ratio_of(sides: tuple[int, int]) -> AspectRatio | None:
    ratios = _RATIOS.items() if min(sides) > 0 else ()
    return next((name for name, ratio in ratios if is_shaped(sides, ratio)), None)


class _Frame(msgspec.Struct):
    """Of a stored request, the ratio of the first frame that was taken out of it."""

    frame: AspectRatio | None = None


_read_frame: Final = msgspec.json.Decoder(_Frame).decode


def frame_of(request: str) -> AspectRatio | None:
    """The ratio of a stored request's first frame, as far as that was seen here."""
    return _read_frame(request).frame


class _Images(msgspec.Struct):
    """Of a stored request, what its images take."""

    image: str | StoredImage | None = None
    end_image: str | StoredImage | None = None


_read_images: Final = msgspec.json.Decoder(_Images).decode


def image_bytes(request: VideoRequest) -> int:
    """How long the data URIs in a request are."""
    images = (request.image or "", request.end_image or "")
    return sum(len(image) for image in images if image.startswith("data:"))


@asynccontextmanager
async def held_request(store: Store, budget: ByteBudget, video_id: str) -> AsyncIterator[VideoRequest]:
    """The whole request of a video, read when there is room for its images. Raises StorageError."""
    taken = 0

    async def admit(request: str) -> None:
        nonlocal taken
        images = _read_images(request)
        stored = [each for each in (images.image, images.end_image) if isinstance(each, StoredImage)]
        wanted = sum(each.bytes for each in stored) * 4 // 3  # what base64 makes of them
        if wanted:
            await budget.enter(wanted)
            taken = wanted

    try:
        yield whole_request(await store.asked_get(video_id, admit))
    finally:
        if taken:
            budget.give(taken)


async def load_request(store: Store, video_id: str) -> VideoRequest:
    """The whole request of a video. Raises StorageError when it cannot be read."""
    return whole_request(await store.asked_get(video_id))


def whole_request(asked: Asked) -> VideoRequest:
    """What `split_request` took apart."""
    return msgspec.convert(msgspec.json.decode(asked.request) | asked.inputs, VideoRequest)
