"""What a stored video, its timeline and the models look like to a caller, field by field.

Not held here: routes and headers, what may be asked for (test_wire).
"""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any, Final, get_args

import msgspec
import pytest
from msgspec.structs import replace

from gateway.api.shapes import (
    SIZES,
    Deleted,
    ShownRequest,
    Size,
    encode,
    model_list,
    timeline_list,
    video_list,
    video_object,
)
from gateway.core.facts import Candidate
from gateway.core.routing import Listing
from gateway.core.states import STATUS_OF, Event, Task
from gateway.engine.request import split_request, whole_request
from gateway.settings import Price
from gateway.storage.rows import Asked, Video
from providers.spec import AspectRatio, ImageLimits, Offering, Resolution, Shot, ShotLimits, VideoRequest
from tests.api.bodies import data_uri, jpeg, png

REQUEST: Final = VideoRequest(model="kling-v3", prompt="a cat", aspect_ratio="16:9")
TASK: Final = Task(
    id="video_1", owner="key_1", model="kling-v3", state="waiting", stage="waiting", created_at=1795247503.9,
    candidates=(Candidate("highway", "kling-v3.0-std-t2v"),), deadline_at=1795269103.9,
)  # fmt: skip
RENDERING: Final = replace(
    TASK, state="rendering", stage="rendering", progress=40, started_at=1795247504.2, provider="highway",
    offering="kling-v3.0-std-t2v", vendor_task_id="t-1", attempts=1, charged="yes", cost_amount="0.42",
    cost_currency="USD",
)  # fmt: skip
COMPLETED: Final = replace(
    RENDERING, state="completed", stage="linked", progress=100, completed_at=1795247600.7,
    result_url="https://vendor.example/secret.mp4", result_expires_at=1795251200.7,
)  # fmt: skip


def shown(
    task: Task, request: VideoRequest = REQUEST, queue: tuple[int, float | None] | None = None
) -> Any:  # noqa: ANN401 (JSON)
    """The video as a caller reads it."""
    more = {"provider": ("highway",), "priority": 3, "deadline": 21_600}
    video = Video(task, split_request(request, more)[0], {"k": "v"})
    return json.loads(encode(video_object(video, queue)))


def test_a_rendering_video_field_by_field_and_in_order() -> None:
    expected = {
        "id": "video_1", "object": "video", "model": "kling-v3", "status": "in_progress",
        "stage": "rendering", "progress": 40, "created_at": 1795247503, "started_at": 1795247504,
        "completed_at": None, "expires_at": None, "prompt": "a cat", "seconds": "5", "size": "1280x720",
        "request": {
            "model": "kling-v3", "prompt": "a cat", "negative_prompt": None, "image": None, "end_image": None,
            "shots": None, "resolution": "720p", "aspect_ratio": "16:9", "duration": 5, "audio": False,
            "voice_ids": None, "cfg_scale": None, "provider": ["highway"], "priority": 3, "deadline": 21600,
        },
        "provider": "highway", "offering": "kling-v3.0-std-t2v", "vendor_task_id": "t-1", "attempts": 1,
        "queue": None, "output": None, "late_output": None, "error": None, "charged": "yes",
        "cost": {"amount": "0.42", "currency": "USD", "kind": "estimate"}, "rerun_of": None,
        "adopted_from": None, "metadata": {"k": "v"},
    }  # fmt: skip
    found = shown(RENDERING)
    assert found == expected
    assert list(found) == list(expected)


def test_a_completed_video_has_an_output_of_ours_and_no_link_of_the_vendor() -> None:
    found = shown(COMPLETED)
    assert found["output"] == {
        "url": "/v1/videos/video_1/content", "content_type": "video/mp4", "bytes": None, "sha256": None,
        "stored": False, "expires_at": 1795251200,
    }  # fmt: skip
    assert (found["status"], found["stage"], found["completed_at"]) == ("completed", "linked", 1795247600)
    assert found["expires_at"] == 1795251200
    assert "vendor.example" not in json.dumps(found)


