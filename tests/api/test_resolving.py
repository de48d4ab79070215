"""An operator's word on a lost submission: what each decision does, and that repeating one does nothing.

The vendors' ledger knows the truth here: what was accepted, and under which id.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NoReturn

import httpx
import pytest

from gateway.core.facts import Abandoned, Cause, Forgotten
from gateway.core.grants import Grant, Limits
from gateway.core.states import Change
from gateway.core.tasks import apply
from gateway.storage.db import GuardFailed
from providers.spec import Offering, Progress, Ref, Submitted, VendorCall, VideoRequest
from tests.serving import Json, OddVendor, Served, odd_vendor, problem, read, serving, together

ODD = """
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
poll_min = "10ms"
poll_max = "20ms"
"""
LOST = "[[fault:reset_after_accept]] lost"
LOST_ONCE = "[[fault:reset_after_accept times=1]] lost once"


@pytest.fixture(scope="module")
def odd() -> Iterator[OddVendor]:
    with odd_vendor() as vendor:
        yield vendor


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, odd: OddVendor) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("resolving")
    with serving(folder, auth="keys", more=ODD.format(url=odd.url)) as served:
        yield served


@pytest.fixture(scope="module")
def alice(started: Served) -> httpx.Client:
    return started.as_caller("alice")


@pytest.fixture(scope="module")
def ops(started: Served) -> httpx.Client:
    return started.as_caller("olga", "operator")


@pytest.fixture
def served(started: Served, ops: httpx.Client) -> Served:
    """The gateway, as if no submission had been lost before: five in a row stop a provider."""
    assert ops.post("/v1/providers/highway/resume").status_code == 200
    return started


def lost(served: Served, alice: httpx.Client, prompt: str = LOST, **more: object) -> Json:
    """A video of alice's that its vendor accepted and charged, and whose answer was lost."""
    video = served.started(served.create(alice, prompt=prompt, **more)["id"], alice)
    assert (video["stage"], video["charged"]) == ("submission_unknown", "unknown")
    assert video["vendor_task_id"] is None
    return video


def bought(served: Served) -> str:
    """The vendor's id of the job that was bought last."""
    return served.ledger[-1].vendor_task_id


def resolve(ops: httpx.Client, video: Json, action: str, **more: object) -> httpx.Response:
    return ops.post(f"/v1/videos/{video['id']}/resolve", json={"action": action, **more})


def given_up(served: Served, alice: httpx.Client, ops: httpx.Client, **more: object) -> Json:
    """A lost video of alice's that an operator gave up."""
    return read(resolve(ops, lost(served, alice, LOST, **more), "fail"))


def events(alice: httpx.Client, video: Json) -> list[Json]:
    found: list[Json] = read(alice.get(f"/v1/videos/{video['id']}/timeline"))["data"]
    return found


# --- while nobody knows -------------------------------------------------------------------------------------


