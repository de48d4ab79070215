"""Orders without a body (cancel, pause, stop, ...): whatever a caller puts into one is not dropped silently.

Not held here: what each order does (`test_routes`, `test_providers`, `tests.engine`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving import Served, problem, read, serving

ACTIONS = (
    "/v1/videos/{id}/cancel", "/v1/videos/{id}/rerun",
    "/v1/providers/highway/pause", "/v1/providers/highway/drain", "/v1/providers/highway/resume",
    "/v1/spending/stop", "/v1/spending/start",
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("actions")) as started:
        yield started


@pytest.mark.parametrize("action", ACTIONS)
def test_a_field_is_a_wish_that_nobody_would_honour(served: Served, action: str) -> None:
    """`{"detach": true}` in the body of a cancel, say, where the query is meant."""
    video = served.rendering()
    answer = served.client.post(action.format(id=video["id"]), json={"detach": True})
    assert problem(answer, 400, "invalid_request")["param"] == "detach"
    assert {each["state"] for each in read(served.client.get("/v1/providers"))["data"]} == {"healthy"}
    assert read(served.client.get("/v1/spending"))["stopped"] is False
    assert read(served.client.get(f"/v1/videos/{video['id']}"))["status"] == "in_progress"
    served.finish(video["id"])


def test_an_empty_object_says_nothing_and_is_fine(served: Served) -> None:
    video = served.rendering()
    answer = served.client.post(f"/v1/videos/{video['id']}/cancel?detach=true", json={})
    assert read(answer)["status"] == "cancelled"
