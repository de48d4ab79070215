"""Uploads: checked, the caller's own, gone after their time; and how the bytes of an image reach a vendor.

Not held here: forms in general (`test_forms`), the budgets' own rules (`tests/engine/test_budget`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest
from msgspec.structs import replace

from gateway.api import uploads
from gateway.api.images import IMAGE_MAX_BYTES
from gateway.engine.handing import URL_SECONDS
from gateway.storage.db import StorageError
from gateway.storage.uploads import SWEPT_MAX
from tests.api.bodies import data_uri, jpeg, png
from tests.serving import PATIENCE_SECONDS, Call, Json, OddVendor, Served, odd_vendor, problem, read, serving

ODD: Final = """
[providers.byurl]
adapter = "unified"
base_url = "{url}"
api_key = {{ env = "KEY" }}
offerings = ["*"]
poll_min = "1h"
poll_max = "1h"
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
offerings = ["*"]
poll_min = "1h"
poll_max = "1h"
"""
PICTURE: Final = png(640, 480)
OTHER: Final = jpeg(500, 500)


@pytest.fixture
def vendor() -> Iterator[OddVendor]:
    with odd_vendor() as started:
        answer = started.answer
        # The unified API calls the id another name; each reads its own.

        def both(call: Call) -> Json:
            told = answer(call)
            return {**told, "id": told["task_id"]}

        started.answer = both  # type: ignore[method-assign]
        yield started


@pytest.fixture
def served(tmp_path: Path, vendor: OddVendor) -> Iterator[Served]:
    with serving(tmp_path, auth="keys", more=ODD.format(url=vendor.url)) as started:
        yield started


@pytest.fixture
def alice(served: Served) -> httpx.Client:
    return served.as_caller("alice")


def upload(client: httpx.Client, content: bytes = PICTURE, name: str = "fox.png", **fields: str) -> Json:
    answer = client.post("/v1/files", files={"file": (name, content)}, data=fields)
    assert answer.status_code == 200, answer.text
    return read(answer)


def publish(served: Served, url: str | None) -> None:
    """Set `server.public_url`, as a restart with another configuration would."""

    async def use() -> None:
        fleet = served.gateway.fleet
        settings = replace(fleet.settings, server=replace(fleet.settings.server, public_url=url))
        fleet.use(settings, list(fleet.providers.values()))

    served.run(use)


def sent(served: Served, client: httpx.Client, vendor: OddVendor, **body: object) -> Call:
    """The create call that a vendor gets for this body."""
    count = len(vendor.creates)
    served.started(served.create(client, **body)["id"], client)
    assert len(vendor.creates) == count + 1
    return vendor.creates[-1]


# --- uploading ----------------------------------------------------------------------------------------------


def test_an_upload_is_shown_and_served(served: Served, alice: httpx.Client) -> None:
    before = int(served.gateway.now())
    file = upload(alice, OTHER, "a \u00fc.jpg", purpose="user_data")
    assert before <= file["created_at"] <= int(served.gateway.now())
    retention = served.settings.files.retention
    assert file["expires_at"] - file["created_at"] == pytest.approx(retention, abs=1)
    assert (file["object"], file["bytes"], file["purpose"]) == ("file", len(OTHER), "user_data")
    assert (file["filename"], file["status"]) == ("a \u00fc.jpg", "processed")
    assert file["url"] == f"/v1/files/{file['id']}/content"
    assert read(alice.get(f"/v1/files/{file['id']}")) == file
    content = alice.get(file["url"])
    assert (content.content, content.headers["content-type"]) == (OTHER, "image/jpeg")
    head = alice.head(file["url"])
    assert (head.content, head.headers["content-length"]) == (b"", str(len(OTHER)))


def test_another_caller_sees_nothing_of_it(served: Served, alice: httpx.Client) -> None:
    file = upload(alice)
    bob = served.as_caller("bob")
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        problem(bob.request(method, f"/v1/files/{file['id']}{path}"), 404, "not_found")
    for image in (file["id"], file["url"], f"{served.url}{file['url']}"):
        problem(bob.post("/v1/videos", json={"prompt": "a", "image": image}), 400, "invalid_request")
    assert alice.get(file["url"]).content == PICTURE


@pytest.mark.parametrize("name", ["%00", "file_%00", "file_" + "A" * 32, "a" * 5000])
def test_what_is_no_id_is_not_there_and_no_database_is_asked_for_it(
    served: Served, alice: httpx.Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async def fail(*_: object) -> None:
        raise StorageError("the database refuses such a text")

    for method in ("get", "content", "delete", "input"):
        monkeypatch.setattr(served.gateway.store.uploads, method, fail)
    for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        problem(alice.request(method, f"/v1/files/{name}{rest}"), 404, "not_found")
    body = {"prompt": "a", "input_reference": {"file_id": unquote(name)}}
    problem(alice.post("/v1/videos", json=body), 400, "invalid_request")


def test_a_head_reads_no_bytes(served: Served, alice: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    file = upload(alice, OTHER, "a.jpg")
    whole = alice.get(file["url"])

    async def fail(*_: object) -> None:
        raise StorageError("the bytes were read")

    monkeypatch.setattr(served.gateway.store.uploads, "content", fail)
    head = alice.head(file["url"])
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "content-disposition", "cache-control"):
        assert head.headers[name] == whole.headers[name]
    assert alice.head(f"/v1/files/file_{'0' * 32}/content").status_code == 404


@pytest.mark.parametrize(
    ("files", "fields", "pointer"),
    [
        ({}, {"purpose": "vision"}, "/file"), ({"file": ("a.txt", b"hello")}, {}, "/file"),
        ({"file": ("a.png", png(299, 400))}, {}, "/file"), ({"file": ("a.png", b"")}, {}, "/file"),
        ({"file": ("a.png", png(640, 480, IMAGE_MAX_BYTES + 1))}, {}, "/file"),
        ({"file": ("a.png", PICTURE)}, {"purpose": "x" * 65}, "/purpose"),
        ({"file": ("a.png", PICTURE)}, {"purpose": ""}, "/purpose"),
        ({"file": ("a.png", PICTURE)}, {"colour": "red"}, "/colour"),
        ({"file": ("a.png", PICTURE), "image": ("b.png", PICTURE)}, {}, "/image"),
        ({}, {"file": "text"}, "/file"),
    ],
)  # fmt: skip
def test_what_is_no_upload_is_refused(
    alice: httpx.Client, files: dict[str, Any], fields: dict[str, str], pointer: str
) -> None:
    parts = files | {name: (None, text) for name, text in fields.items()}
    found = problem(alice.post("/v1/files", files=parts), 400, "invalid_request")
    assert found["errors"][0]["pointer"] == pointer


def test_an_upload_has_a_limit_and_is_a_form(alice: httpx.Client) -> None:
    assert upload(alice, png(640, 480, IMAGE_MAX_BYTES))["bytes"] == IMAGE_MAX_BYTES
    large = alice.post("/v1/files", files={"file": ("a.png", png(640, 480, uploads.UPLOAD_MAX_BYTES))})
    problem(large, 413, "payload_too_large")
    problem(alice.post("/v1/files", json={"file": "x"}), 400, "invalid_request")


def test_a_caller_keeps_only_so_much(alice: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first = upload(alice)
    monkeypatch.setattr(uploads, "UPLOADS_MAX_BYTES", 2 * len(PICTURE))
    upload(alice)
    answer = alice.post("/v1/files", files={"file": ("a.png", PICTURE)})
    problem(answer, 429, "quota_exceeded")
    assert alice.delete(f"/v1/files/{first['id']}").json() == {
        "id": first["id"], "object": "file", "deleted": True,
    }
    upload(alice)


def test_after_its_time_it_is_gone_for_the_caller_and_then_for_good(
    served: Served, alice: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [upload(alice) for _ in range(SWEPT_MAX + 1)]
    now = served.gateway.now
    monkeypatch.setattr(served.gateway, "now", lambda: now() + served.settings.files.retention + 1)
    problem(alice.get(f"/v1/files/{files[0]['id']}"), 404, "not_found")
    problem(alice.get(files[0]["url"]), 404, "not_found")
    body = {"prompt": "a fox", "image": files[0]["id"]}
    problem(alice.post("/v1/videos", json=body), 400, "invalid_request")
    rows = served.gateway.store.uploads
    counts = [served.run(rows.sweep, served.gateway.now()) for _ in range(3)]
    assert counts == [SWEPT_MAX, 1, 0]


# --- in a create --------------------------------------------------------------------------------------------


NAMES: Final = ("id", "url", "absolute", "public", "file_id", "image_url", "form", "form file_id")


@pytest.mark.parametrize("name", NAMES)
def test_a_create_takes_an_upload_by_any_of_its_names(
    served: Served, alice: httpx.Client, vendor: OddVendor, name: str
) -> None:
    publish(served, "https://video.example")
    file = upload(alice)
    bodies: dict[str, Json] = {
        "id": {"image": file["id"]}, "url": {"image": file["url"]},
        "absolute": {"image": f"{served.url}{file['url']}"},
        "public": {"image": f"https://video.example{file['url']}"},
        "file_id": {"input_reference": {"file_id": file["id"]}},
        "image_url": {"input_reference": {"image_url": file["url"]}},
        "form": {"image": file["id"]}, "form file_id": {"input_reference[file_id]": file["id"]},
    }
    key, body = {"Idempotency-Key": name}, {"prompt": "a fox", "provider": "odd"} | bodies[name]
    if name.startswith("form"):
        parts = {name: (None, text) for name, text in body.items()}
        answer = alice.post("/v1/videos", files=parts, headers=key)
    else:
        answer = alice.post("/v1/videos", json=body, headers=key)
    assert answer.status_code == 202, answer.text
    same = {"prompt": "a fox", "provider": "odd", "image": data_uri(PICTURE)}
    again = alice.post("/v1/videos", json=same, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    served.started(read(again)["id"], alice)
    assert [call.body["image"] for call in vendor.creates] == [data_uri(PICTURE)]


def test_a_video_needs_its_upload_no_more(served: Served, alice: httpx.Client, vendor: OddVendor) -> None:
    file = upload(alice)
    video = served.create(alice, image=file["id"], provider="odd")
    assert alice.delete(f"/v1/files/{file['id']}").status_code == 200
    again = alice.post(f"/v1/videos/{video['id']}/rerun")
    assert again.status_code == 202, again.text
    served.started(read(again)["id"], alice)
    assert vendor.creates[-1].body["image"] == data_uri(PICTURE)


def test_a_retry_after_its_upload_is_gone_is_told_of_the_video(served: Served, alice: httpx.Client) -> None:
    file, key = upload(alice), {"Idempotency-Key": "upload-gone"}
    body = {"prompt": "a fox", "image": file["id"], "provider": "odd"}
    problem(alice.post("/v1/videos", json=body | {"image": "file_" + "0" * 32}, headers=key), 400,
            "invalid_request")  # fmt: skip
    made = read(alice.post("/v1/videos", json=body, headers=key))["id"]
    served.started(made, alice)
    assert alice.delete(f"/v1/files/{file['id']}").status_code == 200
    again = alice.post("/v1/videos", json=body, headers=key)
    found = problem(again, 409, "not_resolvable")
    assert made in found["detail"]
    assert (found["charged"], found["retryable"]) == (read(alice.get(f"/v1/videos/{made}"))["charged"], False)
    assert again.headers["x-should-retry"] == "false"
    problem(alice.post("/v1/videos", json=body), 400, "invalid_request")
    bob = served.as_caller("bob")
    problem(bob.post("/v1/videos", json=body, headers=key), 400, "invalid_request")


def test_one_name_too_many_is_refused(alice: httpx.Client) -> None:
    file = upload(alice)
    for reference in ({"file_id": file["id"], "image_url": file["url"]}, {"file_id": "file_" + "0" * 32}):
        answer = alice.post("/v1/videos", json={"prompt": "a", "input_reference": reference})
        assert "file_id" in problem(answer, 400, "invalid_request")["errors"][0]["pointer"]
    other = alice.post("/v1/videos", json={"prompt": "a", "image": "https://a.test/v1/files/" + file["id"]})
    assert other.status_code == 202, "somebody else's URL is passed on as it is"


# --- to a vendor --------------------------------------------------------------------------------------------


def test_who_takes_data_gets_data(served: Served, alice: httpx.Client, vendor: OddVendor) -> None:
    publish(served, served.url)
    call = sent(served, alice, vendor, provider="odd", image=data_uri(PICTURE))
    assert call.body["image"] == data_uri(PICTURE)


def test_who_takes_urls_only_gets_none_without_a_public_url(served: Served, alice: httpx.Client) -> None:
    body = {"prompt": "a fox", "provider": "byurl", "image": data_uri(PICTURE)}
    found = problem(alice.post("/v1/videos", json=body), 422, "no_route")
    assert "takes an image only as url" in str(found["candidates"])


def test_who_takes_urls_only_gets_a_signed_one(
    served: Served, alice: httpx.Client, vendor: OddVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(served, served.url)
    images = {"image": data_uri(PICTURE), "end_image": data_uri(OTHER, "image/jpeg")}
    call = sent(served, alice, vendor, provider="byurl", **images)
    first, last = call.body["image_url"], call.body["image_tail_url"]
    for url, content, kind in ((first, PICTURE, "image/png"), (last, OTHER, "image/jpeg")):
        answer = served.client.get(url)
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, content, kind)
        assert served.client.head(url).status_code == 200
    parts = urlsplit(first)
    expires, signature = (parse_qs(parts.query)[name][0] for name in ("expires", "signature"))
    assert int(expires) - served.gateway.now() == pytest.approx(URL_SECONDS, abs=60)
    plain = parts._replace(query="").geturl()
    problem(served.client.get(plain), 401, "authentication_failed")
    problem(alice.get(plain), 404, "not_found")
    other = parts._replace(path=parts.path.replace("-image", "-end_image")).geturl()
    wrong = [
        other, f"{plain}?expires={int(expires) + 1}&signature={signature}", f"{plain}?signature=",
        f"{plain}?expires={expires}&signature={signature[:-1]}", f"{plain}?signature=\u00fc",
        f"{plain}?expires={expires}&signature={signature}x", f"{plain}?expires=1e9&signature={signature}",
    ]  # fmt: skip
    for url in wrong:
        problem(served.client.get(url), 403, "permission_denied")
    now = served.gateway.now
    monkeypatch.setattr(served.gateway, "now", lambda: now() + URL_SECONDS)
    problem(served.client.get(first), 410, "expired")


def test_models_publish_what_is_enforced(served: Served, alice: httpx.Client) -> None:
    def forms() -> list[list[str]]:
        (model,) = (each for each in read(alice.get("/v1/models"))["data"] if each["id"] == "kling-v3")
        return [each["features"]["image"]["forms"] for each in model["offerings"]
                if each["provider"] == "byurl" and each["features"]["image"]]  # fmt: skip

    assert forms() == [["url"]]
    publish(served, served.url)
    assert forms() == [["url", "data_uri"]]


def test_a_plan_shows_where_the_image_would_be(served: Served, alice: httpx.Client) -> None:
    publish(served, "https://video.example")
    body = {"prompt": "a fox", "provider": "byurl", "image": data_uri(PICTURE)}
    (first,) = read(alice.post("/v1/videos/plan", json=body))["candidates"]
    assert first["request"]["body"]["image_url"] == "https://video.example/v1/files/[id]-image/content"


def test_no_more_image_data_is_sent_at_once_than_there_is_room_for(
    served: Served, alice: httpx.Client, vendor: OddVendor
) -> None:
    arrived, go = threading.Semaphore(0), threading.Event()
    answer: Callable[[Call], Json] = vendor.answer

    def held(call: Call) -> Json:
        arrived.release()
        go.wait(PATIENCE_SECONDS)
        return answer(call)

    vendor.answer = held  # type: ignore[method-assign]
    images = served.gateway.engine.images
    images.limit = len(data_uri(PICTURE)) * 2
    try:
        ids = [served.create(alice, image=data_uri(PICTURE), provider="odd")["id"] for _ in range(5)]
        text = served.create(alice, provider="odd", resolution="1080p")["id"]
        for _ in range(3):  # two with an image, and what has none
            assert arrived.acquire(timeout=PATIENCE_SECONDS)
        assert images.used == images.limit
        stages = [read(alice.get(f"/v1/videos/{video}"))["stage"] for video in ids]
        assert sorted(stages) == ["submitting"] * 2 + ["waiting"] * 3
        assert read(alice.get(f"/v1/videos/{text}"))["stage"] == "submitting"
        assert not arrived.acquire(blocking=False)
    finally:
        go.set()
    for video in (*ids, text):
        served.started(video, alice)
    assert len(vendor.creates) == 6
    served.run(served.gateway.engine.stop)
    assert images.used == 0
