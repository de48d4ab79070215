"""The routes put together into one ASGI application, and the guard that every one of them passes.

Not held here: the parts that the routes work with (`gateway.app` builds them).
"""

from __future__ import annotations

from typing import Any, Final

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp

from gateway import __version__
from gateway.api import content, creating, operations, providers, resolving, videos
from gateway.api.auth import Role, check_same_site, require
from gateway.api.edge import Edge
from gateway.api.gateway import Gateway
from gateway.api.problems import HANDLERS

JSON_MAX_BYTES: Final = 1024 * 1024

ROUTES: Final = (
    creating.create_video, creating.plan_video, creating.rerun_video,
    videos.get_video, videos.list_videos, videos.get_timeline, videos.cancel_video, videos.delete_video,
    content.get_content, resolving.resolve_video,
    providers.list_providers, providers.pause_provider, providers.drain_provider, providers.resume_provider,
    operations.list_models, operations.get_version, operations.get_livez, operations.get_readyz,
    operations.get_metrics, operations.get_openapi, operations.get_docs,
)
# What `server.management` moves to a port of its own.
MANAGEMENT: Final = frozenset({"/livez", "/readyz", "/metrics"})
PUBLIC: Final = frozenset[str]().union(*(route.paths for route in ROUTES)) - MANAGEMENT


async def authorize(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let a request through to a public route, or to one for whose role it brings a key; refuse any other."""
    if handler.opt.get("public") is True:
        return
    # Guards see only HTTP scopes here.
    if connection.scope["method"] == "OPTIONS":  # type: ignore[typeddict-item]
        return  # the framework's own answer: the methods, and nothing else
    gateway: Gateway = connection.app.state.gateway
    if gateway.door.is_open:
        check_same_site(connection.headers.get("host", ""), connection.headers.get("origin"))
    role: Role = handler.opt["role"]  # a route that declares neither is closed: this raises
    address = connection.client.host if connection.client else ""
    caller = await gateway.door.caller(connection.headers.get("authorization", ""), address)
    require(caller, role)
    connection.scope["state"]["caller"] = caller


def make_litestar(gateway: Gateway | None, paths: frozenset[str] | None = None) -> Litestar:
    """The framework's application over `gateway` (None: only to describe itself); `paths` restricts it."""
    routes = [route for route in ROUTES if paths is None or route.paths & paths]
    return Litestar(
        route_handlers=routes,
        guards=[authorize],
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(
            title="Reelgate", version=__version__, path="/_unused", render_plugins=[],
            use_handler_docstrings=True,
            description="One durable REST API over many vendors of AI video generation.",
        ),
        request_max_body_size=JSON_MAX_BYTES,
        state=State({"gateway": gateway}),
        logging_config=None,
    )


def make_application(gateway: Gateway, paths: frozenset[str] | None = None) -> ASGIApp:
    """What the server serves: the edge around the framework."""
    return Edge(make_litestar(gateway, paths), gateway.telemetry)