def test_an_adopted_job_is_followed_to_its_file(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    video, job = lost(served, alice), bought(served)
    before = len(served.ledger)
    answer = resolve(ops, video, "adopt", vendor_task_id=job)
    adopted = read(answer)
    assert (answer.status_code, adopted["id"], adopted["stage"]) == (200, video["id"], "rendering")
    assert (adopted["vendor_task_id"], adopted["charged"], adopted["adopted_from"]) == (job, "yes", None)
    done = served.finish(video["id"], alice)
    assert (done["status"], done["cost"]["amount"]) == ("completed", "0.42")
    assert alice.get(done["output"]["url"]).status_code == 200
    assert len(served.ledger) == before
    (event,) = [event for event in events(alice, video) if event["type"] == "adopted"]
    assert event["detail"]["vendor_task_id"] == job
    assert event["detail"]["by"].startswith("operator olga (key_")


def test_a_video_that_is_given_up_has_failed_and_may_have_been_charged(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    video = lost(served, alice)
    failed = read(resolve(ops, video, "fail"))
    assert (failed["status"], failed["error"]["code"]) == ("failed", "submission_unknown")
    assert (failed["charged"], failed["late_output"]) == ("unknown", None)
    (event,) = [event for event in events(alice, video) if event["type"] == "abandoned"]
    assert event["detail"]["by"].startswith("operator olga (key_")


def test_a_resubmit_is_one_permission_however_often_it_is_said(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    before = len(served.ledger)
    video = lost(served, alice, LOST_ONCE)
    answers = together(lambda: resolve(ops, video, "resubmit"), 5)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 4
    again = served.until(video["id"], lambda video: video["stage"] == "rendering", alice)
    assert (again["attempts"], again["charged"], again["cost"]["amount"]) == (2, "yes", "0.84")
    refused = problem(resolve(ops, video, "resubmit"), 409, "not_resolvable")
    assert (refused["charged"], refused["retryable"]) == ("yes", False)
    served.finish(video["id"], alice)
    assert len(served.ledger) == before + 2
    allowed = [event for event in events(alice, video) if event["type"] == "resubmit_allowed"]
    assert [event["detail"]["by"].partition(" (")[0] for event in allowed] == ["operator olga"]


def test_a_job_belongs_to_one_video(served: Served, alice: httpx.Client, ops: httpx.Client) -> None:
    owned = served.completed(alice)["vendor_task_id"]
    video = lost(served, alice)
    refused = problem(resolve(ops, video, "adopt", vendor_task_id=owned), 409, "not_resolvable")
    assert "belongs to another video" in refused["detail"]
    assert refused["charged"] == "unknown"
    assert read(alice.get(f"/v1/videos/{video['id']}"))["stage"] == "submission_unknown"


def test_an_id_that_the_vendor_once_gave_is_the_only_one(
    served: Served, odd: OddVendor, alice: httpx.Client, ops: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(odd, "result", lambda task_id: {})  # no answer that says anything
    video = served.rendering(alice, provider="odd", resolution="1080p")
    engine, forgotten = served.gateway.engine, Forgotten(Cause("not_found", "no such task"))
    served.run(engine.save, engine.tasks[video["id"]], forgotten)
    refused = problem(resolve(ops, video, "adopt", vendor_task_id="t-other"), 409, "not_resolvable")
    assert video["vendor_task_id"] in refused["detail"]
    adopted = read(resolve(ops, video, "adopt", vendor_task_id=video["vendor_task_id"]))
    assert (adopted["stage"], adopted["charged"]) == ("rendering", "yes")
    monkeypatch.undo()
    assert served.finish(video["id"], alice)["status"] == "completed"


class Plain:
    """An adapter that has nothing beyond what every adapter has."""

    def call(self, request: VideoRequest, offering: Offering) -> VendorCall:
        raise NotImplementedError

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        raise NotImplementedError

    async def poll(self, ref: Ref) -> Progress:
        raise NotImplementedError


def test_a_job_is_adopted_only_where_its_id_is_enough_and_its_provider_there(
    served: Served, odd: OddVendor, alice: httpx.Client, ops: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(odd, "answer", lambda call: {})
    video = lost(served, alice, "no id", provider="odd", resolution="1080p")
    providers = served.gateway.fleet.providers
    with monkeypatch.context() as patch:
        patch.setattr(providers["odd"], "adapter", Plain())
        refused = problem(resolve(ops, video, "adopt", vendor_task_id="t-7"), 409, "not_resolvable")
    assert "adapter myrouter cannot follow" in refused["detail"]
    gone = served.portal.call(providers.pop, "odd")
    refused = problem(resolve(ops, video, "adopt", vendor_task_id="t-7"), 409, "not_resolvable")
    served.portal.call(providers.__setitem__, "odd", gone)
    assert "not configured any more" in refused["detail"]
    assert resolve(ops, video, "adopt", vendor_task_id="t-7").status_code == 200


# --- after it was given up ----------------------------------------------------------------------------------


def test_a_job_found_after_the_end_is_a_new_video_of_the_same_owner(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    old = given_up(served, alice, ops, metadata={"team": "a"}, provider=["highway"], deadline=5000)
    job, before = bought(served), len(served.ledger)
    answer = resolve(ops, old, "adopt", vendor_task_id=job)
    new = read(answer)
    assert (answer.status_code, answer.headers["location"]) == (200, f"/v1/videos/{new['id']}")
    assert new["id"] != old["id"]
    assert (new["adopted_from"], new["stage"], new["vendor_task_id"]) == (old["id"], "rendering", job)
    assert (new["charged"], new["cost"], new["attempts"]) == ("yes", old["cost"], 1)
    assert (new["request"], new["metadata"]) == (old["request"], old["metadata"])
    task = served.run(served.gateway.store.task_get, new["id"])
    assert task is not None
    assert task.deadline_at - task.created_at == pytest.approx(5000)
    assert served.run(served.gateway.store.asked_get, new["id"]).pins == ("highway",)
    assert served.finish(new["id"], alice)["status"] == "completed"
    assert alice.get(f"/v1/videos/{new['id']}/content").status_code == 200
    assert len(served.ledger) == before
    told = events(alice, new)
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert [event["type"] for event in told[:2]] == ["accepted", "adopted"]
    assert told[0]["detail"]["adopted_from"] == old["id"]
    assert told[1]["detail"]["by"].startswith("operator olga (key_")
    assert read(alice.get(f"/v1/videos/{old['id']}")) == old
    again = problem(resolve(ops, old, "adopt", vendor_task_id=job), 409, "not_resolvable")
    assert "belongs to another video" in again["detail"]


def test_a_job_is_in_the_books_once_whichever_video_has_it(
    served: Served, ops: httpx.Client
) -> None:
    caller = served.as_caller("thrifty")

    def booked() -> tuple[str, str, int]:
        (row,) = read(caller.get("/v1/usage"))["data"]
        return row["reserved"], row["settled"], row["accepted"]

    old = given_up(served, caller, ops)
    assert booked() == (old["cost"]["amount"], "0.00", 1)
    new = read(resolve(ops, old, "adopt", vendor_task_id=bought(served)))
    assert booked() == (old["cost"]["amount"], "0.00", 2)
    served.finish(new["id"], caller)
    assert booked() == ("0.00", old["cost"]["amount"], 2)
    (event,) = [event for event in events(caller, old) if event["type"] == "continued"]
    assert event["detail"]["video_id"] == new["id"]


def test_nothing_is_sent_once_more_while_spending_is_stopped(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    video = lost(served, alice, f"{LOST_ONCE} while nothing is bought")
    assert ops.post("/v1/spending/stop").status_code == 200
    try:
        refused = problem(resolve(ops, video, "resubmit"), 503, "spending_stopped")
        assert (refused["retryable"], refused["charged"]) == (True, "unknown")
        assert read(alice.get(f"/v1/videos/{video['id']}"))["stage"] == "submission_unknown"
    finally:
        assert ops.post("/v1/spending/start").status_code == 200
    assert resolve(ops, video, "resubmit").status_code == 200
    served.until(video["id"], lambda video: video["stage"] == "rendering", alice)


def test_sent_once_more_it_counts_where_it_was_accepted(served: Served, ops: httpx.Client) -> None:
    capped = served.as_caller("capped", grant=Grant(limits=Limits(money_per_day=Decimal("0.50"))))
    video = lost(served, capped)
    answer = resolve(ops, video, "resubmit")
    refused = problem(answer, 429, "quota_exceeded")
    assert (refused["retryable"], refused["charged"]) == (False, "unknown")
    assert answer.headers["x-should-retry"] == "false"
    assert "0.08 is left and 0.42 is needed" in refused["detail"]
    assert "of its acceptance" in refused["detail"]
    assert "which does not renew" in refused["detail"]


def test_a_new_video_costs_what_its_one_job_costs(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    video = lost(served, alice)
    assert resolve(ops, video, "resubmit").status_code == 200
    twice = served.until(
        video["id"], lambda video: video["attempts"] == 2 and video["stage"] == "submission_unknown", alice
    )
    assert twice["cost"]["amount"] == "0.84"
    assert resolve(ops, video, "fail").status_code == 200
    new = read(resolve(ops, video, "adopt", vendor_task_id=bought(served)))
    assert new["cost"]["amount"] == "0.42"
    served.finish(new["id"], alice)


def test_a_job_that_the_failed_video_has_itself_comes_as_its_late_output(
    served: Served, alice: httpx.Client, ops: httpx.Client
) -> None:
    video = served.rendering(alice)
    store, now = served.gateway.store, served.gateway.now()

    async def forget() -> None:
        task = await store.task_get(video["id"])
        assert task is not None
        lost = apply(task, Forgotten(Cause("not_found", "no such task")), now)
        ended = apply(lost.task, Abandoned("a test"), now)
        await store.task_save(Change(task, ended.task, (*lost.events, *ended.events)))

    served.run(forget)
    job = video["vendor_task_id"]
    refused = problem(resolve(ops, video, "adopt", vendor_task_id=job), 409, "not_resolvable")
    assert "late_output" in refused["detail"]


def test_a_failed_video_that_is_deleted_meanwhile_is_absent(
    served: Served, alice: httpx.Client, ops: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(video_id: str) -> NoReturn:
        raise GuardFailed(video_id)

    old = given_up(served, alice, ops)
    monkeypatch.setattr(served.gateway.store, "asked_get", gone)
    problem(resolve(ops, old, "adopt", vendor_task_id=bought(served)), 404, "not_found")


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/action"),
        ({"action": "explode"}, "/action"),
        ({"action": "fail", "why": "x"}, "/why"),
        ({"action": "adopt"}, "/vendor_task_id"),
        ({"action": "adopt", "vendor_task_id": None}, "/vendor_task_id"),
        ({"action": "adopt", "vendor_task_id": ""}, "/vendor_task_id"),
        ({"action": "adopt", "vendor_task_id": "a/../b"}, "/vendor_task_id"),
        ({"action": "adopt", "vendor_task_id": 7}, "/vendor_task_id"),
        ({"action": "fail", "vendor_task_id": "t-1"}, "/vendor_task_id"),
        ({"action": "resubmit", "vendor_task_id": "t-1"}, "/vendor_task_id"),
    ],
)
def test_a_decision_that_is_not_clear_is_refused(
    served: Served, ops: httpx.Client, body: dict[str, object], pointer: str
) -> None:
    found = problem(ops.post("/v1/videos/video_0/resolve", json=body), 400, "invalid_request")
    assert [entry["pointer"] for entry in found["errors"]] == [pointer]


@pytest.mark.parametrize("action", ["adopt", "fail", "resubmit"])
def test_only_what_is_unknown_is_resolved(
    served: Served, alice: httpx.Client, ops: httpx.Client, action: str
) -> None:
    more = {"vendor_task_id": "t-1"} if action == "adopt" else {}
    problem(resolve(ops, {"id": "video_0"}, action, **more), 404, "not_found")
    video = served.rendering(alice)
    running = problem(resolve(ops, video, action, **more), 409, "not_resolvable")
    assert (running["charged"], "rendering" in running["detail"]) == ("yes", True)
    done = served.finish(video["id"], alice)
    problem(resolve(ops, done, action, **more), 409, "not_resolvable")
    assert read(alice.get(f"/v1/videos/{done['id']}")) == done


@pytest.mark.parametrize("action", ["fail", "resubmit"])
def test_what_was_given_up_is_not_sent_again(
    served: Served, alice: httpx.Client, ops: httpx.Client, action: str
) -> None:
    old, before = given_up(served, alice, ops), len(served.ledger)
    refused = problem(resolve(ops, old, action), 409, "not_resolvable")
    assert "submission_unknown" in refused["detail"]
    assert len(served.ledger) == before
