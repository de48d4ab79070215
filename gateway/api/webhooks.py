"""A caller's webhook endpoints over HTTP: make, list, delete, rotate, try, replay, and the log of deliveries.

Not held here: what is sent (`messages`) and how (`gateway.engine.webhooks`), statements (`gateway.storage`).
"""

from __future__ import annotations

import base64
import secrets
from typing import Annotated, Any, Final, Literal

from litestar import Request, delete, get, post
from litestar.params import FromPath
from msgspec import Meta, Struct

from gateway.api.audit import entry_of
from gateway.api.gateway import caller_of, gateway_of
from gateway.api.messages import trial_body
from gateway.api.problems import responses
from gateway.api.query import read_query
from gateway.api.reading import read_nothing, read_struct
from gateway.core.webhooks import (
    OVERLAP_SECONDS,
    TEST_TYPE,
    TYPES,
    MessageState,
    Signer,
    WebhookType,
    rotated,
)
from gateway.errors import Problem, invalid
from gateway.storage.audit import Facts, recording
from gateway.storage.db import Step
from gateway.storage.webhook_endpoints import PAGE_MAX, REPLAY_MAX, Endpoint, Logged
from gateway.values import Secret

ENDPOINTS_MAX: Final = 16  # of one caller: each event is sent to all of them
SECRET_BYTES: Final = 24
_Unix = Annotated[float, Meta(ge=0, le=2**53, description="Unix seconds, inclusive")]


class DeliveryQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """What `GET /v1/webhook_endpoints/{id}/deliveries` takes."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX, description="how many at most")] = 20
    after: Annotated[str | None, Meta(description="begin after the message with this id")] = None


class EndpointBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where events are to be sent, and which; left out: all of them."""

    url: str
    events: Annotated[list[WebhookType], Meta(min_length=1, max_length=len(TYPES))] | None = None


class RotateBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """For how many seconds the old secret signs beside the new one; 0: not at all."""

    overlap: Annotated[int, Meta(ge=0, le=30 * 86_400)] = int(OVERLAP_SECONDS)


class ReplayBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be sent again: one message by its id, or all of the events between two times."""

    id: str | None = None
    since: _Unix | None = None
    until: _Unix | None = None


class EndpointObject(Struct, frozen=True, kw_only=True):
    """An endpoint. `disabled_at`: it answered that it is gone, and gets nothing until a test reaches it."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    url: str
    events: tuple[str, ...]
    created_at: int
    disabled_at: int | None
    disabled_by: str | None


class NewEndpointObject(EndpointObject, frozen=True, kw_only=True):
    """An endpoint with what it verifies signatures by. The secret is shown this once."""

    secret: str


class EndpointList(Struct, frozen=True, kw_only=True):
    """All endpoints of the caller, the oldest first."""

    object: Literal["list"] = "list"
    data: list[EndpointObject]


class EndpointDeleted(Struct, frozen=True, kw_only=True):
    """The answer to a delete."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class TryObject(Struct, frozen=True, kw_only=True):
    """One sending: when it began, the answer's status or a word why there was none, and how long it took."""

    at: float
    status: int | None
    error: str | None
    ms: int


class DeliveryObject(Struct, frozen=True, kw_only=True):
    """A message; `id` is its `webhook-id`, `created_at` when its event happened. Null video: of a test."""

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    type: str
    video: str | None
    state: MessageState
    created_at: int
    next_try_at: int | None
    tries: list[TryObject]


