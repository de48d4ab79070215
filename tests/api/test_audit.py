"""What operators and admins did is listed with who, when, before and after; operators see their own.

Not held here: that an entry is written with its change or not at all (`tests/storage/test_audit.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import Json, Served, problem, read, serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, auth="keys") as started:
        yield started


@pytest.fixture
def olga(served: Served) -> httpx.Client:
    return served.as_caller("olga", "operator")


@pytest.fixture
def admin(served: Served) -> httpx.Client:
    return served.as_caller("ada", "admin")


def listed(client: httpx.Client, **query: object) -> list[Json]:
    answer = client.get("/v1/audit", params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    found: list[Json] = read(answer)["data"]
    return found


def test_every_order_is_recorded_with_what_it_changed(
    served: Served, olga: httpx.Client, admin: httpx.Client
) -> None:
    for verb, request_id in (("pause", "one"), ("drain", "two"), ("resume", "three"), ("resume", "four")):
        answer = olga.post(f"/v1/providers/highway/{verb}", headers={"X-Request-Id": request_id})
        assert answer.status_code == 200
    resumed_again, resumed, drained, paused = listed(admin)
    held_by = paused["actor"]
    assert held_by == f"operator olga ({paused['key']})"
    assert paused["id"].startswith("audit_")
    assert abs(paused["created_at"] - served.gateway.now()) < 3600
    assert paused | {"id": "", "key": "", "actor": "", "created_at": 0} == {
        "id": "", "object": "audit_entry", "created_at": 0, "actor": "", "key": "", "role": "operator",
        "action": "provider.paused", "target": "highway", "request_id": "one",
        "before": {"order": None, "held_by": None, "state": "healthy"}, "after": {"order": "pause"},
    }  # fmt: skip
    assert [
        (entry["action"], entry["before"]["order"], entry["before"]["held_by"], entry["after"]["order"],
         entry["request_id"])
        for entry in (drained, resumed, resumed_again)
    ] == [
        ("provider.drained", "pause", held_by, "drain", "two"),
        ("provider.resumed", "drain", held_by, None, "three"),
        ("provider.resumed", None, None, None, "four"),
    ]


def test_what_was_refused_is_not_recorded(olga: httpx.Client, admin: httpx.Client, served: Served) -> None:
    problem(olga.post("/v1/providers/nobody/pause"), 404, "not_found")
    problem(served.as_caller("alice").post("/v1/providers/highway/pause"), 403, "permission_denied")
    problem(olga.post("/v1/videos/video_0/resolve", json={"action": "fail"}), 404, "not_found")
    assert listed(admin) == []


@pytest.mark.parametrize("decision", ["fail", "resubmit", "adopt"])
def test_a_decision_about_a_lost_submission_is_recorded_once(
    served: Served, olga: httpx.Client, admin: httpx.Client, decision: str
) -> None:
    alice = served.as_caller("alice")
    prompt = "[[fault:reset_after_accept times=1]] x"
    video = served.started(served.create(alice, prompt=prompt, provider="highway")["id"], alice)
    job = served.ledger[-1].vendor_task_id
    body = {"action": decision} | ({"vendor_task_id": job} if decision == "adopt" else {})
    assert olga.post(f"/v1/videos/{video['id']}/resolve", json=body).status_code == 200
    problem(olga.post(f"/v1/videos/{video['id']}/resolve", json=body), 409, "not_resolvable")
    (entry,) = listed(admin, target=video["id"])
    assert (entry["action"], entry["role"], entry["before"]["state"]) == (
        "video.resolved", "operator", "submission_unknown",
    )
    assert (entry["before"]["charged"], entry["before"]["vendor_task_id"]) == ("unknown", None)
    assert (entry["after"]["decision"], entry["after"]["video"]) == (decision, video["id"])
    became = {"fail": ("failed", None), "resubmit": ("waiting", None), "adopt": ("rendering", job)}
    assert (entry["after"]["state"], entry["after"]["vendor_task_id"]) == became[decision]


def test_a_late_adoption_names_the_video_that_goes_on(
    served: Served, olga: httpx.Client, admin: httpx.Client
) -> None:
    alice = served.as_caller("alice")
    made = served.create(alice, prompt="[[fault:reset_after_accept times=1]] x", provider="highway")
    video, job = served.started(made["id"], alice), served.ledger[-1].vendor_task_id
    assert olga.post(f"/v1/videos/{video['id']}/resolve", json={"action": "fail"}).status_code == 200
    body = {"action": "adopt", "vendor_task_id": job}
    new = read(olga.post(f"/v1/videos/{video['id']}/resolve", json=body))
    adopted, failed = listed(admin, target=video["id"])
    assert (failed["after"]["decision"], adopted["after"]["decision"]) == ("fail", "adopt")
    assert (adopted["before"]["state"], adopted["after"]["state"]) == ("failed", "rendering")
    assert adopted["after"]["video"] == new["id"] != video["id"]


def test_an_operators_replay_is_recorded_and_a_callers_is_not(
    served: Served, olga: httpx.Client, admin: httpx.Client
) -> None:
    for client in (olga, served.as_caller("alice")):
        made = read(client.post("/v1/webhook_endpoints", json={"url": "https://hooks.example/x"}))
        place = f"/v1/webhook_endpoints/{made['id']}/replay"
        assert client.post(place, json={"since": 5, "until": 7}).status_code == 202
        problem(client.post(place, json={"id": "msg_0"}), 404, "not_found")
    (entry,) = listed(admin)
    assert (entry["action"], entry["role"], entry["before"]) == ("webhook.replayed", "operator", None)
    assert entry["target"].startswith("we_")
    assert entry["after"] == {"message": None, "since": 5.0, "until": 7.0}


def test_an_operator_sees_its_own_actions_and_an_admin_all(
    served: Served, olga: httpx.Client, admin: httpx.Client
) -> None:
    otto = served.as_caller("otto", "operator")
    for client, provider in ((olga, "highway"), (otto, "narrow"), (admin, "unified")):
        assert client.post(f"/v1/providers/{provider}/pause").status_code == 200
    assert [entry["target"] for entry in listed(olga)] == ["highway"]
    assert [entry["target"] for entry in listed(otto)] == ["narrow"]
    everything = listed(admin)
    assert [entry["target"] for entry in everything] == ["unified", "narrow", "highway"]
    assert [entry["role"] for entry in everything] == ["admin", "operator", "operator"]
    theirs = everything[1]
    assert listed(olga, actor=theirs["actor"]) == []
    assert listed(admin, actor=theirs["key"]) == [theirs] == listed(admin, actor=theirs["actor"])
    for foreign in (theirs["id"], "audit_0"):  # which look alike
        refused = problem(olga.get("/v1/audit", params={"after": foreign}), 400, "invalid_request")
        assert refused["detail"] == "after is not the id of an entry that you may see"


def test_pages_go_on_where_the_last_one_ended(olga: httpx.Client) -> None:
    for provider in ("highway", "narrow", "unified"):
        assert olga.post(f"/v1/providers/{provider}/drain").status_code == 200
    first = read(olga.get("/v1/audit", params={"limit": 2}))
    assert ([entry["target"] for entry in first["data"]], first["has_more"]) == (["unified", "narrow"], True)
    assert (first["first_id"], first["last_id"]) == (first["data"][0]["id"], first["data"][1]["id"])
    second = read(olga.get("/v1/audit", params={"limit": 2, "after": first["last_id"]}))
    assert ([entry["target"] for entry in second["data"]], second["has_more"]) == (["highway"], False)
    assert [entry["target"] for entry in listed(olga, order="asc", action="provider.drained")] == [
        "highway", "narrow", "unified",
    ]  # fmt: skip
    at = first["data"][0]["created_at"]
    assert len(listed(olga, created_after=at - 3600, created_before=at + 3600)) == 3
    empty = read(olga.get("/v1/audit", params={"created_after": at + 3600}))
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "order=up", "actr=x", "actor=x&actor=y", "created_after=-1",
              "created_before=soon", "target=%00"],
)  # fmt: skip
def test_a_filter_that_is_none_is_refused(olga: httpx.Client, query: str) -> None:
    refused = problem(olga.get(f"/v1/audit?{query}"), 400, "invalid_request")
    assert refused["errors"][0]["pointer"] == f"?{query.partition('=')[0]}"


def test_entries_outlive_the_process(tmp_path: Path) -> None:
    with serving(tmp_path) as before:
        assert before.client.post("/v1/providers/highway/pause").status_code == 200
        (made,) = listed(before.client)
    with serving(tmp_path) as after:
        assert listed(after.client) == [made]
