"""The verbs of operators, and `rerun`, against a stub on a real socket: what is sent, shown, and exited with.

Not held here: the other verbs of `videos` (`test_videos`).
"""

from __future__ import annotations

import json

import pytest
from click.testing import Result

from tests.cli.stub import DROP, Answer, Stub, problem, say, told_by, video

FOUND = {
    "object": "provider", "name": "highway", "adapter": "highwayapi", "host": "api.vendor.test",
    "state": "paused", "why": "an operator said pause", "held_by": "operator olga (key_1)",
    "since": 1795247503, "operations": {"submit": "closed", "poll": "open"}, "in_flight": 3,
    "max_in_flight": 20, "waiting": 7, "unknown": 1, "last_error": "timeout",
}  # fmt: skip


def reelgate(stub: Stub, *arguments: str, said: str = "") -> Result:
    return told_by(stub, *arguments, said=said)


# --- providers ----------------------------------------------------------------------------------------------


def test_providers_are_a_table_with_the_reason(stub: Stub) -> None:
    free = {"why": None, "held_by": None, "max_in_flight": None}
    calm = FOUND | free | {"name": "unified", "state": "healthy"}
    open_ = FOUND | {"name": "narrow", "state": "open", "why": "timeout", "held_by": None}
    listed = {"object": "list", "data": [FOUND, calm, open_]}
    stub.script = [say(listed)]
    result = reelgate(stub, "providers", "list")
    assert (stub.asked[0].method, stub.asked[0].path) == ("GET", "/v1/providers")
    assert stub.asked[0].headers["authorization"] == "Bearer k-1"
    head, first, second, third = (line.split("  ") for line in result.stdout.splitlines())
    assert [cell.strip() for cell in head if cell] == [
        "NAME", "STATE", "IN FLIGHT", "WAITING", "UNKNOWN", "WHY",
    ]  # fmt: skip
    assert [cell.strip() for cell in first if cell] == [
        "highway", "paused", "3/20", "7", "1", "an operator said pause (operator olga (key_1))",
    ]  # fmt: skip
    assert [cell.strip() for cell in second if cell][2:] == ["3/-", "7", "1", "last error: timeout"]
    assert third[-1].strip() == "timeout"
    assert json.loads(reelgate(stub, "providers", "list", "--json").stdout) == listed


@pytest.mark.parametrize("verb", ["pause", "drain", "resume"])
def test_an_order_names_its_provider(stub: Stub, verb: str) -> None:
    stub.script = [say(FOUND)]
    result = reelgate(stub, "providers", verb, "high/way")
    assert result.exit_code == 0
    assert (stub.asked[0].method, stub.asked[0].path) == ("POST", f"/v1/providers/high%2Fway/{verb}")
    assert "an operator said pause" in result.stdout
    assert json.loads(reelgate(stub, "providers", verb, "highway", "--json").stdout) == FOUND


@pytest.mark.parametrize(("status", "code"), [(403, 4), (404, 1), (503, 1)])
def test_a_refused_order_exits_by_http_status(stub: Stub, status: int, code: int) -> None:
    stub.script = [problem(status, detail="no such luck")]
    result = reelgate(stub, "providers", "pause", "highway")
    assert (result.exit_code, result.stdout) == (code, "")
    assert "no such luck" in result.stderr


def test_one_provider_is_shown_with_all_that_is_known(stub: Stub) -> None:
    stub.script = [say({"object": "list", "data": [FOUND, FOUND | {"name": "other"}]})]
    result = reelgate(stub, "providers", "get", "highway")
    assert result.exit_code == 0
    shown = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert (shown["host"], shown["in_flight"]) == ("api.vendor.test", "3")
    assert (shown["since"], shown["last_error"]) == ("2026-11-21 07:51:43Z", "timeout")
    assert json.loads(reelgate(stub, "providers", "get", "highway", "--json").stdout) == FOUND
    unknown = reelgate(stub, "providers", "get", "higway")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "Did you mean 'highway'?" in unknown.stderr


