"""The file of a video: the vendor's bytes whole and in parts, in little memory, only from where it is safe.

Not held here: files that are stored (`test_content_stored`).
"""

from __future__ import annotations

import resource
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from gateway.sandbox.downloads import spec
from gateway.sandbox.media import Clips
from tests.serving import PATIENCE_SECONDS, OddVendor, Served, odd_vendor, problem, serving

ODD = """
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
poll_min = "10ms"
poll_max = "20ms"
"""
MIB = 1024 * 1024
FAR = [f"bytes={'9' * 20}-", f"bytes={'9' * 40}-{'9' * 41}", f"bytes={'9' * 5_000}-"]


@pytest.fixture(scope="module")
def odd() -> Iterator[OddVendor]:
    with odd_vendor() as vendor:
        yield vendor


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, odd: OddVendor) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("content"), more=ODD.format(url=odd.url)) as started:
        yield started


@pytest.fixture(scope="module")
def path(served: Served) -> str:
    """The content of a finished video."""
    return str(served.completed()["output"]["url"])


@pytest.fixture(scope="module")
def file(served: Served, path: str) -> bytes:
    """The vendor's file of such a video, made by itself."""
    video = served.client.get(path.removesuffix("/content")).json()
    task = served.sandbox.world.tasks["highwayapi", video["vendor_task_id"]]
    return served.run(Clips().get, spec(task))


def odd_path(served: Served) -> str:
    """The content of a new video of the odd vendor."""
    return str(served.completed(provider="odd", resolution="1080p")["output"]["url"])


# --- the whole file -----------------------------------------------------------------------------------------


def test_the_bytes_are_the_vendors(served: Served, path: str, file: bytes) -> None:
    answer = served.client.get(path)
    assert (answer.status_code, answer.content) == (200, file)
    headers = answer.headers
    assert (headers["content-type"], headers["accept-ranges"]) == ("video/mp4", "bytes")
    assert headers["content-length"] == str(len(file))
    assert headers["cache-control"] == "private, max-age=0"
    assert path.split("/")[3] in headers["content-disposition"]
    assert "content-range" not in headers


def test_head_tells_all_but_the_bytes(served: Served, path: str, file: bytes) -> None:
    whole, head = served.client.get(path), served.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    names = ("content-length", "content-type", "etag", "accept-ranges", "content-disposition")
    assert [head.headers[name] for name in names] == [whole.headers[name] for name in names]
    part = served.client.head(path, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.headers["content-range"]) == (206, f"bytes 5-9/{len(file)}")


def test_a_file_that_one_has_is_304(served: Served, path: str) -> None:
    tag = served.client.get(path).headers["etag"]
    for method in ("GET", "HEAD"):
        for value in (tag, f'"other", {tag}', "*"):
            answer = served.client.request(method, path, headers={"If-None-Match": value})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert served.client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("variant", ["thumbnail", "spritesheet", ""])
def test_there_is_only_the_video(served: Served, path: str, variant: str) -> None:
    found = problem(served.client.get(path, params={"variant": variant}), 404, "not_found")
    assert found["charged"] == "yes"
    assert served.client.get(path, params={"variant": "video"}).status_code == 200


# --- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "first", "stop"),
    [
        ("bytes=0-0", 0, 1), ("bytes=0-99", 0, 100), ("bytes=100-199", 100, 200), ("bytes=100-", 100, None),
        ("bytes=-10", -10, None), ("bytes=-999999999", 0, None), ("bytes=7-999999999", 7, None),
        ("bytes=0-", 0, None), ("bytes = 0 - 9", 0, 10), ("Bytes=0-9", 0, 10),
        (f"bytes=7-{'9' * 5_000}", 7, None), (f"bytes=-{'9' * 20}", 0, None), (f"bytes={'0' * 30}7-9", 7, 10),
    ],
)  # fmt: skip
@pytest.mark.parametrize("fault", ["", "[[fault:no_ranges]]"])
def test_a_range_is_exactly_that_part(
    served: Served, file: bytes, asked: str, first: int, stop: int | None, fault: str
) -> None:
    path = served.completed(prompt=f"a fox {fault}")["output"]["url"]
    answer = served.client.get(path, headers={"Range": asked})
    wanted = file[first:stop]
    assert (answer.status_code, answer.content) == (206, wanted)
    start = first if first >= 0 else len(file) + first
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/{len(file)}"
    assert answer.headers["content-length"] == str(len(wanted))


