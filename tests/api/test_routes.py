"""The routes of a video's life over HTTP: what each answers when all is well, and each of its refusals.

Not held here: single fields of a body (`test_wire`), waiting, idempotency, the file, who may ask.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.serving import OddVendor, Served, odd_vendor, problem, read, serving

ODD = """
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
offerings = ["*"]
poll_min = "10ms"
poll_max = "20ms"
"""
POLL_HINTS = {"retry-after", "openai-poll-after-ms"}


@pytest.fixture(scope="module")
def odd() -> Iterator[OddVendor]:
    with odd_vendor() as vendor:
        yield vendor


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, odd: OddVendor) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("routes"), more=ODD.format(url=odd.url)) as started:
        yield started


@pytest.fixture
def occupied(served: Served) -> Iterator[Served]:
    """The provider `narrow`, which takes one job at a time, has one."""
    video = served.rendering(provider="narrow", resolution="1080p")
    yield served
    served.finish(video["id"])


def waiting(served: Served) -> str:
    """A video that has to wait for a place at `narrow`."""
    video = served.create(provider="narrow", resolution="1080p")
    assert video["stage"] == "waiting"
    return str(video["id"])


# --- create and get -----------------------------------------------------------------------------------------


def test_create_answers_202_with_the_place_of_the_video(served: Served) -> None:
    answer = served.client.post("/v1/videos", json={"prompt": "a red fox", "metadata": {"team": "a"}})
    video = read(answer)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/videos/{video['id']}"
    assert list(video) == [
        "id", "object", "model", "status", "stage", "progress", "created_at", "started_at", "completed_at",
        "expires_at", "prompt", "seconds", "size", "request", "provider", "offering", "vendor_task_id",
        "attempts", "queue", "output", "late_output", "error", "charged", "cost", "rerun_of", "adopted_from",
        "metadata",
    ]  # fmt: skip
    assert (video["status"], video["charged"], video["metadata"]) == ("queued", "no", {"team": "a"})
    assert (video["seconds"], video["size"], video["prompt"]) == ("5", "1280x720", "a red fox")
    served.finish(video["id"])


def test_a_video_is_bought_once_and_comes_to_completed(served: Served) -> None:
    before = len(served.ledger)
    video = served.rendering(prompt="a whole life")
    assert (video["status"], video["charged"], video["output"]) == ("in_progress", "yes", None)
    done = served.finish(video["id"])
    assert (done["status"], done["stage"], done["progress"]) == ("completed", "linked", 100)
    assert (done["provider"], done["offering"]) == ("highway", "kling-v3.0-std-t2v")
    assert done["cost"] == {"amount": "0.42", "currency": "USD", "kind": "estimate"}
    assert done["output"]["url"] == f"/v1/videos/{done['id']}/content"
    assert done["created_at"] <= done["started_at"] <= done["completed_at"]
    bought = served.ledger[before:]
    assert [entry.vendor_task_id for entry in bought] == [done["vendor_task_id"]]


def test_a_refused_render_ends_as_failed_with_its_reason(served: Served) -> None:
    video = served.create(prompt="[[fault:policy]] no")
    failed = served.until(video["id"], lambda video: video["status"] == "failed")
    assert (failed["error"]["code"], failed["charged"], failed["output"]) == ("content_policy", "no", None)


def test_an_unchanged_video_is_304(served: Served) -> None:
    video = served.rendering()
    path = f"/v1/videos/{video['id']}"
    tag = served.client.get(path).headers["etag"]
    for value in (tag, f"W/{tag}", f'"other", {tag}'):
        same = served.client.get(path, headers={"If-None-Match": value})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    served.finish(video["id"])
    changed = served.client.get(path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


def test_the_time_to_look_again_is_told_only_while_it_matters(served: Served) -> None:
    created = served.client.post("/v1/videos", json={"prompt": "a fox"})
    path = created.headers["location"]
    for answer in (created, served.client.get(path)):
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["openai-poll-after-ms"]) >= 500
    served.finish(read(created)["id"])
    assert not POLL_HINTS & set(served.client.get(path).headers)


def test_a_waiting_video_knows_its_place(occupied: Served) -> None:
    first, second = waiting(occupied), waiting(occupied)
    videos = [read(occupied.client.get(f"/v1/videos/{video_id}")) for video_id in (first, second)]
    assert [video["queue"]["position"] for video in videos] == [1, 2]
    for video_id in (first, second):
        occupied.client.post(f"/v1/videos/{video_id}/cancel")


@pytest.mark.parametrize("path", ["", "/content", "/timeline"])
def test_an_absent_video_is_404(served: Served, path: str) -> None:
    problem(served.client.get(f"/v1/videos/video_0{path}"), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (b'{"prompt": "x", "speed": 2}', ["/speed"]),
        (b'{"prompt": "x", "duration": 99, "model": "kling-v4"}', ["/model", "/duration"]),
        (b"{}", ["/prompt"]),
        (b"[]", []),  # the body as a whole
        (b"{", []),
        (b"\xff\xfe", []),
    ],
)
def test_a_broken_rule_is_named(served: Served, body: bytes, pointers: list[str]) -> None:
    for path in ("/v1/videos", "/v1/videos/plan"):
        found = problem(served.client.post(path, content=body), 400, "invalid_request")
        assert [entry["pointer"] for entry in found["errors"]] == pointers
        assert (found["retryable"], found["charged"]) == (False, "no")


def test_a_combination_that_nobody_takes_names_every_reason(served: Served) -> None:
    body = {"prompt": "x", "audio": True, "voice_ids": ["v"], "provider": ["highway", "narrow"]}
    for path in ("/v1/videos", "/v1/videos/plan"):
        found = problem(served.client.post(path, json=body), 422, "no_route")
        reasons = {(entry["provider"], entry["offering"]): entry["reasons"] for entry in found["candidates"]}
        assert set(reasons) >= {("highway", "kling-v3.0-std-t2v"), ("narrow", "kling-v3.0-pro-t2v")}
        assert all(reasons.values())
        refused = reasons["narrow", "kling-v3.0-pro-t2v"]
        assert [line.partition(": ")[0] for line in refused] == ["resolution", "voice_ids"]
        assert any(line.startswith("provider: ") for line in reasons["unified", "kling-v3-text-to-video"])


# --- plan ---------------------------------------------------------------------------------------------------


def test_a_plan_spends_and_keeps_nothing(served: Served) -> None:
    before = len(served.ledger), read(served.client.get("/v1/videos"))["first_id"]
    plan = read(served.client.post("/v1/videos/plan", json={"prompt": "x", "duration": 10}))
    assert (len(served.ledger), read(served.client.get("/v1/videos"))["first_id"]) == before
    first = plan["candidates"][0]
    assert (first["provider"], first["offering"]) == ("highway", "kling-v3.0-std-t2v")
    assert first["cost"] == {"amount": "0.84", "currency": "USD", "kind": "estimate"}
    assert "kling-v3.0-pro-t2v" in {entry["offering"] for entry in plan["refused"]}
    assert all(entry["reasons"] for entry in plan["refused"])


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x"},
        {"shots": [{"prompt": "a", "duration": 2}, {"prompt": "b", "duration": 3}], "resolution": "1080p"},
        {"prompt": "a", "image": "https://images.test/a.png", "negative_prompt": "b", "cfg_scale": 0.5,
         "seconds": "10"},
    ],
)
def test_what_is_planned_is_what_the_vendor_gets(
    served: Served, odd: OddVendor, body: dict[str, object]
) -> None:
    body = body | {"provider": "odd"}
    (planned,) = read(served.client.post("/v1/videos/plan", json=body))["candidates"]
    answer = served.client.post("/v1/videos", json=body)
    served.finish(read(answer)["id"])
    sent = odd.creates[-1]
    assert planned["request"]["method"] == "POST"
    assert planned["request"]["url"] == odd.url + sent.path
    assert planned["request"]["body"] == sent.body
    assert sent.headers["authorization"] == "Bearer vendor-key-canary"
    assert planned["request"]["headers"]["Authorization"] == "Bearer [key]"


# --- list and timeline --------------------------------------------------------------------------------------


def listed(served: Served, **query: str | int) -> list[str]:
    return [video["id"] for video in read(served.client.get("/v1/videos", params=query))["data"]]


def test_a_list_is_paged_by_key_newest_first(served: Served) -> None:
    made = [served.completed(metadata={"page": "1"})["id"] for _ in range(5)]
    label = {"metadata[page]": "1"}
    assert listed(served, **label) == made[::-1]
    assert listed(served, order="asc", **label) == made
    first = read(served.client.get("/v1/videos", params={"limit": 2, **label}))
    assert (first["object"], first["has_more"]) == ("list", True)
    assert (first["first_id"], first["last_id"]) == (made[4], made[3])
    middle = read(served.client.get("/v1/videos", params={"limit": 2, "after": made[3], **label}))
    last = read(served.client.get("/v1/videos", params={"limit": 2, "after": made[1], **label}))
    assert [video["id"] for video in middle["data"] + last["data"]] == [made[2], made[1], made[0]]
    assert (middle["has_more"], last["has_more"]) == (True, False)
    empty = read(served.client.get("/v1/videos", params={"after": made[0], **label}))
    assert (empty["data"], empty["first_id"], empty["last_id"], empty["has_more"]) == ([], None, None, False)


def test_each_filter_narrows(served: Served) -> None:
    mark = {"metadata[mark]": "2"}
    failed = served.create(prompt="[[fault:policy]]", metadata={"mark": "2"})["id"]
    failed_at = served.until(failed, lambda video: video["status"] == "failed")["created_at"]
    labels = {"mark": "2", "more": "x y"}
    narrow = served.completed(provider="narrow", resolution="1080p", metadata=labels)["id"]
    assert listed(served, status="failed", **mark) == [failed]
    assert listed(served, stage="linked", **mark) == [narrow]
    assert listed(served, provider="narrow", **mark) == [narrow]
    assert listed(served, **mark, **{"metadata[more]": "x y"}) == [narrow]
    assert set(listed(served, model="kling-v3", created_after=failed_at, **mark)) == {failed, narrow}
    assert listed(served, created_before=failed_at - 1, **mark) == []
    assert failed in listed(served, created_before=failed_at, **mark)
    assert listed(served, model="none", **mark) == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "?limit"), ("limit=101", "?limit"), ("limit=ten", "?limit"), ("order=up", "?order"),
        ("status=done", "?status"), ("sttaus=failed", "?sttaus"), ("created_after=now", "?created_after"),
        ("metadata=x", "?metadata"), ("metadata[]=x", "?metadata[]"), ("after=video_0", "?after"),
        ("limit=1&limit=2", "?limit"), ("metadata[a]=%00", "?metadata[a]"), ("model=%00", "?model"),
        ("&".join(f"metadata[{number}]=x" for number in range(17)), "?metadata"),
    ],
)  # fmt: skip
def test_a_query_that_would_be_misread_is_refused(served: Served, query: str, pointer: str) -> None:
    found = problem(served.client.get(f"/v1/videos?{query}"), 400, "invalid_request")
    assert [entry["pointer"] for entry in found["errors"]] == [pointer]


def test_a_timeline_tells_the_whole_life(served: Served) -> None:
    video = served.completed()
    timeline = read(served.client.get(f"/v1/videos/{video['id']}/timeline"))
    events = timeline["data"]
    kinds = [event["type"] for event in events]
    wanted = ["accepted", "candidate_refused", "submitting", "accepted_by_vendor", "next_poll", "completed"]
    positions = [kinds.index(kind) for kind in wanted]
    assert positions == sorted(positions)
    assert timeline["object"] == "list"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert list(events[0]) == ["seq", "at", "type", "status", "stage", "provider", "offering", "detail"]
    assert (events[-1]["status"], events[-1]["provider"]) == ("completed", "highway")


# --- cancel and delete -------------------------------------------------------------------------------------


def test_a_waiting_video_is_cancelled_free_of_charge(occupied: Served) -> None:
    before = len(occupied.ledger)
    video_id = waiting(occupied)
    cancelled = read(occupied.client.post(f"/v1/videos/{video_id}/cancel"))
    assert (cancelled["status"], cancelled["stage"], cancelled["charged"]) == ("cancelled", None, "no")
    assert cancelled["error"]["code"] == "cancelled"
    assert len(occupied.ledger) == before
    again = occupied.client.post(f"/v1/videos/{video_id}/cancel")
    problem(again, 409, "not_cancellable")


def test_a_rendering_video_is_only_detached(served: Served) -> None:
    path = f"/v1/videos/{served.rendering()['id']}"
    refused = problem(served.client.post(f"{path}/cancel"), 409, "not_cancellable")
    assert (refused["charged"], refused["retryable"]) == ("yes", False)
    assert read(served.client.get(path))["status"] == "in_progress"
    detached = read(served.client.post(f"{path}/cancel", params={"detach": "true"}))
    assert (detached["status"], detached["charged"]) == ("cancelled", "yes")
    again = problem(served.client.post(f"{path}/cancel"), 409, "not_cancellable")
    assert again["charged"] == "yes"
    problem(served.client.post("/v1/videos/video_0/cancel"), 404, "not_found")
    unclear = served.client.post(f"{path}/cancel", params={"detach": "perhaps"})
    wrong = problem(unclear, 400, "invalid_request")
    assert wrong["errors"][0]["pointer"] == "?detach"


def test_only_a_finished_video_is_deleted_and_then_it_is_gone(served: Served) -> None:
    video = served.rendering()
    path = f"/v1/videos/{video['id']}"
    assert problem(served.client.delete(path), 409, "not_ready")["charged"] == "yes"
    served.finish(video["id"])
    deleted = served.client.delete(path)
    assert read(deleted) == {"id": video["id"], "object": "video.deleted", "deleted": True}
    for answer in (
        served.client.get(path), served.client.delete(path), served.client.get(f"{path}/timeline"),
        served.client.get(f"{path}/content"), served.client.post(f"{path}/cancel"),
    ):  # fmt: skip
        problem(answer, 404, "not_found")
    assert video["id"] not in listed(served, limit=100)


# --- operations ---------------------------------------------------------------------------------------------


def test_models_say_what_serves_them_and_for_how_much(served: Served) -> None:
    models = read(served.client.get("/v1/models"))
    model = next(model for model in models["data"] if model["id"] == "kling-v3")
    assert (models["object"], model["object"]) == ("list", "model")
    rows = {(row["provider"], row["offering"]): row for row in model["offerings"]}
    row = rows["highway", "kling-v3.0-std-t2v"]
    assert (row["mode"], row["resolutions"]) == ("text-to-video", ["720p"])
    assert row["durations"] == list(range(3, 16))
    assert row["price"][0]["per_second"] == "0.084"
    assert ("narrow", "kling-v3.0-pro-t2v") in rows


def test_one_model_is_what_the_list_has_of_it(served: Served) -> None:
    for model in read(served.client.get("/v1/models"))["data"]:
        assert read(served.client.get(f"/v1/models/{model['id']}")) == model
    found = problem(served.client.get("/v1/models/kling-v4"), 404, "not_found")
    assert "'kling-v4'" in found["detail"]


def test_providers_show_their_load(occupied: Served) -> None:
    answer = read(occupied.client.get("/v1/providers"))
    assert [entry["name"] for entry in answer["data"]] == ["highway", "narrow", "unified", "odd"]
    narrow = answer["data"][1]
    assert (narrow["adapter"], narrow["state"], narrow["last_error"]) == ("myrouter", "healthy", None)
    assert (narrow["in_flight"], narrow["max_in_flight"]) == (1, 1)


def test_health_depends_on_the_gateway_alone(served: Served) -> None:
    alive = served.client.get("/livez")
    assert (alive.text, alive.headers["content-type"]) == ("ok\n", "text/plain; charset=utf-8")
    assert served.client.get("/readyz").text == "ok\n"
    assert read(served.client.get("/v1/version"))["name"] == "reelgate"
    served.gateway.is_ready = False
    try:
        assert served.client.get("/livez").status_code == 200
        refused = served.client.get("/readyz")
        problem(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert served.client.head("/readyz").status_code == 503
    finally:
        served.gateway.is_ready = True


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_health_is_told_without_a_body_where_none_is_asked_for(served: Served, path: str) -> None:
    """As load balancers ask."""
    asked, told = served.client.get(path), served.client.head(path)
    assert (told.status_code, told.headers["content-type"]) == (200, asked.headers["content-type"])
    assert int(told.headers["content-length"]) > 0
    ends = "Host: x\r\nConnection: close\r\n\r\n"
    both = f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\n{ends}"
    with socket.create_connection(("127.0.0.1", served.settings.server.listen.port)) as line:
        line.sendall(both.encode())
        received = line.makefile("rb").read()
    assert received.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 404"), "nothing is between them"


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/video_1", "/v1/keys", "/v1/videos/v/content"])
def test_what_a_route_takes_is_told_alike_by_options_and_by_a_refusal(served: Served, path: str) -> None:
    asked, refused = served.client.options(path), served.client.patch(path)
    assert (asked.status_code, asked.content, refused.status_code) == (204, b"", 405)
    told = [set(answer.headers["allow"].split(", ")) for answer in (asked, refused)]
    assert told[0] == told[1]
    assert {"GET", "OPTIONS"} < told[0]
