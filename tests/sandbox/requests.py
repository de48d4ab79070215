"""Bodies that the vendors take, and pictures to put into them. Held here: data, and no test."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

Body: TypeAlias = dict[str, Any]

_T2V: Body = {
    "sound": True,
    "prompt": "a fox",
    "duration": 5,
    "cfg_scale": 0.5,
    "aspect_ratio": "16:9",
    "negative_prompt": "blurry",
}
_SHOTS: Body = {"multi_prompt": [{"prompt": "a fox", "duration": 2}, {"prompt": "it runs", "duration": 3}]}
_SHOTS_T2V: Body = {name: value for name, value in _T2V.items() if name != "prompt"} | _SHOTS
_I2V: Body = {name: value for name, value in _T2V.items() if name != "aspect_ratio"} | {
    "image": "https://images.test/first.png"
}
_UNIFIED: Body = {
    "prompt": "An ancient Japanese courtyard, raindrops slowly falling into a pond, creating ripples",
    "resolution": "720p",
    "generate_audio": False,
    "duration": 5,
}
_UNIFIED_PAGE: Body = _UNIFIED | {
    "model": "kling-v3-text-to-video",
    "negative_prompt": "blurry, low quality, watermark, text overlay",
    "aspect_ratio": "16:9",
}

_VOICE: Body = {"voice_ids": ["voice_123456"], "generate_audio": True}

# Every field of every page's example, with values of the kind it documents; (vendor, slug, body).
ACCEPTED: list[tuple[str, str, Body]] = [
    ("highwayapi", "kling-v3.0-std-t2v", _T2V),
    ("highwayapi", "kling-v3.0-std-t2v", {"prompt": ""}),
    ("highwayapi", "kling-v3.0-pro-t2v", _T2V),
    ("highwayapi", "kling-v3.0-pro-t2v", _SHOTS_T2V),
    ("highwayapi", "kling-v3.0-4k-t2v", _T2V),
    ("highwayapi", "kling-v3.0-4k-t2v", _SHOTS_T2V),
    ("highwayapi", "kling-v3.0-std-i2v", _I2V | _SHOTS),
    ("highwayapi", "kling-v3.0-std-i2v", _I2V | {"end_image": "https://images.test/last.png"}),
    ("highwayapi", "kling-v3.0-pro-i2v", _I2V),
    ("highwayapi", "kling-v3.0-4k-i2v", _I2V),
    ("myrouter", "kling-v3.0-std-t2v", _T2V),
    ("myrouter", "kling-v3.0-pro-t2v", _T2V),
    ("myrouter", "kling-v3.0-pro-t2v", _SHOTS_T2V),
    ("myrouter", "kling-v3.0-4k-t2v", _T2V),
    ("myrouter", "kling-v3.0-std-i2v", _I2V | _SHOTS),
    ("myrouter", "kling-v3.0-pro-i2v", _I2V),
    ("myrouter", "kling-v3.0-4k-i2v", _I2V),
    ("unified", "kling-v3-text-to-video", _UNIFIED_PAGE),
    ("unified", "kling-v3-text-to-video", _UNIFIED_PAGE | _VOICE),
    ("unified", "kling-v3-text-to-video", _UNIFIED_PAGE | {"voice_ids": None, "multi_prompt": None}),
    ("unified", "kling-v3-text-to-video", {"model": "kling-v3-text-to-video"} | _SHOTS),
    ("unified", "kling-v3-image-to-video", _UNIFIED | {
        "model": "kling-v3-image-to-video",
        "image_url": "https://images.test/first.png",
        "image_tail_url": "https://images.test/last.png",
    }),
    ("unified", "kling-o3-text-to-video", _UNIFIED | {
        "model": "kling-o3-text-to-video",
        "shot_type": "customize",
    }),
    ("unified", "kling-o3-image-to-video", {
        "model": "kling-o3-image-to-video",
        "image_url": "https://images.test/first.png",
        "end_image_url": "https://images.test/last.png",
    } | _SHOTS),
    ("unified", "kling-v2-6-video", {"model": "kling-v2-6-video", "prompt": "a fox", "aspect_ratio": "1:1"}),
]

PLAIN: Mapping[str, tuple[str, Body]] = {
    "highwayapi": ("kling-v3.0-std-t2v", {"prompt": "a fox"}),
    "myrouter": ("kling-v3.0-pro-t2v", {"prompt": "a fox"}),
    "unified": ("kling-v3-text-to-video", {"model": "kling-v3-text-to-video", "prompt": "a fox"}),
}


def create_path(vendor: str, slug: str) -> str:
    """Where a create goes."""
    return "/unified/v1/videos/generations" if vendor == "unified" else f"/{vendor}/v3/async/{slug}"


def poll_path(vendor: str, task_id: str) -> str:
    """Where a poll goes."""
    known = {"unified": f"/unified/v1/tasks/{task_id}"}
    return known.get(vendor, f"/{vendor}/v3/async/task-result?task_id={task_id}")


def picture(width: int, height: int, size: int = 64, kind: str = "png") -> str:
    """A data URI of exactly `size` bytes that begins like a png of these sides; only its head is real."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + b"\x08\x02\0\0\0"
    data = head.ljust(size, b"\0")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