@pytest.mark.parametrize("asked", ["bytes=999999999-", "bytes=999999999-9999999999", "bytes=-0", *FAR])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_range_beyond_the_end_is_416(
    served: Served, path: str, file: bytes, asked: str, method: str
) -> None:
    answer = served.client.request(method, path, headers={"Range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(file)}")
    if method == "GET":
        assert problem(answer, 416, "range_not_satisfiable")["charged"] == "yes"


@pytest.mark.parametrize(
    "asked",
    ["bytes=9-0", "bytes=-", "bytes=a-b", "bytes", "items=0-9", "bytes=0-1,5-6", ""],
)
def test_a_range_that_cannot_be_read_is_ignored(served: Served, path: str, file: bytes, asked: str) -> None:
    answer = served.client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, file)


def test_a_download_that_is_gone_on_with_begins_anew(served: Served, path: str, file: bytes) -> None:
    tag = served.client.get(path).headers["etag"]
    assert tag.startswith("W/"), "the vendor may have other bytes there by now"
    for known in (tag, tag.removeprefix("W/"), '"older"'):
        whole = served.client.get(path, headers={"Range": "bytes=0-9", "If-Range": known})
        assert (whole.status_code, whole.content) == (200, file)


# --- no file ------------------------------------------------------------------------------------------------


def test_there_is_no_file_before_the_end(served: Served) -> None:
    video_id = served.rendering()["id"]
    found = problem(served.client.get(f"/v1/videos/{video_id}/content"), 409, "not_ready")
    assert (found["retryable"], found["charged"]) == (True, "yes")
    served.finish(video_id)


def test_there_is_no_file_after_a_failure(served: Served) -> None:
    failed = served.create(prompt="[[fault:policy]]")["id"]
    served.until(failed, lambda video: video["status"] == "failed")
    cancelled = served.rendering()["id"]
    served.client.post(f"/v1/videos/{cancelled}/cancel", params={"detach": "true"})
    for video_id in (failed, cancelled):
        problem(served.client.get(f"/v1/videos/{video_id}/content"), 409, "not_ready")


@pytest.mark.parametrize("fault", ["short_link seconds=-1", "dead_link"])
def test_a_dead_link_is_410(served: Served, fault: str) -> None:
    path = served.completed(prompt=f"[[fault:{fault}]] a fox")["output"]["url"]
    for _ in range(2):
        found = problem(served.client.get(path), 410, "expired")
        assert (found["charged"], found["retryable"]) == ("yes", False)


