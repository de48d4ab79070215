"""Vendors' files: opening a result link, carefully.

Every hop is judged by the egress policy; no key travels here. Not held here: storing files (a later part of
the product), HTTP towards callers (`gateway.api.content`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

import httpx
import msgspec

from providers.egress import AddressPolicy, Reach, check_url, reach_of

MAX_HOPS: Final = 3
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 30.0  # between two pieces of a file
_HEADERS: Final = {"User-Agent": "Mozilla/5.0 (compatible; reelgate)", "Accept-Encoding": "identity"}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class LinkRefused(Exception):
    """The link is dead, or must not be followed. Retrying the same link is no use."""


class LinkUnreachable(Exception):
    """The vendor's file server did not answer, or not properly. The same link may work later."""


class Links:
    """How links are opened: a policy that judges each URL, and a transport for each of its rules."""

    def __init__(self, policy: AddressPolicy, transports: Mapping[Reach, httpx.AsyncBaseTransport]) -> None:
        self.policy, self._transports = policy, transports

    def refuses(self, url: str) -> str | None:
        """Why this URL may not be fetched; None when it may."""
        return check_url(url, self.policy)

    def transport_for(self, url: str) -> httpx.AsyncBaseTransport:
        """The transport whose guard fits this URL."""
        return self._transports[reach_of(url, self.policy)]


class Piece(msgspec.Struct):
    """An open answer: its bytes `start` to `end` (inclusive) of `total`. Close it, or read it to its end."""

    start: int
    end: int
    total: int
    chunks: AsyncIterator[bytes]
    response: httpx.Response

    async def close(self) -> None:
        """Let the connection go."""
        await self.response.aclose()


async def open_link(links: Links, url: str, byte_range: str | None) -> Piece:
    """Open `url`, optionally at a `Range` header's value. Raises LinkRefused, LinkUnreachable.

    A vendor without ranges answers the whole file: then `start` is 0 and the caller has to skip.
    """
    headers = _HEADERS | ({"Range": byte_range} if byte_range else {})
    for _ in range(MAX_HOPS + 1):
        if (why := links.refuses(url)) is not None:
            raise LinkRefused(f"the vendor's link {why}")
        response = await _get(links, url, headers)
        if response.status_code not in _REDIRECTS:
            return await _piece(response)
        location = response.headers.get("Location", "")
        await response.aclose()
        url = str(httpx.URL(url).join(location))
    raise LinkRefused(f"the vendor's link redirects more than {MAX_HOPS} times")


async def _get(links: Links, url: str, headers: Mapping[str, str]) -> httpx.Response:
    request = httpx.Request("GET", url, headers=headers)
    timeouts = {"connect": CONNECT_SECONDS, "pool": CONNECT_SECONDS, "read": IDLE_SECONDS}
    request.extensions["timeout"] = timeouts
    try:
        return await links.transport_for(url).handle_async_request(request)
    except httpx.TransportError as error:
        raise LinkUnreachable(f"the vendor's file server did not answer: {type(error).__name__}") from error


async def _piece(response: httpx.Response) -> Piece:
    status, headers = response.status_code, response.headers
    try:
        if status == 416:
            total = int(headers.get("Content-Range", "bytes */0").rpartition("/")[2])
            return Piece(total, total - 1, total, response.aiter_raw(), response)
        if status == 206:
            span, _, total_text = headers["Content-Range"].removeprefix("bytes ").partition("/")
            start, _, end = span.partition("-")
            return Piece(int(start), int(end), int(total_text), response.aiter_raw(), response)
        if status == 200:
            total = int(headers["Content-Length"])
            return Piece(0, total - 1, total, response.aiter_raw(), response)
    except (KeyError, ValueError):
        await response.aclose()
        raise LinkUnreachable("the vendor's file server does not say how long the file is") from None
    await response.aclose()
    if 400 <= status < 500 and status not in (408, 429):
        raise LinkRefused(f"the vendor's link is dead (HTTP {status})")
    raise LinkUnreachable(f"the vendor's file server answered HTTP {status}")
