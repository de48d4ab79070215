"""What a vendor delivers after the end: shown beside the status, which stays, and served as the file.

The engine looks again after a minute by itself; here it is told to look at once. Not held here: how often,
and for how long (tests/core, tests/engine).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving import RENDER_SECONDS, Json, Served, problem, read, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("late")) as started:
        yield started


def left(served: Served, prompt: str = "a fox") -> Json:
    """A video that its caller left while it was rendered."""
    path = f"/v1/videos/{served.rendering(prompt=prompt)['id']}"
    return read(served.client.post(f"{path}/cancel", params={"detach": "true"}))


def looked_up(served: Served, video: Json, event: str) -> Json:
    """The video once its vendor has finished, was asked again, and `event` was written down."""
    engine, video_id = served.gateway.engine, video["id"]

    def is_told(video: Json) -> bool:
        events = read(served.client.get(f"/v1/videos/{video_id}/timeline"))["data"]
        return event in [one["type"] for one in events]

    served.clock.now += RENDER_SECONDS
    while engine.watches[video_id].is_busy:  # with the last poll of its life
        served.client.get("/livez")
    served.portal.call(engine.due_at, video_id, engine.now())
    served.until(video_id, is_told)
    return read(served.client.get(f"/v1/videos/{video_id}"))


def test_a_paid_video_that_comes_late_can_be_had(served: Served) -> None:
    ended = left(served)
    path = f"/v1/videos/{ended['id']}"
    tag = served.client.get(path).headers["etag"]
    problem(served.client.get(f"{path}/content"), 409, "not_ready")
    late = looked_up(served, ended, "late_output")
    assert (late["status"], late["stage"], late["output"]) == ("cancelled", None, None)
    assert (late["completed_at"], late["charged"]) == (ended["completed_at"], "yes")
    output = late["late_output"]
    assert (output["url"], output["stored"]) == (f"{path}/content", False)
    assert late["completed_at"] <= output["at"] < output["expires_at"]
    assert served.client.get(path).headers["etag"] != tag
    file = served.client.get(output["url"])
    assert (file.status_code, file.headers["content-type"]) == (200, "video/mp4")
    assert b"ftyp" in file.content[:16]
    part = served.client.get(output["url"], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_a_late_link_dies_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    late = looked_up(served, left(served), "late_output")["late_output"]
    monkeypatch.setattr(served.gateway, "now", lambda: late["expires_at"] + 1.0)
    problem(served.client.get(late["url"]), 410, "expired")


def test_a_render_that_fails_late_leaves_no_file(served: Served) -> None:
    late = looked_up(served, left(served, "[[fault:failed]] no"), "late_failure")
    assert (late["status"], late["late_output"]) == ("cancelled", None)
    problem(served.client.get(f"/v1/videos/{late['id']}/content"), 409, "not_ready")
