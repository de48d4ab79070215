"""The door to a vendor: one exchange, sent once, and what its answer or its failure proves.

Held here: where the key goes (`Account`), deadline and size of an answer (`VendorHTTP`), what a failure and a
complete non-2xx answer prove (`refusal`, `poll_error`), tolerant reading of bodies. Not held here: sockets
(`providers.transport`), any vendor's words (the adapters), retries and breakers (the gateway).

    failure of the transport                                   outcome     kind
      name, connection, TLS, proxy tunnel, no free slot        not_sent    not_sent
      a deadline passed                                        unknown     timeout
      reset, end of file, body shorter than announced          unknown     broken
      no HTTP, encoded, too large, unreadable                  unknown     junk
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, TypeVar, cast
from urllib.parse import quote, unquote, urlencode

import httpx
import msgspec

from providers.spec import ErrorKind, Outcome, Reply, VendorDoor, VendorError
from providers.transport import UnreadableAnswer

T = TypeVar("T")

Operation: TypeAlias = Literal["submit", "poll"]
# How a call ended, for metrics. Closed: a complete answer by its class, else what went wrong.
CallOutcome: TypeAlias = Literal[
    "2xx", "3xx", "4xx", "5xx", "not_sent", "timeout", "broken", "junk", "cancelled", "crashed"
]
Observe: TypeAlias = Callable[[Operation, CallOutcome, float], None]

_CLASSES: Final[Mapping[int, CallOutcome]] = {2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}
_Failure: TypeAlias = Literal["not_sent", "timeout", "broken", "junk"]
_FAILURES: Final[tuple[tuple[type[Exception], _Failure], ...]] = (
    (httpx.ConnectError, "not_sent"),
    (httpx.ConnectTimeout, "not_sent"),
    (httpx.ProxyError, "not_sent"),
    (httpx.PoolTimeout, "not_sent"),
    (httpx.UnsupportedProtocol, "not_sent"),
    (httpx.TimeoutException, "timeout"),
    (TimeoutError, "timeout"),
    (UnreadableAnswer, "junk"),
    (httpx.TransportError, "broken"),
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:%-]+)+")
_HEADERS: Final = httpx.Headers({
    "User-Agent": "Mozilla/5.0 (compatible; reelgate)",  # a vendor's front door is known to refuse odd ones
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # nothing is ever unpacked, so the size limit holds for what is read
})
_POSTING: Final = httpx.Headers({**_HEADERS, "Content-Type": "application/json"})
_CONTROLS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+"
)
_USERINFO: Final = re.compile(r"://[^\s/?#@\"'<>]*@")
_QUERY: Final = re.compile(r"(://[^\s?#\"'<>]*)[?#][^\s\"'<>]*|\?[^\s\"'<>?]*=[^\s\"'<>]*")
_ODD_SEGMENT: Final = re.compile(r"\.{1,2}|.*[/\\\x00-\x1f\x7f].*", re.DOTALL)
URLS_MAX: Final = 256  # paths kept parsed; a vendor has a few, unless its task ids are in them

_NOTHING: Final = httpx.ByteStream(b"")
_BOM: Final = b"\xef\xbb\xbf"


def _always() -> bool:
    return True


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one exchange. `connect_seconds` spans slot, name, TCP and TLS; the others the whole of it.

    `may_send` is asked when a submit is connected and its first byte is about to leave: False makes it
    `not_sent`. The process may have stood still meanwhile.
    """

    connect_seconds: float = 10.0
    submit_seconds: float = 60.0
    ask_seconds: float = 20.0
    max_body_bytes: int = 4 * 1024 * 1024
    may_send: Callable[[], bool] = _always


