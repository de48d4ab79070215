"""What the vendors take: every incoming body is held against the vendors' own schemas, and an image against its limits.

Held here: where the schemas lie, and the two rules that JSON Schema cannot say. Not held here: how a vendor words a
refusal (`protocols`).
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imagesize
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


class Refused(Exception):
    """A request the vendor does not take. `kind` is a row of the vendors' error tables."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def schema_folder() -> Path:
    """Where the vendors' OpenAPI files are: inside an installed package, or in a checkout. Raises FileNotFoundError."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "vendors", here.parents[2] / "openapi" / "vendors"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the vendors' OpenAPI files are neither in the package nor in a checkout")


@functools.cache
def validators(vendor: str) -> Mapping[str, Draft202012Validator]:
    """One validator for each thing the vendor sells: by the last part of its path, or by `model` where one path sells all."""
    document: dict[str, Any] = yaml.safe_load((schema_folder() / f"{vendor}.yaml").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for path, operations in document["paths"].items():
        if "post" not in operations:
            continue
        schema = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
        found |= schema["discriminator"]["mapping"] if "discriminator" in schema else {path.rsplit("/", 1)[1]: schema["$ref"]}
    return {
        slug: Draft202012Validator({"$ref": reference, "components": document["components"]})
        for slug, reference in found.items()
    }


def check(validator: Draft202012Validator, body: Mapping[str, Any]) -> None:
    """Raises Refused: `invalid` for a body of the wrong form, `rule` for a value that is out of range."""
    broken = best_match(validator.iter_errors(body))
    if broken is not None:
        where = "/".join(str(part) for part in broken.absolute_path) or "body"
        raise Refused("invalid" if broken.validator in _MALFORMED else "rule", f"{where}: {broken.message[:300]}")
    shots = body.get("multi_prompt")
    if shots and sum(shot["duration"] for shot in shots) != body.get("duration", 5):
        raise Refused("rule", "multi_prompt: the durations do not add up to duration")


def frame(image: str) -> tuple[int, int]:
    """Width and height that an image gives its video. A URL is not fetched: taken for 16:9. Raises Refused."""
    if not image.startswith("data:"):
        return (16, 9)
    try:
        data = base64.b64decode(image.partition(",")[2], validate=True)
    except binascii.Error:
        raise Refused("image_format", "the image is not base64") from None
    if not data.startswith(_SIGNATURES):
        raise Refused("image_format", "the image is neither a jpeg nor a png")
    if len(data) > _IMAGE_BYTES:
        raise Refused("image_bytes", f"the image has more than {_IMAGE_BYTES} bytes")
    width, height = imagesize.get(io.BytesIO(data))
    if min(width, height) < _IMAGE_SIDE_PIXELS or max(width, height) > _IMAGE_RATIO * min(width, height):
        raise Refused("image_size", f"an image of {width} by {height} pixels")
    return (int(width), int(height))
