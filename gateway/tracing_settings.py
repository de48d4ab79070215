"""The section `[tracing]`: whether spans are made, of how many requests, and where they go.

Not held here: other sections (`gateway.settings`), what the values do (`gateway.tracing`).
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from gateway import values as read
from gateway.reading import Pass, all_known
from gateway.values import ReadError, Secret, Source, is_loopback_host, join

# What the extra brings. Looked for only where the section is there: to look imports what is above it.
_NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
MISSING: Final = 'needs the extra that brings OpenTelemetry: pip install "reelgate[tracing]"'

_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def _header_value(source: Source, raw: object) -> Secret:
    """A secret that is the whole value of a header: `Bearer ...`."""
    found = read.secret(source, raw)
    if not _VALUE.fullmatch(found.reveal()):
        raise ReadError("holds a line break or another character that cannot be in a header")
    return found


class Tracing(Struct, frozen=True, kw_only=True):
    """Tracing is on where the table is there. `endpoint` takes OTLP over HTTP; `headers` go there with it.

    `sample_ratio` (0..1) is of requests that come without a `traceparent`; with one, its flag decides.
    """

    endpoint: Annotated[str, read.http_url] = "http://127.0.0.1:4318"
    service_name: Annotated[str, Meta(min_length=1, max_length=255)] = "reelgate"
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    headers: dict[str, Annotated[Secret, _header_value]] = {}


def check_tracing(reading: Pass, tracing: Tracing | None) -> None:
    """What makes spans is installed, and no secret travels in the open."""
    if tracing is None:
        return
    if not is_installed():
        reading.wrong("tracing", MISSING)
    if not (all_known(tracing) and all_known(tracing.endpoint, tracing.headers)):
        return
    for name in tracing.headers:
        if not _HEADER.fullmatch(name):
            reading.wrong(join("tracing.headers", name), "a header's name is 1 to 64 letters, digits and -")
    url = urlsplit(tracing.endpoint)
    if tracing.headers and url.scheme == "http" and not is_loopback_host(url.hostname or ""):
        reading.wrong("tracing.headers", "plain http would show them on their way: use https")


def is_installed() -> bool:
    """Whether the extra is there."""
    try:
        return all(find_spec(name) is not None for name in _NEEDED)
    except ModuleNotFoundError:
        return False
