"""Secrets that are planted to be looked for, and the shapes of secrets that no line of a log has.

Held here: a planted text with the places where it may stand, the search in every spelling, and the watch over
the logs of all tests' gateways (`tests/logged.py`, `tests/kill/process.py`; `tests/conftest.py` judges).
Not held here: what is planted and where (`tests/security/planting.py`).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

# What no line of a log may hold, whoever wrote it: each of these is a secret, or begins one.
SHAPES: Final[Mapping[str, re.Pattern[str]]] = {
    "a key of ours": re.compile(r"\brg_[0-9A-Za-z]{36}\b"),
    "a secret that signs webhooks": re.compile(r"\bwhsec_[A-Za-z0-9+/=]{4,}"),
    "a signed link": re.compile(r"[?&](?:X-Amz-Signature|signature|sig|token)=", re.IGNORECASE),
    "a header with a key": re.compile(r"\b(?:Bearer|Basic) [A-Za-z0-9._~+/=-]{6,}"),
    "a password in a URL": re.compile(r"://[^\s/@:\"']*:[^\s/@\"']+@"),
    "a key of the simulators": re.compile(r"vendor-key-canary|\bsandbox-key\b"),
    "the prompt of most tests": re.compile(r"\ba fox\b"),
    "an image": re.compile(r"data:image/|iVBORw0KGgo"),
}
found: Final[list[str]] = []  # since it was last judged


class Canary(NamedTuple):
    """One planted secret: its `text`, and where it `may` be (exact names, or a prefix that ends in `*`)."""

    name: str
    text: str
    may: tuple[str, ...] = ()

    def fits(self, place: str) -> bool:
        """Whether it may stand in that place."""
        return any(place == one or (one[-1] == "*" and place.startswith(one[:-1])) for one in self.may)


def spellings(text: str) -> set[str]:
    """`text` as it is, as a URL, JSON and base64 write it: the middle of each, whatever stands around it."""
    raw = text.encode()
    coded = {base64.b64encode(b"x" * shift + raw).decode()[4:-4] for shift in range(3)}
    return {text, quote(text, safe=""), json.dumps(text)[1:-1], *(one for one in coded if len(one) >= 8)}


def leaks(canaries: Iterable[Canary], places: Mapping[str, str]) -> list[str]:
    """`canary in place` for each that stands where it may not."""
    return [
        f"{canary.name} in {place}" for canary in canaries for place, text in places.items()
        if not canary.fits(place) and any(spelling in text for spelling in spellings(canary.text))
    ]


def watch(text: str) -> None:
    """Look at what a gateway logs; what has the shape of a secret is kept in `found`."""
    for name, shape in SHAPES.items():
        if (match := shape.search(text)) is not None:
            found.append(f"{name}: {text[max(0, match.start() - 80) : match.end() + 20]!r}")
