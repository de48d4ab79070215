"""The vendors' words over virtual time: keys, errors, statuses, links, money, and the admin routes.

Not held here: what is a valid request (test_schemas), and what goes wrong (test_faults).
"""

from __future__ import annotations

import asyncio
import importlib
import io
import sys
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from gateway.sandbox import strictness
from gateway.sandbox.probe import probe_stream
from gateway.sandbox.server import Sandbox, SandboxSettings, running, serve
from tests.sandbox.conftest import VirtualClock
from tests.sandbox.requests import PLAIN, create_path, picture, poll_path

pytestmark = pytest.mark.anyio

VENDORS = tuple(PLAIN)
V3 = ("highwayapi", "myrouter")


async def create(client: httpx.AsyncClient, vendor: str, **changes: object) -> str:
    slug, body = PLAIN[vendor]
    answer = await client.post(create_path(vendor, slug), json=body | changes)
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id" if vendor == "unified" else "task_id"]
    return made


async def poll(client: httpx.AsyncClient, vendor: str, task_id: str) -> dict[str, Any]:
    answer = await client.get(poll_path(vendor, task_id))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def link_of(client: httpx.AsyncClient, vendor: str, task_id: str) -> str:
    told = await poll(client, vendor, task_id)
    link: str = told["results"][0]["url"] if vendor == "unified" else told["videos"][0]["video_url"]
    return link


def documented(vendor: str, name: str, told: object) -> None:
    document = yaml.safe_load((strictness.schema_folder() / f"{vendor}.yaml").read_text("utf-8"))
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(told)


@pytest.mark.parametrize("vendor", V3)
async def test_v3_task_goes_through_its_statuses(
    client: httpx.AsyncClient, clock: VirtualClock, vendor: str
) -> None:
    task_id = await create(client, vendor)
    seen = []
    for seconds in (0, 10, 10, 40, 39.9, 0.2):
        clock.now += seconds
        told = await poll(client, vendor, task_id)
        documented(vendor, "TaskResult", told)
        task = told["task"]
        assert task["task_id"] == task_id
        links = [video["video_url_ttl"] for video in told.get("videos") or []]
        word = task["status"].removeprefix("TASK_STATUS_")
        seen.append((word, task["progress_percent"], task["eta"], links))
    assert seen == [
        ("QUEUED", 0, 100, []), ("QUEUED", 0, 90, []), ("PROCESSING", 5, 80, []), ("PROCESSING", 52, 40, []),
        ("PROCESSING", 99, 1, []), ("SUCCEED", 100, 0, ["3600"]),
    ]


async def test_unified_task_goes_through_its_statuses(client: httpx.AsyncClient, clock: VirtualClock) -> None:
    task_id = await create(client, "unified")
    assert task_id.startswith("task-unified-1700000000-")
    seen = []
    for seconds in (0, 20, 79.9, 0.2):
        clock.now += seconds
        told = await poll(client, "unified", task_id)
        documented("unified", "Task", told)
        seen.append((told["status"], told["progress"], told["results"] is not None, told["error"]))
    assert seen == [
        ("pending", 0, False, None), ("processing", 5, False, None), ("processing", 99, False, None),
        ("completed", 100, True, None),
    ]


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("what", ["create", "poll"])
@pytest.mark.parametrize(
    ("header", "v3", "unified"),
    [
        (None, (400, "MISSING_API_KEY"), (401, "authentication_error")),
        ("Bearer", (400, "MISSING_API_KEY"), (401, "authentication_error")),
        ("Bearer wrong", (403, "INVALID_API_KEY"), (401, "authentication_error")),
        ("Basic sandbox-key", (403, "INVALID_API_KEY"), (401, "authentication_error")),
    ],
)
async def test_keys_are_checked(
    sandbox: Sandbox, vendor: str, what: str, header: str | None, v3: object, unified: object
) -> None:
    slug, body = PLAIN[vendor]
    headers = {} if header is None else {"authorization": header}
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers, trust_env=False) as client:
        if what == "create":
            answer = await client.post(create_path(vendor, slug), json=body)
        else:
            answer = await client.get(poll_path(vendor, "x"))
    told = answer.json()
    documented(vendor, "Error", told)
    if vendor == "unified":
        assert (answer.status_code, told["error"]["type"]) == unified
    else:
        assert (answer.status_code, told["reason"]) == v3
    assert not sandbox.ledger


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("POST", "/highwayapi/v3/async/kling-v9", "API_NOT_FOUND"),
        ("PUT", "/highwayapi/v3/async/kling-v3.0-std-t2v", "API_NOT_FOUND"),
        ("GET", "/highwayapi/v3/async/task-result?task_id=none", "TASK_NOT_FOUND"),
        ("GET", "/highwayapi/v3/async/task-result", "TASK_NOT_FOUND"),
    ],
)
async def test_v3_does_not_know(client: httpx.AsyncClient, method: str, path: str, reason: str) -> None:
    answer = await client.request(method, path, json={"prompt": "x"})
    assert (answer.status_code, answer.json()["reason"]) == (404, reason)


