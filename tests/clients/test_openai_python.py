"""The newest `openai` package, unchanged but for base URL and key: the whole life of a video, and its errors.

Not held here: its retries (`test_retries`), what the routes answer in full (`tests.api`).
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from tests.api.bodies import png
from tests.clients.conftest import Place
from tests.serving import PATIENCE_SECONDS

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API")

FOX: Final = "a fox"
PICTURE: Final = png(640, 480)


@pytest.fixture
def client(place: Place) -> openai.OpenAI:
    return openai.OpenAI(base_url=place.base_url, api_key=place.key, max_retries=0)


def shown(place: Place, video_id: str) -> dict[str, Any]:
    request: dict[str, Any] = place.client.get(f"/v1/videos/{video_id}").json()["request"]
    return request


def test_create_with_its_own_words(place: Place, client: openai.OpenAI) -> None:
    video = client.videos.create(
        prompt=FOX, model="kling-v3", seconds="10", size="720x1280",  # type: ignore[arg-type]
    )
    assert (video.object, video.status, video.progress) == ("video", "queued", 0)
    assert (video.model, video.seconds, video.size, video.prompt) == ("kling-v3", "10", "720x1280", FOX)
    request = shown(place, video.id)
    assert (request["duration"], request["resolution"], request["aspect_ratio"]) == (10, "720p", "9:16")


def test_create_with_a_file(place: Place, client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "fox.png"
    path.write_bytes(PICTURE)
    with path.open("rb") as file:
        for reference in (path, file, PICTURE, ("fox.png", PICTURE), ("x", PICTURE, "image/png")):
            video = client.videos.create(prompt=FOX, input_reference=reference)
            assert shown(place, video.id)["image"]["bytes"] == len(PICTURE)
            assert video.size is None, "no size has the ratio of this picture"


def test_create_with_what_only_we_have(place: Place, client: openai.OpenAI) -> None:
    shots = [{"prompt": "a fox", "duration": 2}, {"prompt": "a hen", "duration": 4}]
    body: dict[str, object] = {
        "shots": shots, "resolution": "1080p", "audio": True, "provider": ["narrow", "highway"],
        "metadata": {"team": "x", "a[b]": "ü"}, "cfg_scale": 0.25, "priority": -3, "deadline": 600,
    }
    video = client.videos.create(prompt=openai.omit, extra_body=body)  # type: ignore[arg-type]
    request = shown(place, video.id)
    assert request["shots"] == shots
    assert (request["duration"], request["audio"], request["cfg_scale"]) == (6, True, 0.25)
    found = place.client.get(f"/v1/videos/{video.id}").json()
    assert found["metadata"] == body["metadata"]


def test_create_and_poll_returns_the_end(place: Place, client: openai.OpenAI) -> None:
    begun = threading.Event()
    place.served.gateway.store.listen(lambda task, events: begun.set())
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.videos.create_and_poll, prompt=FOX, poll_interval_ms=20)
        assert begun.wait(PATIENCE_SECONDS)
        newest = place.client.get("/v1/videos", params={"limit": 1}).json()["first_id"]
        place.served.finish(newest, place.client)
        video = asked.result(PATIENCE_SECONDS)
    assert (video.id, video.status, video.progress) == (newest, "completed", 100)


def test_it_is_told_when_to_poll_again(place: Place, client: openai.OpenAI) -> None:
    video = client.videos.create(prompt=FOX)
    answer = client.videos.with_raw_response.retrieve(video.id)
    assert 500 <= int(answer.headers["openai-poll-after-ms"]) <= 60_000
    place.served.finish(video.id, place.client)
    assert "openai-poll-after-ms" not in client.videos.with_raw_response.retrieve(video.id).headers


def test_list_pages_through_everything_once(place: Place, client: openai.OpenAI) -> None:
    made = [client.videos.create(prompt=f"number {number}").id for number in range(5)]
    listed = [video.id for video in client.videos.list(limit=2)]
    assert listed[:5] == made[::-1]
    assert len(listed) == len(set(listed))
    assert [video.id for video in client.videos.list(limit=3, order="asc")] == listed[::-1]
    assert next(iter(client.videos.list(after=made[1]))).id == made[0]


def test_download_and_delete(place: Place, client: openai.OpenAI, tmp_path: Path) -> None:
    video = client.videos.create(prompt=FOX)
    with pytest.raises(openai.ConflictError) as early:
        client.videos.download_content(video.id)
    assert early.value.code == "not_ready"
    place.served.finish(video.id, place.client)
    content = client.videos.download_content(video.id, variant="video").read()
    assert content[4:8] == b"ftyp"
    client.videos.download_content(video.id).write_to_file(tmp_path / "fox.mp4")
    assert (tmp_path / "fox.mp4").read_bytes() == content
    with pytest.raises(openai.NotFoundError) as none:
        client.videos.download_content(video.id, variant="thumbnail")
    assert none.value.code == "not_found"
    gone = client.videos.delete(video.id)
    assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)


def test_uploads(place: Place, client: openai.OpenAI) -> None:
    file = client.files.create(file=("fox.png", PICTURE), purpose="vision")
    assert (file.object, file.bytes, file.filename, file.purpose) == (
        "file", len(PICTURE), "fox.png", "vision",
    )
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == PICTURE
    for body in ({"input_reference": {"file_id": file.id}}, {"image": file.id}):
        video = client.videos.create(prompt=FOX, extra_body=body)
        assert shown(place, video.id)["image"]["bytes"] == len(PICTURE)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.BadRequestError) as gone:
        client.videos.create(prompt=FOX, extra_body={"image": file.id})
    assert gone.value.param == "image"


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert (model.id, model.object, model.owned_by) == ("kling-v3", "model", "reelgate")


def test_errors_are_its_own_with_our_code_and_sentence(place: Place, client: openai.OpenAI) -> None:
    wrong: list[tuple[type[openai.APIStatusError], str, dict[str, Any]]] = [
        (openai.BadRequestError, "invalid_request", {"seconds": "99"}),
        (openai.BadRequestError, "invalid_request", {"extra_body": {"colour": "red"}}),
        (openai.BadRequestError, "invalid_request", {"input_reference": ("a.txt", b"no picture")}),
        (openai.UnprocessableEntityError, "no_route", {
            "extra_body": {"provider": "highway", "audio": True, "voice_ids": ["v"]},
        }),
    ]
    for kind, code, arguments in wrong:
        with pytest.raises(kind) as caught:
            client.videos.create(prompt=FOX, **arguments)
        assert caught.value.code == code
        assert caught.value.type == "invalid_request_error"
        assert caught.value.request_id
        assert len(caught.value.message) > 20, "the sentence is shown"
    stranger = openai.OpenAI(base_url=place.base_url, api_key="rg_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        stranger.videos.list()
    assert (refused.value.code, refused.value.type) == ("authentication_failed", "authentication_error")
    viewer = openai.OpenAI(base_url=place.base_url, api_key=place.served.new_key("v", "viewer"))
    with pytest.raises(openai.PermissionDeniedError):
        viewer.videos.create(prompt=FOX)


def test_the_asynchronous_client_does_the_same(place: Place) -> None:
    async def life() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=place.base_url, api_key=place.key) as client:
            video = await client.videos.create(prompt=FOX, input_reference=PICTURE)
            return video.id, (await client.videos.retrieve(video.id)).id

    made, seen = asyncio.run(life())
    assert made == seen