def test_usage_is_told_in_one_way(stub: Stub) -> None:
    assert reelgate(stub, "usage", "--csv", "--json").exit_code == 2
    assert not stub.asked


# --- resolve ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "body"),
    [
        (["--adopt", "t-7"], {"action": "adopt", "vendor_task_id": "t-7"}),
        (["--fail"], {"action": "fail"}),
        (["--resubmit", "--yes"], {"action": "resubmit"}),
    ],
)
def test_a_decision_is_sent_as_it_was_given(stub: Stub, options: list[str], body: dict[str, str]) -> None:
    stub.script = [say(video(adopted_from="video_0"))]
    result = reelgate(stub, "videos", "resolve", "video_1", *options)
    assert result.exit_code == 0
    assert (stub.asked[0].method, stub.asked[0].path) == ("POST", "/v1/videos/video_1/resolve")
    assert stub.asked[0].body == body
    assert "video_0" in result.stdout


def test_sending_once_more_is_asked_about(stub: Stub) -> None:
    stub.script = [say(video())]
    refused = reelgate(stub, "videos", "resolve", "video_1", "--resubmit", said="n\n")
    assert (refused.exit_code, stub.asked) == (1, [])
    assert "CHARGE TWICE" in refused.stderr
    silent = reelgate(stub, "videos", "resolve", "video_1", "--resubmit")
    assert (silent.exit_code, stub.asked) == (1, [])
    agreed = reelgate(stub, "videos", "resolve", "video_1", "--resubmit", "--json", said="y\n")
    assert (agreed.exit_code, len(stub.asked)) == (0, 1)
    assert json.loads(agreed.stdout)["id"] == "video_1"


@pytest.mark.parametrize(
    "options", [[], ["--fail", "--resubmit"], ["--adopt", "t-7", "--fail"], ["--adopt", ""], ["--yes"]]
)
def test_without_one_clear_decision_nothing_is_asked(stub: Stub, options: list[str]) -> None:
    assert reelgate(stub, "videos", "resolve", "video_1", *options).exit_code == 2
    assert not stub.asked


@pytest.mark.parametrize("lost", [DROP, problem(503, detail="who knows", charged="unknown")])
def test_a_decision_whose_answer_is_lost_is_said_once(stub: Stub, lost: Answer) -> None:
    stub.script = [lost]
    result = reelgate(stub, "videos", "resolve", "video_1", "--resubmit", "--yes")
    assert (result.exit_code, len(stub.asked)) == (6, 1)
    assert "timeline" in result.stderr


def test_a_decision_that_was_refused_changed_nothing(stub: Stub) -> None:
    stub.script = [problem(409, detail="nothing is unknown", charged="unknown")]
    assert reelgate(stub, "videos", "resolve", "video_1", "--fail").exit_code == 1


# --- rerun --------------------------------------------------------------------------------------------------


def test_a_rerun_is_an_order_with_a_key(stub: Stub) -> None:
    stub.script = [DROP, say(video("queued", id="video_2", rerun_of="video_1"), 202)]
    result = reelgate(stub, "videos", "rerun", "video_1")
    assert result.exit_code == 0
    first, second = stub.asked
    assert (first.method, first.path, first.body) == ("POST", "/v1/videos/video_1/rerun", None)
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.headers["idempotency-key"] in result.stderr
    assert "video_2" in result.stdout


def test_a_rerun_can_be_watched(stub: Stub) -> None:
    done = video("completed", id="video_2", late_output={"url": "/late"})
    stub.script = [say(video("queued", id="video_2"), 202), say(done)]
    result = reelgate(stub, "videos", "rerun", "video_1", "--watch", "--idempotency-key", "again")
    assert (result.exit_code, stub.asked[0].headers["idempotency-key"]) == (0, "again")
    assert stub.asked[1].path == "/v1/videos/video_2"
    assert "/late" in result.stdout
