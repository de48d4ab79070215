"""The routes put together into one ASGI application, and the guard that every one of them passes.

Not held here: the parts that the routes work with (`gateway.app` builds them).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from litestar import Litestar
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Server
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from gateway import __version__
from gateway.api import (
    audit,
    callbacks,
    content,
    creating,
    keys,
    links,
    operations,
    providers,
    resolving,
    spending,
    streams,
    uploads,
    usage,
    videos,
    webhooks,
)
from gateway.api.auth import check_same_site, is_declared, require
from gateway.api.edge import Edge, header_of
from gateway.api.entrance import check_unpacked
from gateway.api.gateway import Gateway
from gateway.api.hops import address_of
from gateway.api.origins import Origins
from gateway.api.problems import HANDLERS
from gateway.api.query import check_names
from gateway.api.rates import count
from gateway.api.signed import is_signed

JSON_MAX_BYTES: Final = 1024 * 1024

ROUTES: Final = (
    creating.create_video, creating.plan_video, creating.rerun_video,
    videos.get_video, videos.list_videos, videos.get_timeline, videos.cancel_video, videos.delete_video,
    streams.get_video_events, streams.get_events, content.get_content, links.create_link,
    resolving.resolve_video,
    uploads.upload_file, uploads.get_file, uploads.delete_file, uploads.get_file_content,
    providers.list_providers, providers.pause_provider, providers.drain_provider, providers.resume_provider,
    audit.list_audit, callbacks.take_callback,
    usage.get_usage, spending.get_spending, spending.stop_spending, spending.start_spending,
    keys.create_key, keys.list_keys, keys.get_key, keys.revoke_key, keys.rotate_key,
    webhooks.create_endpoint, webhooks.list_endpoints, webhooks.get_endpoint, webhooks.delete_endpoint,
    webhooks.rotate_secret, webhooks.try_endpoint, webhooks.replay_deliveries, webhooks.list_deliveries,
    operations.list_models, operations.get_model, operations.get_version,
    operations.get_livez, operations.get_readyz, operations.get_metrics,
    operations.get_openapi, operations.get_docs,
)
# What `server.management` moves to a port of its own.
MANAGEMENT: Final = frozenset({"/livez", "/readyz", "/metrics"})
PUBLIC: Final = frozenset[str]().union(*(route.paths for route in ROUTES)) - MANAGEMENT


async def authorize(gateway: Gateway, scope: Scope, receive: Receive) -> Receive:
    """Let a request through to a public route, or to one for whose role it brings a key; refuse any other.

    With a key it has to be one that nothing is dropped of. Whoever passes a signed URL on may add to it, and
    vendors do so when they call back.

    What it is to receive its body by from here on.
    """
    opt = scope["route_handler"].opt
    if opt.get("public") is True:
        return receive
    purpose = opt.get("signed")
    if purpose is not None and await is_signed(gateway, scope, purpose):
        return receive  # there is no caller: the route asks for none where `opt` has such a purpose
    door = gateway.door
    if door.is_open:
        check_same_site(header_of(scope, b"host") or "", header_of(scope, b"origin"))
    address = address_of(scope, gateway.fleet.settings.server.trusted_proxies)
    authorization = header_of(scope, b"authorization") or ""
    caller = await door.caller(authorization, address)
    count(gateway.rates, scope, caller)
    require(caller, opt)
    check_names(scope, scope["route_handler"])
    if scope["method"] == "POST":  # type: ignore[typeddict-item]  # only HTTP is served
        check_unpacked(scope)
    scope["state"]["caller"] = caller
    return receive if door.is_open else door.while_good(receive, authorization, address)


async def _tell_methods(scope: Scope, send: Send) -> None:
    """The answer to OPTIONS, for which nobody needs a key: the framework's own forgets later handlers."""
    route = next(one for one in scope["litestar_app"].routes if one.path_format == scope["path_template"])
    allow = ", ".join(sorted(map(str, route.methods))).encode()
    await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allow)]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def guarded(app: ASGIApp) -> ASGIApp:
    """A route behind `authorize`. Not a guard of the framework's: for those it copies the route each time."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        # Only HTTP is served.
        if scope["method"] == "OPTIONS":  # type: ignore[typeddict-item]
            await _tell_methods(scope, send)
            return
        gateway: Gateway = scope["litestar_app"].state.gateway
        scope["state"]["gateway"] = gateway
        await app(scope, await authorize(gateway, scope, receive), send)

    return guard


def make_litestar(gateway: Gateway | None, paths: frozenset[str] | None = None) -> Litestar:
    """The framework's application over `gateway` (None: only to describe itself); `paths` restricts it.

    Raises RuntimeError while a route does not say who may use it.
    """
    undeclared = [str(route) for route in ROUTES if not is_declared(route.opt)]
    if undeclared:
        raise RuntimeError(f"routes that are neither public nor have a role and a scope: {undeclared}")
    routes = [route for route in ROUTES if paths is None or route.paths & paths]
    return Litestar(
        route_handlers=routes,
        middleware=[guarded],
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(
            title="Reelgate", version=__version__, path="/_unused", render_plugins=[],
            use_handler_docstrings=True, servers=[Server(url=_base_of(gateway) or "/")],
            description="One durable REST API over many vendors of AI video generation.",
        ),
        request_max_body_size=JSON_MAX_BYTES,
        state=State({"gateway": gateway}),
        logging_config=None,
    )


def make_application(gateway: Gateway, paths: frozenset[str] | None = None) -> ASGIApp:
    """What the server serves: the edge around the framework."""
    has_looks = paths is None or bool(videos.get_video.paths & paths)
    app = make_litestar(gateway, paths)
    pages = gateway.fleet.settings.server.cors_origins
    edge = Edge(
        app, gateway.telemetry, partial(_look, gateway, app) if has_looks else None,
        base=_base_of(gateway), origins=Origins(pages) if pages else None,
    )
    return gateway.around(edge)


def _base_of(gateway: Gateway | None) -> str:
    return "" if gateway is None else gateway.fleet.settings.server.base_path


async def _look(gateway: Gateway, app: ASGIApp, scope: HTTPScope) -> ASGIApp | None:
    """The answer to a request that the framework, `app`, need not take apart; None leaves it to that."""
    if scope["path"].endswith("/events"):
        return await streams.look(gateway, scope)
    return await videos.look(gateway, app, scope)
