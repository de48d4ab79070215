"""Every parser that bytes of callers, vendors or operators enter, and the only errors that may come out.

Each takes one input as bytes; where a parser has several, lines of it. A result that no database could store,
or an error that could not be told, is a failure too. Not held here: good inputs (`corpus`), over HTTP
(`over_http`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import parse_qsl

import httpx
import msgspec
from litestar import Request

from gateway import signing, values
from gateway.api import hops, images, ranges
from gateway.api.answers import preferred_seconds
from gateway.api.auth import check_same_site
from gateway.api.forms import Arrival, read_body
from gateway.api.held import asked_seconds
from gateway.api.key_shapes import KeyBody, TurnBody
from gateway.api.keys import KeyQuery
from gateway.api.query import read_audit_query, read_list_query, read_query
from gateway.api.reading import read_nothing, read_struct, read_value
from gateway.api.resolving import ResolveBody
from gateway.api.usage import UsageQuery
from gateway.api.webhooks import EndpointBody, ReplayBody, RotateBody
from gateway.api.wire import Known
from gateway.core import keys, mp4, positions
from gateway.engine.budget import ByteBudget
from gateway.engine.collect import LinkRefused, Links, LinkUnreachable, open_link
from gateway.errors import Problem
from gateway.settings import SettingsError, parse
from gateway.storage import news
from providers import adapters, egress, spec
from providers.http import Account, VendorHTTP, error_body, retry_after_seconds
from tests.api.bodies import read_create
from tests.contract.recorded import load
from tests.fuzz import corpus

POLICY: Final = egress.AddressPolicy()
KNOWN: Final = Known(
    ("kling-v3",), ("highway", "myrouter"), "kling-v3", lambda url: egress.check_url(url, POLICY)
)
MiB: Final = 1024 * 1024


class Parser(msgspec.Struct, frozen=True):
    """A parser by its name: what is good for it, and which errors it documents."""

    name: str
    good: Sequence[bytes]
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = ()


class Unstorable(AssertionError):
    """A parser let something through that cannot be stored or told."""


_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def checked(found: object) -> None:
    """Raises Unstorable for what a parser gave that no database keeps."""
    try:
        text = msgspec.json.encode(found)
    except (UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise Unstorable(f"no JSON can be made of it: {error}") from error
    if _NUL.search(text):
        raise Unstorable("it holds U+0000")


def told(error: Exception) -> None:
    """Raises Unstorable for an error that its reader cannot be told."""
    if isinstance(error, Problem):
        msgspec.json.encode((error.detail, error.errors, error.headers))
        if not 400 <= error.status < 500:
            raise Unstorable(f"a parser answers {error.status}")
    if isinstance(error, spec.VendorError):
        checked((error.message, error.reason))
    str(error).encode()


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _two(data: bytes) -> tuple[str, str]:
    first, _, second = _text(data).partition("\n")
    return first, second


# --- what callers send --------------------------------------------------------------------------------------


def _body(shape: type[msgspec.Struct]) -> Callable[[bytes], object]:
    return lambda data: checked(read_struct(data, shape))


def _create(data: bytes) -> None:
    asked = read_create(data, KNOWN)
    checked((asked.request, asked.metadata, asked.pins, asked.webhook_url))


async def _chunks(data: bytes) -> AsyncGenerator[dict[str, object], None]:
    for begin in range(0, len(data), 1_000):
        yield {"type": "http.request", "body": data[begin : begin + 1_000], "more_body": True}
    yield {"type": "http.request", "body": b"", "more_body": False}


async def _form(data: bytes) -> None:
    """The Content-Type, a line break, and a body in pieces, through the whole reading of a create."""
    kind, _, body = data.partition(b"\n")
    gateway = SimpleNamespace(bodies=ByteBudget(MiB), decoding=ByteBudget(MiB))
    scope: Any = {
        "type": "http", "method": "POST", "path": "/v1/videos", "headers": [(b"content-type", kind)],
        "state": {"at_rest": lambda: None, "gateway": gateway}, "query_string": b"",
        "route_handler": SimpleNamespace(resolve_request_max_body_size=lambda: None),
    }
    async with aclosing(_chunks(body)) as chunks:
        request: Request[Any, Any, Any] = Request(scope, chunks.__anext__)  # type: ignore[arg-type]
        async with Arrival(request) as arrival:
            checked(await read_body(request, arrival))


def _picture(data: bytes) -> None:
    uri = images.as_data_uri(data)
    if uri is not None:
        checked(images.check_image("/image", uri))


def _query(data: bytes) -> Iterator[tuple[str, str]]:
    yield from parse_qsl(_text(data), keep_blank_values=True)


def _prefer(data: bytes) -> None:
    query, prefer = _two(data)
    preferred_seconds(prefer)
    asked_seconds(query.encode("latin-1"), prefer)


def _range(data: bytes) -> None:
    asked = ranges.asked_range(_text(data))
    start, end = ranges.span(asked, 624)
    assert 0 <= start <= 624, start
    assert -1 <= end < 624, end
    ranges.whole_or_part(asked, 624, {})


def _key(data: bytes) -> None:
    scheme, _, key = _text(data).partition(" ")
    if scheme and keys.is_well_formed(key):
        keys.digest_of(key)


_SIGNER: Final = signing.Signer(lambda: asyncio.sleep(0, b"k" * 32))


async def _signature(data: bytes) -> None:
    expires, signature = _two(data)
    assert not await _SIGNER.is_signed("content", corpus.VIDEO, expires, signature)


def _hops(data: bytes) -> None:
    peer, forwarded = _two(data)
    scope: Any = {
        "client": (peer, 1), "headers": [(b"x-forwarded-for", forwarded.encode("latin-1"))],
    }
    networks = [values.network_or_host(_SOURCE, text) for text in ("10.0.0.0/8", "::1/128")]
    hops.address_of(scope, [each for each in networks if not isinstance(each, str)])


# --- what operators write -----------------------------------------------------------------------------------

_SOURCE: Final = values.Source(Path("/nowhere"), corpus.ENVIRONMENT)
_ADAPTERS: Final = adapters()
_READERS: Final = (
    values.address, values.http_url, values.proxy_url, values.store_url, values.files_url, values.amount,
    values.network_or_host, values.duration("10ms", "30d"),
)  # fmt: skip
_SECRETS: Final = (
    values.secret, values.header_secret, values.webhook_secret, values.proxy_url, values.store_url,
)  # fmt: skip


def _configuration(data: bytes) -> None:
    parse(data.decode(), Path("/nowhere"), _ADAPTERS, corpus.ENVIRONMENT)


def _value(data: bytes) -> None:
    for read in _READERS:
        try:
            read(_SOURCE, data.decode())
        except ValueError as error:  # what `gateway.reading` tells an operator
            told(error)


def _secret(data: bytes) -> None:
    source = values.Source(Path("/nowhere"), {"X": data.decode("utf-8", "surrogateescape")})
    for read in _SECRETS:
        try:
            shown = _shown(read(source, {"env": "X"}), data)
        except ValueError as error:
            shown = str(error)
        assert corpus.CANARY not in shown, f"a secret is told: {shown}"


def _shown(found: values.Secret | values.StoreUrl, data: bytes) -> str:
    """What may be shown of a secret and is not its file, nor what stands behind user and password."""
    if not isinstance(found, values.StoreUrl):
        return str(found)
    is_bare = corpus.CANARY.encode() in data.rpartition(b"@")[2]
    return "" if found.driver == "sqlite" or is_bare else found.shown


# --- what vendors and their servers answer ------------------------------------------------------------------


_CONTROLS: Final = re.compile(rb"[\x00-\x1f\x7f]")  # no reader of HTTP lets a header have them


class _Canned(httpx.AsyncBaseTransport):
    """Answers every request with what `data` spells: status, header lines, an empty line, the body."""

    def __init__(self, data: bytes) -> None:
        head, _, self._body = data.partition(b"\n\n")
        status, *lines = head.split(b"\n")
        self._status = int(status) % 1_000 if status.isdigit() and len(status) < 9 else 200
        pairs = (line.partition(b":") for line in lines if not _CONTROLS.search(line))
        self._headers = [(name.strip(), value.strip()) for name, _, value in pairs]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, once more."""
        return httpx.Response(
            self._status, headers=self._headers, stream=httpx.ByteStream(self._body), request=request
        )


