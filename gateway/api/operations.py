"""Everything that is neither a video nor a provider: models, health, metrics, the API's own description.

Not held here: videos (`creating`, `videos`, `content`), `providers`, who may ask (`auth`; each route names
its role, or says `public`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec
from litestar import Litestar, Request, Response, get, route
from litestar.enums import HttpMethod
from litestar.params import FromPath

from gateway import __version__
from gateway.api.document import docs_page, openapi_document
from gateway.api.gateway import caller_of, gateway_of
from gateway.api.problems import responses
from gateway.api.shapes import ModelList, ModelObject, model_list
from gateway.core.routing import Listing, is_allowed
from gateway.engine.reports import measured
from gateway.errors import Problem
from gateway.metrics import PLAIN
from gateway.settings import Price

TEXT: Final = "text/plain"  # the framework adds the charset
_LOOKED_AT: Final = [HttpMethod.GET, HttpMethod.HEAD]  # the server leaves the body out for HEAD


class Version(msgspec.Struct):
    """What is running."""

    name: str
    version: str


@get(
    "/v1/models", opt={"role": "viewer", "scope": "videos:read"}, responses=responses(),
    summary="Models and what serves them", tags=["models"],
)
async def list_models(request: Request[Any, Any, Any]) -> ModelList:
    """What your key may use of the table that validates requests: what stands here is what is enforced."""
    return _models(request)


@get(
    "/v1/models/{model:str}", opt={"role": "viewer", "scope": "videos:read"}, responses=responses(404),
    summary="A model and what serves it", tags=["models"],
)
async def get_model(request: Request[Any, Any, Any], model: FromPath[str]) -> ModelObject:
    """What the list has of this model; 404 for one that your key may not use, or nobody serves."""
    for known in _models(request).data:
        if known.id == model:
            return known
    raise Problem("not_found", f"There is no model {model[:80]!r} for you; GET /v1/models lists them.")


def _models(request: Request[Any, Any, Any]) -> ModelList:
    fleet, grant = gateway_of(request).fleet, caller_of(request).grant

    def prices(listing: Listing) -> Sequence[Price]:
        return fleet.providers[listing.provider].settings.prices.get(listing.offering.slug, ())

    allowed = {
        model: [
            listing for listing in listings
            if is_allowed(grant.providers, listing.provider) and listing.candidate not in fleet.retired
        ]
        for model, listings in fleet.models.items() if is_allowed(grant.models, model)
    }
    return model_list({model: listings for model, listings in allowed.items() if listings}, prices)


@get("/v1/version", opt={"public": True}, summary="What is running", tags=["operations"])
async def get_version() -> Version:
    """Name and version of the program."""
    return Version("reelgate", __version__)


@route(
    "/livez", http_method=_LOOKED_AT, opt={"public": True}, media_type=TEXT,
    summary="Alive", tags=["operations"],
)
async def get_livez() -> str:
    """Answered as long as the process can answer anything; depends on nothing."""
    return "ok\n"


@route(
    "/readyz", http_method=_LOOKED_AT, opt={"public": True}, media_type=TEXT,
    responses=responses(503, keyed=False), summary="Ready", tags=["operations"],
)
async def get_readyz(request: Request[Any, Any, Any]) -> str:
    """Whether to send requests here: started, not draining, database answering. No vendor's health counts."""
    gateway = gateway_of(request)
    if not gateway.is_ready:
        raise Problem("overloaded", "The gateway is starting or draining.")
    await gateway.store.ready()
    return "ok\n"


@route(
    "/metrics", http_method=_LOOKED_AT, opt={"public": True}, media_type=PLAIN,
    summary="Prometheus metrics", tags=["operations"],
)
async def get_metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The metrics in Prometheus' text format; with tracing on, in OpenMetrics for whoever accepts that."""
    gateway = gateway_of(request)
    for provider in gateway.fleet.providers.values():
        found, limit = measured(gateway.engine, provider), provider.settings.max_in_flight
        gateway.telemetry.provider_is(provider.name, found.state, found.why or "")
        gateway.telemetry.provider_has(provider.name, limit, refuses_us=found.refuses_us)
        gateway.telemetry.poll_stretch(provider.name).set(provider.polls.stretch(gateway.now()))
    gateway.telemetry.database_is(gateway.store.trouble)
    content_type, text = gateway.telemetry.negotiated(request.headers.get("accept", ""))
    return Response(text, media_type=content_type)


@get("/openapi.json", opt={"public": True}, include_in_schema=False)
async def get_openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The OpenAPI document."""
    return Response(msgspec.json.encode(_document(request.app)), media_type="application/json")


@get("/docs", opt={"public": True}, include_in_schema=False)
async def get_docs(request: Request[Any, Any, Any]) -> Response[str]:
    """The OpenAPI document for people."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return Response(docs_page(_document(request.app)), media_type="text/html", headers=headers)


@cache
def _document(app: Litestar) -> dict[str, Any]:
    """Made when it is first asked for: starting does not wait for it."""
    return openapi_document(app)
