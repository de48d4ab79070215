"""A stored request, put together again: what is shown apart from the image bytes that only a vendor gets.

Not held here: checking a request (`gateway.api.wire`), statements (`gateway.storage`).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec

from gateway.storage.rows import Asked
from gateway.storage.store import Store
from providers.spec import VideoRequest

IMAGE_FIELDS: Final = ("image", "end_image")


class StoredImage(msgspec.Struct, frozen=True):
    """What is shown of an image given as data."""

    bytes: int
    sha256: str


def split_request(request: VideoRequest) -> tuple[str, dict[str, str]]:
    """The request as it is stored and shown (JSON), and the data URIs taken out of it, by field."""
    shown = msgspec.to_builtins(request)
    inputs: dict[str, str] = {}
    for field in IMAGE_FIELDS:
        value = shown[field]
        if value is not None and value.startswith("data:"):
            inputs[field] = value
            content = base64.b64decode(value.partition(",")[2])
            shown[field] = msgspec.to_builtins(StoredImage(len(content), hashlib.sha256(content).hexdigest()))
    return msgspec.json.encode(shown).decode(), inputs


async def load_request(store: Store, video_id: str) -> VideoRequest:
    """The whole request of a video. Raises StorageError when it cannot be read."""
    return whole_request(await store.asked_get(video_id))


def whole_request(asked: Asked) -> VideoRequest:
    """What `split_request` took apart."""
    return msgspec.convert(msgspec.json.decode(asked.request) | asked.inputs, VideoRequest)
