"""The same once more: a new video of a stored request, by the rules of a create.

Not held here: the rules of a request (`test_wire`), of idempotency in general (`test_idempotency`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import httpx
import pytest

from gateway.storage.db import GuardFailed
from tests.api.bodies import data_uri, png
from tests.serving import Json, OddVendor, Served, odd_vendor, problem, read, serving

ODD = """
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
offerings = ["*"]
poll_min = "10ms"
poll_max = "20ms"
"""


@pytest.fixture(scope="module")
def odd() -> Iterator[OddVendor]:
    with odd_vendor() as vendor:
        yield vendor


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, odd: OddVendor) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("rerun"), auth="keys", more=ODD.format(url=odd.url)) as started:
        yield started


@pytest.fixture(scope="module")
def alice(served: Served) -> httpx.Client:
    return served.as_caller("alice")


def rerun(client: httpx.Client, video: Json, **headers: str) -> httpx.Response:
    return client.post(f"/v1/videos/{video['id']}/rerun", headers=headers)


def test_the_same_is_ordered_and_bought_once_more(served: Served, alice: httpx.Client) -> None:
    wish: Json = {"prompt": "a crane", "duration": 7, "metadata": {"team": "a"}}
    old = served.completed(alice, **wish, priority=3, deadline=4000)
    before = len(served.ledger)
    answer = rerun(alice, old)
    new = read(answer)
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/videos/{new['id']}")
    assert (new["rerun_of"], new["status"], new["charged"]) == (old["id"], "queued", "no")
    assert new["id"] != old["id"]
    assert (new["request"], new["metadata"]) == (old["request"], old["metadata"])
    task = served.run(served.gateway.store.task_get, new["id"])
    assert task is not None
    assert task.priority == 3
    assert task.deadline_at - task.created_at == pytest.approx(4000)
    done = served.finish(new["id"], alice)
    assert (done["status"], done["rerun_of"]) == ("completed", old["id"])
    assert len(served.ledger) == before + 1
    first = read(alice.get(f"/v1/videos/{new['id']}/timeline"))["data"][0]
    assert (first["type"], first["detail"]["rerun_of"]) == ("accepted", old["id"])
    assert read(alice.get(f"/v1/videos/{old['id']}")) == old


def test_a_vendor_gets_the_very_same_request_of_the_same_provider(
    served: Served, odd: OddVendor, alice: httpx.Client
) -> None:
    image = data_uri(png(640, 480))
    old = served.completed(alice, prompt="it turns", image=image, provider="odd", negative_prompt="blur")
    new = served.finish(read(rerun(alice, old))["id"], alice)
    again = served.finish(read(rerun(alice, new))["id"], alice)
    first, second, third = (call.body for call in odd.creates[-3:])
    assert image in first.values()
    assert first == second == third
    assert [video["provider"] for video in (old, new, again)] == ["odd"] * 3
    assert (new["rerun_of"], again["rerun_of"]) == (old["id"], new["id"])


def test_whatever_became_of_a_video_it_can_be_run_again(served: Served, alice: httpx.Client) -> None:
    rendering = served.rendering(alice)
    failed = served.create(alice, prompt="[[fault:policy]] no")
    served.until(failed["id"], lambda video: video["status"] == "failed", alice)
    cancelled = served.rendering(alice)
    alice.post(f"/v1/videos/{cancelled['id']}/cancel", params={"detach": "true"})
    for video in (rendering, failed, cancelled):
        answer = rerun(alice, video)
        assert (answer.status_code, read(answer)["rerun_of"]) == (202, video["id"])
    served.finish(rendering["id"], alice)


def test_a_key_makes_one_video_of_one_original(served: Served, alice: httpx.Client) -> None:
    old, other = served.completed(alice), served.completed(alice)
    first = rerun(alice, old, **{"Idempotency-Key": "once-more"})
    again = rerun(alice, old, **{"Idempotency-Key": '"once-more"'})
    assert (first.status_code, again.status_code) == (202, 202)
    assert read(again)["id"] == read(first)["id"]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    problem(rerun(alice, other, **{"Idempotency-Key": "once-more"}), 422, "idempotency_key_reused")
    create = alice.post("/v1/videos", json={"prompt": "a fox"}, headers={"Idempotency-Key": "once-more"})
    problem(create, 422, "idempotency_key_reused")
    served.finish(read(first)["id"], alice)
    assert alice.delete(f"/v1/videos/{old['id']}").status_code == 200
    assert read(rerun(alice, old, **{"Idempotency-Key": "once-more"}))["id"] == read(first)["id"]
    problem(rerun(alice, old), 404, "not_found")


def test_an_original_that_is_deleted_meanwhile_is_absent(
    served: Served, alice: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(video_id: str) -> NoReturn:
        raise GuardFailed(video_id)

    old = served.completed(alice)
    monkeypatch.setattr(served.gateway.store, "asked_get", gone)
    problem(rerun(alice, old), 404, "not_found")


def test_it_can_be_waited_for(served: Served, alice: httpx.Client) -> None:
    old = served.completed(alice, provider="odd", resolution="1080p")
    answer = rerun(alice, old, Prefer="wait=60")
    assert (answer.headers["preference-applied"], read(answer)["status"]) == ("wait=60", "completed")


def test_a_wish_beside_it_is_refused(served: Served, alice: httpx.Client) -> None:
    old, before = served.completed(alice), len(served.ledger)
    path = f"/v1/videos/{old['id']}/rerun"
    found = problem(alice.post(path, json={"provider": "unified"}), 400, "invalid_request")
    assert [entry["pointer"] for entry in found["errors"]] == ["/provider"]
    problem(alice.post(path, content=b"["), 400, "invalid_request")
    assert len(served.ledger) == before
    assert alice.post(path, json={}).status_code == 202


def test_where_nobody_takes_it_any_more_it_is_refused(served: Served, alice: httpx.Client) -> None:
    old = served.completed(alice, provider="narrow", resolution="1080p")
    ops = served.as_caller("olga", "operator")
    ops.post("/v1/providers/narrow/drain")
    found = problem(rerun(alice, old), 422, "no_route")
    ops.post("/v1/providers/narrow/resume")
    reasons = {entry["provider"]: entry["reasons"] for entry in found["candidates"]}
    assert reasons["narrow"] == ["provider: is draining and takes nothing new"]
    assert rerun(alice, old).status_code == 202
