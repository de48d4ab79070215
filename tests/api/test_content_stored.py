"""The file of a video once it is stored: from our own storage, for as long as files are kept, and no longer.

Not held here: the vendor's file before that (`test_content`), how it comes to be stored (`tests/engine`).
"""

from __future__ import annotations

import base64
import hashlib
import os
import resource
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer

from gateway.engine.sweeping import sweep
from tests.engine.hosting import video
from tests.serving import Json, OddVendor, Served, odd_vendor, problem, serving

ODD = """
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
poll_min = "10ms"
poll_max = "20ms"
"""
MIB = 1024 * 1024
LARGE_MIB = int(os.environ.get("REELGATE_LARGE_MIB", "256"))
DATA = video(100_000)


@pytest.fixture(scope="module")
def odd() -> Iterator[OddVendor]:
    with odd_vendor() as vendor:
        vendor.send_file = lambda handler: send(handler, DATA)
        yield vendor


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, odd: OddVendor) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("stored")
    with serving(folder, more=ODD.format(url=odd.url), files='url = "file:videos"') as started:
        yield started


def begin(handler: BaseHTTPRequestHandler, size: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "video/mp4")
    handler.send_header("Content-Length", str(size))
    handler.end_headers()


def send(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    begin(handler, len(data))
    handler.wfile.write(data)


def stored(served: Served, stage: str = "stored") -> Json:
    made = served.create(provider="odd", resolution="1080p")
    return served.until(made["id"], lambda video: video["stage"] == stage)


def files_of(served: Served) -> list[Path]:
    folder = served.settings.files.url.path
    assert folder is not None
    return sorted(path for path in folder.rglob("*.mp4") if path.is_file())  # none that is being written


@pytest.fixture(scope="module")
def shown(served: Served) -> Json:
    return stored(served)


@pytest.fixture(scope="module")
def path(shown: Json) -> str:
    return str(shown["output"]["url"])


# --- what is told of it -------------------------------------------------------------------------------------


def test_the_video_says_what_is_stored_of_it(shown: Json) -> None:
    output = shown["output"]
    assert (output["stored"], output["bytes"], output["content_type"]) == (True, len(DATA), "video/mp4")
    assert output["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert shown["expires_at"] == output["expires_at"]
    assert abs(output["expires_at"] - shown["completed_at"] - 30 * 86_400) <= 2
    assert (shown["status"], shown["stage"], shown["progress"]) == ("completed", "stored", 100)


def test_it_is_the_vendors_file_from_our_own_storage(
    served: Served, path: str, odd: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(odd, "send_file", lambda handler: asked.append(handler.path))
    answer = served.client.get(path, params={"variant": "video"})
    assert (answer.status_code, answer.content, asked) == (200, DATA, [])
    headers = answer.headers
    digest = hashlib.sha256(DATA)
    assert headers["etag"] == f'"{digest.hexdigest()}"'
    assert headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert (headers["content-type"], headers["accept-ranges"]) == ("video/mp4", "bytes")
    assert (headers["content-length"], headers["cache-control"]) == (str(len(DATA)), "private, max-age=0")
    assert headers["content-disposition"] == f'inline; filename="{path.split("/")[3]}.mp4"'


def test_head_tells_all_but_the_bytes(served: Served, path: str) -> None:
    whole, head = served.client.get(path), served.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    names = ("content-length", "content-type", "etag", "accept-ranges", "content-disposition", "repr-digest")
    assert [head.headers[name] for name in names] == [whole.headers[name] for name in names]
    part = served.client.head(path, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.headers["content-range"]) == (206, f"bytes 5-9/{len(DATA)}")
    assert part.headers["content-length"] == "5"


@pytest.mark.parametrize(
    ("asked", "first", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=100-199", 100, 200), ("bytes=100-", 100, None), ("bytes=-10", -10, None),
     ("bytes=-999999999", 0, None), ("bytes=7-999999999", 7, None)],
)
def test_a_range_is_exactly_that_part(
    served: Served, path: str, asked: str, first: int, stop: int | None
) -> None:
    answer = served.client.get(path, headers={"Range": asked})
    wanted = DATA[first:stop]
    assert (answer.status_code, answer.content) == (206, wanted)
    start = first if first >= 0 else len(DATA) + first
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/{len(DATA)}"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("asked", ["bytes=999999999-", f"bytes={'9' * 20}-", "bytes=-0"])
def test_a_range_beyond_the_end_is_416(served: Served, path: str, asked: str, method: str) -> None:
    answer = served.client.request(method, path, headers={"Range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(DATA)}")


@pytest.mark.parametrize("asked", ["bytes=9-0", "bytes=0-1,5-6", "items=0-9"])
def test_a_range_that_cannot_be_read_is_ignored(served: Served, path: str, asked: str) -> None:
    answer = served.client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, DATA)


def test_a_download_is_gone_on_with_only_where_it_is_the_same_file(served: Served, path: str) -> None:
    tag = served.client.get(path).headers["etag"]
    part = served.client.get(path, headers={"Range": "bytes=10-", "If-Range": tag})
    assert (part.status_code, part.content) == (206, DATA[10:])
    for other in ('"older"', f"W/{tag}", f'W/"{path.split("/")[3]}"'):
        whole = served.client.get(path, headers={"Range": "bytes=10-", "If-Range": other})
        assert (whole.status_code, whole.content) == (200, DATA)


def test_a_file_that_one_has_is_304(served: Served, path: str) -> None:
    tag = served.client.get(path).headers["etag"]
    for method in ("GET", "HEAD"):
        for value in (tag, f'"other", {tag}', "*", f"W/{tag}"):
            answer = served.client.request(method, path, headers={"If-None-Match": value})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert served.client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("variant", ["thumbnail", "spritesheet"])
def test_there_is_no_thumbnail(served: Served, path: str, variant: str) -> None:
    found = problem(served.client.get(path, params={"variant": variant}), 404, "not_found")
    assert variant in found["detail"]


# --- before, and when it fails ------------------------------------------------------------------------------


def test_what_is_no_video_is_never_stored_and_told_as_a_trouble_of_the_vendor(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(odd, "send_file", lambda handler: handler.send_error(403))
    before = files_of(served)
    waiting = stored(served, "storing")
    assert waiting["output"]["stored"] is False
    assert (waiting["output"]["bytes"], waiting["output"]["sha256"]) == (None, None)
    found = problem(served.client.get(waiting["output"]["url"]), 502, "vendor_unavailable")
    assert found["retryable"] is True, "there is hope while it is being stored"
    assert files_of(served) == before
    monkeypatch.undo()
    served.until(waiting["id"], lambda video: video["stage"] == "stored")


def test_a_file_that_somebody_took_away_is_told(served: Served) -> None:
    shown, before = None, files_of(served)
    shown = stored(served)
    (added,) = set(files_of(served)) - set(before)
    added.unlink()
    problem(served.client.get(shown["output"]["url"]), 410, "expired")
    assert served.client.head(shown["output"]["url"]).status_code == 200


# --- for as long as files are kept --------------------------------------------------------------------------


def test_after_its_time_it_is_410_at_once_and_then_gone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(served)
    shown = stored(served)
    path, ends_at = shown["output"]["url"], shown["output"]["expires_at"]
    monkeypatch.setattr(served.gateway, "now", lambda: ends_at + 1.0)
    found = problem(served.client.get(path), 410, "expired")
    assert (found["retryable"], found["charged"]) == (False, "yes")
    assert set(files_of(served)) > set(before), "nobody has swept yet"
    monkeypatch.setattr(served.gateway.engine, "now", lambda: ends_at + 1.0)
    served.run(sweep, served.gateway.engine, served.settings.files)
    assert not files_of(served)
    after = served.client.get(f"/v1/videos/{shown['id']}").json()
    assert (after["status"], after["stage"], after["output"]["stored"]) == ("completed", "stored", False)
    assert after["output"]["sha256"] == shown["output"]["sha256"]
    problem(served.client.get(path), 410, "expired")
    events = served.client.get(f"/v1/videos/{shown['id']}/timeline").json()["data"]
    assert [event["type"] for event in events][-2:] == ["stored", "file_expired"]


def test_delete_removes_record_and_file(served: Served) -> None:
    before = files_of(served)
    shown = stored(served)
    assert len(files_of(served)) == len(before) + 1
    assert served.client.delete(f"/v1/videos/{shown['id']}").json()["deleted"] is True
    assert files_of(served) == before
    problem(served.client.get(shown["output"]["url"]), 404, "not_found")


def test_a_file_that_cannot_be_removed_goes_later(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(served)
    shown = stored(served)
    folder = (set(files_of(served)) - set(before)).pop().parent

    def refuse(self: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert served.client.delete(f"/v1/videos/{shown['id']}").status_code == 200
    assert len(list(folder.iterdir())) >= 1
    served.run(sweep, served.gateway.engine, served.settings.files)
    assert files_of(served) == before


# --- a bucket -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.put(f"http://{host}:{port}/kept")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("redirects", [False, True])
def test_from_a_bucket_it_comes_through_us_or_by_its_own_url(
    tmp_path: Path, odd: OddVendor, bucket: str, monkeypatch: pytest.MonkeyPatch, *, redirects: bool
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    files = f'url = "s3://kept/some"\nendpoint = "{bucket}"\nregion = "us-east-1"\n'
    files += f"redirect = {str(redirects).lower()}"
    with serving(tmp_path, more=ODD.format(url=odd.url), files=files) as served:
        path = stored(served)["output"]["url"]
        answer = served.client.get(path, headers={"Range": "bytes=5-9"})
        assert answer.status_code == (302 if redirects else 206)
        if redirects:
            assert answer.headers["location"].startswith(f"{bucket}/kept/some/")
            answer = httpx.get(answer.headers["location"], headers={"Range": "bytes=5-9"})
        assert (answer.status_code, answer.content) == (206, DATA[5:10])
        head = served.client.head(path)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))
        assert served.client.delete(path.removesuffix("/content")).status_code == 200
        assert "<Key>" not in httpx.get(f"{bucket}/kept").text


# --- memory -------------------------------------------------------------------------------------------------


def test_a_large_file_is_stored_and_sent_in_little_memory(
    served: Served, odd: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = LARGE_MIB * MIB

    def send_large(handler: BaseHTTPRequestHandler) -> None:
        head = (24).to_bytes(4, "big") + b"ftyp" + bytes(16) + (8).to_bytes(4, "big") + b"moov"
        begin(handler, size)
        handler.wfile.write(head + (size - len(head)).to_bytes(4, "big") + b"mdat")
        left, piece = size - len(head) - 8, bytes(MIB)
        while left:
            left -= handler.wfile.write(piece[:left])

    monkeypatch.setattr(odd, "send_file", send_large)
    before = peak_bytes()
    shown = stored(served)
    assert shown["output"]["bytes"] == size
    with served.client.stream("GET", shown["output"]["url"]) as answer:
        assert sum(len(piece) for piece in answer.iter_raw()) == size
    assert peak_bytes() - before < 64 * MIB
    served.client.delete(f"/v1/videos/{shown['id']}")


def peak_bytes() -> int:
    """The most memory that this process, gateway included, has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
