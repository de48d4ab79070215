"""A key that ends while its request is under way: nothing is ordered with it, and no more is handed out.

Held here: bodies that are slow to come, and downloads. Not held here: streams and long polls
(`tests/api/test_keys.py`), how soon a new request is refused (`tests/api/test_auth.py`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Final

import httpx
import pytest

from gateway.api import auth
from gateway.api.auth import KNOWN_SECONDS
from gateway.core.keys import digest_of
from tests.api.bodies import png
from tests.engine.hosting import video as film
from tests.serving import PATIENCE_SECONDS, OddVendor, Served, odd_vendor, problem, read, serving

MORE: Final = """
[teams.red]
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
poll_min = "10ms"
poll_max = "20ms"
"""
LENGTH: Final = 200_000
FORM: Final = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + png(640, 480)
    + b"\r\n--b--\r\n"
)
BODIES: Final = {
    "/v1/videos": (b'{"prompt": "a fox"}', "application/json"),
    "/v1/files": (FORM, "multipart/form-data; boundary=b"),
    "/v1/webhook_endpoints": (b'{"url": "https://a.example/"}', "application/json"),
}


@pytest.fixture(scope="module")
def odd() -> Iterator[OddVendor]:
    with odd_vendor() as vendor:
        yield vendor


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, odd: OddVendor) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "LOOK_SECONDS", 0.05)
        folder = tmp_path_factory.mktemp("ended")
        with serving(folder, auth="keys", more=MORE.format(url=odd.url)) as started:
            yield started


def revoke(served: Served, key: str) -> None:
    """End a key as another process does that does not tell."""

    async def act() -> None:
        row = await served.gateway.store.keys.find(digest_of(key), served.gateway.now())
        assert row is not None
        assert await served.gateway.store.keys.revoke(row.id, served.gateway.now())

    served.run(act)


def until(served: Served, is_so: Callable[[], bool]) -> None:
    """Return when that is so of the gateway."""

    async def look() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_so():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)

    served.run(look)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize("is_over", [True, False])
def test_a_key_that_ended_while_the_body_came_orders_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, is_announced: bool, is_over: bool
) -> None:
    key, door = served.new_key("slow", team="red"), served.gateway.door
    content, kind = BODIES[path]
    header, ahead = f"Bearer {key}", 0.0
    monkeypatch.setattr(door, "_now", lambda: served.gateway.now() + ahead)

    def dripping() -> Iterator[bytes]:
        nonlocal ahead
        yield content[:9]
        until(served, lambda: door.known(header) is not None)
        if is_over:
            revoke(served, key)
        ahead += KNOWN_SECONDS
        yield content[9:]

    headers = {"Authorization": header, "Content-Type": kind}
    if is_announced:
        headers["Content-Length"] = str(len(content))
    before = everything(served)
    answer = served.client.post(path, content=dripping(), headers=headers)
    if is_over:
        problem(answer, 401, "authentication_failed")
        assert everything(served) == before
    else:
        assert answer.status_code in (200, 201, 202), answer.text


def everything(served: Served) -> list[str]:
    """All that the team has."""
    mate = served.as_caller("mate", team="red")
    listed = [read(mate.get(path))["data"] for path in ("/v1/videos", "/v1/webhook_endpoints")]
    uploads = served.run(served.gateway.store.uploads.sizes, "team:red", served.gateway.now())
    return [str([each["id"] for each in data]) for data in listed] + [str(uploads)]


@pytest.mark.parametrize("is_over", [True, False])
def test_a_download_ends_with_its_key(served: Served, odd: OddVendor, is_over: bool) -> None:
    data, gate = film(LENGTH), threading.Event()

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: LENGTH // 2])
        handler.wfile.flush()
        gate.wait(PATIENCE_SECONDS)
        handler.wfile.write(data[LENGTH // 2 :])

    odd.send_file = send
    key = served.new_key("downloads")
    client = served.client_with({"Authorization": f"Bearer {key}"})
    video = served.completed(client, provider="odd", resolution="1080p")
    guests, got = served.gateway.door.guests, b""
    with client.stream("GET", f"/v1/videos/{video['id']}/content") as answer:
        parts = answer.iter_raw()
        got += next(parts)
        assert digest_of(key) in guests.digests
        if is_over:
            revoke(served, key)
            until(served, lambda: digest_of(key) not in guests.digests)
        gate.set()
        if is_over:
            with pytest.raises(httpx.RemoteProtocolError):
                got += b"".join(parts)
        else:
            got += b"".join(parts)
    assert (got == data[:LENGTH]) != is_over
    until(served, lambda: digest_of(key) not in guests.digests)
