"""One webhook on its way: signed, posted once, and what came of it.

No redirect is followed, each address is judged as it is connected to, and of the answer little more than the
status is read; none of it is kept or logged. Not held here: which message, and when (`webhooks_outbox`), what
an answer means (`gateway.core.webhooks`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
from collections.abc import Sequence
from typing import Final

import httpx
import msgspec

from gateway import __version__
from gateway.core.traceparent import HEADER
from gateway.engine.collect import Links
from gateway.values import Secret
from providers.egress import origin
from providers.http import retry_after_seconds

TOTAL_SECONDS: Final = 15.0  # for name, connection, TLS, request and the answer's head
URL_MAX_CHARS: Final = 2_048
BODY_MAX_BYTES: Final = 4_096  # of an answer, read so that its sender is not cut off in mid-sentence
BODY_SECONDS: Final = 1.0
# Why no answer came, by the first class that fits.
_FAILURES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (TimeoutError, "timeout"),
    (httpx.TimeoutException, "timeout"),
    (httpx.ConnectError, "not_connected"),
    (httpx.ProxyError, "not_connected"),
    (httpx.UnsupportedProtocol, "refused"),
    (httpx.TransportError, "broken"),
)


class Hooks(msgspec.Struct, frozen=True):
    """Where webhooks may go, and what signs those to a request's own place (`whsec_...`; none: none do).

    Its links' policy lists no provider's origin: whoever orders videos has nothing to say to a vendor.
    """

    links: Links
    secrets: tuple[Secret, ...]

    def refuses(self, url: str) -> str | None:
        """Why nothing can be sent to this URL, as far as that can be told without connecting; or None."""
        return "is too long" if len(url) > URL_MAX_CHARS else self.links.refuses(url)

    def refuses_own(self, url: str) -> str | None:
        """As `refuses`, for the place that a request names itself."""
        if not self.secrets:
            return "cannot be used: this gateway has no secret to sign with, [webhooks] secrets"
        return self.refuses(url)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a sending: the answer's status, or a word why there was none."""

    status: int | None = None
    error: str | None = None
    retry_after_seconds: float | None = None


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent: the very bytes of `body`, signed by each of `secrets` (`whsec_...`), one at least.

    `traceparent` tells the receiver which trace of its owner's it belongs to.
    """

    id: str
    url: str
    body: str
    secrets: Sequence[Secret]
    traceparent: str | None = None


def origin_of(url: str | None) -> str | None:
    """Scheme, host and port of a URL that is not refused: what goes there at once is bounded together."""
    if url is None:
        return None
    scheme, host, port = origin(url)
    return f"{scheme}://{host}:{port}"


def signed(letter: Letter, now: float) -> dict[str, str]:
    """The headers of Standard Webhooks 1.0 at this time, Unix seconds; a signature for each secret."""
    text = f"{letter.id}.{int(now)}.{letter.body}".encode()
    made = (hmac.digest(_key(secret), text, "sha256") for secret in letter.secrets)
    return {
        "webhook-id": letter.id, "webhook-timestamp": str(int(now)),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in made),
    }


def _key(secret: Secret) -> bytes:
    return base64.b64decode(secret.reveal().removeprefix("whsec_"))


async def post(links: Links, letter: Letter, now: float) -> Answer:
    """Send a letter once, within TOTAL_SECONDS. Raises nothing that the receiver could cause."""
    if not letter.secrets:
        return Answer(error="unsigned")
    if links.refuses(letter.url) is not None:
        return Answer(error="refused")
    headers = {"Content-Type": "application/json", "User-Agent": f"reelgate/{__version__}"}
    if letter.traceparent is not None:
        headers[HEADER] = letter.traceparent
    request = httpx.Request(
        "POST", letter.url, headers=headers | signed(letter, now), content=letter.body.encode()
    )
    request.extensions["timeout"] = dict.fromkeys(("connect", "pool", "read"), TOTAL_SECONDS)
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            response = await links.transport_for(letter.url).handle_async_request(request)
    except (TimeoutError, httpx.TransportError) as error:
        return Answer(error=next(word for known, word in _FAILURES if isinstance(error, known)))
    try:
        await _take(response)
    finally:
        await response.aclose()
    later = response.headers.get("Retry-After")
    hint = None if later is None else retry_after_seconds(later, now)
    return Answer(status=response.status_code, retry_after_seconds=hint)


async def _take(response: httpx.Response) -> None:
    """Let the receiver say a little; its status has decided already."""
    length = 0
    with contextlib.suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in response.aiter_raw():
                length += len(chunk)
                if length >= BODY_MAX_BYTES:
                    return
