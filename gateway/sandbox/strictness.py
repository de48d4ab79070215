"""What the vendors take: bodies are held against the vendors' own schemas, images against their limits.

Held here: where the schemas lie, and the two rules that JSON Schema cannot say. Not held here: how a vendor
words a refusal (`protocols`).
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imagesize  # type: ignore[import-untyped]
import yaml

from gateway.sandbox import NEEDS_EXTRA

try:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
except ImportError as error:
    raise ImportError(NEEDS_EXTRA) from error

# As the highwayapi page of kling-v3.0-std-i2v has it.
_IMAGE_BYTES = 10_000_000
_IMAGE_SIDE_PIXELS = 300
_IMAGE_RATIO = 2.5
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")

_MALFORMED = {"type", "required", "additionalProperties"}


class RefusedError(Exception):
    """A request the vendor does not take. `kind` is a row of the vendors' error tables."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def schema_folder() -> Path:
    """Where the vendors' OpenAPI files are, in a package or a checkout. Raises FileNotFoundError."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "vendors", here.parents[2] / "openapi" / "vendors"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the vendors' OpenAPI files are neither in the package nor in a checkout")


@functools.cache
def validators(vendor: str) -> Mapping[str, Draft202012Validator]:
    """One validator per slug: the last part of a path, or the `model` where one path sells all."""
    text = (schema_folder() / f"{vendor}.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    found: dict[str, str] = {}
    for path, operations in document["paths"].items():
        if "post" not in operations:
            continue
        schema = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
        by_path = {path.rsplit("/", 1)[1]: schema.get("$ref")}
        found |= schema["discriminator"]["mapping"] if "discriminator" in schema else by_path
    return {
        slug: Draft202012Validator({"$ref": reference, "components": document["components"]})
        for slug, reference in found.items()
    }


def check(validator: Draft202012Validator, body: Mapping[str, Any]) -> None:
    """Raises RefusedError: `invalid` for a body of the wrong form, `rule` for a value out of range."""
    broken = best_match(validator.iter_errors(body))
    if broken is not None:
        where = "/".join(str(part) for part in broken.absolute_path) or "body"
        kind = "invalid" if broken.validator in _MALFORMED else "rule"
        raise RefusedError(kind, f"{where}: {broken.message[:300]}")
    shots = body.get("multi_prompt")
    if shots and sum(shot["duration"] for shot in shots) != body.get("duration", 5):
        raise RefusedError("rule", "multi_prompt: the durations do not add up to duration")


def frame(image: str) -> tuple[int, int]:
    """Width and height of an image. A URL is not fetched but taken for 16:9. Raises RefusedError."""
    if not image.startswith("data:"):
        return (16, 9)
    try:
        data = base64.b64decode(image.partition(",")[2], validate=True)
    except binascii.Error:
        raise RefusedError("image_format", "the image is not base64") from None
    if not data.startswith(_SIGNATURES):
        raise RefusedError("image_format", "the image is neither a jpeg nor a png")
    if len(data) > _IMAGE_BYTES:
        raise RefusedError("image_bytes", f"the image has more than {_IMAGE_BYTES} bytes")
    width, height = imagesize.get(io.BytesIO(data))
    if min(width, height) < _IMAGE_SIDE_PIXELS or max(width, height) > _IMAGE_RATIO * min(width, height):
        raise RefusedError("image_size", f"an image of {width} by {height} pixels")
    return (int(width), int(height))
