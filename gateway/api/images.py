"""An image as a request names it: an http(s) URL, or a data URI whose bytes are checked here and now.

A URL is passed on to the vendor as it is: nothing is resolved or fetched, so of it only the form is checked.
Not held here: where an image may stand in a request (`gateway.api.wire`), what of its bytes is kept
(`gateway.engine.request`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final
from urllib.parse import urlsplit

import msgspec

from gateway.engine.request import sides_of
from gateway.errors import FieldError

URL_MAX_CHARS: Final = 2048
IMAGE_MAX_BYTES: Final = 10_000_000
SIDE_MIN_PIXELS: Final = 300
RATIO_MAX: Final = 2.5

# The only two heads a data URI may have, and the bytes that such a file begins with.
_SIGNATURES: Final = {
    "data:image/png;base64": b"\x89PNG\r\n\x1a\n",
    "data:image/jpeg;base64": b"\xff\xd8\xff",
}
_NAMES: Final = {"data:image/png;base64": "PNG", "data:image/jpeg;base64": "JPEG"}
_BASE64_MAX_CHARS: Final = -(-IMAGE_MAX_BYTES // 3) * 4
_NO_HOST: Final = "The URL has no valid host and port."
_FORMS: Final = "Give an http or https URL, data:image/png;base64,... or data:image/jpeg;base64,..."


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """Mistakes; of a data URI's content also the SHA-256 (hex) and (width, height) in pixels as displayed."""

    errors: tuple[FieldError, ...] = ()
    sha256: str | None = None
    sides: tuple[int, int] | None = None


def check_image(pointer: str, value: str) -> Checked:
    """Check the image at `pointer` of a request (contract 2.1). Decodes a data URI once; raises nothing."""
    if not value.startswith("data:"):
        detail = _url_fault(value)
        return Checked(errors=() if detail is None else (FieldError(pointer, detail),))
    head, _, payload = value.partition(",")
    if head not in _SIGNATURES:
        return Checked(errors=(FieldError(pointer, _FORMS),))
    content = _decoded(payload)
    if isinstance(content, str):
        return Checked(errors=(FieldError(pointer, content),))
    if not content.startswith(_SIGNATURES[head]):
        return Checked(errors=(FieldError(pointer, f"The bytes are not those of a {_NAMES[head]} file."),))
    width, height = sides_of(content)
    details = _side_faults(width, height)
    errors = tuple(FieldError(pointer, detail) for detail in details)
    return Checked(errors=errors, sha256=hashlib.sha256(content).hexdigest(), sides=(width, height))


def as_data_uri(content: bytes | bytearray) -> str | None:
    """A file as a data URI, by its first bytes; None for what is neither a PNG nor a JPEG."""
    for head, signature in _SIGNATURES.items():
        if content.startswith(signature):
            return f"{head},{base64.b64encode(content).decode('ascii')}"
    return None


def _url_fault(value: str) -> str | None:
    if not value.lower().startswith(("http://", "https://")):
        return _FORMS
    if len(value) > URL_MAX_CHARS:
        return f"The URL is longer than {URL_MAX_CHARS} characters."
    # `isprintable` is false for control and format characters and for every space but the plain one.
    if not value.isprintable() or " " in value or "\\" in value:
        return "The URL holds a space, a backslash or a control character; percent-encode it."
    try:
        parts = urlsplit(value)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # of `urlsplit` for brackets, of `port` for what is no port
        return _NO_HOST
    if not has_host:
        return _NO_HOST
    if "@" in parts.netloc:
        return "The URL must not hold a user name or password: it is passed on and stored as it is."
    return None


def _decoded(payload: str) -> bytes | str:
    """The content, or what is wrong with it."""
    too_large = f"The image is larger than {IMAGE_MAX_BYTES} bytes."
    if len(payload) > _BASE64_MAX_CHARS:
        return too_large
    try:
        content = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        return "The data is not strict base64: standard alphabet, padding, no line breaks."
    return content if len(content) <= IMAGE_MAX_BYTES else too_large


def _side_faults(width: int, height: int) -> list[str]:
    if width <= 0 or height <= 0:
        return ["The image is broken: its width and height cannot be read."]
    found: list[str] = []
    is_so = f"The image is {width}x{height} pixels;"
    if min(width, height) < SIDE_MIN_PIXELS:
        found.append(f"{is_so} both sides must be at least {SIDE_MIN_PIXELS}.")
    if max(width, height) > RATIO_MAX * min(width, height):
        found.append(f"{is_so} its ratio must be from 1:{RATIO_MAX} to {RATIO_MAX}:1.")
    return found
