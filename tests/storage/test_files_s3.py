"""A bucket as the place for files, against two servers: one for what is stored, one that checks signatures.

Not held here: which files there are, and what is done when the bucket fails (`tests/engine/test_keeping.py`).
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import httpx
import msgspec
import obstore
import pytest
from moto.server import ThreadedMotoServer

from gateway.storage.files import FileMissing, FileStoreError
from gateway.storage.files_s3 import PART_BYTES, Bucket, S3Files
from gateway.values import Secret
from tests.handling import handling

KEY = "60/video_1-0.mp4"
BIG = os.urandom(2 * PART_BYTES + 17)


async def pieces(data: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def broken(data: bytes, error: BaseException) -> AsyncIterator[bytes]:
    async for piece in pieces(data):
        yield piece
    raise error


async def read(files: S3Files, start: int, end: int, key: str = KEY) -> bytes:
    return b"".join([piece async for piece in files.read(key, start, end)])


def fetch(url: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False)


def bucket_at(endpoint: str, **changed: object) -> Bucket:
    made = Bucket(
        name="videos", prefix="some/prefix", endpoint=endpoint, region="us-east-1",
        access_key_id=Secret("key-of-the-test"), secret_access_key=Secret("secret-of-the-test"),
    )
    return msgspec.structs.replace(made, **changed)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    httpx.put(f"{url}/videos")
    yield url
    server.stop()


@pytest.fixture(scope="module")
def nanio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that knows one key and believes nobody else."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    folder = tmp_path_factory.mktemp("nanio")
    (folder / "videos").mkdir()
    command = [sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--data-dir", str(folder), "--log-level", "error", "--no-access-log"]
    keys = {"NANIO_ACCESS_KEY": "key-of-the-test", "NANIO_SECRET_KEY": "secret-of-the-test"}
    with subprocess.Popen(command, env=os.environ | keys) as process:
        url = f"http://127.0.0.1:{port}"
        transport = httpx.HTTPTransport(retries=10)  # until it listens: 0, 0.5, 1, 2, ... s apart
        with httpx.Client(transport=transport) as client:
            client.get(url)
        yield url
        process.terminate()


@pytest.fixture(params=["moto", "nanio"])
def endpoint(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def files(endpoint: str) -> S3Files:
    return S3Files(bucket_at(endpoint))


@pytest.mark.anyio
async def test_what_was_put_can_be_read_whole_and_in_parts(files: S3Files) -> None:
    for data in (BIG, BIG[:1000]):
        await files.put(KEY, pieces(data), "video/mp4")
        assert await read(files, 0, len(data) - 1) == data
        assert await read(files, 5, 5) == data[5:6]
        assert await read(files, 900, len(data) - 1) == data[900:]


@pytest.mark.anyio
async def test_what_is_removed_is_gone_also_twice(files: S3Files) -> None:
    await files.put(KEY, pieces(b"abc"), "video/mp4")
    for _ in range(2):
        await files.remove(KEY)
    with pytest.raises(FileMissing):
        await read(files, 0, 2)


@pytest.mark.anyio
async def test_anybody_gets_the_file_by_a_signed_url(files: S3Files) -> None:
    await files.put(KEY, pieces(BIG), "video/mp4")
    url = await files.link(KEY, 60.0)
    assert url is not None
    answer = fetch(url, {"Range": "bytes=5-9"})
    assert (answer.status_code, answer.content) == (206, BIG[5:10])
    assert answer.headers["content-type"] == "video/mp4"
    assert "secret-of-the-test" not in url
    assert urlsplit(url).path == f"/videos/some/prefix/{KEY}", "path style"


@pytest.mark.anyio
async def test_the_server_is_asked_by_who_has_the_key_only(nanio: str) -> None:
    good = S3Files(bucket_at(nanio))
    await good.put(KEY, pieces(b"abc"), "video/mp4")
    url = await good.link(KEY, 60.0) or ""
    assert fetch(url.replace("video_1-0", "video_2-0")).status_code == 403
    assert fetch(url.split("?", maxsplit=1)[0]).status_code == 403
    for changed in ({"secret_access_key": "another"}, {"access_key_id": "nobody"}):
        bad = S3Files(bucket_at(nanio, **changed))
        with pytest.raises(FileStoreError, match="s3://videos/some/prefix cannot be used"):
            await bad.put(KEY, pieces(b"def"), "video/mp4")
        assert await bad.trouble() is not None
    assert await read(good, 0, 2) == b"abc"


@pytest.mark.anyio
@pytest.mark.parametrize("error", [ValueError("no video"), FileStoreError("no")], ids=repr)
async def test_of_a_source_that_breaks_nothing_stays(moto: str, error: Exception) -> None:
    files = S3Files(bucket_at(moto, prefix="broken"))
    for data in (b"abc", BIG):
        with pytest.raises(type(error), match=str(error)):
            await files.put(KEY, broken(data, error), "video/mp4")
        with pytest.raises(FileMissing):
            await read(files, 0, 2)
    uploads = fetch(f"{moto}/videos?uploads").text
    assert "broken/" not in uploads, "an upload was left open"


@pytest.mark.anyio
async def test_what_is_stored_stays_while_another_attempt_fails(moto: str) -> None:
    files = S3Files(bucket_at(moto))
    await files.put(KEY, pieces(b"abc"), "video/mp4")
    with pytest.raises(ValueError, match="no"):
        await files.put(KEY, broken(BIG, ValueError("no")), "video/mp4")
    assert await read(files, 0, 2) == b"abc"


@pytest.mark.anyio
async def test_who_is_cancelled_in_the_middle_stores_nothing(moto: str) -> None:
    files = S3Files(bucket_at(moto, prefix="cancelled"))
    reached, never = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield BIG
        reached.set()
        await never.wait()

    putting = asyncio.create_task(files.put(KEY, slow(), "video/mp4"))
    await reached.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    with pytest.raises(FileMissing):
        await read(files, 0, 2)


@pytest.mark.anyio
async def test_a_large_file_passes_in_little_memory(nanio: str) -> None:
    files, piece, count = S3Files(bucket_at(nanio)), bytes(1024 * 1024), 200
    before = peak_bytes()

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece

    await files.put(KEY, zeros(), "video/mp4")
    got = 0
    async for part in files.read(KEY, 0, count * len(piece) - 1):
        got += len(part)
    assert got == count * len(piece)
    assert peak_bytes() - before < 6 * PART_BYTES
    await files.remove(KEY)


def peak_bytes() -> int:
    """The most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.mark.anyio
