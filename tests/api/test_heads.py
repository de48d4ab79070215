"""What a request says before its body, at every route: what is not taken is refused, never dropped.

Held here: the names in a query, packed bodies. Not held here: what a parameter's value may be (the tests of
each route), limits of a head (`tests.security`).
"""

from __future__ import annotations

import gzip
import re
import socket
from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway.api.application import ROUTES
from gateway.api.query import known_names
from tests.serving import PATIENCE_SECONDS, Served, problem, read, serving

KEYED: Final = [
    (str(method), path, route)
    for route in ROUTES if route.opt.get("public") is not True
    for path in sorted(route.paths) for method in sorted(route.http_methods)
]  # fmt: skip
BODY: Final = b'{"prompt": "a"}'
FREE: Final = ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/v1/version"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("queries")) as started:
        yield started


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in KEYED])
def test_what_a_route_does_not_take_is_refused_by_name(served: Served, method: str, path: str) -> None:
    answer = served.client.request(method, re.sub("{.*?}", "x", path), params={"no_such": "1"})
    assert answer.status_code == 400
    if method == "HEAD":
        return
    found = problem(answer, 400, "invalid_request")
    assert (found["param"], found["errors"][0]["pointer"]) == ("no_such", "?no_such")
    assert "no_such" in found["detail"]


def test_a_create_with_its_fields_in_the_query_buys_nothing(served: Served) -> None:
    before = len(served.ledger)
    answer = served.client.post("/v1/videos?provider=unified", json={"prompt": "a"})
    assert problem(answer, 400, "invalid_request")["param"] == "provider"
    video = served.completed()
    path = f"/v1/videos/{video['id']}/rerun?priority=1"
    assert problem(served.client.post(path), 400, "invalid_request")["param"] == "priority"
    assert [entry.vendor_task_id for entry in served.ledger[before:]] == [video["vendor_task_id"]]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        (method, path, "metadata[a]" if name == "metadata[key]" else name)
        for method, path, route in KEYED for name in known_names(route)
    ],
)  # fmt: skip
def test_a_name_that_comes_twice_is_refused(served: Served, method: str, path: str, name: str) -> None:
    answer = served.client.request(method, re.sub("{.*?}", "x", path), params={name: ["1", "2"]})
    assert answer.status_code == 400
    if method != "HEAD":
        found = problem(answer, 400, "invalid_request")
        assert (found["param"], found["detail"]) == (name, f"{name} is given twice")


def test_a_video_is_not_detached_by_one_of_two_words(served: Served) -> None:
    video = served.rendering()
    path = f"/v1/videos/{video['id']}/cancel?detach=true&detach=false"
    assert problem(served.client.post(path), 400, "invalid_request")["param"] == "detach"
    assert read(served.client.get(f"/v1/videos/{video['id']}"))["status"] == "in_progress"
    served.finish(video["id"])


def test_the_known_names_are_those_of_the_document(served: Served) -> None:
    paths: dict[str, Any] = read(served.client.get("/openapi.json"))["paths"]
    for method, path, route in KEYED:
        operation = paths[path.replace(":str}", "}")][method.lower()]
        shown = {it["name"] for it in operation.get("parameters", ()) if it["in"] == "query"}
        assert shown == {name.partition("[")[0] for name in known_names(route)}, (method, path)


@pytest.mark.parametrize("path", FREE)
def test_what_needs_no_key_is_free_to_bring_any(served: Served, path: str) -> None:
    assert served.client.get(f"{path}?no_such=1&no_such=2").status_code == 200


def test_a_vendor_may_call_back_with_names_of_its_own(served: Served) -> None:
    problem(served.client.post("/v1/callbacks/highway/x?task=1&task=2", json={}), 404, "not_found")


def test_whoever_passes_a_signed_url_on_may_add_to_it(served: Served) -> None:
    video = served.completed()
    url = read(served.client.post(f"/v1/videos/{video['id']}/links"))["url"]
    assert served.client.get(f"{url}&from=chat").status_code == 200


# --- packed bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "identity, gzip", "aws-chunked"])
@pytest.mark.parametrize("content", [BODY, gzip.compress(BODY, mtime=0)], ids=["plain", "packed"])
def test_a_body_that_is_said_to_be_packed_is_refused(served: Served, encoding: str, content: bytes) -> None:
    before = len(served.ledger)
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    for path in ("/v1/videos", "/v1/videos/plan", "/v1/webhook_endpoints"):
        found = problem(served.client.post(path, content=content, headers=headers), 400, "invalid_request")
        assert (found["param"], "unpacked" in found["detail"]) == ("Content-Encoding", True)
    assert len(served.ledger) == before


def test_it_is_refused_before_the_body_is_read(served: Served) -> None:
    host, _, port = str(served.settings.server.listen).rpartition(":")
    head = (
        f"POST /v1/videos HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Encoding: gzip\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), PATIENCE_SECONDS) as client:
        client.sendall(head.encode())
        assert client.recv(64).startswith(b"HTTP/1.1 400 ")


def test_a_body_that_is_said_to_be_as_it_is_is_taken(served: Served) -> None:
    headers = {"Content-Encoding": "identity"}
    planned = served.client.post("/v1/videos/plan", json={"prompt": "a"}, headers=headers)
    assert planned.status_code == 200