class Clocks(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: `monotonic` measures calls, `wall` (since 1970) reads dates in Retry-After."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


DEFAULT_LIMITS: Final = Limits()
REAL_CLOCKS: Final = Clocks()


class ForeignOrigin(ValueError):
    """A request was about to carry a key to another place than that key's own. Nothing was sent."""


class Account:
    """A vendor's base URL and the key that belongs to it: nothing else adds an Authorization header.

    `base_url` is http or https, perhaps with a path prefix. Raises ValueError, without the values, for more.
    """

    def __init__(self, *, base_url: str, api_key: str, auth_scheme: str = "Bearer") -> None:
        try:
            url = httpx.URL(base_url)
            origin = _origin(url)
        except (httpx.InvalidURL, ValueError):
            raise ValueError("base_url is not a URL") from None
        if url.scheme not in _DEFAULT_PORTS or not url.host or url.userinfo or set("?#@\\") & set(base_url):
            raise ValueError("base_url is not scheme://host[:port][/prefix], http or https")
        if not re.fullmatch(r"[!-~]+", api_key) or not re.fullmatch(r"[!-~]+", auth_scheme):
            raise ValueError("the key or its scheme word is empty, or has characters that no header takes")
        self._base_url = base_url.rstrip("/")
        self._known = lru_cache(URLS_MAX)(self._parsed)
        self._origin = origin
        self._spellings = {api_key, quote(api_key, safe=""), api_key.replace("/", "\\/")}
        self._authorization = f"{auth_scheme} {api_key}"

    def url(self, path: str) -> httpx.URL:
        """The vendor's URL of `path`. Raises ValueError unless that is /segment[/...], encoded, no dots."""
        return self._known(path)

    def _parsed(self, path: str) -> httpx.URL:
        if not _PATH.fullmatch(path) or any(map(_ODD_SEGMENT.fullmatch, map(unquote, path.split("/")))):
            raise ValueError("a vendor path is /segment[/segment...], percent-encoded")
        return httpx.URL(self._base_url + path)

    def sign(self, request: httpx.Request) -> None:
        """Put the key on `request`. Raises ForeignOrigin when it goes anywhere but this account's origin."""
        if _origin(request.url) != self._origin:
            raise ForeignOrigin("this key belongs to another origin")
        request.headers["Authorization"] = self._authorization

    def hide(self, text: str) -> str:
        """`text` without the key."""
        for spelling in self._spellings:
            text = text.replace(spelling, "[key]")
        return text


class VendorHTTP:
    """The `VendorDoor` of one account: submits over `fresh`, polls over `pooled`; never follows redirects.

    Both transports add Host and Content-Length by themselves, and a query by the extension of that name, as
    ours does. `observe` is called once a call, also a cancelled one. Cancellation passes through.
    """

    def __init__(
        self,
        account: Account,
        *,
        fresh: httpx.AsyncBaseTransport,
        pooled: httpx.AsyncBaseTransport,
        observe: Observe,
        limits: Limits = DEFAULT_LIMITS,
        clocks: Clocks = REAL_CLOCKS,
    ) -> None:
        self._account = account
        self._fresh = fresh
        self._pooled = pooled
        self._limits = limits
        self._observe = observe
        self._clocks = clocks
        connect = limits.connect_seconds
        self._asking = {"timeout": {"connect": connect, "pool": connect, "read": None}}
        self._posting = {**self._asking, "may_send": limits.may_send}

    async def submit(self, path: str, body: Mapping[str, object]) -> Reply:
        """POST `body` as JSON on its own connection, once. Raises VendorError when no whole answer came."""
        request = httpx.Request(
            "POST", self._account.url(path), headers=_POSTING, extensions=self._posting,
            stream=httpx.ByteStream(msgspec.json.encode(body)),  # `content` has headers made, at some cost
        )
        request.read()
        return await self._call("submit", request)

    async def ask(self, path: str, query: Mapping[str, str] | None = None) -> Reply:
        """GET through the pool. Raises VendorError when no whole answer came; its outcome proves nothing."""
        # Apart from the URL, which httpx would take anew for each question, at the price of all the rest.
        extensions = {**self._asking, "query": urlencode(query)} if query else self._asking
        request = httpx.Request(
            "GET", self._account.url(path), headers=_HEADERS, stream=_NOTHING, extensions=extensions
        )
        request.read()
        return await self._call("poll", request)

    def redact(self, text: str) -> str:
        """`text` without the key, URLs' queries and user info, control characters; at most 500 characters."""
        text = self._account.hide(_CONTROLS.sub("", text.replace("\n", " ")))[:4096]
        return _QUERY.sub(r"\1?[...]", _USERINFO.sub("://", text))[:500]

    async def _call(self, operation: Operation, request: httpx.Request) -> Reply:
        self._account.sign(request)
        started = self._clocks.monotonic()
        outcome: CallOutcome = "crashed"
        try:
            reply = await self._exchange(operation, request)
            outcome = _CLASSES[reply.status // 100]
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except (httpx.TransportError, TimeoutError, _Junk) as exc:
            kind: _Failure = next((kind for known, kind in _FAILURES if isinstance(exc, known)), "junk")
            outcome = kind
            proof: Outcome = "not_sent" if kind == "not_sent" else "unknown"
            words = str(exc) or ("no answer in time" if kind == "timeout" else type(exc).__name__)
            raise VendorError(kind, proof, self.redact(words)) from exc
        finally:
            self._observe(operation, outcome, self._clocks.monotonic() - started)
        return reply

    async def _exchange(self, operation: Operation, request: httpx.Request) -> Reply:
        limits = self._limits
        transport = self._fresh if operation == "submit" else self._pooled
        async with asyncio.timeout(limits.submit_seconds if operation == "submit" else limits.ask_seconds):
            response = await transport.handle_async_request(request)
            stream = cast("httpx.AsyncByteStream", response.stream)  # nothing is decoded: it is read as it is
            try:
                return await self._read(response, stream)
            finally:
                await stream.aclose()

    async def _read(self, response: httpx.Response, stream: httpx.AsyncByteStream) -> Reply:
        headers, most = response.headers, self._limits.max_body_bytes
        if response.status_code // 100 not in _CLASSES:
            raise _Junk(f"status {response.status_code}")
        if "Content-Encoding" in headers and not _is_plain(headers["Content-Encoding"]):
            raise _Junk("the answer is encoded, though only identity was accepted")
        body = bytearray()
        async for chunk in stream:
            body += chunk
            if len(body) > most:
                raise _Junk(f"the answer is larger than {most} bytes")
        hint = None
        if "Retry-After" in headers:
            hint = retry_after_seconds(headers["Retry-After"], self._clocks.wall())
        return Reply(response.status_code, bytes(body), hint)


class _Junk(Exception):
    """The answer cannot be used."""


def _is_plain(encodings: str) -> bool:
    return not set(encodings.lower().replace(" ", "").split(",")) - {"", "identity"}


class ErrorBody(msgspec.Struct, frozen=True):
    """A vendor's error object in its own words: its `reasons`, the most telling first, and its `message`."""

    reasons: tuple[str, ...]
    message: str


def error_body(body: bytes) -> ErrorBody | None:
    """`body` as an error object, None when it is no JSON object. Raises nothing.

    Takes `{code, reason, message}`, `{error: {message, type, code}}` and `{error: "text"}`, codes as text or
    number: the vendors' documents and public integrations show all of them.
    """
    try:
        outer = msgspec.json.decode(body.removeprefix(_BOM))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not isinstance(outer, dict):
        return None
    error = outer.get("error")
    levels = [error, outer] if isinstance(error, dict) else [outer]
    words = [_word(level.get(field)) for field in ("reason", "code", "type") for level in levels]
    texts = [*(level.get("message") for level in levels), error]
    message = next((text for text in texts if isinstance(text, str) and text), "")
    return ErrorBody(tuple(word for word in words if word), message)


def read(body: bytes, shape: type[T]) -> T:
    """`body` as a `shape`. Raises VendorError (junk, unknown), without the vendor's values, if it is none."""
    try:
        return msgspec.json.decode(body.removeprefix(_BOM), type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        why = re.sub(r"'.*'", "'...'", str(exc), flags=re.DOTALL)[:200]
        raise VendorError("junk", "unknown", f"the answer cannot be read: {why}") from None


def hint(raw: msgspec.Raw, shape: type[T], *, strict: bool = True) -> T | None:
    """A part of a reply as a `shape`, None where it is not one: an oddity must not spoil a paid answer.

    Not `strict`: a number may also be written as text.
    """
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw, type=shape, strict=strict)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def check_same_task(said: msgspec.Raw, asked: str) -> None:
    """Raises VendorError (junk, unknown) when an answer names another task than the one `asked` for.

    An answer left over on a pooled connection would be taken for the next question's.
    """
    if (hint(said, str) or asked) != asked:
        raise VendorError("junk", "unknown", "the answer is about another task")


# What the status of a complete refusal means, for a submit and for a poll. No other status proves a refusal.
_REFUSED: Final[Mapping[int, ErrorKind]] = MappingProxyType({
    400: "invalid_request", 401: "auth", 402: "insufficient_credit", 403: "permission",
    404: "unsupported", 413: "invalid_request", 415: "invalid_request", 422: "invalid_request",
})
_UNASKED: Final[Mapping[int, ErrorKind]] = MappingProxyType(
    {**_REFUSED, 404: "not_found", 429: "rate_limited"}
)
# What is no JSON object may be a proxy's own page: of a job it says nothing, of us it may.
_UNASKED_BY_PAGE: Final = {status: _UNASKED[status] for status in (401, 402, 403, 429)}
_RATE_LIMITED: Final[Mapping[int, ErrorKind]] = MappingProxyType({429: "rate_limited"})


def refusal(
    reply: Reply,
    door: VendorDoor,
    reasons: Mapping[str, ErrorKind],
    *,
    asserts: Mapping[int, ErrorKind] = _RATE_LIMITED,
) -> VendorError:
    """What a complete answer to a submit, other than 2xx, proves. A word in `reasons` beats the status.

    `asserts` are the statuses of which the adapter asserts that nothing was accepted, whatever the body.
    Apart from them only 400, 401, 402, 403, 404, 413, 415 and 422 with a JSON object do; the rest is unknown.
    """
    said = error_body(reply.body)
    kind = asserts.get(reply.status) or (_REFUSED.get(reply.status) if said else None)
    if kind is not None:
        return _vendor_error(reply, door, said, reasons, kind=kind, outcome="rejected")
    return _vendor_error(reply, door, said, {}, kind=_unproven(reply.status), outcome="unknown")


def poll_error(reply: Reply, door: VendorDoor, reasons: Mapping[str, ErrorKind]) -> VendorError:
    """Why a complete answer to a poll other than 2xx told nothing: by `reasons` first, then by the status."""
    said = error_body(reply.body)
    kind = (_UNASKED if said else _UNASKED_BY_PAGE).get(reply.status) or _unproven(reply.status)
    return _vendor_error(reply, door, said, reasons, kind=kind, outcome="unknown")


def _unproven(status: int) -> ErrorKind:
    return "unavailable" if status >= 500 else "junk"


def _vendor_error(
    reply: Reply,
    door: VendorDoor,
    said: ErrorBody | None,
    reasons: Mapping[str, ErrorKind],
    *,
    kind: ErrorKind,
    outcome: Outcome,
) -> VendorError:
    words = said.reasons if said else ()
    reason = next((word for word in words if word in reasons), words[0] if words else None)
    raw = "" if said else reply.body[:500].decode("utf-8", "replace")
    text = (said.message if said else "") or f"HTTP {reply.status} {raw}".rstrip()
    return VendorError(
        reasons.get(reason or "", kind), outcome, door.redact(text), status=reply.status,
        reason=None if reason is None else door.redact(reason), retry_after_seconds=reply.retry_after_seconds,
    )


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme)


def _word(value: object) -> str | None:
    """A reason as text: at most 100 characters of a word, or a number that fits 64 bits."""
    if isinstance(value, str):
        return value[:100]
    number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return str(value) if number else None


def retry_after_seconds(value: str, now: float) -> float | None:
    """RFC 9110 10.2.3, tolerant: seconds (also signed, also 1.5) or a date; the past is 0, garbage None."""
    text = value.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return max(0.0, float(text))
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