async def test_a_vendor_does_not_know_the_tasks_of_another(client: httpx.AsyncClient) -> None:
    task_id = await create(client, "highwayapi")
    assert (await client.get(poll_path("myrouter", task_id))).status_code == 404


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "kling-v9"}, (422, "validation_error", "model_not_found")),
        ({"duration": 7}, (422, "validation_error", "invalid_param")),
        ({"duration": "5"}, (400, "invalid_request_error", "invalid_request")),
        ({"seed": 1}, (400, "invalid_request_error", "invalid_request")),
    ],
)
async def test_unified_errors_have_type_and_code(
    client: httpx.AsyncClient, change: dict[str, object], expected: object
) -> None:
    answer = await client.post("/unified/v1/videos/generations", json=PLAIN["unified"][1] | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == expected
    assert "request_id: " in error["message"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"), (b"", "application/json"), (b"[]", "application/json"),
        (b'{"prompt": NaN}', "application/json"), (b'"' * 9, "application/json"),
        (b"[" * 100_000, "application/json"), (b'{"prompt": "\xff"}', "application/json"),
        (b'{"prompt": "x"}', "text/plain"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(
    client: httpx.AsyncClient, sandbox: Sandbox, content: bytes, kind: str
) -> None:
    path = create_path("highwayapi", PLAIN["highwayapi"][0])
    answer = await client.post(path, content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_REQUEST_BODY")
    assert not sandbox.ledger


async def test_every_accepted_create_is_charged(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    first = await create(client, "highwayapi", prompt="a fox [[ref:job-1]]", sound=True, duration=10)
    second = await create(client, "unified", resolution="4k")
    charged = [(entry.vendor_task_id, entry.amount) for entry in sandbox.ledger]
    assert charged == [(first, "1.260"), (second, "2.10")]
    told = (await client.get("/admin/ledger")).json()
    assert (told["count"], told["total"]) == (2, "3.360")
    assert told["entries"][0] == {
        "vendor": "highwayapi", "slug": "kling-v3.0-std-t2v", "vendor_task_id": first, "amount": "1.260",
        "currency": "USD", "prompt": "a fox [[ref:job-1]]", "at": 1_700_000_000.0,
        "client_reference": "job-1",
    }
    assert (await client.get("/admin/ledger?vendor=unified")).json()["count"] == 1
    (task, _) = (await client.get("/admin/tasks")).json()["tasks"]
    assert task["clip"] == {"width": 1280, "height": 720, "seconds": 10, "audio": True}
    assert (await client.post("/admin/reset")).status_code == 200
    assert not sandbox.ledger
    assert (await client.get(poll_path("highwayapi", first))).status_code == 404


@pytest.mark.parametrize("vendor", VENDORS)
async def test_file_is_the_clip_that_was_asked(
    client: httpx.AsyncClient, clock: VirtualClock, vendor: str
) -> None:
    audio = {"generate_audio" if vendor == "unified" else "sound": True}
    task_id = await create(client, vendor, aspect_ratio="1:1", **audio)
    clock.now += 101
    link = await link_of(client, vendor, task_id)
    async with httpx.AsyncClient(trust_env=False) as stranger:  # no key: the link is signed
        answer = await stranger.get(link)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    clip = probe_stream(io.BytesIO(answer.content))
    side = 1080 if vendor == "myrouter" else 720
    assert (clip.width, clip.height, clip.has_audio) == (side, side, True)


async def test_first_frame_decides_the_size(client: httpx.AsyncClient, clock: VirtualClock) -> None:
    path = create_path("highwayapi", "kling-v3.0-std-i2v")
    body = {"image": picture(400, 800), "prompt": "x", "duration": 3}
    task_id = (await client.post(path, json=body)).json()["task_id"]
    clock.now += 101
    answer = await client.get(await link_of(client, "highwayapi", task_id))
    clip = probe_stream(io.BytesIO(answer.content))
    assert (clip.width, clip.height) == (720, 1440)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_links_expire_are_renewed_by_a_poll_and_cannot_be_forged(
    client: httpx.AsyncClient, clock: VirtualClock, vendor: str
) -> None:
    task_id = await create(client, vendor, duration=5)
    clock.now += 101
    link = await link_of(client, vendor, task_id)
    clock.now += {"unified": 86400}.get(vendor, 3600) - 1
    assert (await client.head(link)).status_code == 200
    clock.now += 2
    assert (await client.get(link)).status_code == 403
    assert (await client.head(await link_of(client, vendor, task_id))).status_code == 200
    later = httpx.URL(link).copy_merge_params({"expires": "9999999999"})
    assert (await client.get(later)).status_code == 403
    assert (await client.get(httpx.URL(link).copy_with(query=None))).status_code == 403


async def test_ranges_and_head(client: httpx.AsyncClient, clock: VirtualClock) -> None:
    task_id = await create(client, "highwayapi")
    clock.now += 101
    link = await link_of(client, "highwayapi", task_id)
    whole = await client.get(link)
    size, etag = len(whole.content), whole.headers["etag"]
    head = await client.head(link)
    assert (head.headers["content-length"], head.headers["accept-ranges"]) == (str(size), "bytes")
    assert head.content == b""
    expected = {
        "bytes=0-9": (0, 10), "bytes=10-": (10, size), "bytes=-10": (size - 10, size), "bytes=5-5": (5, 6),
        f"bytes=0-{size}": (0, size), f"bytes=-{size + 1}": (0, size),
    }
    for asked, (start, stop) in expected.items():
        part = await client.get(link, headers={"range": asked})
        assert (part.status_code, part.content) == (206, whole.content[start:stop]), asked
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    for asked in (f"bytes={size}-", "bytes=-0", "bytes=9-5"):
        part = await client.get(link, headers={"range": asked})
        assert (part.status_code, part.headers["content-range"]) == (416, f"bytes */{size}"), asked
    stale = {"range": "bytes=0-9", "if-range": '"old"'}
    for headers in ({"range": "bytes=x-"}, {"range": "bytes=0-1,5-6"}, stale):
        assert (await client.get(link, headers=headers)).content == whole.content, headers
    part = await client.get(link, headers={"range": "bytes=0-9", "if-range": etag})
    assert part.status_code == 206
    assert (await client.post(link)).status_code == 405


async def test_admin_lists_arms_and_disarms(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    assert (await client.get("/admin/health")).json() == {"status": "ok"}
    rows = (await client.get("/admin/faults")).json()["faults"]
    assert {"name", "rows", "phases", "text", "works", "times", "lasts", "args", "armed_by"} == set(rows[0])
    wanted = {"fault": "rate_limited", "vendor": "unified", "times": 2, "args": {"retry_after": "3"}}
    assert (await client.post("/admin/faults", json=wanted)).status_code == 200
    slug, body = PLAIN["unified"]
    await create(client, "highwayapi")
    for _ in range(2):
        answer = await client.post(create_path("unified", slug), json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    await create(client, "unified")
    await client.post("/admin/faults", json=wanted | {"times": "always"})
    assert (await client.get("/admin/faults")).json()["armed"][-1]["left"] is None
    assert (await client.delete("/admin/faults")).json() == {"armed": []}
    await create(client, "unified")
    assert len(sandbox.ledger) == 3


@pytest.mark.parametrize("wrong", [
    {"fault": "none"}, {"fault": "hang", "vendor": "none"}, {"fault": "hang", "phase": "later"},
    {"fault": "stuck", "phase": "submit"}, {"fault": "hang", "args": {"x": 1}}, {"fault": "hang", "more": 1},
    {"fault": "late", "args": {"seconds": "soon"}}, {}, [],
])
async def test_admin_refuses_what_does_not_exist(client: httpx.AsyncClient, wrong: object) -> None:
    assert (await client.post("/admin/faults", json=wrong)).status_code == 400
    assert (await client.get("/admin/nothing")).status_code == 404
    assert (await client.get("/nobody")).status_code == 404


async def test_renders_take_a_lognormal_time_and_a_seed_repeats_it() -> None:
    async def draws(spread: float) -> list[float]:
        settings = SandboxSettings(port=0, render_seconds=3, render_spread=spread, seed=1)
        async with running(settings) as sandbox, httpx.AsyncClient(
            base_url=sandbox.url, headers={"authorization": f"Bearer {settings.key}"}, trust_env=False
        ) as client:
            for _ in range(101):
                await create(client, "highwayapi")
            return [task.render_seconds for task in sandbox.world.tasks.values()]

    drawn = await draws(0.35)
    assert sorted(drawn)[50] == pytest.approx(3, rel=0.15)
    assert len(set(drawn)) == 101
    assert drawn == await draws(0.35)
    assert set(await draws(0)) == {3.0}


async def test_serve_runs_until_cancelled_and_says_where() -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(SandboxSettings(port=0), on_ready=ready.set_result))
    url = await asyncio.wait_for(ready, 60)
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{url}/admin/health")).status_code == 200
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/admin/health")


async def test_connections_are_kept_and_one_may_ask_to_be_told_to_go_on(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(b"GET /admin/health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b'{"status":"ok"}')).startswith(b"HTTP/1.1 200")
    writer.write(b"POST /admin/reset HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n")
    writer.write(b"expect: 100-continue\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"{}")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    writer.write(b"this is not HTTP\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


@pytest.mark.parametrize(("library", "module"), [("av", "media"), ("jsonschema", "strictness")])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, library: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"gateway.sandbox.{module}")
    with pytest.raises(ImportError, match=r"pip install 'reelgate\[sandbox\]'"):
        importlib.import_module(f"gateway.sandbox.{module}")
