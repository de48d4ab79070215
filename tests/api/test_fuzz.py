"""Requests that nobody would write, made from the served document: never a 5xx, and answers that keep to it.

The vendors refuse every create, so nothing is rendered. Held here: only this, because the generator does not
live well beside other clients of the framework.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.api import streams
from gateway.api.application import ROUTES
from gateway.api.wire import CreateBody
from gateway.sandbox.admin import ArmRequest
from tests.serving import Served, problem, serving

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 25  # a route and mode
BOUNDED = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
# A public route has no input that could be wrong.
OPERATIONS = [
    (str(method), path.replace(":str}", "}"), mode)
    for route in ROUTES if route.include_in_schema is not False
    for path in sorted(route.paths) for method in sorted(route.http_methods)
    for mode in ((POSITIVE,) if route.opt.get("public") else (POSITIVE, NEGATIVE))
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.binary(max_size=64) | st.dictionaries(
    st.sampled_from(CreateBody.__struct_fields__), VALUES, max_size=6
).map(lambda body: json.dumps({"prompt": "x", **body}).encode())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("fuzz")) as started:
        started.sandbox.arm(ArmRequest(fault="invalid", phase="submit", times="always"))
        yield started


@pytest.fixture(scope="module")
def document(served: Served) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


@pytest.mark.parametrize(("method", "path", "mode"), [
    pytest.param(*asked, marks=[pytest.mark.long] if asked[2] is NEGATIVE else []) for asked in OPERATIONS
])
def test_no_input_breaks_the_api(
    document: schemathesis.BaseSchema, monkeypatch: pytest.MonkeyPatch, method: str, path: str,
    mode: GenerationMode,
) -> None:
    monkeypatch.setattr(streams, "STREAM_SECONDS", 0.0)  # an event stream ends when it has said what there is
    operation = document[path][method]

    @BOUNDED
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS)

    ask()


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/plan"])
def test_no_body_breaks_a_create(served: Served, path: str) -> None:
    @settings(BOUNDED, max_examples=5 * EXAMPLES)
    @given(BODIES)
    def ask(body: bytes) -> None:
        answer = served.client.post(path, content=body)
        if answer.status_code not in {200, 202}:
            problem(answer, *((422, "no_route") if answer.status_code == 422 else (400, "invalid_request")))

    ask()
