"""Who takes spans in tests: OTLP over HTTP on 127.0.0.1, decoded from protobuf as a collector would.

Held here: the receiver, and short ways to look at what came. No expectation is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Final, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tests.handling import handling

PATIENCE_SECONDS: Final = 30.0  # only a broken gateway takes that long
_KINDS: Final = {1: "internal", 2: "server", 3: "client"}
_ERROR: Final = 2


class Span(NamedTuple):
    """One span as it came; ids in hex, `parent` empty for the first of a trace; times in nanoseconds."""

    name: str
    kind: str
    trace_id: str
    id: str
    parent: str
    facts: dict[str, object]
    is_error: bool
    began: int
    ended: int
    instance: dict[str, object]


class Receiver:
    """What was received so far, at `url`; `headers` are those of each call. It refuses while `refuses`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers: list[dict[str, str]] = []
        self.refuses = False
        self._spans: list[Span] = []
        self._came = threading.Condition()

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        """One call."""
        with self._came:
            self.headers.append(headers)
            self._spans += read(body)
            self._came.notify_all()

    @property
    def spans(self) -> list[Span]:
        """Those that came, in order of their beginning."""
        with self._came:
            return sorted(self._spans, key=lambda span: (span.began, span.id))

    def wait(self, is_reached: Callable[[Sequence[Span]], bool]) -> list[Span]:
        """What came, once it is so."""
        with self._came:
            has_come = self._came.wait_for(lambda: is_reached(self._spans), PATIENCE_SECONDS)
        assert has_come, tree(self.spans)
        return self.spans


def read(body: bytes) -> list[Span]:
    """The spans of an OTLP request. Raises for what is none."""
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return [
        Span(
            name=span.name, kind=_KINDS[span.kind], trace_id=span.trace_id.hex(), id=span.span_id.hex(),
            parent=span.parent_span_id.hex(), facts=_facts(span.attributes),
            is_error=span.status.code == _ERROR, began=span.start_time_unix_nano,
            ended=span.end_time_unix_nano, instance=_facts(group.resource.attributes),
        )
        for group in request.resource_spans for scope in group.scope_spans for span in scope.spans
    ]


def _facts(attributes: Sequence[KeyValue]) -> dict[str, object]:
    return {entry.key: _value(entry.value) for entry in attributes}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind or "string_value")


def tree(spans: Sequence[Span], under: str = "", depth: int = 0) -> str:
    """The spans below one, a line each; side by side by name, for two clocks tell which began first."""
    known = {span.id for span in spans}
    lines = []
    for span in sorted(spans, key=lambda span: span.name):
        if span.parent == under or (not depth and span.parent not in known):
            mark = " !" if span.is_error else ""
            lines.append(f"{'  ' * depth}{span.name}{mark}\n")
            lines.append(tree(spans, span.id, depth + 1))
    return "".join(lines)


@contextmanager
def receiver(*, is_deaf: bool = False) -> Iterator[Receiver]:
    """A receiver on a free port; a deaf one answers and reads nothing of what came."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            is_taken = self.path == "/v1/traces" and not made.refuses
            if is_taken and not is_deaf:
                made.take(body, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(200 if is_taken else 400)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with handling(Handler) as url:
        made = Receiver(url)
        yield made
