"""What the API says of itself: the OpenAPI document, the page for people, a problem document for every error.

Not held here: whether answers keep to the document (`test_fuzz`), single fields (`test_wire`, `test_shapes`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from openapi_spec_validator import validate

from gateway.api.application import ROUTES
from gateway.app import openapi_yaml
from gateway.errors import CODES
from gateway.storage.db import StorageBusy, StorageError, StorageShort
from tests.serving import Served, problem, read, serving

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
CREATE = {"prompt": "a fox"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("schema")) as started:
        yield started


@pytest.fixture(scope="module")
def document(served: Served) -> dict[str, Any]:
    return read(served.client.get("/openapi.json"))


# --- the document -------------------------------------------------------------------------------------------


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    validate(document)


def test_the_document_has_every_route_and_no_other(document: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routes = {
        (str(method), path.replace(":str}", "}"))
        for route in ROUTES if route.include_in_schema is not False
        for path in route.paths for method in route.http_methods
    }  # fmt: skip
    assert described == routes
    assert {path for route in ROUTES if route.include_in_schema is False for path in route.paths} == {
        "/openapi.json", "/docs",
    }  # fmt: skip


def test_every_refusal_is_described_as_a_problem(document: dict[str, Any]) -> None:
    statuses = {info.status for info in CODES.values()}
    found = [
        (path, status, list(answer["content"]))
        for path, methods in document["paths"].items() for operation in methods.values()
        for status, answer in operation["responses"].items() if int(status) >= 400
    ]  # fmt: skip
    assert found
    assert all(media == ["application/problem+json"] for _, _, media in found), found
    assert {int(status) for _, status, _ in found} <= statuses


def test_the_file_is_described_as_a_video(document: dict[str, Any]) -> None:
    for operation in document["paths"]["/v1/videos/{video_id}/content"].values():
        assert {status for status in operation["responses"] if status < "400"} == {"200", "206", "302", "304"}
        kinds = [list(operation["responses"][status]["content"]) for status in ("200", "206")]
        assert kinds == [["video/mp4"], ["video/mp4"]]


def test_only_public_routes_are_described_without_a_key(document: dict[str, Any]) -> None:
    paths = document["paths"].items()
    free = {path for path, methods in paths for entry in methods.values() if not entry["security"]}
    assert free == {"/livez", "/readyz", "/metrics", "/v1/version", "/v1/callbacks/{provider}/{token}"}
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}


def test_the_served_the_generated_and_the_committed_document_are_one(document: dict[str, Any]) -> None:
    text = openapi_yaml()
    assert json.loads(json.dumps(yaml.safe_load(text))) == document
    committed = (ROOT / "openapi/reelgate.yaml").read_text("utf-8")
    assert committed == text, "run: make openapi"


def test_the_page_loads_nothing_from_anywhere(served: Served, document: dict[str, Any]) -> None:
    answer = served.client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.text
    assert not re.findall(r"<(?:script|link|img|iframe|object|embed|base)\b", page)
    assert not re.findall(r"(?:src|href|action)=[\"']?(?:https?:)?//", page)
    assert not re.findall(r"@import|url\(", page)
    assert all(f"<code>{path}</code>" in page for path in document["paths"])
    assert all(f'id="{code}"' in page for code in CODES)


# --- errors outside of any route ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/video", "/v1/videos/a/b/c", "/admin", "/%00", "/v1/../etc", "//x"]
)
def test_an_unknown_route_is_404(served: Served, method: str, path: str) -> None:
    answer = served.client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    found = read(answer)
    assert (found["code"], found["request_id"]) == ("not_found", answer.headers["x-request-id"])


@pytest.mark.parametrize("path", sorted({path for route in ROUTES for path in route.paths}))
def test_another_method_is_405_and_says_which_are_possible(served: Served, path: str) -> None:
    known = {str(method) for route in ROUTES if path in route.paths for method in route.http_methods}
    for method in set(METHODS) - known:
        answer = served.client.request(method, re.sub("{.*?}", "x", path))
        problem(answer, 405, "method_not_allowed")
        allowed = {name.strip() for name in answer.headers["allow"].split(",")}
        assert allowed >= known
        assert method not in allowed


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/plan"])
def test_a_body_that_is_too_large_is_413(served: Served, path: str) -> None:
    body = b'{"prompt": "' + b"x" * (30 * MIB) + b'"}'
    found = problem(served.client.post(path, content=body), 413, "payload_too_large")
    assert found["retryable"] is False
    assert served.client.get("/livez").status_code == 200


def test_a_large_body_within_the_limit_is_read(served: Served) -> None:
    body = b'{"prompt": "' + b"x" * (29 * MIB) + b'"}'
    found = problem(served.client.post("/v1/videos", content=body), 400, "invalid_request")
    assert found["errors"][0]["pointer"] == "/prompt"


# --- faults of ours -----------------------------------------------------------------------------------------


def failing(error: Exception) -> Any:  # noqa: ANN401 - stands in for any method of the store
    async def fail(*arguments: object, **named: object) -> NoReturn:
        raise error

    return fail


def test_a_fault_tells_nothing_of_the_inside(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.gateway.store, "video_get", failing(RuntimeError("canary of the inside")))
    answer = served.client.get("/v1/videos/video_0", headers={"X-Request-Id": "find-me"})
    found = problem(answer, 500, "internal_error")
    assert (found["retryable"], found["charged"]) == (True, "no")
    for word in ("canary", "Traceback", "RuntimeError", "video_get", ".py"):
        assert word not in answer.text
    failed = (line for line in served.lines if line["event"] == "request_failed")
    logged = next(line for line in failed if line["request_id"] == "find-me")
    assert "canary of the inside" in logged["exception"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(RuntimeError("x"), 500, "internal_error"), (StorageError("x"), 503, "overloaded")],
)
def test_a_create_that_was_perhaps_stored_must_not_be_retried_blindly(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    monkeypatch.setattr(served.gateway.store, "video_add", failing(error))
    blind = served.client.post("/v1/videos", json=CREATE)
    assert problem(blind, status, code)["charged"] == "unknown"
    assert blind.headers["x-should-retry"] == "false"
    safe = served.client.post("/v1/videos", json=CREATE, headers={"Idempotency-Key": "a"})
    problem(safe, status, code)
    assert "x-should-retry" not in safe.headers


def test_a_rerun_that_was_perhaps_stored_must_not_be_retried_blindly(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/v1/videos/{served.completed()['id']}/rerun"
    monkeypatch.setattr(served.gateway.store, "video_add", failing(StorageError("x")))
    blind, safe = served.client.post(path), served.client.post(path, headers={"Idempotency-Key": "r"})
    assert problem(blind, 503, "overloaded")["charged"] == "unknown"
    assert problem(safe, 503, "overloaded")["charged"] == "no"
    assert [answer.headers.get("x-should-retry") for answer in (blind, safe)] == ["false", None]


def test_a_decision_that_was_perhaps_stored_must_not_be_retried_blindly(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.gateway.store, "video_any", failing(RuntimeError("x")))
    body, headers = {"action": "resubmit"}, {"Idempotency-Key": "is not heeded here"}
    answer = served.client.post("/v1/videos/video_0/resolve", json=body, headers=headers)
    assert problem(answer, 500, "internal_error")["charged"] == "unknown"
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("kind", [StorageBusy, StorageShort])
@pytest.mark.parametrize("tail", ["", "/{}/rerun"])
def test_an_order_that_was_surely_not_stored_may_be_retried(
    served: Served, monkeypatch: pytest.MonkeyPatch, kind: type[StorageError], tail: str
) -> None:
    path, body = "/v1/videos", CREATE
    if tail:
        path, body = path + tail.format(served.completed()["id"]), {}
    monkeypatch.setattr(served.gateway.store, "video_add", failing(kind("canary of the inside")))
    answer = served.client.post(path, json=body)
    found = problem(answer, 503, "overloaded")
    assert (found["charged"], found["retryable"], answer.headers["retry-after"]) == ("no", True, "1")
    assert "x-should-retry" not in answer.headers
    assert "canary" not in answer.text
    refused = [line for line in served.lines if line["event"] == "request_refused"]
    (line,) = [line for line in refused if line["request_id"] == answer.headers["x-request-id"]]
    assert line["error"] == "canary of the inside"


def test_a_database_that_is_away_makes_the_gateway_unready(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("ready", "counts"):
        monkeypatch.setattr(served.gateway.store, method, failing(StorageError("x")))
    problem(served.client.get("/readyz"), 503, "overloaded")
    assert served.client.get("/livez").status_code == 200
    assert "reelgate_videos" in served.client.get("/metrics").text


# --- the request's id ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/livez", "/v1/videos", "/v1/videos/video_0", "/nowhere", "/v1/videos?x=1", "/metrics"]
)
def test_every_answer_has_the_request_id(served: Served, path: str) -> None:
    first, second = served.client.get(path), served.client.get(path)
    assert re.fullmatch(r"req_[0-9a-f]{24}", first.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    own = served.client.get(path, headers={"x-request-ID": "caller.1:a-b_C"})
    assert own.headers["x-request-id"] == "caller.1:a-b_C"
    assert own.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("own", ["", "a b", "x" * 129, "<script>", 'a"b', "a\tb", "\u00e9"])
def test_an_id_that_might_do_harm_is_replaced(served: Served, own: str) -> None:
    answer = served.client.get("/nowhere", headers=[(b"X-Request-Id", own.encode("latin-1"))])
    assert re.fullmatch(r"req_[0-9a-f]{24}", problem(answer, 404, "not_found")["request_id"])
