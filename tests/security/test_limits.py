"""Each limit of what a caller may send, met from both sides: what just fits is taken, one more is refused.

Held here: bodies, heads, the shape of JSON, patience. Not held here: what a field may hold (`tests.api`), how
much a caller may do (`tests.api.test_rates`, `tests.replicas.test_limits`).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.api import entrance, forms, reading
from gateway.api.application import JSON_MAX_BYTES
from gateway.api.creating import CREATE_MAX_BYTES
from gateway.api.entrance import BODY_SECONDS, HEAD_MAX_BYTES, VALUE_MAX_BYTES, Body, head_fault
from gateway.api.reading import DEPTH_MAX, ITEMS_MAX, KEYS_MAX, VALUES_MAX, read_value
from gateway.errors import Problem
from gateway.listening import BUFFER_BYTES, HEAD_MS, server
from tests.security.proxy import said, statuses
from tests.serving import Served, problem, serving
from tests.virtual import run_virtual

ROOT: Final = Path(__file__).parents[2]
HEADERS_MAX: Final = 100  # the server's own
UNREAD: Final = (431, None)  # by the server, which may close while more is on its way


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all: nothing of what they send is kept."""
    with serving(tmp_path_factory.mktemp("limits")) as found:
        yield found


# --- the shape of JSON --------------------------------------------------------------------------------------


def lists(count: int) -> bytes:
    """Lists, one in the other."""
    return b"[" * count + b"]" * count


def objects(count: int) -> bytes:
    """Objects, one in the other."""
    return b'{"a":' * count + b"1" + b"}" * count


def members(count: int) -> bytes:
    """One object with so many keys."""
    return b"{" + b",".join(b'"%d":1' % index for index in range(count)) + b"}"


def items(count: int) -> bytes:
    """One list of so many."""
    return b"[" + b",".join([b"{}"] * count) + b"]"


def deep_items(count: int) -> bytes:
    """A list of so many, some levels down."""
    return b'{"a":[[' + b",".join([b"1"] * count) + b"]]}"


SHAPES: Final = [
    (lists, DEPTH_MAX, "nested too deeply"), (objects, DEPTH_MAX, "nested too deeply"),
    (members, KEYS_MAX, "keys"), (items, ITEMS_MAX, "items"), (deep_items, ITEMS_MAX, "items"),
]


@pytest.mark.parametrize(("made", "most", "words"), SHAPES)
def test_json_has_a_shape(made: Callable[[int], bytes], most: int, words: str) -> None:
    read_value(made(most))
    with pytest.raises(Problem, match=words) as refused:
        read_value(made(most + 1))
    assert refused.value.status == 400
    with pytest.raises(Problem, match=f"{words}|{VALUES_MAX} values") as refused:
        read_value(made(1_000 * most))
    assert refused.value.status == 400


def test_json_that_would_take_much_memory_is_refused_before_it_is_read() -> None:
    groups = [b"[" + b",".join([b"1"] * ITEMS_MAX) + b"]"] * 99
    body = b"[" + b",".join(groups) + b"]"
    assert body.count(b",") + body.count(b"[") <= VALUES_MAX
    read_value(body)
    with pytest.raises(Problem, match=f"{VALUES_MAX} values"):
        read_value(b"[" + b",".join([*groups, *groups[:2]]) + b"]")
    with pytest.raises(Problem, match=f"{VALUES_MAX} values"):
        read_value(b'{"a":' + b"[" * VALUES_MAX)  # no JSON at all: nobody has looked


def test_text_that_looks_like_structure_is_text() -> None:
    text = "[" * 2 * DEPTH_MAX + "," * 2 * ITEMS_MAX
    assert read_value(b'{"prompt":"%b"}' % text.encode()) == {"prompt": text}


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/plan", "/v1/webhook_endpoints"])
@pytest.mark.parametrize(("made", "most", "words"), SHAPES[1:3])
def test_the_shape_counts_wherever_json_is_taken(
    served: Served, path: str, made: Callable[[int], bytes], most: int, words: str
) -> None:
    headers = {"Content-Type": "application/json"}
    fits, beyond = (
        problem(served.client.post(path, content=made(count), headers=headers), 400, "invalid_request")
        for count in (most, most + 1)
    )
    assert words not in fits["detail"]
    assert words in beyond["detail"]


# --- bodies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "most"), [("/v1/webhook_endpoints", JSON_MAX_BYTES), ("/v1/videos", CREATE_MAX_BYTES)]
)
def test_a_body_has_a_length(served: Served, path: str, most: int) -> None:
    headers = {"Content-Type": "application/json"}
    fits = served.client.post(path, content=b" " * most, headers=headers)
    assert "JSON" in problem(fits, 400, "invalid_request")["detail"]
    problem(served.client.post(path, content=b" " * (most + 1), headers=headers), 413, "payload_too_large")
    listen = served.settings.server.listen
    raw = f"POST {path} HTTP/1.1\r\nHost: {listen}\r\nContent-Length: {1_000 * most}\r\n\r\n"
    assert statuses(said(listen, raw.encode())) == [413]


