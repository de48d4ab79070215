"""`reelgate videos ...` against a stub on a real socket: what is sent, what is shown, which exit code.

Not held here: the verbs that call no service (`test_verbs`), and the demo (`test_demo`).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from click.testing import Result

from gateway.client.http import EXITS, Exit, outcome
from gateway.errors import TASK_ERRORS
from tests.cli.stub import DROP, Answer, Stub, problem, say, stubbed, told_by, video


def videos(stub: Stub, *arguments: str, key: str = "k-1") -> Result:
    return told_by(stub, "videos", *arguments, key=key)


def failed(code: str) -> dict[str, object]:
    return video("failed", error={"code": code, "message": "why"})


@pytest.mark.parametrize(
    ("final", "code"),
    [
        (video("completed", stage="stored"), 0),
        (video("completed", stage="lost"), 0),
        (video("cancelled"), 3),
        (video("cancelled", error={"code": "submission_unknown", "message": "detached"}), 3),
        (failed("vendor_failed"), 5),
        (failed("content_policy"), 5),
        (failed("deadline_exceeded"), 3),
        (failed("queue_timeout"), 3),
        (failed("submission_unknown"), 6),
    ],
)
def test_watch_exits_by_outcome(stub: Stub, final: dict[str, object], code: int) -> None:
    stub.script = [say(final)]
    result = videos(stub, "watch", "video_1", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout) == final


def test_every_task_error_has_an_exit_code_and_the_table_names_no_other() -> None:
    named = {name for what, name in EXITS if what == "error"}
    assert named <= TASK_ERRORS.keys()
    assert all(outcome(failed(code)) in {Exit.FAILED, Exit.STOPPED, Exit.UNKNOWN} for code in TASK_ERRORS)


@pytest.mark.parametrize("key", ["k-1 ", " k-1", "k 1", "k-\n1", "kl\u00fc"])
def test_key_that_no_header_holds_orders_nothing_and_says_so(stub: Stub, key: str) -> None:
    result = videos(stub, "create", "a fox", key=key)
    assert (result.exit_code, stub.script) == (4, [])
    assert "holds what no key has" in result.stderr
    assert "may have arrived" not in result.stderr


@pytest.mark.parametrize("video_id", ["", "video_1/timeline", "../keys"])
@pytest.mark.parametrize("verb", ["get", "watch", "timeline", "download", "cancel", "rerun"])
def test_what_no_id_can_be_asks_for_nothing(stub: Stub, verb: str, video_id: str) -> None:
    """Of an unset variable a script makes `videos get ""`, which would be the list of all videos."""
    stub.script = [say({"object": "list", "data": []})]
    result = videos(stub, verb, video_id)
    assert (result.exit_code, stub.asked) == (2, [])
    assert f"{video_id!r} is no id of a video" in result.stderr


BY_HTTP_STATUS = {400: 1, 401: 4, 403: 4, 404: 1, 409: 1, 410: 1, 422: 1, 429: 1, 500: 1, 503: 1}


@pytest.mark.parametrize(("status", "code"), BY_HTTP_STATUS.items())
def test_refused_calls_exit_by_http_status(stub: Stub, status: int, code: int) -> None:
    stub.script = [problem(status, detail="no such luck", request_id="req_9")]
    result = videos(stub, "get", "video_1")
    assert result.exit_code == code
    assert result.stdout == ""
    assert "no such luck" in result.stderr
    assert "req_9" in result.stderr


def test_a_problem_is_told_with_every_field_and_candidate(stub: Stub) -> None:
    candidate = {"provider": "unified", "offering": "slug", "reasons": ["duration: offers 5, 10 s"]}
    errors = [{"pointer": "/duration", "detail": "is too long"}, {"pointer": "/prompt", "detail": "is empty"}]
    stub.script = [problem(422, detail="nobody takes it", errors=errors, candidates=[candidate])]
    told = videos(stub, "create", "x").stderr
    lines = ["/duration: is too long", "/prompt: is empty", "unified slug: duration: offers 5, 10 s"]
    told_lines = [line.strip() for line in told.splitlines()]
    assert told_lines[-5:] == ["Error: nobody takes it", *lines, "request id: req_1"]


def test_a_stranger_is_not_taken_for_the_gateway(stub: Stub) -> None:
    stub.script = [Answer(200, b"<html>", "text/html")]
    result = videos(stub, "get", "video_1")
    assert result.exit_code == 1
    assert stub.url in result.stderr
    stub.script = [say({"errors": ["not", "ours"]}, 502)]
    assert videos(stub, "get", "video_1").exit_code == 1


def test_nobody_there_names_the_url_and_how_to_change_it() -> None:
    with stubbed() as gone:
        pass
    result = videos(gone, "get", "video_1")
    assert result.exit_code == 1
    assert gone.url in result.stderr
    assert "REELGATE_URL" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "x", "--resolution", "8k"],
        ["create", "--shot", "a fox"],
        ["create", "x", "--metadata", "novalue"],
        ["create", "x", "--metadata", "team=a", "--metadata", "team=b"],
        ["create", "x", "--url", "video.internal"],
        ["create", "x", "--url", "http://host:port"],
        ["create", "x", "--url", "http://olga:canary@127.0.0.1:1"],
        ["create", "x", "--url", "http://127.0.0.1:1/?page=1"],
        ["get"],
        ["got", "video_1"],
        ["watch", "video_1", "--timeout", "-1"],
        ["create", "x", "--cfg-scale", "1.1"],
        ["create", "x", "--cfg-scale", "-0.1"],
    ],
)
def test_wrong_usage_exits_with_2_and_asks_nothing(stub: Stub, arguments: list[str]) -> None:
    result = videos(stub, *arguments)
    assert result.exit_code == 2
    assert "canary" not in result.stderr
    assert not stub.asked


def test_create_sends_what_was_given_and_nothing_else(stub: Stub) -> None:
    stub.script = [say(video("queued"), 202)]
    result = videos(
        stub, "create", "a fox", "--resolution", "1080p", "--no-audio", "--priority", "0", "--provider", "b",
        "--provider", "a", "--metadata", "k=v=w", "--shot", "2:one: two", "--cfg-scale", "0.5", "--json",
        "--webhook-url", "https://hooks.test/videos",
    )  # fmt: skip
    asked = stub.asked[0]
    assert (asked.method, asked.path, asked.headers["authorization"]) == ("POST", "/v1/videos", "Bearer k-1")
    assert asked.body == {
        "prompt": "a fox", "resolution": "1080p", "audio": False, "priority": 0, "provider": ["b", "a"],
        "metadata": {"k": "v=w"}, "shots": [{"prompt": "one: two", "duration": 2}], "cfg_scale": 0.5,
        "webhook_url": "https://hooks.test/videos",
    }  # fmt: skip
    assert json.loads(result.stdout)["id"] == "video_1"
    assert asked.headers["idempotency-key"] in result.stderr
    assert result.exit_code == 0


def test_create_reads_an_image_file_and_passes_a_url_on(stub: Stub, tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n and more"
    (tmp_path / "first.png").write_bytes(png)
    stub.script = [say(video(), 202)]
    image = str(tmp_path / "first.png")
    videos(stub, "create", "x", "--image", image, "--end-image", "https://example.test/a.jpg")
    body = stub.asked[0].body
    assert body["image"] == f"data:image/png;base64,{base64.b64encode(png).decode()}"
    assert body["end_image"] == "https://example.test/a.jpg"


@pytest.mark.parametrize("content", [b"GIF89a", None])
def test_create_refuses_a_file_that_is_no_image(stub: Stub, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    result = videos(stub, "create", "x", "--image", str(tmp_path / "a.png"))
    assert result.exit_code == 1
    assert "a.png" in result.stderr
    assert not stub.asked


def test_create_tries_a_broken_connection_again_with_the_same_key(stub: Stub) -> None:
    stub.script = [DROP, say(video(), 202)]
    assert videos(stub, "create", "x").exit_code == 0
    first, second = (asked.headers["idempotency-key"] for asked in stub.asked)
    assert first == second


def test_create_that_may_have_arrived_is_unknown_and_tells_the_key(stub: Stub) -> None:
    stub.script = [DROP]
    result = videos(stub, "create", "x", "--idempotency-key", "order-7")
    assert result.exit_code == 6
    assert "--idempotency-key order-7" in result.stderr
    assert len(stub.asked) == 2


@pytest.mark.parametrize("status", [500, 502, 503, 504, 524])
def test_an_order_that_somebody_in_between_answers_with_an_error_may_have_arrived(
    stub: Stub, status: int
) -> None:
    """A proxy that waited too long, or lost the gateway while it answered, knows nothing of the order."""
    stub.script = [Answer(status, b"<html>", "text/html")]
    result = videos(stub, "create", "x", "--idempotency-key", "order-7")
    assert result.exit_code == 6
    assert "--idempotency-key order-7" in result.stderr
    assert [asked.headers["idempotency-key"] for asked in stub.asked] == ["order-7", "order-7"]


def test_an_order_that_the_gateway_refuses_for_now_has_not_arrived(stub: Stub) -> None:
    stub.script = [problem(503, detail="busy", charged="no")]
    assert videos(stub, "create", "x").exit_code == 1
    assert len(stub.asked) == 1


def test_plan_spends_nothing(stub: Stub) -> None:
    stub.script = [say({"candidates": []})]
    result = videos(stub, "create", "x", "--plan")
    assert stub.asked[0].path == "/v1/videos/plan"
    assert json.loads(result.stdout) == {"candidates": []}
    assert "idempotency-key" not in stub.asked[0].headers


def test_create_and_watch_in_one(stub: Stub) -> None:
    stub.script = [say(video("queued"), 202), say(video()), say(failed("vendor_failed"))]
    result = videos(stub, "create", "x", "--watch")
    assert result.exit_code == 5
    assert "vendor_failed: why" in result.stdout
    assert [asked.query.get("wait") for asked in stub.asked] == [None, None, "2"]


def test_watch_goes_on_while_the_outcome_is_unknown_and_the_gateway_away(stub: Stub) -> None:
    held = say(video(stage="submission_unknown"))
    stub.script = [held, DROP, problem(503, detail="busy"), held, say(video("completed", stage="stored"))]
    result = videos(stub, "watch", "video_1")
    assert result.exit_code == 0
    assert "in_progress submission_unknown" in result.stderr
    assert result.stderr.count("Trying again.") == 1, "it is away once"
    assert "Trying again" in result.stderr


def test_watch_stops_in_time(stub: Stub) -> None:
    stub.script = [say(video())]
    result = videos(stub, "watch", "video_1", "--timeout", "0")
    assert result.exit_code == 3
    assert "reelgate videos watch video_1" in result.stderr


def test_get_shows_facts_and_no_control_characters(stub: Stub) -> None:
    stub.script = [say(video("failed", error={"code": "vendor_failed", "message": "\x1b[31mred\nline"}))]
    result = videos(stub, "get", "video_1")
    assert result.exit_code == 0
    assert "0.42 USD" in result.stdout
    assert "\x1b" not in result.stdout
    assert "vendor_failed:  [31mred line" in result.stdout


def test_an_id_cannot_leave_its_place_in_the_path(stub: Stub) -> None:
    stub.script = [problem(404, detail="nothing here")]
    videos(stub, "get", "keys?x=1#y")
    assert stub.asked[0].path == "/v1/videos/keys%3Fx%3D1%23y"


def test_list_filters_and_tells_how_to_go_on(stub: Stub) -> None:
    data = [video(), video("queued", provider=None)]
    page = {"object": "list", "data": data, "has_more": True, "last_id": "video_2"}
    stub.script = [say(page)]
    result = videos(stub, "list", "--status", "failed", "--metadata", "a b=c", "--limit", "2")
    assert stub.asked[0].query == {"status": "failed", "metadata[a b]": "c", "limit": "2"}
    head, first, second = result.stdout.splitlines()
    assert head.split()[:3] == ["ID", "STATUS", "STAGE"]
    assert first.split()[:4] == ["video_1", "in_progress", "-", "highway"]
    assert second.split()[3] == "-"
    assert "--after video_2" in result.stderr
    assert json.loads(videos(stub, "list", "--json").stdout) == page


def test_timeline_is_a_table(stub: Stub) -> None:
    event = {"seq": 1, "at": 1795247503.25, "type": "accepted", "status": "queued", "stage": "waiting",
             "provider": None, "offering": None, "detail": {"why": "new"}}  # fmt: skip
    stub.script = [say({"object": "list", "data": [event]})]
    row = videos(stub, "timeline", "video_1").stdout.splitlines()[1]
    assert row.split()[0] == "1"
    assert '{"why": "new"}' in row


def test_that_only_detaching_is_left_is_said_as_it_is_typed(stub: Stub) -> None:
    said = "The video is rendering, and its vendor cannot cancel. With ?detach=true it is let go."
    stub.script = [problem(409, code="not_cancellable", detail=said)]
    told = videos(stub, "cancel", "video_1").stderr
    assert "With --detach it is let go." in told
    assert "?detach" not in told


def test_the_help_of_create_shows_bounds_that_there_are(stub: Stub) -> None:
    told = videos(stub, "create", "--help").stdout
    assert "[0<=x<=1]" in told
    assert "None" not in told


@pytest.mark.parametrize(("flags", "query"), [([], {}), (["--detach"], {"detach": "true"})])
def test_cancel_and_detach(stub: Stub, flags: list[str], query: dict[str, str]) -> None:
    stub.script = [say(video("cancelled"))]
    assert videos(stub, "cancel", "video_1", *flags).exit_code == 0
    assert (stub.asked[0].method, stub.asked[0].path) == ("POST", "/v1/videos/video_1/cancel")
    assert stub.asked[0].query == query
