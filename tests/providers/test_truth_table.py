"""What each fault proves, cell by cell and on real sockets: (fault, operation) -> (outcome, kind).

Held here: the table, redirects, cancellation, many submits at once, and the request as it leaves us.
Not held here: complete answers (test_answers), the transport by itself (test_transport), addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import pytest
import trustme
from msgspec.structs import replace

from providers.http import Limits, Operation, poll_error, refusal
from providers.spec import ErrorKind, Outcome, VendorError
from providers.transport import tls_context
from tests.providers import wire
from tests.providers.wire import KEY, OPERATIONS, WIDE, End, Seen, answer, assert_no_key, call, door_to

pytestmark = pytest.mark.anyio

OK = answer(b'{"task_id":"a"}')
# For faults that only a deadline of ours ends, each with one short deadline: two would race.
DEADLINE = Limits(connect_seconds=5, submit_seconds=0.2, ask_seconds=0.2)
CONNECT = Limits(connect_seconds=0.15, submit_seconds=10, ask_seconds=10)


def chunked(*rest: str) -> bytes:
    """The head of a chunked 200."""
    return "\r\n".join(("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *rest)).encode() + b"\r\n\r\n"


class Fault(msgspec.Struct, frozen=True):
    """A script of the server, what must come of it, and the limits under which it does."""

    script: tuple[wire.Step, ...]
    kind: ErrorKind
    outcome: Outcome = "unknown"
    limits: Limits = WIDE
    reads: bool = True
    scheme: Literal["http", "https"] = "http"


# The outcome table, rows after the connection stands. Every row holds for submit and for poll.
FAULTS: Mapping[str, Fault] = {
    "reset on accept": Fault((End.RESET,), "broken", reads=False),
    "closed on accept": Fault((End.CLOSE,), "broken", reads=False),
    "request read, then closed": Fault((End.CLOSE,), "broken"),
    "request read, then reset": Fault((End.RESET,), "broken"),
    "request read, then silence": Fault((End.HANG,), "timeout", limits=DEADLINE),
    "closed in the status line": Fault((b"HTTP/1.1 20", End.CLOSE), "broken"),
    "reset in the headers": Fault((OK[:30], End.RESET), "broken"),
    "closed in the headers": Fault((OK[:30], End.CLOSE), "broken"),
    "reset in the body": Fault((OK[:-5], End.RESET), "broken"),
    "closed in the body": Fault((OK[:-5], End.CLOSE), "broken"),
    "length lies high": Fault((answer(b'{"task_id":"a"}', length=99), End.CLOSE), "broken"),
    "length lies low": Fault((answer(b'{"task_id":"a"}', length=5), End.CLOSE), "junk"),
    "two lengths": Fault((answer(b"{}", "200 OK", "Content-Length: 3"), End.CLOSE), "junk"),
    "negative length": Fault((answer(b"{}", length=-1), End.CLOSE), "junk"),
    "length and chunks": Fault((chunked("Content-Length: 3") + b"0\r\n\r\n", End.CLOSE), "junk"),
    "closed between chunks": Fault((chunked() + b"2\r\n{}\r\n", End.CLOSE), "broken"),
    "no chunk size": Fault((chunked() + b"zz\r\n{}\r\n", End.HANG), "junk"),
    "body drips": Fault((answer(length=9999), b" ", End.DRIP), "timeout", limits=DEADLINE),
    "headers drip": Fault((b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", End.DRIP), "timeout", limits=DEADLINE),
    "headers never end": Fault((b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", End.ENDLESS), "junk"),
    "one header never ends": Fault((b"HTTP/1.1 200 OK\r\nx: ", b"y", End.ENDLESS), "junk"),
    "100k headers": Fault((answer(b"{}", "200 OK", *["x: y"] * 100_000),), "junk"),
    "header of 1 MB": Fault((answer(b"{}", "200 OK", "x: " + "y" * 1_000_000),), "junk"),
    "100 Continue for ever": Fault((b"HTTP/1.1 100 Continue\r\n\r\n", End.DRIP), "timeout", limits=DEADLINE),
    "chunks never end": Fault((chunked(), b"400\r\n" + b" " * 1024 + b"\r\n", End.ENDLESS), "junk"),
    "1 GB announced": Fault((answer(length=10**9), b" ", End.ENDLESS), "junk"),
    "body without an end": Fault((b"HTTP/1.1 200 OK\r\n\r\n", b" ", End.ENDLESS), "junk"),
    "one byte over the cap": Fault((answer(b" " * 100_001),), "junk"),
    "gzip": Fault((answer(b"\x1f\x8b" + b"x" * 50, "200 OK", "Content-Encoding: gzip"),), "junk"),
    "50 stacked encodings": Fault((answer(b"x", "200 OK", *["Content-Encoding: gzip"] * 50),), "junk"),
    "identity, gzip": Fault((answer(b"x", "200 OK", "Content-Encoding: identity, gzip"),), "junk"),
    "no HTTP": Fault((b"SSH-2.0-OpenSSH_9.2\r\n", End.HANG), "junk"),
    "HTTP/2 frames": Fault((b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", End.HANG), "junk"),
    "status 99": Fault((answer(b"{}", "99 What"),), "junk"),
    "status 101": Fault((b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", End.HANG), "junk"),
    "status 777": Fault((answer(b"{}", "777 What"),), "junk"),
    # TLS: nothing leaves us before the handshake is done.
    "TLS: reset": Fault((End.RESET,), "not_sent", "not_sent", reads=False, scheme="https"),
    "TLS: closed": Fault((End.CLOSE,), "not_sent", "not_sent", reads=False, scheme="https"),
    "TLS: stalled": Fault((End.HANG,), "not_sent", "not_sent", CONNECT, reads=False, scheme="https"),
    "TLS: plain HTTP behind it": Fault((OK, End.CLOSE), "not_sent", "not_sent", reads=False, scheme="https"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", FAULTS)
async def test_fault_proves_no_more_than_it_should(name: str, operation: Operation) -> None:
    fault = FAULTS[name]
    seen: Seen = []
    async with (
        wire.serve(*fault.script, reads=fault.reads, scheme=fault.scheme) as server,
        door_to(server.url, limits=fault.limits, seen=seen) as door,
    ):
        with pytest.raises(VendorError) as caught:
            await call(door, operation)
    assert (caught.value.outcome, caught.value.kind) == (fault.outcome, fault.kind), caught.value.message
    assert seen == [(operation, fault.kind, 1.0)]
    if operation == "submit":
        assert server.connections <= 1
        assert len(server.requests) <= 1
    assert_no_key(caught.value)


def refused(_: pytest.MonkeyPatch) -> contextlib.AbstractContextManager[str]:
    """A port that nobody listens on."""
    return contextlib.nullcontext(f"http://127.0.0.1:{wire.unused_port()}")


@contextlib.contextmanager
def blackhole(_: pytest.MonkeyPatch) -> Iterator[str]:
    """A connect that neither succeeds nor fails."""
    with wire.deaf() as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def unknown_name(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name that does not exist; the resolver is ours, so that no query leaves this machine."""

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    patch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    yield "http://vendor.invalid"


