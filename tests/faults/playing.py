"""How a fault is done to a vendor, and undone: by the sandbox, at its port, in its name or its certificate.

Held here: what `matrix.md` calls by a name, and the life of one video through it. Not held here: what must
come of it.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec
import trustme

from gateway.sandbox.admin import ArmRequest
from gateway.sandbox.catalogue import FAULTS, Phase
from gateway.sandbox.ports import PortState
from tests.faults.calling import Got, Json
from tests.faults.declared import Cell
from tests.faults.world import NAME, STRANGE_NAME, VENDOR_KEY, World, authority, world

DOWN_SECONDS: Final = 45.0  # of virtual time: how long what lies below HTTP stays broken
AGE_SECONDS: Final = 10.0  # of a finished video when its file is fetched
_ENOUGH_BYTES: Final = 1_000_000  # of a file that does not end
_TIMES: Final = 2  # polls and tries struck: aiohttp repeats a GET once when its connection broke
_PHASES: Final[Mapping[str, Phase]] = {"S": "submit", "P": "poll", "D": "download"}


class Trouble(msgspec.Struct, frozen=True):
    """Something that can be done to the vendor of a world. `lasts`: seconds until it ends by itself."""

    apply: Callable[[World], Awaitable[None]]
    lift: Callable[[World], Awaitable[None]]
    is_tls: bool = False
    lasts: float | None = None


# ---- certificates ----


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def _expired() -> ssl.SSLContext:
    return _context(authority().issue_cert(NAME, not_after=datetime.now(UTC) - timedelta(days=1)))


def _old() -> ssl.SSLContext:
    context = _good()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def _good() -> ssl.SSLContext:
    return _context(authority().issue_cert(NAME))


@functools.cache
def _certificate(name: str) -> ssl.SSLContext:
    """A server's context by what is wrong with it; each is made once."""
    return _CERTIFICATES[name]()


_CERTIFICATES: Final[Mapping[str, Callable[[], ssl.SSLContext]]] = {
    "good": _good,
    "tls_expired": _expired,
    "tls_wrong_host": lambda: _context(authority().issue_cert("another.test")),
    "tls_self_signed": lambda: _context(trustme.CA().issue_cert(NAME)),
    "tls_old": _old,
}


# ---- trouble ----


def _at_port(state: PortState, *, is_tls: bool, shown: str | None = None) -> Trouble:
    """The port does that; an open one shows a certificate, or none."""

    async def apply(at: World) -> None:
        await at.port.become(state, None if shown is None else _certificate(shown))

    async def lift(at: World) -> None:
        await at.port.become("open", _certificate("good") if is_tls else None)

    return Trouble(apply, lift, is_tls=is_tls)


def _in_name(names: Mapping[str, str | None]) -> Trouble:
    """The vendor's name resolves like this."""

    async def apply(at: World) -> None:
        del at.names[NAME]
        at.names.update(names)

    async def lift(at: World) -> None:
        at.names[NAME] = "127.0.0.1"

    return Trouble(apply, lift)


# What the sandbox cannot play, by the name that the matrix gives it.
BELOW: Final[Mapping[str, Trouble]] = {
    "name_unknown": _in_name({}),
    "name_silent": _in_name({NAME: None}),
    "tls_absent": _at_port("open", is_tls=True),
    **{name: _at_port("open", is_tls=True, shown=name) for name in _CERTIFICATES if name != "good"},
    **{
        name: _at_port(fault.port, is_tls=name.startswith("handshake"))
        for name, fault in FAULTS.items() if fault.port is not None
    },
}


def _by_sandbox(cell: Cell) -> Trouble:
    """A fault of the table, armed for the next calls of its phase; of the next poll where it has no other."""
    fault = FAULTS[cell.name]
    phase = _PHASES[cell.phase] if _PHASES[cell.phase] in fault.phases else "poll"
    calls: int | Literal["always"] = 1 if phase == "submit" else max(_TIMES, fault.times or 0)
    if fault.times is None or cell.args.get("times") == "always":
        calls = "always"

    async def apply(at: World) -> None:
        elsewhere = at.stranger.url.replace("http://127.0.0.1", f"https://{STRANGE_NAME}")
        braces = {"{private}": at.stranger.url, "{elsewhere}": elsewhere, "{key}": VENDOR_KEY}
        args = {name: _filled(value, braces) for name, value in cell.args.items() if name != "times"}
        at.sandbox.arm(
            ArmRequest(fault=cell.name, vendor=cell.adapter, phase=phase, times=calls, args={**args})
            if fault.lasts is None else ArmRequest(fault=cell.name, vendor=cell.adapter)
        )

    async def lift(at: World) -> None:
        at.sandbox.world.armed.clear()

    return Trouble(apply, lift, lasts=fault.lasts)