_ACCOUNT: Final = Account(base_url="https://vendor.example/x", api_key="sk-canary-0123456789")


def _vendor(info: spec.AdapterInfo) -> Callable[[bytes], Awaitable[None]]:
    sold = load(info).sold
    rows = [(row, call.request) for row in info.offerings for call in list(sold[row.slug].calls.values())[:1]]

    async def asked(data: bytes) -> None:
        """A submit is answered so, and a poll."""
        canned = _Canned(data)
        door = VendorHTTP(_ACCOUNT, fresh=canned, pooled=canned, observe=lambda *_: None)
        adapter = info.build(door)
        row, request = rows[len(data) % len(rows)]
        for work in (partial(adapter.submit, request, row), partial(adapter.poll, {"task_id": "c0ffee"})):
            try:
                answer: object = await work()
            except spec.VendorError as error:
                told(error)
            else:
                _usable(answer)

    return asked


def _usable(answer: object) -> None:
    if isinstance(answer, spec.Submitted):
        assert spec.usable_task_id(answer.vendor_task_id) is not None
    # A link is judged where it is followed; until then it is a text like others.
    checked(msgspec.structs.replace(answer, url=None) if isinstance(answer, spec.Succeeded) else answer)


async def _file(data: bytes) -> None:
    canned = _Canned(data)
    links = Links(POLICY, {"public": canned, "listed": canned, "origin": canned})
    piece = await open_link(links, corpus.URL, "bytes=0-" if len(data) % 2 else None)
    assert 0 <= piece.start <= piece.total
    checked(piece.validator)
    async for _ in piece.part(piece.start, piece.end):
        pass
    await piece.close()


