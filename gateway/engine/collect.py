"""Vendors' files: opening a result link, carefully.

Every hop is judged by the egress policy; no key travels here. Not held here: a whole file from a link
(`download`), storing it (`keeping`), HTTP towards callers (`gateway.api.content`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

import httpx
import msgspec

from providers.egress import AddressPolicy, Reach, check_url, reach_of

MAX_HOPS: Final = 3
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 30.0  # between two pieces of a file
WHOLE_SECONDS: Final = 3_600.0  # for all of them: also a server that drips comes to an end
_HEADERS: Final = {"User-Agent": "Mozilla/5.0 (compatible; reelgate)", "Accept-Encoding": "identity"}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

# Status: the header that says which bytes of how many this is. Fifteen digits are a petabyte.
_EXTENTS: Final = {
    200: ("Content-Length", re.compile(r"(?P<total>[0-9]{1,15})")),
    206: ("Content-Range", re.compile(
        r"bytes (?P<start>[0-9]{1,15})-(?P<end>[0-9]{1,15})/(?P<total>[0-9]{1,15})", re.IGNORECASE
    )),
    416: ("Content-Range", re.compile(r"bytes \*/(?P<total>[0-9]{1,15})", re.IGNORECASE)),
}
_NO_VIDEO: Final = re.compile(r"text/.*|[^;]*[/+](json|xml)\b.*", re.IGNORECASE)  # errors with a 200


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
    """An open answer: its bytes `start` to `end` (inclusive) of `total`. Close it, or read a part of it.

    Of a range beyond the file's end there is none: then `start` is `total`.
    """

    start: int
    end: int
    total: int
    chunks: AsyncIterator[bytes]
    response: httpx.Response

    @property
    def validator(self) -> str | None:
        """What tells this very file from a later one under the same link: a strong ETag, else its time."""
        headers = self.response.headers
        names = ("ETag", "Last-Modified") if headers.get("ETag", "").startswith('"') else ("Last-Modified",)
        return next((str(headers[name]) for name in names if name in headers), None)

    async def part(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Just the bytes `start` to `end` (inclusive) of the file, and then close.

        The answer may begin earlier or end later. Raises LinkUnreachable when it breaks off before `end`, or
        takes longer than WHOLE_SECONDS.
        """
        position, now = self.start, asyncio.get_running_loop().time
        over_at = now() + WHOLE_SECONDS
        try:
            async for chunk in self.chunks:
                if now() > over_at:
                    raise LinkUnreachable(f"the vendor's file took longer than {WHOLE_SECONDS:g} s")
                part = chunk[max(0, start - position) : end + 1 - position]
                position += len(chunk)
                if part:
                    yield part
                if position > end:
                    return
        except httpx.TransportError as error:
            raise LinkUnreachable(f"the vendor's file broke off: {type(error).__name__}") from error
        finally:
            await self.close()
        raise LinkUnreachable("the vendor's file is shorter than its server said")

    async def close(self) -> None:
        """Let the connection go."""
        await self.response.aclose()


async def open_link(
    links: Links, url: str, byte_range: str | None, if_range: str | None = None
) -> Piece:
    """Open `url`, optionally at a `Range` header's value. Raises LinkRefused, LinkUnreachable.

    A vendor without ranges answers the whole file: then `start` is 0 and the caller has to skip. So it does
    when the file is no longer the one whose validator is `if_range`.
    """
    headers = _HEADERS | ({"Range": byte_range} if byte_range else {})
    headers |= {"If-Range": if_range} if if_range else {}
    for hop in range(MAX_HOPS + 1):
        if (why := links.refuses(url)) is not None:
            if hop:  # a server may redirect elsewhere the next time
                raise LinkUnreachable(f"the vendor's link redirects to one that {why}")
            raise LinkRefused(f"the vendor's link {why}")
        response = await _get(links, url, headers)
        if response.status_code in _REDIRECTS:
            await response.aclose()
            url = _target(url, response.headers.get("Location", ""))
        elif response.status_code == 416 and "Range" in headers and "Content-Range" not in response.headers:
            # Only "should" a 416 tell the size (RFC 9110 15.5.17); the answer with the whole file does.
            await response.aclose()
            headers = _HEADERS
        else:
            try:
                return _piece(response, is_ranged="Range" in headers)
            except (LinkRefused, LinkUnreachable):
                await response.aclose()
                raise
    raise LinkRefused(f"the vendor's link redirects more than {MAX_HOPS} times")


def _target(url: str, location: str) -> str:
    try:
        return str(httpx.URL(url).join(location))
    except (httpx.InvalidURL, ValueError) as error:
        raise LinkRefused("the vendor's link redirects to what is no URL") from error


async def _get(links: Links, url: str, headers: Mapping[str, str]) -> httpx.Response:
    request = httpx.Request("GET", url, headers=headers)
    timeouts = {"connect": CONNECT_SECONDS, "pool": CONNECT_SECONDS, "read": IDLE_SECONDS}
    request.extensions["timeout"] = timeouts
    try:
        return await links.transport_for(url).handle_async_request(request)
    except httpx.TransportError as error:
        raise LinkUnreachable(f"the vendor's file server did not answer: {type(error).__name__}") from error


def _piece(response: httpx.Response, *, is_ranged: bool) -> Piece:
    status = response.status_code
    if status == 200 or (is_ranged and status in _EXTENTS):
        return _fitting(response)
    if 400 <= status < 500 and status not in (408, 416, 429):
        raise LinkRefused(f"the vendor's link is dead (HTTP {status})")
    raise LinkUnreachable(f"the vendor's file server answered HTTP {status}")


def _fitting(response: httpx.Response) -> Piece:
    """Raises LinkUnreachable for what is no video, or does not say which part of which length it is."""
    status, headers = response.status_code, response.headers
    is_coded = headers.get("Content-Encoding", "identity").lower() != "identity"
    if status != 416 and (is_coded or _NO_VIDEO.fullmatch(headers.get("Content-Type", ""))):
        raise LinkUnreachable("the vendor's file server did not send a video")
    name, form = _EXTENTS[status]
    found = form.fullmatch(headers.get(name, ""))
    if found is None:
        raise LinkUnreachable("the vendor's file server does not say how long the file is")
    said = {key: int(digits) for key, digits in found.groupdict().items()}
    total = said["total"]
    if status == 416 and total:
        return Piece(total, total - 1, total, response.aiter_raw(), response)
    start, end = said.get("start", 0), said.get("end", total - 1)
    length = headers.get("Content-Length", str(end - start + 1))
    if not start <= end < total or length != str(end - start + 1):
        raise LinkUnreachable("the vendor's file server contradicts itself about the file's length")
    return Piece(start, end, total, response.aiter_raw(), response)
