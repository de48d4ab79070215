"""Spans: how one begins, which are kept, where they go.

A span belongs to the one that is open where it begins, else to the place that its video names. Attributes
are what callers of these functions name, plain values from closed sets or ids of ours: never a prompt, a key
or a URL's query. Of an error its class is told, never its words. Not held here: what is traced (`around` and
its neighbours).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeAlias
from uuid import uuid4

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from gateway import __version__
from gateway.core.traceparent import Place, read
from gateway.tracing_settings import Tracing
from providers.spec import VendorError

EXPORT_SECONDS: Final = 3.0  # for one batch
CLOSE_SECONDS: Final = 3.0  # after which, when the process ends, no further batch is begun
EVERY_MS: Final = 1_000.0
WAITING_MAX: Final = 8_192  # spans that wait to be sent; more are dropped
_PATH: Final = "/v1/traces"
_NANOS: Final = 1_000_000_000

Attributes: TypeAlias = Mapping[str, str | int | Sequence[str]]


class Work:
    """Spans of one piece of work. Until it is worth telling they are held; what never is, is dropped."""

    def __init__(self, *, is_told: bool) -> None:
        self._is_told = is_told
        self._held: list[tuple[Span, int]] = []

    def tell(self) -> None:
        """It is worth telling: what is held, and whatever is to come."""
        self._is_told = True
        held, self._held = self._held, []
        for span, ended_at in held:
            span.end(ended_at)

    def end(self, span: Span) -> None:
        """A span of it is over."""
        if self._is_told:
            span.end()
        else:
            self._held.append((span, time.time_ns()))


class Active:
    """What is going on: the span that is open, and the piece of work that it is of."""

    __slots__ = ("exemplar", "span", "trace_id", "work")

    def __init__(self, span: Span, work: Work) -> None:
        self.span, self.work = span, work
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        # A trace that nobody keeps is nothing to point at.
        self.exemplar = {"trace_id": self.trace_id} if context.trace_flags.sampled else None

    @property
    def traceparent(self) -> str:
        """The open span, for whoever continues it elsewhere."""
        context = self.span.get_span_context()
        return str(Place(self.trace_id, f"{context.span_id:016x}", context.trace_flags.sampled))


_active: Final[ContextVar[Active | None]] = ContextVar("active", default=None)
_ALWAYS: Final = Work(is_told=True)


def active() -> Active | None:
    """What is going on here; None: nothing that is traced."""
    return _active.get()


def exemplar() -> dict[str, str] | None:
    """What a measurement made here points at."""
    found = _active.get()
    return None if found is None else found.exemplar


def place_of(traceparent: str | None) -> Active | None:
    """The place that a video names, as if its span were open; None where it names none."""
    place = None if traceparent is None else read(traceparent)
    if place is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if place.is_sampled else TraceFlags.DEFAULT)
    where = SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=True, trace_flags=flags)
    return Active(NonRecordingSpan(where), _ALWAYS)


@contextmanager
def at(place: Active | None) -> Iterator[None]:
    """Be at `place`: what is logged and measured meanwhile says so."""
    token = _active.set(place)
    try:
        yield
    finally:
        _active.reset(token)


def failed(span: Span, kind: str) -> None:
    """Say that what a span is of went wrong, and in what way."""
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


class Spans:
    """The maker of spans, and their way out. `lost` is called, on a thread, with how many were not taken."""

    def __init__(self, settings: Tracing, lost: Callable[[int], None]) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it quotes answers; `lost` tells
        root = TraceIdRatioBased(settings.sample_ratio)
        resource = {
            "service.name": settings.service_name, "service.version": __version__,
            "service.instance.id": str(uuid4()),
        }
        self._provider = TracerProvider(
            sampler=ParentBased(root), resource=Resource.create(resource), shutdown_on_exit=False
        )
        headers = {name: value.reveal() for name, value in settings.headers.items()}
        base = settings.endpoint.removesuffix(_PATH)
        out = OTLPSpanExporter(base + _PATH, headers=headers or None, timeout=EXPORT_SECONDS)
        self._out = _Telling(out, lost)
        self._provider.add_span_processor(BatchSpanProcessor(
            self._out, max_queue_size=WAITING_MAX, schedule_delay_millis=EVERY_MS
        ))
        self._tracer = self._provider.get_tracer("reelgate", __version__)

    def close(self) -> None:
        """Send what waits, within EXPORT_SECONDS + CLOSE_SECONDS. Blocks."""
        self._out.ends_at = time.monotonic() + CLOSE_SECONDS
        # Whoever answers a byte at a time would otherwise hold the end of the process up.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(EXPORT_SECONDS + CLOSE_SECONDS)

    def begin(
        self, name: str, kind: SpanKind, parent: Active | None, attributes: Attributes,
        started_at: float | None = None,
    ) -> Span:
        """A span that whoever began it has to end. `started_at` in Unix seconds; None: now."""
        if parent is not None and parent.exemplar is None:  # nobody keeps it: nothing need be made
            return NonRecordingSpan(parent.span.get_span_context())
        context = Context() if parent is None else set_span_in_context(parent.span, Context())
        return self._tracer.start_span(
            name, context, kind, attributes, start_time=_nanos(started_at), record_exception=False,
            set_status_on_exception=False,
        )

    @contextmanager
    def open(
        self, name: str, kind: SpanKind, parent: Active | None, attributes: Attributes,
        work: Work | None = None,
    ) -> Iterator[Active]:
        """A span around what is done meanwhile; what fails is worth telling, whatever `work` said so far."""
        span = self.begin(name, kind, parent, attributes)
        if work is None:
            work = _ALWAYS if parent is None else parent.work
        made = Active(span, work)
        token = _active.set(made)
        try:
            yield made
        except BaseException as error:
            failed(span, error.kind if isinstance(error, VendorError) else type(error).__name__)
            if isinstance(error, Exception):  # to be cancelled is no fault
                work.tell()
            raise
        finally:
            _active.reset(token)
            work.end(span)

    def past(
        self, name: str, parent: Active | None, attributes: Attributes, started_at: float, ended_at: float
    ) -> None:
        """A span of what is over, in Unix seconds."""
        span = self.begin(name, SpanKind.INTERNAL, parent, attributes, started_at)
        span.end(_nanos(max(started_at, ended_at)))


def _nanos(at: float | None) -> int | None:
    return None if at is None else int(at * _NANOS)


class _Telling(SpanExporter):
    """An exporter that says what it could not bring away, and begins nothing after `ends_at` (monotonic)."""

    def __init__(self, out: SpanExporter, lost: Callable[[int], None]) -> None:
        self._out, self._lost = out, lost
        self.ends_at = float("inf")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        is_late = time.monotonic() >= self.ends_at
        result = SpanExportResult.FAILURE if is_late else self._out.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lost(len(spans))
        return result

    def shutdown(self) -> None:
        """Let connections go."""
        self._out.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whatever is held further out is sent."""
        return self._out.force_flush(timeout_millis)