@contextlib.contextmanager
def slow_name(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """A resolver that does not answer."""

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        await asyncio.Event().wait()
        raise AssertionError("nobody lets it go")

    patch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    yield "http://vendor.invalid"


def impossible_name(_: pytest.MonkeyPatch) -> contextlib.AbstractContextManager[str]:
    """A label longer than DNS has."""
    return contextlib.nullcontext(f"http://{'a' * 64}.invalid")


Unreachable: TypeAlias = Callable[[pytest.MonkeyPatch], contextlib.AbstractContextManager[str]]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("place", [refused, blackhole, unknown_name, slow_name, impossible_name])
async def test_no_connection_is_not_sent(
    place: Unreachable, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place(monkeypatch) as url:
        async with door_to(url, limits=CONNECT) as door:
            with pytest.raises(VendorError) as caught:
                await call(door, operation)
    assert (caught.value.outcome, caught.value.kind) == ("not_sent", "not_sent")
    assert_no_key(caught.value)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its certificate, as `[egress] ca_file` would name it."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def certified(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """A server's context with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


@pytest.mark.parametrize("fault", ["another authority", "another host", "expired", "TLS 1.1 only"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_bad_certificate_is_not_sent(
    fault: str, operation: Operation, authority: trustme.CA, ca_file: Path
) -> None:
    expired = datetime.now(UTC) - timedelta(days=1)
    issued = {
        "another authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
        "another host": lambda: authority.issue_cert("127.0.0.2"),
        "expired": lambda: authority.issue_cert("127.0.0.1", not_after=expired),
        "TLS 1.1 only": lambda: authority.issue_cert("127.0.0.1"),
    }[fault]()
    context = certified(issued)
    if fault == "TLS 1.1 only":
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with wire.serve(OK, tls=context) as server, door_to(server.url, tls=tls_context(ca_file)) as door:
        with pytest.raises(VendorError) as caught:
            await call(door, operation)
    assert (caught.value.outcome, caught.value.kind) == ("not_sent", "not_sent")
    assert not server.requests


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_good_certificate_is_answered(
    operation: Operation, authority: trustme.CA, ca_file: Path
) -> None:
    context = certified(authority.issue_cert("127.0.0.1"))
    async with wire.serve(OK, tls=context) as server, door_to(server.url, tls=tls_context(ca_file)) as door:
        assert (await call(door, operation)).body == b'{"task_id":"a"}'


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Again", "308 There"])
async def test_redirect_is_an_answer_and_not_followed(status: str, operation: Operation) -> None:
    async with wire.serve(OK) as attacker:
        away = answer(b"", status, f"Location: {attacker.url}/v3/async/slug")
        async with wire.serve(away) as server, door_to(server.url) as door:
            reply = await call(door, operation)
            proof = refusal(reply, door, {}), poll_error(reply, door, {})
    assert reply.status == int(status[:3])
    assert [(error.outcome, error.kind) for error in proof] == [("unknown", "junk")] * 2
    assert attacker.connections == 0


async def test_cancelled_call_passes_through_and_is_dropped() -> None:
    seen: Seen = []
    async with wire.serve(End.HANG) as server, door_to(server.url, seen=seen) as door:
        task = asyncio.create_task(call(door, "submit"))
        await server.request_read.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(60):
            await server.client_gone.wait()
    assert seen == [("submit", "cancelled", 1.0)]
    assert server.connections == 1


@pytest.mark.parametrize("secure", [False, True])
async def test_what_may_not_leave_any_more_when_it_is_connected_is_not_sent(
    secure: bool, authority: trustme.CA, ca_file: Path
) -> None:
    asked: list[bool] = []
    tls = certified(authority.issue_cert("127.0.0.1")) if secure else None

    def may_send() -> bool:
        asked.append(True)
        return False

    async with (
        wire.serve(OK, tls=tls) as server,
        door_to(server.url, limits=replace(WIDE, may_send=may_send), tls=tls_context(ca_file)) as door,
    ):
        with pytest.raises(VendorError) as caught:
            await call(door, "submit")
        async with asyncio.timeout(60):
            await server.client_gone.wait()
        await call(door, "poll")  # what costs nothing is not held back
    assert (caught.value.kind, caught.value.outcome) == ("not_sent", "not_sent")
    assert_no_key(caught.value)
    assert (len(asked), server.connections) == (1, 2)
    assert [request.split(b" ")[0] for request in server.requests] == [b"GET"]
    assert server.cut_off[0] == b""


async def test_what_may_leave_is_asked_for_once() -> None:
    asked: list[bool] = []

    def may_send() -> bool:
        asked.append(True)
        return True

    async with wire.serve(OK) as server, door_to(server.url, limits=replace(WIDE, may_send=may_send)) as door:
        assert (await call(door, "submit")).status == 200
    assert (len(asked), len(server.requests)) == (1, 1)


async def test_200_submits_at_once_take_a_connection_each() -> None:
    async with wire.serve(OK) as server, door_to(server.url) as door:
        replies = await asyncio.gather(*(call(door, "submit") for _ in range(200)))
        assert {reply.status for reply in replies} == {200}
        assert (server.connections, len(server.requests)) == (200, 200)
        for _ in range(5):
            await call(door, "poll")
        assert server.connections == 201


async def test_request_is_what_vendors_expect() -> None:
    async with wire.serve(OK) as server, door_to(server.url, prefix="/proxy/") as door:
        await door.submit("/v1/tasks/a%40b", {"prompt": "ü"})
        await door.ask("/v1/tasks", {"task_id": "a&b=c/.."})
    posted, asked = server.requests
    assert posted.startswith(b"POST /proxy/v1/tasks/a%40b HTTP/1.1\r\n")
    assert posted.endswith('\r\n\r\n{"prompt":"ü"}'.encode())
    assert asked.startswith(b"GET /proxy/v1/tasks?task_id=a%26b%3Dc%2F.. HTTP/1.1\r\n")
    for request in (posted, asked):
        head = request.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head)}
        assert len(headers) == len(head)
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["user-agent"] == "Mozilla/5.0 (compatible; reelgate)"
        assert headers["accept"] == "application/json"
        assert headers["accept-encoding"] == "identity"
        assert headers["host"] == f"127.0.0.1:{server.port}"
        assert not {"cookie", "expect", "transfer-encoding"} & headers.keys()


async def test_cookies_of_a_vendor_are_not_kept() -> None:
    async with wire.serve(answer(b"{}", "200 OK", "Set-Cookie: a=b")) as server, door_to(server.url) as door:
        await call(door, "poll")
        await call(door, "poll")
    assert not any(b"ookie" in request for request in server.requests)
