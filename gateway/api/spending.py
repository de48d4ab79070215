"""The stop switch: an operator stops all spending, and lets it begin again.

An order is stored before it is obeyed, so it outlives the process; every replica obeys within seconds. Not
held here: obeying (`gateway.engine.spending`), limits of callers (`quotas`).
"""

from __future__ import annotations

from typing import Any, Literal

from litestar import Request, get, post
from msgspec import Struct

from gateway.api.audit import entry_of
from gateway.api.auth import operator
from gateway.api.gateway import caller_of, gateway_of
from gateway.api.problems import responses
from gateway.api.reading import read_nothing
from gateway.storage.audit import Facts, recording
from gateway.storage.stop import Stopped


class SpendingState(Struct, frozen=True, kw_only=True):
    """Whether anything new is bought. `stopped_by` is who said no, `since` when (Unix seconds)."""

    object: Literal["spending"] = "spending"
    stopped: bool
    stopped_by: str | None
    since: int | None


@get(
    "/v1/spending", opt={"role": "operator", "scope": "spending"}, responses=responses(),
    summary="Whether spending is stopped", tags=["operations"],
)
async def get_spending(request: Request[Any, Any, Any]) -> SpendingState:
    """Whether anything new is bought, and who stopped it."""
    return _shown(await gateway_of(request).store.stop.get())


@post(
    "/v1/spending/stop", status_code=200, opt={"role": "operator", "scope": "spending"},
    responses=responses(413), summary="Stop all spending", tags=["operations"],
)
async def stop_spending(request: Request[Any, Any, Any]) -> SpendingState:
    """Take no new video and send none that waits, on every replica; what vendors have goes to its end."""
    return await _order(request, is_stopped=True)


@post(
    "/v1/spending/start", status_code=200, opt={"role": "operator", "scope": "spending"},
    responses=responses(413), summary="Let spending begin again", tags=["operations"],
)
async def start_spending(request: Request[Any, Any, Any]) -> SpendingState:
    """Lift the stop: new videos are taken, and those that wait are sent."""
    return await _order(request, is_stopped=False)


async def _order(request: Request[Any, Any, Any], *, is_stopped: bool) -> SpendingState:
    read_nothing(await request.body())
    gateway, stop = gateway_of(request), gateway_of(request).store.stop
    before, by = await stop.get(), operator(caller_of(request))
    if (before is not None) != is_stopped:
        action = "spending.stopped" if is_stopped else "spending.started"
        told: tuple[Facts, Facts] = ({"stopped": not is_stopped}, {"stopped": is_stopped})
        also = (recording(entry_of(request, action, "spending", *told)),)
        if is_stopped:
            await stop.put(Stopped(by, gateway.now()), also)
        else:
            await stop.delete(also)
    gateway.engine.spending.obey(by, is_stopped=is_stopped)
    gateway.engine.look()
    return _shown(await stop.get())


def _shown(stopped: Stopped | None) -> SpendingState:
    if stopped is None:
        return SpendingState(stopped=False, stopped_by=None, since=None)
    return SpendingState(stopped=True, stopped_by=stopped.by, since=int(stopped.at))