def test_a_body_of_unsaid_length_is_counted_as_it_comes(served: Served) -> None:
    listen = served.settings.server.listen
    first = f"POST /v1/webhook_endpoints HTTP/1.1\r\nHost: {listen}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"10000\r\n" + b" " * 65_536 + b"\r\n"] * (1_000 * JSON_MAX_BYTES // 65_536)
    with socket.create_connection((listen.host, listen.port)) as connection:
        connection.sendall(first.encode())
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_each(connection, chunks)
    assert [line["status"] for line in served.lines if line["event"] == "request"][-1] == 413


def send_each(connection: socket.socket, parts: Iterable[bytes]) -> None:
    """Send one after the other."""
    for part in parts:
        connection.sendall(part)


# --- heads --------------------------------------------------------------------------------------------------


def head(served: Served, *headers: bytes, target: bytes = b"/v1/version") -> int | None:
    """The status of a request with these headers beside Host and Connection; None: it was not even read."""
    lines = [b"GET %b HTTP/1.1" % target, b"Host: %b" % str(served.settings.server.listen).encode(),
             b"Connection: close", *headers]  # fmt: skip
    found = statuses(said(served.settings.server.listen, b"\r\n".join(lines) + b"\r\n\r\n"))
    assert len(found) <= 1
    return found[0] if found else None


def test_a_header_has_a_length(served: Served) -> None:
    assert head(served, b"X-A: " + b"b" * VALUE_MAX_BYTES) == 200
    answer = served.client.get("/v1/version", headers={"X-A": "b" * (VALUE_MAX_BYTES + 1)})
    assert str(VALUE_MAX_BYTES) in problem(answer, 400, "invalid_request")["detail"]
    assert head(served, b"X-A: " + b"b" * 1_000 * VALUE_MAX_BYTES) in UNREAD


def test_all_headers_have_a_length_together(served: Served) -> None:
    base = len("/v1/version") + sum(len(line) + 2 for line in (
        f"Host: {served.settings.server.listen}", "Connection: close"
    ))  # fmt: skip
    full = [b"X-A: " + b"b" * (VALUE_MAX_BYTES - 7)] * 3  # with its line end as long as a value may be
    rest = HEAD_MAX_BYTES - base - 3 * VALUE_MAX_BYTES - len("X-B: \r\n")
    assert head(served, *full, b"X-B: " + b"b" * rest) == 200
    assert head(served, *full, b"X-B: " + b"b" * (rest + 1)) == 400
    assert head(served, *full, b"X-B: " + b"b" * rest, target=b"/v1/version?a") == 400
    assert head(served, *full * 1_000) in UNREAD


def test_headers_have_a_number(served: Served) -> None:
    assert head(served, *[b"X-A: b"] * (HEADERS_MAX - 2)) == 200
    assert head(served, *[b"X-A: b"] * (HEADERS_MAX - 1)) == 431
    assert head(served, *[b"X-A: b"] * HEADERS_MAX * 1_000) in UNREAD


def test_a_head_that_the_server_has_not_framed_itself_is_refused() -> None:
    scope: Any = {
        "type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"",
        "http_version": "1.1", "headers": [(b"host", b"a"), (b"content-length", b"1")],
    }
    assert head_fault(scope, frozenset()) is None
    for more in ((b"transfer-encoding", b"chunked"), (b"content-length", b"1")):
        scope["headers"].append(more)
        assert "one way" in (head_fault(scope, frozenset()) or "")
        scope["headers"].pop()


