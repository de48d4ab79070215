"""The route for vendors that call back: behind a path that nobody can guess, and without a word about jobs.

Not held here: what follows from a call (`tests/engine/test_callbacks.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from gateway.engine.callbacks import token_of
from tests.serving import Served, problem, read, serving


class Calling:
    """The adapter of a vendor, as it is, that also takes calls: their body is the id of a job."""

    def __init__(self, adapter: object) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> object:
        return getattr(self._adapter, name)

    def call_back_at(self, url: str) -> None:
        """Where to."""

    def read_callback(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """The job."""
        return body.decode() if headers.get("x-signed") == "yes" else None


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("callbacks"), auth="keys") as started:
        provider = started.gateway.fleet.providers["highway"]
        provider.adapter = Calling(provider.adapter)  # type: ignore[assignment] # it has all of an adapter
        yield started


def place(served: Served, name: str = "highway") -> str:
    return f"/v1/callbacks/{name}/{token_of(served.gateway.fleet.providers[name].settings)}"


def test_a_vendor_calls_without_a_key(served: Served) -> None:
    caller = served.as_caller("somebody")
    video = served.started(served.create(caller, provider="highway")["id"], caller)
    job, url = video["vendor_task_id"], place(served)
    for body in (job, job, "nobody"):
        answer = served.client.post(url, content=body, headers={"X-Signed": "yes"})
        assert (answer.status_code, answer.content) == (204, b"")
    assert served.client.post(url, content=job).status_code == 204
    results = [line.split('"result":"')[1].split('"')[0]
               for line in served.log.splitlines() if '"called_back"' in line]
    assert results == ["polled", "repeated", "ignored", "ignored"]
    assert served.finish(video["id"], caller)["status"] == "completed"
    assert url not in served.log


@pytest.mark.parametrize("path", ["highway/x", "narrow/{token}", "nobody/{token}", "highway/{token}0"])
def test_any_other_path_is_not_there(served: Served, path: str) -> None:
    token = place(served).rpartition("/")[2]
    found = problem(served.client.post(f"/v1/callbacks/{path.format(token=token)}"), 404, "not_found")
    assert found["detail"] == "There is nothing here."


def test_an_adapter_that_takes_no_calls_has_no_path(served: Served) -> None:
    problem(served.client.post(place(served, "unified")), 404, "not_found")


def test_a_call_is_short(served: Served) -> None:
    problem(served.client.post(place(served), content=b"x" * 70_000), 413, "payload_too_large")


def test_only_a_post_is_a_call(served: Served) -> None:
    assert served.client.get(place(served)).status_code == 405
    assert read(served.client.get(place(served)))["code"] == "method_not_allowed"