class DeliveryList(Struct, frozen=True, kw_only=True):
    """One page of the log, newest first; both ids are null when it is empty."""

    object: Literal["list"] = "list"
    data: list[DeliveryObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Replayed(Struct, frozen=True, kw_only=True):
    """How many messages will be sent again: at most 10,000, the oldest; `has_more`: there may be others."""

    object: Literal["webhook_replay"] = "webhook_replay"
    replayed: int
    has_more: bool


@post(
    "/v1/webhook_endpoints", status_code=201,
    opt={"role": "caller", "scope": "webhooks"}, responses=responses(413),
    summary="Add a webhook endpoint", tags=["webhooks"],
)
async def create_endpoint(request: Request[Any, Any, Any]) -> NewEndpointObject:
    """Have events of your videos sent to a URL, signed as Standard Webhooks 1.0 says. At most 16 endpoints.

    https to a public address, or an address that the operator allows. What the name leads to is judged each
    time it is connected to.
    """
    gateway, owner = gateway_of(request), caller_of(request).owner
    body = read_struct(await request.body(), EndpointBody)
    why = gateway.hooks.refuses(body.url)
    if why is not None:
        raise invalid("/url", f"The URL {why}.")
    if len(await gateway.store.endpoints.of(owner)) >= ENDPOINTS_MAX:
        raise invalid("/url", f"You have {ENDPOINTS_MAX} endpoints already; delete one first.")
    one = Endpoint(
        id=f"we_{secrets.token_hex(12)}", owner=owner, url=body.url, created_at=gateway.now(),
        events=tuple(dict.fromkeys(body.events or TYPES)), signers=(Signer(_new_secret()),),
    )
    await gateway.store.endpoints.add(one)
    return _with_secret(one)


@get(
    "/v1/webhook_endpoints", opt={"role": "caller", "scope": "webhooks"}, responses=responses(),
    summary="List your webhook endpoints", tags=["webhooks"],
)
async def list_endpoints(request: Request[Any, Any, Any]) -> EndpointList:
    """All of them, without their secrets."""
    found = await gateway_of(request).store.endpoints.of(caller_of(request).owner)
    return EndpointList(data=[_shown(one) for one in found])


@get(
    "/v1/webhook_endpoints/{endpoint_id:str}",
    opt={"role": "caller", "scope": "webhooks"}, responses=responses(404),
    summary="Get a webhook endpoint", tags=["webhooks"],
)
async def get_endpoint(request: Request[Any, Any, Any], endpoint_id: FromPath[str]) -> EndpointObject:
    """The endpoint, without its secret."""
    return _shown(await _endpoint_of(request, endpoint_id))


@delete(
    "/v1/webhook_endpoints/{endpoint_id:str}", status_code=200, opt={"role": "caller", "scope": "webhooks"},
    responses=responses(404), summary="Delete a webhook endpoint", tags=["webhooks"],
)
async def delete_endpoint(request: Request[Any, Any, Any], endpoint_id: FromPath[str]) -> EndpointDeleted:
    """Send nothing there any more, what was still to be sent included, and forget its log."""
    if not await gateway_of(request).store.endpoints.delete(endpoint_id, caller_of(request).owner):
        raise _absent(endpoint_id)
    return EndpointDeleted(id=endpoint_id)


@post(
    "/v1/webhook_endpoints/{endpoint_id:str}/rotate", status_code=200,
    opt={"role": "caller", "scope": "webhooks"},
    responses=responses(404, 413), summary="Give a webhook endpoint a new secret", tags=["webhooks"],
)
async def rotate_secret(request: Request[Any, Any, Any], endpoint_id: FromPath[str]) -> NewEndpointObject:
    """A new secret, shown this once. For `overlap` seconds the old one signs as well, so none is missed."""
    gateway = gateway_of(request)
    body = read_struct(await request.body() or b"{}", RotateBody)
    while True:
        one = await _endpoint_of(request, endpoint_id)
        signers = rotated(one.signers, _new_secret(), gateway.now(), float(body.overlap))
        if await gateway.store.endpoints.sign_by(one, signers):
            return _with_secret(one, signers[0].secret)


@post(
    "/v1/webhook_endpoints/{endpoint_id:str}/test", status_code=202,
    opt={"role": "caller", "scope": "webhooks"},
    responses=responses(404, 413), summary="Send a test event", tags=["webhooks"],
)
async def try_endpoint(request: Request[Any, Any, Any], endpoint_id: FromPath[str]) -> DeliveryObject:
    """Send an event of the type `webhook.test`, once. An endpoint that was disabled is back if it arrives."""
    read_nothing(await request.body())
    gateway, one = gateway_of(request), await _endpoint_of(request, endpoint_id)
    message_id, now = f"msg_{secrets.token_hex(16)}", gateway.now()
    body = trial_body(TEST_TYPE, now, one.id).decode()
    await gateway.store.endpoints.test_add(one, message_id, TEST_TYPE, body, now)
    return _delivery(
        Logged(id=message_id, type=TEST_TYPE, video_id="", state="pending", at=now, next_at=now, tries=[])
    )


@post(
    "/v1/webhook_endpoints/{endpoint_id:str}/replay", status_code=202,
    opt={"role": "caller", "scope": "webhooks"},
    responses=responses(404, 413), summary="Send webhooks again", tags=["webhooks"],
)
async def replay_deliveries(request: Request[Any, Any, Any], endpoint_id: FromPath[str]) -> Replayed:
    """Send one message again, or those of all events between `since` and `until`, delivered or not.

    Ids and bodies are those of before, so that a receiver knows what it has already.
    """
    gateway, body = gateway_of(request), read_struct(await request.body(), ReplayBody)
    one, now = await _endpoint_of(request, endpoint_id), gateway.now()
    if body.id is not None:
        if body.since is not None or body.until is not None:
            raise invalid("/id", "Give an id, or the times `since` and `until`.")
        also = _recorded(request, one, body)
        if not await gateway.store.endpoints.replay(one.id, one.owner, body.id, now, also):
            raise Problem("not_found", f"There is no message {body.id[:80]!r} of this endpoint.")
        return Replayed(replayed=1, has_more=False)
    if body.since is None:
        raise invalid("/since", "Give an id, or the times `since` and `until`.")
    until = now if body.until is None else float(body.until)
    if until < body.since:
        raise invalid("/until", "`until` is before `since`.")
    also = _recorded(request, one, body)
    count = await gateway.store.endpoints.replay_range(
        one.id, one.owner, float(body.since), until, now, also
    )
    return Replayed(replayed=count, has_more=count == REPLAY_MAX)


@get(
    "/v1/webhook_endpoints/{endpoint_id:str}/deliveries",
    opt={"role": "caller", "scope": "webhooks", "query": DeliveryQuery},
    responses=responses(404), summary="List what was sent to a webhook endpoint", tags=["webhooks"],
)
async def list_deliveries(request: Request[Any, Any, Any], endpoint_id: FromPath[str]) -> DeliveryList:
    """Every message with each try to deliver it, newest first."""
    query = read_query(request.query_params.multi_items(), DeliveryQuery())
    endpoints, one = gateway_of(request).store.endpoints, await _endpoint_of(request, endpoint_id)
    last = None
    if query.after is not None:
        last = await endpoints.logged(one.id, one.owner, query.after)
        if last is None:
            raise invalid("?after", "after is not the id of a message of this endpoint")
    found = await endpoints.log(one.id, one.owner, query.limit, last)
    data = [_delivery(logged) for logged in found[: query.limit]]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return DeliveryList(data=data, first_id=first_id, last_id=last_id, has_more=len(found) > query.limit)


def _recorded(request: Request[Any, Any, Any], one: Endpoint, body: ReplayBody) -> tuple[Step, ...]:
    """The record of an operator's replay; a caller's own is none."""
    if caller_of(request).role not in ("operator", "admin"):
        return ()
    asked: Facts = {"message": body.id, "since": body.since, "until": body.until}
    return (recording(entry_of(request, "webhook.replayed", one.id, None, asked)),)


async def _endpoint_of(request: Request[Any, Any, Any], endpoint_id: str) -> Endpoint:
    """The caller's endpoint. Raises Problem not_found, also for another caller's."""
    one = await gateway_of(request).store.endpoints.get(endpoint_id, caller_of(request).owner)
    if one is None:
        raise _absent(endpoint_id)
    return one


def _absent(endpoint_id: str) -> Problem:
    return Problem("not_found", f"There is no webhook endpoint {endpoint_id[:80]!r} of yours.")


def _new_secret() -> Secret:
    return Secret("whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())


def _shown(one: Endpoint) -> EndpointObject:
    return EndpointObject(
        id=one.id, url=one.url, events=one.events, created_at=int(one.created_at),
        disabled_at=None if one.disabled_at is None else int(one.disabled_at), disabled_by=one.disabled_by,
    )


def _with_secret(one: Endpoint, secret: Secret | None = None) -> NewEndpointObject:
    return NewEndpointObject(
        id=one.id, url=one.url, events=one.events, created_at=int(one.created_at),
        disabled_at=None if one.disabled_at is None else int(one.disabled_at), disabled_by=one.disabled_by,
        secret=(secret or one.signers[0].secret).reveal(),
    )


def _delivery(logged: Logged) -> DeliveryObject:
    return DeliveryObject(
        id=logged.id, type=logged.type, video=logged.video_id or None, state=logged.state,
        created_at=int(logged.at), next_try_at=int(logged.next_at) if logged.state == "pending" else None,
        tries=[TryObject(at=round(one.at, 3), status=one.status, error=one.error, ms=one.ms)
               for one in logged.tries],
    )
