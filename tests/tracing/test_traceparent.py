"""What counts as a `traceparent`, and that a video keeps one whether or not anything is traced."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.traceparent import of_headers, read
from tests.serving import Served, serving
from tests.tracing.stage import CALLER, TRACE, TRACEPARENT


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("untraced")) as made:
        yield made


@pytest.mark.parametrize(("text", "kept"), [
    (TRACEPARENT, TRACEPARENT),
    (f"00-{TRACE}-{CALLER}-00", f"00-{TRACE}-{CALLER}-00"),
    (f"00-{TRACE}-{CALLER}-03", TRACEPARENT),  # a flag that this version does not know is not passed on
    (f"cc-{TRACE}-{CALLER}-01-what-comes", TRACEPARENT),  # of a later version what this one knows
    (f"cc-{TRACE}-{CALLER}-01", TRACEPARENT),
])
def test_a_place_in_a_trace_is_read(text: str, kept: str) -> None:
    assert str(read(text)) == kept


@pytest.mark.parametrize("text", [
    "", "00", TRACE, f"00-{TRACE}-{CALLER}", f"ff-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-01-more",
    f"00-{TRACE.upper()}-{CALLER}-01", f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-{CALLER}-1", f"0-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-01\n", f" {TRACEPARENT}",
    f"00_{TRACE}_{CALLER}_01", f"00-{TRACE[:-1]}g-{CALLER}-01", f"cc-{TRACE}-{CALLER}-01-{'x' * 300}",
    f"cc-{TRACE}-{CALLER}-01.more", f"0\u0660-{TRACE}-{CALLER}-01",
])
def test_anything_else_is_no_place(text: str) -> None:
    assert read(text) is None


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"))
def test_what_is_read_is_of_version_00_and_reads_as_itself(text: str) -> None:
    place = read(text)
    assert place is None or (str(place)[:3], read(str(place))) == ("00-", place)


def test_two_of_them_are_none() -> None:
    one = TRACEPARENT.encode()
    assert str(of_headers([one])) == str(of_headers([b" \t" + one + b" "])) == TRACEPARENT
    assert of_headers([]) is of_headers([one, one]) is of_headers([b"\xff"]) is None


@pytest.mark.parametrize(("sent", "kept"), [(TRACEPARENT, TRACEPARENT), ("nonsense", None), (None, None)])
def test_a_video_keeps_it_without_tracing(served: Served, sent: str | None, kept: str | None) -> None:
    headers = {} if sent is None else {"traceparent": sent}
    answer = served.client.post("/v1/videos", json={"prompt": "a fox"}, headers=headers)
    assert answer.status_code == 202, answer.text
    task = served.run(served.gateway.store.task_get, answer.json()["id"])
    assert task is not None
    assert task.traceparent == kept


def test_what_is_ordered_again_belongs_to_the_trace_that_orders_it(served: Served) -> None:
    video = served.completed()
    answer = served.client.post(f"/v1/videos/{video['id']}/rerun", headers={"traceparent": TRACEPARENT})
    task = served.run(served.gateway.store.task_get, answer.json()["id"])
    assert task is not None
    assert task.traceparent == TRACEPARENT


def test_it_is_described(served: Served) -> None:
    described = served.client.get("/openapi.json").json()["paths"]
    for path in ("/v1/videos", "/v1/videos/{video_id}/rerun"):
        names = [parameter["name"] for parameter in described[path]["post"]["parameters"]]
        assert "traceparent" in names, path
