"""The places where tracing goes around what there is, and what stands there without it: the thing itself.

So without tracing nothing is called that would not be there otherwise, and OpenTelemetry is not imported.
Not held here: spans (`gateway.tracing`), who puts the parts together (`gateway.assembly`, `gateway.app`).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias, TypeVar

import msgspec

from gateway.engine.steps import STEPS
from gateway.engine.watch import Steps
from gateway.engine.webhooks import Answer, Letter
from gateway.provider_settings import ProviderSettings
from gateway.storage.db import Database
from gateway.storage.store import Store
from gateway.telemetry import Telemetry
from gateway.tracing_settings import Tracing
from providers.spec import VendorDoor

T = TypeVar("T")
Post: TypeAlias = Callable[[Letter, float], Awaitable[Answer]]
Application: TypeAlias = Callable[..., Awaitable[None]]
# OpenTelemetry's own switch: what it leaves are spans of no trace, and videos would keep these.
_OFF: Final = "OTEL_SDK_DISABLED"


def _as_it_is(thing: T) -> T:
    return thing


def _door_as_it_is(door: VendorDoor, provider: ProviderSettings) -> VendorDoor:
    return door


async def _nothing() -> None:
    pass


class Seams(msgspec.Struct, frozen=True, kw_only=True):
    """What makes the parts that are traced, or goes around them. `close` comes when all else has ended."""

    telemetry: Callable[[], Telemetry] = partial(Telemetry, {})
    store: Callable[[Database], Store] = Store
    steps: Steps = STEPS
    door: Callable[[VendorDoor, ProviderSettings], VendorDoor] = _door_as_it_is
    post: Callable[[Post], Post] = _as_it_is
    application: Callable[[Application], Application] = _as_it_is
    close: Callable[[], Awaitable[None]] = _nothing


UNTRACED: Final = Seams()


def seams_of(tracing: Tracing | None) -> Seams:
    """The seams of a process that is to be traced so; None: not at all. To be called in its loop."""
    if tracing is None or os.environ.get(_OFF, "").strip().lower() == "true":
        return UNTRACED
    from gateway.tracing.around import Around  # noqa: PLC0415 - half a second, for who needs it

    around = Around(tracing)
    return Seams(
        telemetry=around.telemetry, store=around.store, steps=around.steps(STEPS), door=around.door,
        post=around.post, application=around.application, close=around.close,
    )