def test_what_came_after_the_end_is_a_late_output_and_the_status_stays() -> None:
    task = replace(
        RENDERING, state="failed", stage=None, error_code="deadline_exceeded", late_at=1795250000.5,
        late_url="https://vendor.example/secret.mp4", late_expires_at=1795253600.5,
    )  # fmt: skip
    found = shown(task)
    assert (found["status"], found["output"], found["expires_at"]) == ("failed", None, None)
    assert found["late_output"] == {
        "url": "/v1/videos/video_1/content", "content_type": "video/mp4", "bytes": None, "sha256": None,
        "stored": False, "expires_at": 1795253600, "at": 1795250000,
    }  # fmt: skip
    assert "vendor.example" not in json.dumps(found)


def test_a_video_knows_where_it_comes_from() -> None:
    found = shown(replace(RENDERING, rerun_of="video_2", adopted_from="video_3"))
    assert (found["rerun_of"], found["adopted_from"]) == ("video_2", "video_3")


@pytest.mark.parametrize("state", [state for state in STATUS_OF if state != "completed"])
def test_only_a_completed_video_has_an_output(state: str) -> None:
    task = msgspec.convert(msgspec.to_builtins(COMPLETED) | {"state": state}, Task)
    found = shown(task)
    assert (found["output"], found["expires_at"]) == (None, None)
    assert found["status"] == STATUS_OF[task.state]


@pytest.mark.parametrize(("state", "code"), [("failed", "vendor_failed"), ("cancelled", "cancelled")])
def test_an_error_has_code_and_message(state: str, code: str) -> None:
    task = msgspec.convert(msgspec.to_builtins(RENDERING) | {"state": state, "stage": None}, Task)
    found = shown(replace(task, error_code=code, error_message="Why."))
    assert found["error"] == {"code": code, "message": "Why."}
    assert (found["status"], found["stage"]) == (state, None)


def test_a_place_in_the_queue_is_shown_only_while_waiting() -> None:
    assert shown(TASK, queue=(3, 1795247999.9))["queue"] == {"position": 3, "estimated_start_at": 1795247999}
    assert shown(TASK, queue=(1, None))["queue"] == {"position": 1, "estimated_start_at": None}
    assert shown(TASK)["queue"] is None
    assert shown(RENDERING, queue=(1, None))["queue"] is None


def test_a_waiting_video_costs_nothing_yet() -> None:
    found = shown(TASK)
    assert (found["status"], found["charged"]) == ("queued", "no")
    assert (found["cost"], found["provider"]) == (None, None)


def test_every_size_is_its_resolution_and_ratio() -> None:
    assert set(SIZES) == set(get_args(Size))
    assert set(SIZES.values()) == {
        (resolution, ratio) for resolution in get_args(Resolution) for ratio in get_args(AspectRatio)
    }
    for size, (resolution, ratio) in SIZES.items():
        request = replace(REQUEST, resolution=resolution, aspect_ratio=ratio)
        assert shown(TASK, request)["size"] == size
        width, height = (int(side) for side in size.split("x"))
        across, down = (int(part) for part in ratio.split(":"))
        assert width * down == height * across


def test_with_an_image_its_frame_decides_the_size() -> None:
    request = replace(REQUEST, image="https://files.example/a.png", aspect_ratio=None)
    assert shown(TASK, request)["size"] is None
    assert shown(TASK, request)["request"]["image"] == "https://files.example/a.png"


@pytest.mark.parametrize(
    ("content", "resolution", "size"),
    [
        (png(1280, 720), "720p", "1280x720"), (png(640, 360), "1080p", "1920x1080"),
        (png(1000, 1019), "720p", "720x720"), (png(1000, 1021), "720p", None), (png(640, 480), "720p", None),
        (jpeg(360, 640), "4k", "2160x3840"), (b"abc", "720p", None),
    ],
)  # fmt: skip
def test_an_image_given_as_data_has_the_size_of_its_frame(
    content: bytes, resolution: Resolution, size: str | None
) -> None:
    request = replace(REQUEST, image=data_uri(content), aspect_ratio=None, resolution=resolution)
    found = shown(TASK, replace(request, end_image=data_uri(png(720, 1280))))
    assert found["size"] == size
    assert found["request"]["aspect_ratio"] is None
    assert set(found["request"]["image"]) == {"bytes", "sha256"}
    text, inputs = split_request(request)
    assert whole_request(Asked(request=text, inputs=inputs, metadata={}, pins=())) == request


