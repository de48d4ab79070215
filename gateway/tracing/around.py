"""What goes around the parts of a traced gateway, from a request to its video's last webhook.

    POST /v1/videos            the request; its span is what the video keeps, and all below belongs to it
      INSERT videos            the commit behind the 202
      admission                from acceptance until it was sent, or was about to be
      submit, settle, expire   a step of the engine's, with the calls (POST, GET) and commits it makes
      poll                     likewise; one that found nothing new is not told: most do, metrics count them
      store file
      POST                     each try of a webhook

Not held here: how spans are made and sent (`spans`), the store and the metrics (`parts`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Concatenate, Final, ParamSpec, TypeAlias

from msgspec.structs import replace
from opentelemetry.trace import SpanKind

from gateway.api.traces import RequestSpan, traced
from gateway.core.states import Task
from gateway.core.traceparent import Place
from gateway.engine.loop import Engine
from gateway.engine.watch import Steps
from gateway.engine.webhooks import Answer, Letter
from gateway.provider_settings import ProviderSettings
from gateway.storage.db import Database
from gateway.telemetry import Telemetry
from gateway.tracing.parts import TracedStore, TracedTelemetry, about
from gateway.tracing.spans import Active, Spans, Work, active, failed, place_of
from gateway.tracing_settings import Tracing
from providers.egress import origin
from providers.spec import Reply, VendorDoor

P = ParamSpec("P")
Application: TypeAlias = Callable[..., Awaitable[None]]
Post: TypeAlias = Callable[[Letter, float], Awaitable[Answer]]

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What a step is called that is done because its time has come, by the state of its task.
_DUE: Final = {
    "waiting": "expire", "submitting": "expire", "rendering": "poll", "submission_unknown": "settle",
    "completed": "look again", "failed": "look again", "cancelled": "look again",
}


class Around:
    """All that `gateway.seams` puts in place of what there is without tracing. To be made in the loop."""

    def __init__(self, settings: Tracing) -> None:
        self._telemetry: Telemetry | None = None
        self._loop = asyncio.get_running_loop()
        self._spans = Spans(settings, self._lost)

    async def close(self) -> None:
        """Send what waits to be sent, within seconds."""
        await asyncio.to_thread(self._spans.close)

    def _lost(self, count: int) -> None:
        """On the exporter's thread; the log is the loop's."""
        self._loop.call_soon_threadsafe(self._tell_lost, count)

    def _tell_lost(self, count: int) -> None:
        if self._telemetry is not None:
            self._telemetry.log.warning("spans_not_sent", spans=count)

    def telemetry(self) -> Telemetry:
        """Metrics with exemplars, and a log with trace ids."""
        self._telemetry = TracedTelemetry()
        return self._telemetry

    def store(self, database: Database) -> TracedStore:
        """The store, each of whose commits is a span."""
        return TracedStore(database, self._spans)

    # --- requests -----------------------------------------------------------------------------------

    def application(self, app: Application) -> Application:
        """The application, each of whose answers is a span, but for those to whoever watches the process."""
        return traced(app, self._request)

    @contextmanager
    def _request(self, method: str, scheme: str, came_from: Place | None) -> Iterator[RequestSpan]:
        method = method if method in _METHODS else "_OTHER"
        facts = {"http.request.method": method, "url.scheme": scheme}
        parent = None if came_from is None else place_of(str(came_from))
        with self._spans.open(method, SpanKind.SERVER, parent, facts) as here:
            yield _Request(here, method)

    # --- steps --------------------------------------------------------------------------------------

    def steps(self, steps: Steps) -> Steps:
        """The steps, each a span where something came of it."""
        due = {state: self._step(_DUE[state], step) for state, step in steps.due.items()}
        return replace(
            steps, due=due, submit=self._step("submit", steps.submit), send=self._step("submit", steps.send),
            end=self._step("expire", steps.end), keep=self._step("store file", steps.keep, is_told=True),
        )

    def _step(
        self, name: str, step: Callable[Concatenate[Engine, Task, P], Awaitable[None]], *,
        is_told: bool = False,
    ) -> Callable[Concatenate[Engine, Task, P], Awaitable[None]]:
        async def around(engine: Engine, task: Task, /, *args: P.args, **kwargs: P.kwargs) -> None:
            parent = place_of(task.traceparent)
            if parent is None:
                await step(engine, task, *args, **kwargs)
                return
            with self._spans.open(name, SpanKind.INTERNAL, parent, about(task), Work(is_told=is_told)):
                await step(engine, task, *args, **kwargs)

        return around

    # --- vendors ------------------------------------------------------------------------------------

    def door(self, door: VendorDoor, provider: ProviderSettings) -> VendorDoor:
        """A vendor's door, each call through which is a span where it belongs to something."""
        return TracedDoor(door, provider, self._spans)

    # --- webhooks -----------------------------------------------------------------------------------

    def post(self, post: Post) -> Post:
        """The way of webhooks, each try a span, which the receiver is told as what it continues."""

        async def around(letter: Letter, now: float) -> Answer:
            parent = place_of(letter.traceparent)
            if parent is None:
                return await post(letter, now)
            # Of the URL no more than the place: a caller's path and query may be what opens it.
            facts = {
                "http.request.method": "POST", "reelgate.webhook.id": letter.id, **_server_of(letter.url)
            }
            with self._spans.open("POST", SpanKind.CLIENT, parent, facts) as here:
                answer = await post(replace(letter, traceparent=here.traceparent), now)
                if answer.status is not None:
                    here.span.set_attribute("http.response.status_code", answer.status)
                if answer.error is not None or (answer.status or 0) >= 400:
                    failed(here.span, answer.error or str(answer.status))
                return answer

        return around


class _Request:
    """A `RequestSpan`."""

    def __init__(self, here: Active, method: str) -> None:
        self._span, self._method, self.traceparent = here.span, method, here.traceparent

    def answered(self, status: int) -> None:
        """Note the status; only what is our fault is an error."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            failed(self._span, str(status))

    def matched(self, route: str) -> None:
        """Name the span for its route."""
        self._span.update_name(f"{self._method} {route}")
        self._span.set_attribute("http.route", route)


class TracedDoor:
    """A `VendorDoor` with a span around each call. Nothing is added to what is sent."""

    def __init__(self, door: VendorDoor, provider: ProviderSettings, spans: Spans) -> None:
        self._door, self._spans, self._base = door, spans, provider.base_url.rstrip("/")
        self._facts = {"reelgate.provider": provider.name, **_server_of(provider.base_url)}
        self.redact = door.redact

    async def submit(self, path: str, body: Mapping[str, object]) -> Reply:
        """As the door itself."""
        return await self._call("POST", path, partial(self._door.submit, path, body))

    async def ask(self, path: str, query: Mapping[str, str] | None = None) -> Reply:
        """As the door itself."""
        return await self._call("GET", path, partial(self._door.ask, path, query))

    async def _call(self, method: str, path: str, call: Callable[[], Awaitable[Reply]]) -> Reply:
        parent = active()
        if parent is None:
            return await call()
        facts = {**self._facts, "http.request.method": method, "url.full": f"{self._base}{path}"}
        with self._spans.open(method, SpanKind.CLIENT, parent, facts) as here:
            reply = await call()
            here.span.set_attribute("http.response.status_code", reply.status)
            if reply.status >= 400:
                failed(here.span, str(reply.status))
                here.work.tell()
            return reply


def _server_of(url: str) -> dict[str, str | int]:
    """Of a URL that is none nothing is told: whoever is to call it says so."""
    try:
        _, host, port = origin(url)
    except ValueError:
        return {}
    return {"server.address": host, "server.port": port}
