"""Requests for every route there is, whole or broken: the bytes that go into a socket.

A route that is added is asked from then on. Not held here: sending them (`over_http`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from gateway.api.application import ROUTES
from tests.fuzz import corpus
from tests.fuzz.mutating import mutated

# Every method and path. HEAD is what GET is.
ROUTED: Final[tuple[tuple[str, str], ...]] = tuple(sorted(
    (str(method), path) for route in ROUTES for path in route.paths for method in route.http_methods
))  # fmt: skip
# What stands in a path; anything else is an id that nobody has. No pause reaches what the creates ask for.
_NAMES: Final[Mapping[str, tuple[bytes, ...]]] = {
    "video_id": (corpus.VIDEO.encode(), b"video_1", b"%00", b"..%2f.."),
    "file_id": (corpus.FILE.encode(), b"file_1"),
    "name": (b"idle", b"nobody", b"%F0%9F%98%80"),
    "provider": (b"highway", b"idle"),
}
_UNKNOWN: Final = (b"key_0", b"we_" + b"0" * 24, b"0" * 64, b"%E0%A4%A", b"a b", b"%2e%2e")
# What a POST to these brings; to any other, some object.
_BODIES: Final[Mapping[str, Sequence[bytes]]] = {
    "/v1/videos": corpus.CREATES, "/v1/videos/plan": corpus.CREATES,
    "/v1/videos/{video_id:str}/resolve": corpus.RESOLVES,
    "/v1/webhook_endpoints": corpus.ENDPOINTS, "/v1/keys": corpus.NEW_KEYS,
    "/v1/keys/{key_id:str}/rotate": corpus.ROTATIONS,
    "/v1/webhook_endpoints/{endpoint_id:str}/rotate": corpus.ROTATIONS,
    "/v1/webhook_endpoints/{endpoint_id:str}/replay": corpus.REPLAYS,
}  # fmt: skip
_FORMS: Final = frozenset({"/v1/videos", "/v1/videos/plan", "/v1/files"})
_PARAMETER: Final = re.compile(rb"\{(\w+):\w+\}")
_METHODS: Final = (b"OPTIONS", b"PUT", b"PATCH", b"TRACE", b"CONNECT", b"get", b"PRI", b"\xff")


def request_of(seed: int, number: int, key: bytes) -> bytes:
    """A request of a run; `key` is one that may do everything."""
    chance = Random(seed << 40 | number)
    method, path = ROUTED[number % len(ROUTED)]
    if path.endswith("/spending/stop") and chance.random() < 0.9:
        path = path.removesuffix("stop") + "start"  # or hardly a create would be looked at
    raw = _whole(chance, method.encode(), path, key)
    return mutated(chance, [raw]) if chance.random() < 0.3 else raw


def _whole(chance: Random, method: bytes, path: str, key: bytes) -> bytes:
    target = _PARAMETER.sub(lambda found: _name(chance, found[1].decode()), path.encode())
    if chance.random() < 0.3:
        target += b"?" + _encoded(mutated(chance, corpus.QUERIES))
    if chance.random() < 0.1:
        target = _encoded(mutated(chance, [target]))
    if chance.random() < 0.05:
        method = chance.choice(_METHODS)
    headers = [(b"Host", b"127.0.0.1"), (b"Connection", b"close"), (b"Authorization", b"Bearer " + key)]
    body = b""
    if method not in (b"GET", b"HEAD", b"DELETE") or chance.random() < 0.05:
        kind, body = _body(chance, path)
        headers.append((b"Content-Type", kind))
        headers.append(_length(chance, body))
    for _ in range(chance.choice((0, 0, 0, 1, 2, 5))):
        name = chance.choice(tuple(corpus.HEADERS))
        value = mutated(chance, corpus.HEADERS[name])
        headers.append((name.encode(), value if chance.random() < 0.1 else _plain(value)))
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, lines, body)


def _name(chance: Random, name: str) -> bytes:
    known = _NAMES.get(name, _UNKNOWN)
    return chance.choice(known) if chance.random() < 0.7 else _encoded(mutated(chance, known))


def _encoded(text: bytes) -> bytes:
    """What of it no request line can have, percent-encoded."""
    return b"".join(bytes((each,)) if 0x21 <= each <= 0x7E else b"%%%02X" % each for each in text)


def _plain(value: bytes) -> bytes:
    """Without what ends a header."""
    return re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"", value)


def _body(chance: Random, path: str) -> tuple[bytes, bytes]:
    """Content-Type and body."""
    if path in _FORMS and chance.random() < 0.5:
        kind, _, body = mutated(chance, corpus.FORMS).partition(b"\n")
        return _plain(kind), body
    good = _BODIES.get(path, corpus.OBJECTS) if chance.random() < 0.9 else corpus.OBJECTS
    return b"application/json", chance.choice(good) if chance.random() < 0.4 else mutated(chance, good)


def _length(chance: Random, body: bytes) -> tuple[bytes, bytes]:
    """Nearly always the right one."""
    right = b"%d" % len(body)
    return b"Content-Length", right if chance.random() < 0.95 else mutated(chance, [right])
