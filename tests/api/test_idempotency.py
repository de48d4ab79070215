"""Idempotency keys: one key of one caller is one request and one video, however often and fast it comes."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.serving import Served, problem, read, serving, together

IMAGE = "https://images.test/a.png"
FOX = {"prompt": "a fox", "duration": 5}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("idempotency"), auth="keys") as started:
        yield started


@pytest.fixture(scope="module")
def alice(served: Served) -> httpx.Client:
    return served.as_caller("alice")


def create(
    client: httpx.Client, key: str, body: object = FOX, name: str = "Idempotency-Key"
) -> httpx.Response:
    return client.post("/v1/videos", json=body, headers={name: key})


def test_a_replay_is_the_same_video_as_it_is_by_then(served: Served, alice: httpx.Client) -> None:
    first, again = create(alice, "replay"), create(alice, "replay")
    video_id = read(first)["id"]
    assert (first.status_code, again.status_code, read(again)["id"]) == (202, 202, video_id)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    served.finish(video_id, alice)
    late = create(alice, "replay")
    assert (late.status_code, read(late)["status"]) == (202, "completed")
    waited = alice.post("/v1/videos", json=FOX, headers={"Idempotency-Key": "replay", "Prefer": "wait=3600"})
    assert waited.headers["preference-applied"] == "wait=60"


def test_another_request_under_the_key_is_refused(alice: httpx.Client) -> None:
    video_id = read(create(alice, "other"))["id"]
    for body in (FOX | {"prompt": "a wolf"}, FOX | {"priority": 1}, FOX | {"metadata": {"a": "b"}}):
        found = problem(create(alice, "other", body), 422, "idempotency_key_reused")
        assert (found["retryable"], found["charged"]) == (False, "no")
    assert read(create(alice, "other"))["id"] == video_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prompt": "x", "seconds": "5"}, {"prompt": "x", "duration": 5}),
        ({"prompt": "x", "seconds": 5}, {"prompt": "x"}),
        ({"prompt": "x", "size": "720x1280"}, {"prompt": "x", "resolution": "720p", "aspect_ratio": "9:16"}),
        ({"prompt": "x", "image": IMAGE}, {"input_reference": {"image_url": IMAGE}, "prompt": "x"}),
        ({"prompt": "x", "audio": None, "metadata": {}}, {"audio": False, "prompt": "x"}),
        ({"prompt": "x", "provider": "highway"}, {"prompt": "x", "provider": ["highway"]}),
    ],
)
def test_the_same_request_in_other_words_is_the_same(
    alice: httpx.Client, request: pytest.FixtureRequest, one: dict[str, object], other: dict[str, object]
) -> None:
    key = request.node.name
    first, again = create(alice, key, one), create(alice, key, other)
    assert (again.status_code, read(again)["id"]) == (202, read(first)["id"])


@pytest.mark.parametrize(
    ("key", "same"),
    [
        ("bare", '"bare"'), ('"quoted"', "quoted"), ("a b-c_d.e:f", "a b-c_d.e:f"), ('"', '"'),
        ("x" * 255, '"' + "x" * 255 + '"'),
    ],
)
def test_a_key_is_the_same_bare_and_quoted(alice: httpx.Client, key: str, same: str) -> None:
    first = create(alice, key)
    again = create(alice, same, name="idempotency-KEY")
    assert (first.status_code, again.status_code) == (202, 202)
    assert read(again)["id"] == read(first)["id"]


@pytest.mark.parametrize("key", ["", '""', "x" * 256, '"' + "x" * 256 + '"', "tab\tinside"])
def test_what_is_no_key_is_refused(alice: httpx.Client, key: str) -> None:
    found = problem(create(alice, key), 400, "invalid_request")
    assert found["errors"][0]["pointer"] == "Idempotency-Key"


def test_two_keys_are_refused_and_buy_nothing(served: Served, alice: httpx.Client) -> None:
    video_id = served.finish(read(create(alice, "one"))["id"], alice)["id"]
    before = len(served.ledger)
    for keys in (("one", "two"), ("two", "one"), ("one", "one")):
        headers = [("Idempotency-Key", key) for key in keys]
        for answer in (
            alice.post("/v1/videos", json=FOX, headers=headers),
            alice.post(f"/v1/videos/{video_id}/rerun", headers=headers),
        ):
            found = problem(answer, 400, "invalid_request")
            assert (found["param"], found["charged"]) == ("Idempotency-Key", "no")
    assert len(served.ledger) == before
    assert read(create(alice, "one"))["id"] == video_id


def test_thirty_at_once_are_one_video_and_one_charge(served: Served, alice: httpx.Client) -> None:
    answers = together(lambda: create(alice, "thirty", {"prompt": "[[ref:thirty]] at once"}), 30)
    assert {answer.status_code for answer in answers} == {202}
    ids = {read(answer)["id"] for answer in answers}
    assert len(ids) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    served.finish(ids.pop(), alice)
    assert [entry.client_reference for entry in served.ledger].count("thirty") == 1


def test_thirty_different_requests_at_once_have_one_winner(alice: httpx.Client) -> None:
    prompts = iter(range(30))
    answers = together(lambda: create(alice, "race", {"prompt": f"number {next(prompts)}"}), 30)
    assert sorted(answer.status_code for answer in answers) == [202] + [422] * 29


def test_another_callers_key_is_another_key(served: Served, alice: httpx.Client) -> None:
    bob = served.as_caller("bob")
    mine, theirs = create(alice, "shared"), create(bob, "shared", FOX | {"prompt": "a wolf"})
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert read(mine)["id"] != read(theirs)["id"]
    assert "idempotent-replayed" not in theirs.headers


def test_a_refusal_is_not_remembered(alice: httpx.Client) -> None:
    problem(create(alice, "refused", {"prompt": "x", "duration": 99}), 400, "invalid_request")
    nobody = {"prompt": "x", "provider": "highway", "audio": True, "voice_ids": ["v"]}
    problem(create(alice, "refused", nobody), 422, "no_route")
    answer = create(alice, "refused")
    assert answer.status_code == 202
    assert "idempotent-replayed" not in answer.headers


def test_a_replay_of_a_deleted_video_is_410_for_ever(served: Served, alice: httpx.Client) -> None:
    video_id = served.finish(read(create(alice, "deleted"))["id"], alice)["id"]
    before = len(served.ledger)
    assert alice.delete(f"/v1/videos/{video_id}").status_code == 200
    assert problem(create(alice, "deleted"), 410, "expired")["charged"] == "unknown"
    problem(create(alice, "deleted", FOX | {"prompt": "a wolf"}), 422, "idempotency_key_reused")
    assert len(served.ledger) == before


def test_without_a_key_every_create_is_a_new_video(alice: httpx.Client) -> None:
    made = {read(alice.post("/v1/videos", json=FOX))["id"] for _ in range(3)}
    assert len(made) == 3