async def test_trouble_is_found_by_trying(moto: str) -> None:
    assert await S3Files(bucket_at(moto)).trouble() is None
    why = await S3Files(bucket_at(moto, name="no-such-bucket")).trouble()
    assert why is not None
    assert why.startswith("s3://no-such-bucket/some/prefix cannot be used: ")
    assert "\n" not in why


@pytest.fixture
def failing() -> Iterator[str]:
    """A server that answers everything by 503."""
    with answering(b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as url:
        yield url


@pytest.fixture
def refusing_parts() -> Iterator[str]:
    """A server that begins an upload, and takes no part of it."""
    began = b"<InitiateMultipartUploadResult><Bucket>videos</Bucket><Key>k</Key><UploadId>1</UploadId>"
    began += b"</InitiateMultipartUploadResult>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: "
    refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(refused, head + b"%d\r\n\r\n" % len(began) + began) as url:
        yield url


@contextmanager
def answering(answer: bytes, to_post: bytes | None = None) -> Iterator[str]:
    """A server that answers everything alike, or POST in another way."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            if first := self.rfile.readline():
                size = 0
                while line := self.rfile.readline().strip():
                    name, _, value = line.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                self.rfile.read(size)
                is_post = to_post is not None and first.startswith(b"POST")
                self.wfile.write(to_post or b"" if is_post else answer)
            self.close_connection = True

    with handling(Handler) as url:
        yield url


@pytest.mark.anyio
async def test_a_bucket_that_fails_is_an_error_of_the_store_and_tells_no_key(failing: str) -> None:
    files = S3Files(bucket_at(failing))
    for work in (files.put(KEY, pieces(b"abc"), "video/mp4"), read(files, 0, 2), files.remove(KEY)):
        with pytest.raises(FileStoreError) as caught:
            await work
        assert not isinstance(caught.value, FileMissing)
        assert "secret-of-the-test" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("count", [1, 3, 5])
async def test_a_part_that_is_refused_is_an_error_of_the_store(refusing_parts: str, count: int) -> None:
    files = S3Files(bucket_at(refusing_parts))
    with pytest.raises(FileStoreError, match="cannot be used"):
        await files.put(KEY, pieces(bytes(count * PART_BYTES)), "video/mp4")


@pytest.mark.anyio
async def test_an_error_without_words_is_told_by_its_name(
    moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wordless(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(obstore, "delete_async", wordless)
    with pytest.raises(FileStoreError, match="cannot be used: OSError"):
        await S3Files(bucket_at(moto)).remove(KEY)


@pytest.mark.anyio
async def test_what_the_settings_leave_out_comes_from_the_environment(
    nanio: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": nanio, "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
    }.items():
        monkeypatch.setenv(name, value)
    files = S3Files(Bucket(name="videos"))
    await files.put(KEY, pieces(b"abc"), "video/mp4")
    assert await read(files, 0, 2) == b"abc"
