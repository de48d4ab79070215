"""What complete answers prove, how bodies are read, what is hidden, and where a key may go.

Held here: answers that came whole. Not held here: those that did not (test_truth_table), vendors' own words
(the adapters).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import httpx
import msgspec
import pytest

from providers.http import (
    Account,
    ForeignOrigin,
    Limits,
    Operation,
    VendorHTTP,
    error_body,
    poll_error,
    read,
    refusal,
)
from providers.spec import ErrorKind, Outcome, Reply, VendorError
from providers.transport import Transport
from tests.providers import wire
from tests.providers.wire import KEY, OPERATIONS, Seen, answer, assert_no_key, call, door_to

pytestmark = pytest.mark.anyio

OK = answer(b'{"task_id":"a"}')


class Created(msgspec.Struct):
    """Something that an adapter would read."""

    task_id: str


BAD_PATHS = (
    "", "v3", "//evil.test/x", "/a//b", "https://evil.test/x", "/../x", "/a/..", "/a/./b", "/a/%2e%2e/b",
    "/a%2fb", "/a%5Cb", "/a\\b", "/@evil.test", "/a?b=c", "/a#b", "/a\r\nX: y", "/a%0d%0aX", "/a b", "/ü",
    "/a\x00", "/", "@e/x",
)


@pytest.mark.parametrize("path", BAD_PATHS)
async def test_adapter_cannot_leave_its_origin_by_a_path(path: str) -> None:
    async with wire.serve(OK) as server, door_to(server.url) as door:
        with pytest.raises(ValueError, match="vendor path"):
            await door.submit(path, {})
        with pytest.raises(ValueError, match="vendor path"):
            await door.ask(path)
    assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    ["http://api.vendor.test/x", "https://api.vendor.test:444/x", "https://vendor.test/x",
     "https://api.vendor.test.evil.test/x", "https://api.vendor.test@evil.test/x",
     "https://evil.test/api.vendor.test"],
)
def test_key_is_refused_to_another_origin(url: str) -> None:
    account = Account(base_url="https://api.vendor.test/v1", api_key=KEY)
    request = httpx.Request("GET", url)
    with pytest.raises(ForeignOrigin) as caught:
        account.sign(request)
    assert "authorization" not in request.headers
    assert_no_key(caught.value)


def test_key_goes_to_its_own_origin_however_it_is_spelt() -> None:
    account = Account(base_url="https://API.vendor.test:443/v1/", api_key=KEY, auth_scheme="Key")
    request = httpx.Request("GET", account.url("/a"))
    account.sign(request)
    assert str(request.url) == "https://api.vendor.test/v1/a"
    assert request.headers["authorization"] == f"Key {KEY}"


@pytest.mark.parametrize(
    ("base_url", "key"),
    [("api.vendor.test", "k"), ("ftp://a.test", "k"), ("https://", "k"), ("https://u:p@a.test", "k"),
     ("https://a.test?x=y", "k"), ("https://a.test/#x", "k"), ("https://xn--", "k"),
     ("https://evil.test\\@a.test", "k"), ("https://a.test", ""), ("https://a.test", "a b"),
     ("https://a.test", "a\r\nX: y"), ("https://a.test", "ü")],
)
def test_account_takes_only_an_origin_and_a_key_that_fit_a_header(base_url: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"base_url|key"):
        Account(base_url=base_url, api_key=key)


async def test_key_shows_in_no_repr() -> None:
    fresh = Transport(fresh=True)
    account = Account(base_url="https://a.test", api_key=KEY)
    door = VendorHTTP(account, fresh=fresh, pooled=fresh, observe=lambda *_: None)
    request = httpx.Request("GET", account.url("/a"))
    account.sign(request)
    for thing in (account, door, fresh, request, request.headers):
        assert KEY not in f"{thing!r}{thing}"


async def test_redaction() -> None:
    async with door_to("https://a.test") as door:
        quoted = KEY.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")
        escaped = KEY.replace("/", "\\/")
        assert door.redact(f"bad key {KEY}, {quoted}, {escaped}!") == "bad key [key], [key], [key]!"
        assert door.redact(f"split {KEY[:4]}\x00\u202e{KEY[4:]}") == "split [key]"
        signed = "see https://u:p@cdn.test/a.mp4?X-Sig=abc&e=1 and cdn.test/b?sig=def, http://c.test#frag ok?"
        assert door.redact(signed) == (
            "see https://cdn.test/a.mp4?[...] and cdn.test/b?[...] http://c.test?[...] ok?"
        )
        assert door.redact("a\r\nb\x1b[31mc\x7f\x85d\ud800") == "a b[31mcd"
        assert len(door.redact("x" * 10_000)) == 500
        assert len(door.redact("://" * 1_400_000)) == 500


RETRY_AFTER: tuple[tuple[str, float | None], ...] = (
    ("3", 3.0), ("0", 0.0), ("-5", 0.0), ("1.5", 1.5), ("315360000", 315360000.0), (" 7 ", 7.0),
    ("Fri, 20 Nov 2026 12:02:00 GMT", 120.0), ("Fri, 20 Nov 2026 12:02:00 -0000", 120.0),
    ("Friday, 20-Nov-26 12:02:00 GMT", 120.0), ("Fri Nov 20 12:02:00 2026", 120.0),
    ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0), ("Fri, 99 Nov 2026 11:00:00 GMT", None), ("soon", None),
    ("", None), ("nan", None), ("inf", None), ("1e9", None), ("9" * 400, None), ("٣", None), ("3, 4", None),
)


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone in which a date without one would be read wrongly."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
@pytest.mark.parametrize(("header", "seconds"), RETRY_AFTER)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_retry_after(header: str, seconds: float | None, operation: Operation) -> None:
    limited = answer(b"slow down", "429 Too Many", "Retry-After: " + header.encode().decode("latin-1"))
    async with wire.serve(limited) as server, door_to(server.url) as door:
        reply = await call(door, operation)
        error = refusal(reply, door, {}) if operation == "submit" else poll_error(reply, door, {})
    assert reply.retry_after_seconds == seconds
    assert error.retry_after_seconds == seconds
    assert (error.kind, error.status) == ("rate_limited", 429)
    assert error.outcome == ("rejected" if operation == "submit" else "unknown")


# What the adapters of the two protocols hold, in short: the status alone must decide the rest.
WORDS: Mapping[str, ErrorKind] = {
    "INVALID_REQUEST_BODY": "invalid_request", "ILLEGAL_PROMPT": "content_policy", "INVALID_API_KEY": "auth",
    "MISSING_API_KEY": "auth", "BILLING_BALANCE_NOT_ENOUGH": "insufficient_credit",
    "NOT_ENOUGH_BALANCE": "insufficient_credit", "no_compatible_channel": "capacity",
    "model_not_found": "unsupported", "TASK_NOT_FOUND": "not_found", "BILLING_FAILED": "insufficient_credit",
}

# status, body's word -> what it proves of a submit, and why; and why a poll was not answered
Class: TypeAlias = tuple[int, str, Outcome, ErrorKind, ErrorKind]
CLASSES: tuple[Class, ...] = (
    (400, "INVALID_REQUEST_BODY", "rejected", "invalid_request", "invalid_request"),
    (400, "INVALID_IMAGE_FORMAT", "rejected", "invalid_request", "invalid_request"),
    (400, "ILLEGAL_PROMPT", "rejected", "content_policy", "content_policy"),
    (400, "MISSING_API_KEY", "rejected", "auth", "auth"),
    (400, "BILLING_BALANCE_NOT_ENOUGH", "rejected", "insufficient_credit", "insufficient_credit"),
    (401, "FAILED_TO_AUTH", "rejected", "auth", "auth"),
    (402, "insufficient_quota", "rejected", "insufficient_credit", "insufficient_credit"),
    (403, "INVALID_API_KEY", "rejected", "auth", "auth"),
    (403, "NOT_ENOUGH_BALANCE", "rejected", "insufficient_credit", "insufficient_credit"),
    (403, "FEATURE_NOT_ALLOWED", "rejected", "permission", "permission"),
    (404, "API_NOT_FOUND", "rejected", "unsupported", "not_found"),
    (404, "TASK_NOT_FOUND", "rejected", "not_found", "not_found"),
    (413, "", "rejected", "invalid_request", "invalid_request"),
    (415, "", "rejected", "invalid_request", "invalid_request"),
    (422, "model_not_found", "rejected", "unsupported", "unsupported"),
    (422, "no_compatible_channel", "rejected", "capacity", "capacity"),
    (422, "invalid_param", "rejected", "invalid_request", "invalid_request"),
    (429, "RATE_LIMIT_EXCEEDED", "rejected", "rate_limited", "rate_limited"),
    (429, "NOT_ENOUGH_BALANCE", "rejected", "insufficient_credit", "insufficient_credit"),
    (405, "", "unknown", "junk", "junk"),
    (408, "", "unknown", "junk", "junk"),
    (409, "INVALID_API_KEY", "unknown", "junk", "auth"),
    (500, "CREATE_TASK_FAILED", "unknown", "unavailable", "unavailable"),
    (500, "GET_RESULT_FAILED", "unknown", "unavailable", "unavailable"),
    (500, "BILLING_FAILED", "unknown", "unavailable", "insufficient_credit"),
    (502, "", "unknown", "unavailable", "unavailable"),
    (503, "SERVICE_NOT_AVAILABLE", "unknown", "unavailable", "unavailable"),
    (503, "all_platforms_exhausted", "unknown", "unavailable", "unavailable"),
    (504, "", "unknown", "unavailable", "unavailable"),
)
Shape: TypeAlias = Callable[[int, str], object]
SHAPES: Mapping[str, Shape] = {
    "reason": lambda status, word: {"code": status, "reason": word, "message": "said", "metadata": {}},
    "type": lambda status, word: {"error": {"message": "said", "type": word, "code": status}},
    "code": lambda _, word: {"error": {"message": "said", "type": "x_error", "code": word}, "id": "r"},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("status", "word", "outcome", "kind", "asked"), CLASSES)
async def test_complete_answers(
    status: int, word: str, outcome: Outcome, kind: ErrorKind, asked: ErrorKind, shape: Shape
) -> None:
    body = msgspec.json.encode(shape(status, word))
    async with wire.serve(answer(body, f"{status} What")) as server, door_to(server.url) as door:
        submitted = refusal(await call(door, "submit"), door, WORDS)
        polled = poll_error(await call(door, "poll"), door, WORDS)
    assert (submitted.outcome, submitted.kind, submitted.status) == (outcome, kind, status)
    assert (polled.kind, polled.status) == (asked, status)
    assert submitted.message == polled.message == "said"
    if word in WORDS:
        assert polled.reason == word


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 415, 422])
@pytest.mark.parametrize("body", [b"", b"error code: 1010", b"<html>no</html>", b"[]", b'"no"', b'{"code":'])
async def test_refusal_without_an_object_proves_nothing(status: int, body: bytes) -> None:
    async with door_to("https://a.test") as door:
        error = refusal(Reply(status, body), door, WORDS)
        assert (error.outcome, error.kind) == ("unknown", "junk")
        kinds = {401: "auth", 402: "insufficient_credit", 403: "permission"}  # of us a page may say something
        assert poll_error(Reply(status, body), door, WORDS).kind == kinds.get(status, "junk")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(302, "junk"), (404, "junk"), (429, "rate_limited"), (500, "unavailable"), (503, "unavailable")],
)
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[]"])
async def test_a_page_in_answer_to_a_poll_is_judged_as_one_that_proves_nothing(
    status: int, kind: ErrorKind, body: bytes
) -> None:
    async with door_to("https://a.test") as door:
        assert poll_error(Reply(status, body), door, WORDS).kind == kind


async def test_adapter_may_assert_more() -> None:
    busy = Reply(503, b"busy", 30.0)
    async with door_to("https://a.test") as door:
        error = refusal(busy, door, WORDS, asserts={503: "capacity"})
        assert (error.outcome, error.kind, error.retry_after_seconds) == ("rejected", "capacity", 30.0)
        assert refusal(Reply(429, b"{}"), door, WORDS, asserts={}).outcome == "unknown"
        assert refusal(Reply(200, b"{}"), door, WORDS).outcome == "unknown"


async def test_vendor_text_is_redacted_everywhere() -> None:
    body = msgspec.json.encode({"reason": f"R {KEY}", "message": f"key {KEY} at https://a.test/x?sig=1\x00"})
    async with door_to("https://a.test") as door:
        for reply in (Reply(403, body), Reply(500, body), Reply(403, f"<p>{KEY}".encode())):
            for error in (refusal(reply, door, {}), poll_error(reply, door, {})):
                assert_no_key(error)
                assert "sig=" not in error.message


DEEP = b"[" * 100_000 + b"]" * 100_000
UNREADABLE = {
    "empty": b"", "HTML": b"<html>", "cut": b'{"task_id":"a', "list": b"[]", "null": b"null",
    "NaN": b'{"task_id":NaN}', "deep": b'{"task_id":' + DEEP + b"}", "number": b'{"task_id":1}',
    "deep besides": b'{"task_id":"a","x":' + DEEP + b"}", "latin-1": b'{"task_id":"\xfc"}', "no id": b"{}",
    "UTF-16": '{"task_id":"a"}'.encode("utf-16"), "lone surrogate": b'{"task_id":"\\ud800"}',
    "two objects": b'{"task_id":"a"}{"task_id":"b"}', "huge": b'{"task_id":1e400}',
    "long number": b'{"task_id":' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_unreadable_answer_is_junk_and_unknown(name: str) -> None:
    limits = Limits(connect_seconds=5)
    async with wire.serve(answer(UNREADABLE[name])) as server, door_to(server.url, limits=limits) as door:
        reply = await call(door, "submit")
    with pytest.raises(VendorError) as caught:
        read(reply.body, Created)
    assert (caught.value.outcome, caught.value.kind) == ("unknown", "junk")


def test_byte_order_mark_is_no_reason_to_lose_a_task() -> None:
    assert read(b'\xef\xbb\xbf{"task_id":"a"}', Created).task_id == "a"
    assert error_body(b'\xef\xbb\xbf{"reason":"R"}') is not None


@pytest.mark.parametrize("name", UNREADABLE)
def test_error_body_raises_nothing(name: str) -> None:
    said = error_body(UNREADABLE[name])
    assert (said is None) == (name not in {"number", "no id"})


@pytest.mark.parametrize(
    ("body", "reasons", "message"),
    [
        (b'{"code":400,"reason":"R","message":"m","metadata":{"a":1}}', ("R", "400"), "m"),
        (b'{"error":{"message":"m","type":"t","code":"c"}}', ("c", "t"), "m"),
        (b'{"error":{"message":"m","type":"t","code":1101}}', ("1101", "t"), "m"),
        (b'{"error":"text"}', (), "text"),
        (b'{"error":{"message":null,"type":[],"code":{}},"message":"outer"}', (), "outer"),
        (b'{"code":true,"reason":"","message":3}', (), ""),
        (b'{"code":1' + b"0" * 30 + b"}", (), ""),
        (b'{"reason":"' + b"r" * 300 + b'"}', ("r" * 100,), ""),
    ],
)
def test_error_body_shapes(body: bytes, reasons: tuple[str, ...], message: str) -> None:
    said = error_body(body)
    assert said is not None
    assert (said.reasons, said.message) == (reasons, message)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_an_answer(status: int) -> None:
    seen: Seen = []
    async with wire.serve(answer(b"", f"{status} Fine")) as server, door_to(server.url, seen=seen) as door:
        assert (await call(door, "submit")).status == status
    assert seen == [("submit", "2xx", 1.0)]


async def test_body_at_the_cap_passes() -> None:
    async with wire.serve(answer(b" " * 100_000)) as server, door_to(server.url) as door:
        assert len((await call(door, "poll")).body) == 100_000