@pytest.mark.parametrize("host", ["a", "a.b.", "a_b", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:80", "A:8"])
def test_a_host_is_a_name_or_an_address(served: Served, host: str) -> None:
    assert served.client.get("/v1/version", headers={"Host": host}).status_code == 200


def test_who_watches_by_http_1_0_need_not_name_a_host(served: Served) -> None:
    listen = served.settings.server.listen
    for path, status in (("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/version", 400)):
        assert statuses(said(listen, f"GET {path} HTTP/1.0\r\n\r\n".encode())) == [status]
    assert statuses(said(listen, b"GET /livez HTTP/1.1\r\n\r\n")) == [400]


def test_what_is_refused_at_the_door_is_told_as_all_else(served: Served) -> None:
    answer = served.client.get("/v1/version?a", headers={"Host": "a b", "X-Request-Id": "told"})
    found = problem(answer, 400, "invalid_request")
    assert (found["request_id"], answer.headers["connection"]) == ("told", "close")
    (line,) = [line for line in served.lines if line.get("request_id") == "told"]
    assert (line["event"], line["status"], line["route"]) == ("request", 400, "unmatched")


# --- patience -----------------------------------------------------------------------------------------------


class Slow:
    """A caller who lets each part of a body wait; `size` parts, or without an end."""

    def __init__(self, seconds: float, parts: int | None = None) -> None:
        self._seconds, self._parts, self.sent = seconds, parts, 0

    async def receive(self) -> Any:  # noqa: ANN401 - a message of the server's
        """The next part."""
        await asyncio.sleep(self._seconds)
        self.sent += 1
        return {"type": "http.request", "body": b" ", "more_body": self.sent != self._parts}


def test_a_slow_body_is_waited_for_so_long_and_no_longer() -> None:
    async def take(slow: Slow, thinking_seconds: float = 0.0) -> int:
        body, more = Body(), True
        while more:
            message: Any = await body.receive(slow.receive)
            more = message["more_body"]
            await asyncio.sleep(thinking_seconds)
        return slow.sent

    parts = int(BODY_SECONDS) * 10
    assert run_virtual(take(Slow(0.09, parts))) == parts
    # Time that the gateway takes is not the caller's.
    assert run_virtual(take(Slow(0.09, parts), thinking_seconds=1.0)) == parts
    with pytest.raises(Problem, match="did not arrive") as late:
        run_virtual(take(Slow(0.11)))
    assert late.value.status == 400
    with pytest.raises(Problem, match="did not arrive"):
        run_virtual(take(Slow(1_000 * BODY_SECONDS)))


def test_who_stays_on_the_line_behind_a_body_may() -> None:
    async def listen() -> float:
        body = Body()
        await body.receive(Slow(0.0, 1).receive)
        await body.receive(Slow(1_000 * BODY_SECONDS).receive)
        other = Body()
        other.stop()
        await other.receive(Slow(1_000 * BODY_SECONDS).receive)
        return asyncio.get_running_loop().time()

    assert run_virtual(listen()) == 2_000 * BODY_SECONDS


def test_a_body_that_drips_ends(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "BODY_SECONDS", 0.05)
    listen = served.settings.server.listen
    for path in ("/v1/videos", "/v1/videos/plan", "/v1/webhook_endpoints", "/v1/files"):
        kind = "Content-Type: multipart/form-data; boundary=a"
        raw = f"POST {path} HTTP/1.1\r\nHost: {listen}\r\nContent-Length: 9\r\n{kind}\r\n\r\n{{"
        assert statuses(said(listen, raw.encode())) == [400]


def test_a_body_that_breaks_off_is_no_fault_of_ours(served: Served) -> None:
    listen = served.settings.server.listen
    first = f"POST /v1/videos HTTP/1.1\r\nHost: {listen}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert statuses(said(listen, first.encode() + b"2\r\n{}\r\nzz\r\n")) in ([400], [])
    assert not any(line.get("status", 0) >= 500 for line in served.lines)


def test_a_head_that_drips_ends(served: Served) -> None:
    options = server(_nobody, served.settings.server.listen)
    own = options.http1_settings
    assert own is not None
    assert (own.header_read_timeout, own.max_buffer_size, options.http.value) == (HEAD_MS, BUFFER_BYTES, "1")


async def _nobody(*_: object) -> None:
    """An application that is never asked."""


# --- told ---------------------------------------------------------------------------------------------------


def test_the_limits_are_told_as_they_are() -> None:
    section = (ROOT / "SECURITY.md").read_text("utf-8").partition("## Limits")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", section, re.MULTILINE))
    mib = 1024 * 1024
    assert {
        "body of a create": f"{CREATE_MAX_BYTES // mib} MiB",
        "any other JSON body": f"{JSON_MAX_BYTES // mib} MiB",
        "levels of nesting in JSON": f"{DEPTH_MAX}", "keys of an object": f"{KEYS_MAX}",
        "items of a list": f"{ITEMS_MAX:,}", "values in a body": f"{VALUES_MAX:,}",
        "parts of a form": f"{forms.PARTS_MAX}", "mistakes in one answer": f"{reading.ERRORS_MAX}",
        "request line and headers": f"{HEAD_MAX_BYTES // 1024} KiB", "headers": f"{HEADERS_MAX}",
        "value of a header": f"{VALUE_MAX_BYTES // 1024} KiB",
        "until a head is there": f"{HEAD_MS // 1000} s", "waits for parts of a body": f"{BODY_SECONDS:g} s",
    }.items() <= told.items()
