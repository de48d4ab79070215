"""Links that need no key: what they open, for how long, and nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from tests.serving import Json, Served, problem, serving

WEEK = 7 * 86_400


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("links"), auth="keys", files='url = "file:videos"') as started:
        yield started


@pytest.fixture(scope="module")
def caller(served: Served) -> httpx.Client:
    return served.as_caller("ann")


@pytest.fixture(scope="module")
def shown(served: Served, caller: httpx.Client) -> Json:
    made = served.completed(caller)
    return served.until(made["id"], lambda video: video["stage"] == "stored", caller)


def link(caller: httpx.Client, shown: Json, **body: object) -> Json:
    answer = caller.post(f"/v1/videos/{shown['id']}/links", json=body)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def changed(url: str, **parts: str) -> str:
    return urlsplit(url)._replace(query=urlencode(dict(parse_qsl(urlsplit(url).query)) | parts)).geturl()


def test_a_link_gives_the_file_to_whoever_has_it(served: Served, caller: httpx.Client, shown: Json) -> None:
    made = link(caller, shown)
    assert (made["object"], made["video_id"]) == ("video.link", shown["id"])
    assert 3_590 <= made["expires_at"] - served.gateway.now() <= 3_600
    own = caller.get(shown["output"]["url"])
    anybody = httpx.get(made["url"])
    assert (anybody.status_code, anybody.content) == (200, own.content)
    assert anybody.headers["etag"] == own.headers["etag"]
    assert httpx.head(made["url"]).headers["content-length"] == str(len(own.content))
    assert httpx.get(made["url"], headers={"Range": "bytes=5-9"}).content == own.content[5:10]


def test_without_a_body_it_lives_for_an_hour(served: Served, caller: httpx.Client, shown: Json) -> None:
    made = caller.post(f"/v1/videos/{shown['id']}/links").json()
    assert 3_590 <= made["expires_at"] - served.gateway.now() <= 3_600


@pytest.mark.parametrize("seconds", [1, WEEK])
def test_it_lives_as_long_as_asked(
    served: Served, caller: httpx.Client, shown: Json, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    made = link(caller, shown, expires_in=seconds)
    monkeypatch.setattr(served.gateway, "now", lambda: made["expires_at"] - 0.5)
    ends_at = shown["output"]["expires_at"]
    assert made["expires_at"] < ends_at
    assert httpx.get(made["url"]).status_code == 200
    monkeypatch.setattr(served.gateway, "now", lambda: float(made["expires_at"]))
    problem(httpx.get(made["url"]), 410, "expired")


@pytest.mark.parametrize("seconds", [0, -1, WEEK + 1, 1.5, "60", None])
def test_other_times_are_refused(caller: httpx.Client, shown: Json, seconds: object) -> None:
    answer = caller.post(f"/v1/videos/{shown['id']}/links", json={"expires_in": seconds})
    assert problem(answer, 400, "invalid_request")["param"] == "expires_in"


def test_unknown_fields_are_refused(caller: httpx.Client, shown: Json) -> None:
    answer = caller.post(f"/v1/videos/{shown['id']}/links", json={"expires": 60})
    problem(answer, 400, "invalid_request")


def test_nothing_of_it_can_be_changed(served: Served, caller: httpx.Client, shown: Json) -> None:
    url, other = link(caller, shown)["url"], served.completed(caller)["id"]
    later = str(int(dict(parse_qsl(urlsplit(url).query))["expires"]) + 1)
    for forged in (
        changed(url, expires=later), changed(url, expires=f"0{later}"), changed(url, signature="A" * 43),
        changed(url, signature=""), changed(url, expires="x"), url.replace(shown["id"], other),
    ):
        problem(httpx.get(forged), 403, "permission_denied")
    bare = url.split("?")[0]
    problem(httpx.get(bare), 401, "authentication_failed")


def test_it_opens_the_file_and_nothing_else(caller: httpx.Client, shown: Json) -> None:
    url = link(caller, shown)["url"]
    for other in (
        url.replace("/content", ""), url.replace("/content", "/timeline"),
        url.replace(f"/{shown['id']}/content", ""),
    ):
        problem(httpx.get(other), 401, "authentication_failed")
    for method in ("POST", "DELETE", "PUT"):
        assert httpx.request(method, url).status_code in (401, 405)


def test_a_link_to_what_was_deleted_leads_nowhere(served: Served, caller: httpx.Client) -> None:
    made = served.completed(caller)
    gone = served.until(made["id"], lambda video: video["stage"] == "stored", caller)
    url = link(caller, gone)["url"]
    assert caller.delete(f"/v1/videos/{gone['id']}").status_code == 200
    problem(httpx.get(url), 404, "not_found")


def test_only_its_owner_makes_links_and_a_viewer_none(served: Served, shown: Json) -> None:
    other, viewer = served.as_caller("bob"), served.as_caller("eve", "viewer")
    problem(other.post(f"/v1/videos/{shown['id']}/links"), 404, "not_found")
    problem(viewer.post(f"/v1/videos/{shown['id']}/links"), 403, "permission_denied")


def test_there_is_no_link_before_there_is_a_file(served: Served, caller: httpx.Client) -> None:
    video_id = served.rendering(caller)["id"]
    found = problem(caller.post(f"/v1/videos/{video_id}/links"), 409, "not_ready")
    assert found["retryable"] is True
    served.finish(video_id, caller)