def _filled(text: str, braces: Mapping[str, str]) -> str:
    for brace, value in braces.items():
        text = text.replace(brace, value)
    return text


def trouble(cell: Cell) -> Trouble:
    """What a cell's fault does. Raises KeyError for one that nobody can play."""
    return BELOW[cell.name] if cell.name in BELOW else _by_sandbox(cell)


# ---- lives ----


class Played(msgspec.Struct, frozen=True):
    """What became of one video: as callers see it, its timeline, what was bought for it, and of its file."""

    video: Json
    timeline: list[Json]
    charges: int
    polls: Mapping[str, int]
    tries: tuple[Got, ...]
    sent_bytes: int


@asynccontextmanager
async def _troubled(cell: Cell, spare: str | None = None) -> AsyncIterator[tuple[World, Trouble]]:
    """A world whose vendor can be given that trouble, and has none yet."""
    doing = trouble(cell)
    hours = 1 if doing.lasts is None else 2 * round(doing.lasts / 3600)
    async with world(cell.adapter, spare=spare, is_tls=doing.is_tls, hours=hours) as at:
        if doing.is_tls:
            await doing.lift(at)
        yield at, doing


async def _seen(at: World, video_id: str, before: int = 0, tries: tuple[Got, ...] = ()) -> Played:
    assert not at.stranger.met, "something connected to an address that a vendor named"
    assert not any(at.counted("reelgate_invariant_violations_total", "").values())
    return Played(
        video=await at.video(video_id), timeline=list(await at.timeline(video_id)), tries=tries,
        charges=at.charges() - before, polls=at.counted("reelgate_polls_total", "outcome"),
        sent_bytes=at.sandbox.most_sent_bytes,
    )


async def submitted(cell: Cell, spare: str | None = None) -> Played:
    """A video whose first submit meets the fault; `spare` is the adapter of a second, healthy provider."""
    async with _troubled(cell, spare) as (at, doing):
        if cell.name == "id_duplicate":
            await at.until(await at.create(), "rendering")
        before = at.charges()
        await doing.apply(at)
        healing = asyncio.create_task(_heal(at, doing)) if cell.name in BELOW else None
        video_id = await at.create()
        await at.until(video_id, "completed", "failed")
        if healing is not None:
            await healing
        return await _seen(at, video_id, before)


async def polled(cell: Cell) -> Played:
    """A video whose first polls meet the fault."""
    async with _troubled(cell) as (at, doing):
        video_id = await at.create()
        await at.until(video_id, "rendering")
        await doing.apply(at)
        if cell.name in BELOW:
            await _heal(at, doing)
        await at.until(video_id, "completed", "failed")
        return await _seen(at, video_id)


async def _heal(at: World, doing: Trouble) -> None:
    await asyncio.sleep(DOWN_SECONDS)
    await doing.lift(at)


async def downloaded(cell: Cell) -> Played:
    """A video whose file is fetched during the fault, and once more after it."""
    async with _troubled(cell) as (at, doing):
        is_told_by_polls = cell.name in FAULTS and "download" not in FAULTS[cell.name].phases
        if is_told_by_polls:
            await doing.apply(at)
        video_id = await at.create()
        await at.until(video_id, "completed", "failed")
        await asyncio.sleep(AGE_SECONDS)
        if not is_told_by_polls:
            await doing.apply(at)
        first = await at.call("GET", f"/v1/videos/{video_id}/content", enough_bytes=_ENOUGH_BYTES)
        await asyncio.sleep(doing.lasts or DOWN_SECONDS)
        await doing.lift(at)
        then = await at.call("GET", f"/v1/videos/{video_id}/content", enough_bytes=_ENOUGH_BYTES)
        return await _seen(at, video_id, tries=(first, then))