def test_a_link_whose_time_is_over_is_410_without_a_look(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(odd, "send_file", lambda handler: looked.append(handler.path))
    video = served.completed(provider="odd", resolution="1080p")
    monkeypatch.setattr(served.gateway, "now", lambda: video["expires_at"] + 1.0)
    problem(served.client.get(video["output"]["url"]), 410, "expired")
    assert not looked


@pytest.mark.parametrize("fault", ["unavailable", "server_error", "maintenance", "not_http"])
def test_a_file_server_that_is_down_is_502_and_then_it_is_up(served: Served, file: bytes, fault: str) -> None:
    path = served.completed(prompt=f"[[fault:{fault} phase=download times=1]]")["output"]["url"]
    found = problem(served.client.get(path), 502, "vendor_unavailable")
    assert (found["charged"], found["retryable"]) == ("yes", True)
    assert served.client.get(path).content == file


def test_a_file_server_that_hangs_up_is_502(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(odd, "send_file", lambda handler: None)
    path = odd_path(served)
    problem(served.client.get(path), 502, "vendor_unavailable")


@pytest.mark.parametrize("fault", ["truncated_body", "reset_mid_body"])
def test_a_file_cut_short_never_passes_for_a_whole_one(served: Served, fault: str) -> None:
    path = served.completed(prompt=f"[[fault:{fault} phase=download times=1]]")["output"]["url"]
    with pytest.raises(httpx.TransportError):
        served.client.get(path)


# --- where links may lead -----------------------------------------------------------------------------------


@pytest.fixture
def trap() -> Iterator[socket.socket]:
    """Something private that listens, and must never be called."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def was_called(trap: socket.socket) -> bool:
    try:
        trap.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "127.1", "user@127.0.0.1"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_link_to_a_private_address_is_not_followed(
    served: Served, odd: OddVendor, trap: socket.socket, monkeypatch: pytest.MonkeyPatch, scheme: str,
    host: str,
) -> None:
    monkeypatch.setattr(odd, "link", f"{scheme}://{host}:{trap.getsockname()[1]}/secret?token=canary")
    answer = served.client.get(odd_path(served))
    by_name = (scheme, host) == ("https", "localhost")  # what it resolves to is seen only on connecting
    problem(answer, *((502, "vendor_unavailable") if by_name else (410, "expired")))
    assert not was_called(trap)
    for word in ("secret", "canary", str(trap.getsockname()[1])):
        assert word not in answer.text


def test_a_redirect_to_a_private_address_is_not_followed(served: Served, trap: socket.socket) -> None:
    to = f"http://127.0.0.1:{trap.getsockname()[1]}/secret"
    path = served.completed(prompt=f"[[fault:redirect phase=download to={to}]]")["output"]["url"]
    answer = served.client.get(path)
    assert problem(answer, 502, "vendor_unavailable")["retryable"] is True
    assert not was_called(trap)
    assert "secret" not in answer.text


# --- vendors that do not answer what was asked --------------------------------------------------------------

OK, PART = "200 OK\r\nContent-Type: video/mp4\r\n", "206 Partial Content\r\nContent-Type: video/mp4\r\n"
NOT_THERE = "416 Range Not Satisfiable\r\n"
FIRST_100 = "bytes=0-99"


def raw(monkeypatch: pytest.MonkeyPatch, odd: OddVendor, head: str, size: int = 0) -> None:
    """Have the odd vendor answer each request for a file by this status and these headers, then hang up."""
    answer = f"HTTP/1.1 {head.strip()}\r\nConnection: close\r\n\r\n".encode() + bytes(range(100)) * 10
    end = len(answer) - 1000 + size
    monkeypatch.setattr(odd, "send_file", lambda handler: handler.wfile.write(answer[:end]))


@pytest.mark.parametrize("to", ["http://[::1", "http://vendor.example:abc/", "/a\x7fb", "//\u0378.example/"])
def test_a_redirect_that_is_no_url_is_410(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    raw(monkeypatch, odd, f"302 Found\r\nLocation: {to}\r\nContent-Length: 0")
    problem(served.client.get(odd_path(served)), 410, "expired")


@pytest.mark.parametrize(
    ("asked", "head", "size"),
    [
        (FIRST_100, PART + "Content-Range: bytes 500-599/1000\r\nContent-Length: 100", 100),
        (FIRST_100, PART + "Content-Range: bytes 50-149/1000\r\nContent-Length: 100", 100),
        (FIRST_100, PART + "Content-Range: bytes 0-49/1000\r\nContent-Length: 50", 50),
        ("bytes=-5", PART + "Content-Range: bytes 0-4/1000\r\nContent-Length: 5", 5),
        ("bytes=5-", PART + "Content-Range: bytes 5-9/1000\r\nContent-Length: 5", 5),
        (FIRST_100, PART + "Content-Range: bytes 0-99/1000\r\nContent-Length: 50", 50),
        (FIRST_100, PART + "Content-Range: bytes 0-99/1000\r\nContent-Length: 0", 0),
        (FIRST_100, PART + "Content-Range: bytes 0-99/1000", 0),
        (FIRST_100, PART + "Content-Range: bytes 0-99/-5", 100),
        (FIRST_100, PART + f"Content-Range: bytes 0-99/{'9' * 30}", 100),
        (FIRST_100, PART + "Content-Range: bytes 0-99/50\r\nContent-Length: 100", 100),
        (FIRST_100, PART + "Content-Range: bytes 99-0/1000\r\nContent-Length: 100", 100),
        (FIRST_100, PART + "Content-Range: bytes 0-99/*\r\nContent-Length: 100", 100),
        (FIRST_100, PART + "Content-Length: 100", 100),
        (FIRST_100, NOT_THERE + "Content-Range: bytes */1000\r\nContent-Length: 0", 0),
        (FIRST_100, NOT_THERE + "Content-Range: bytes 0-0/-5\r\nContent-Length: 0", 0),
        (FIRST_100, NOT_THERE + "Content-Length: 0", 0),
        ("", NOT_THERE + "Content-Range: bytes */1000\r\nContent-Length: 0", 0),
        ("", PART + "Content-Range: bytes 0-99/100\r\nContent-Length: 100", 100),
        ("", OK + "Content-Length: 100", 0), ("", OK + "Content-Length: 0", 0), ("", OK, 100),
        ("bytes=50-", OK + "Content-Length: 100", 40),
        ("", OK + "Content-Encoding: gzip\r\nContent-Length: 100", 100),
        ("", "200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 100", 100),
        ("", "200 OK\r\nContent-Type: application/json\r\nContent-Length: 100", 100),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_fit_is_502(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch, asked: str, head: str, size: int
) -> None:
    raw(monkeypatch, odd, head, size)
    answer = served.client.get(odd_path(served), headers={"Range": asked} if asked else {})
    found = problem(answer, 502, "vendor_unavailable")
    assert (found["charged"], found["retryable"]) == ("yes", True)


def test_a_part_that_ends_early_never_passes_for_a_whole_one(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw(monkeypatch, odd, PART + "Content-Range: bytes 0-99/1000", 50)
    with pytest.raises(httpx.TransportError):
        served.client.get(odd_path(served), headers={"Range": FIRST_100})


def test_a_416_that_leaves_out_the_size_is_asked_for_it(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(handler: BaseHTTPRequestHandler) -> None:
        if "range" in handler.headers:
            handler.send_error(416)
        else:
            begin(handler, 1000)

    monkeypatch.setattr(odd, "send_file", send)
    answer = served.client.get(odd_path(served), headers={"Range": "bytes=1000-"})
    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */1000"


# --- memory -------------------------------------------------------------------------------------------------


def begin(handler: BaseHTTPRequestHandler, size: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "video/mp4")
    handler.send_header("Content-Length", str(size))
    handler.end_headers()


def test_the_first_bytes_arrive_before_the_last_are_sent(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def send(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, 2000)
        handler.wfile.write(b"a" * 1000)
        handler.wfile.flush()
        assert go_on.wait(PATIENCE_SECONDS)
        handler.wfile.write(b"b" * 1000)

    monkeypatch.setattr(odd, "send_file", send)
    path = odd_path(served)
    with served.client.stream("GET", path) as answer:
        pieces = answer.iter_raw()
        first = next(pieces)
        assert not go_on.is_set()
        go_on.set()
        assert first + b"".join(pieces) == b"a" * 1000 + b"b" * 1000


def test_a_large_file_passes_through_in_little_memory(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 200 * MIB

    def send(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, size)
        piece = bytes(MIB)
        for _ in range(size // MIB):
            handler.wfile.write(piece)

    monkeypatch.setattr(odd, "send_file", send)
    path = odd_path(served)
    before = peak_bytes()
    with served.client.stream("GET", path) as answer:
        assert sum(len(piece) for piece in answer.iter_raw()) == size
    assert peak_bytes() - before < 64 * MIB


def peak_bytes() -> int:
    """The most memory that this process, gateway included, has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