def _film(data: bytes) -> None:
    walk, step = mp4.BoxWalk(len(data)), 1 + len(data) % 97
    for begin in range(0, len(data), step):
        walk.feed(data[begin : begin + step])
    walk.end()


def _url(data: bytes) -> None:
    url = data.decode("utf-8", "surrogateescape")
    if egress.check_url(url, POLICY) is None:
        egress.origin(url)
        egress.reach_of(url, POLICY)
        httpx.URL(url)


def _retry(data: bytes) -> None:
    seconds = retry_after_seconds(_text(data), 1_795_000_000.0)
    assert seconds is None or 0 <= seconds < float("inf"), seconds


PARSERS: Final[tuple[Parser, ...]] = (
    Parser("create", corpus.CREATES, _create, (Problem,)),
    Parser("resolve", corpus.RESOLVES, _body(ResolveBody), (Problem,)),
    Parser("endpoint", corpus.ENDPOINTS, _body(EndpointBody), (Problem,)),
    Parser("rotate", corpus.ROTATIONS, _body(RotateBody), (Problem,)),
    Parser("new key", corpus.NEW_KEYS, _body(KeyBody), (Problem,)),
    Parser("turned key", corpus.ROTATIONS, _body(TurnBody), (Problem,)),
    Parser("replay", corpus.REPLAYS, _body(ReplayBody), (Problem,)),
    Parser("empty body", corpus.OBJECTS, read_nothing, (Problem,)),
    Parser("any JSON", (*corpus.OBJECTS, *corpus.CREATES), lambda data: checked(read_value(data)),
           (Problem,)),
    Parser("form", corpus.FORMS, _form, (Problem,)),
    Parser("image", corpus.IMAGES, lambda data: checked(images.check_image("/image", data.decode())),
           (UnicodeDecodeError,)),
    Parser("picture", corpus.PICTURES, _picture),
    Parser("list of videos", corpus.QUERIES, lambda data: checked(read_list_query(_query(data))[1]),
           (Problem,)),
    Parser("list of actions", corpus.QUERIES, lambda data: checked(read_audit_query(_query(data), None)[1]),
           (Problem,)),
    Parser("usage", corpus.QUERIES, lambda data: checked(read_query(_query(data), UsageQuery())), (Problem,)),
    Parser("list of keys", corpus.QUERIES, lambda data: checked(read_query(_query(data), KeyQuery())),
           (Problem,)),
    Parser("Prefer", tuple(b"wait=1\n" + each for each in corpus.HEADERS["Prefer"]), _prefer),
    Parser("Range", corpus.HEADERS["Range"], _range, (Problem,)),
    Parser("If-None-Match", corpus.HEADERS["If-None-Match"],
           lambda data: ranges.is_listed('W/"abc"', _text(data))),
    Parser("Last-Event-ID", corpus.POSITIONS, lambda data: str(positions.read_position(_text(data))),
           (positions.Unreadable,)),
    Parser("Authorization", corpus.HEADERS["Authorization"], _key),
    Parser("Host and Origin", tuple(each + b"\nhttp://" + each for each in corpus.HEADERS["Host"]),
           lambda data: check_same_site(*_two(data)), (Problem,)),
    Parser("X-Forwarded-For", corpus.PEERS, _hops),
    Parser("signed link", corpus.SIGNED, _signature),
    Parser("configuration", corpus.CONFIGURATIONS, _configuration, (SettingsError, UnicodeDecodeError)),
    Parser("value", corpus.VALUES, _value, (UnicodeDecodeError,)),
    Parser("secret", corpus.SECRETS, _secret),
    *(Parser(f"answers of {info.name}", corpus.vendor_answers(info), _vendor(info))
      for info in _ADAPTERS.values()),
    Parser("error object", tuple(answer.partition(b"\n\n")[2] for info in _ADAPTERS.values()
                                 for answer in corpus.vendor_answers(info)),
           error_body),
    Parser("answer with a file", corpus.FILE_ANSWERS, _file, (LinkRefused, LinkUnreachable)),
    Parser("MP4", corpus.FILMS, _film, (mp4.NotAVideo,)),
    Parser("URL", (*corpus.URLS, *corpus.IMAGES[:2]), _url),
    Parser("Retry-After", corpus.RETRIES, _retry),
    Parser("news", corpus.NEWS, lambda data: news.read(_text(data))),
)  # fmt: skip