def test_an_image_given_as_data_is_shown_by_length_and_hash() -> None:
    request = replace(REQUEST, image="data:image/png;base64,YWJj", aspect_ratio=None)
    found = shown(TASK, request)
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found["request"]["image"] == {"bytes": 3, "sha256": sha256}
    assert found["size"] is None
    assert "YWJj" not in json.dumps(found)


def test_shots_and_seconds_are_shown() -> None:
    found = shown(TASK, replace(REQUEST, prompt=None, shots=(Shot("x", 4), Shot("y", 6)), duration=10))
    assert found["request"]["shots"] == [{"prompt": "x", "duration": 4}, {"prompt": "y", "duration": 6}]
    assert (found["prompt"], found["seconds"]) == (None, "10")


def test_nothing_of_a_request_is_left_out() -> None:
    assert ShownRequest.__struct_fields__[:-3] == VideoRequest.__struct_fields__


def test_a_page_names_its_first_and_last() -> None:
    text = split_request(REQUEST)[0]
    videos = [video_object(Video(replace(TASK, id=name), text, {})) for name in ("b", "a")]
    found = json.loads(encode(video_list(videos, has_more=True)))
    assert [video["id"] for video in found.pop("data")] == ["b", "a"]
    assert found == {"object": "list", "first_id": "b", "last_id": "a", "has_more": True}
    empty = json.loads(encode(video_list([], has_more=False)))
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_a_timeline_keeps_fractions_of_seconds() -> None:
    event = Event(
        seq=7, at=1795247503.98765, type="vendor_status", status="in_progress", stage="rendering",
        provider="highway", offering="std", detail={"raw_status": "RUNNING", "progress": 40},
    )  # fmt: skip
    found = json.loads(encode(timeline_list([event])))
    expected = {
        "seq": 7, "at": 1795247503.988, "type": "vendor_status", "status": "in_progress",
        "stage": "rendering", "provider": "highway", "offering": "std",
        "detail": {"raw_status": "RUNNING", "progress": 40},
    }  # fmt: skip
    assert found == {"object": "list", "data": [expected]}
    assert list(found["data"][0]) == list(expected)


def test_deleted() -> None:
    assert json.loads(encode(Deleted(id="a"))) == {"id": "a", "object": "video.deleted", "deleted": True}


def test_models_are_published_as_they_are_enforced() -> None:
    offering = Offering(
        slug="std-t2v", model="kling-v3", mode="text-to-video", resolutions=("720p",), durations=(5, 10),
        aspect_ratios=("16:9", "1:1"), source="a page", image=ImageLimits(), shots=ShotLimits(),
        voice_ids_max=2, cfg_scale=True,
    )  # fmt: skip
    by_tier = Price(resolution="720p", per_second=Decimal("0.0840"))
    rows = {"highway": (by_tier, Price(per_request=Decimal(1)))}
    last_day = date(2026, 12, 1)
    highway = Listing("highway", offering, retires_on=last_day)
    listings = {"kling-v3": [highway, Listing("myrouter", offering)]}
    found = json.loads(encode(model_list(listings, lambda listing: rows.get(listing.provider, ()))))
    (model,) = found["data"]
    first, second = model.pop("offerings")
    assert model == {"id": "kling-v3", "object": "model", "created": 0, "owned_by": "reelgate"}
    nothing = {"resolution": None, "audio": None, "per_second": None, "per_request": None, "currency": "USD"}
    assert first == {
        "provider": "highway", "offering": "std-t2v", "mode": "text-to-video", "resolutions": ["720p"],
        "aspect_ratios": ["16:9", "1:1"], "durations": [5, 10],
        "features": {
            "prompt_max_chars": 2500, "negative_prompt_max_chars": 2500, "end_image": False, "audio": True,
            "voice_ids_max": 2, "cfg_scale": True,
            "image": {
                "forms": ["url", "data_uri"], "max_bytes": 10000000, "min_side_pixels": 300, "max_ratio": 2.5,
            },
            "shots": {"max_items": 6, "prompt_max_chars": 512, "min_seconds": 1},
        },
        "price": [
            nothing | {"resolution": "720p", "per_second": "0.0840"},
            nothing | {"per_request": "1"},
        ],
        "retires_on": "2026-12-01",
    }  # fmt: skip
    assert (second["provider"], second["price"], second["retires_on"]) == ("myrouter", [], None)
