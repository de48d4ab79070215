"""The life of the process: what follows tasks begins at once, what answers callers comes to it.

Not held here: how the parts are put together (`gateway.assembly`), being reachable (`gateway.listening`), a
configuration that changes meanwhile (`gateway.reloading`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.assembly import Parts, assembled
from gateway.engine.callbacks import Callbacks
from gateway.engine.counts import count_ever
from gateway.engine.expiry import sweep_uploads
from gateway.engine.replica import ReplicaRole
from gateway.engine.spent import tell_spent
from gateway.engine.webhooks import Answer, Letter, post
from gateway.engine.webhooks_outbox import Outbox, Terms
from gateway.listening import free, listening, server, settle_memory
from gateway.logs import configure_logging, write_lines
from gateway.reloading import Reloads
from gateway.settings import Settings, load
from gateway.values import Marks
from providers import adapters

try:
    from uvloop import new_event_loop
except ImportError:  # there is none for Windows
    from asyncio import new_event_loop  # type: ignore[assignment]

if TYPE_CHECKING:
    from granian.server.embed import Server

    from gateway.api.gateway import Gateway

DRAIN_SECONDS: Final = 20.0  # an orchestrator kills after 30; closing takes its time too


class Running(msgspec.Struct):
    """A started gateway: its parts, and over them what the routes work with.

    `failing` ends, with its error, when anything fails that runs beside the requests until the end.
    """

    gateway: Gateway
    parts: Parts
    failing: asyncio.Task[None]


@asynccontextmanager
async def running(settings: Settings, role: ReplicaRole = "all") -> AsyncIterator[Running]:
    """All of a gateway, started, but reachable by nobody; it ends with the context. Raises StorageError."""
    async with assembled(settings, role) as parts:
        # Half of what a process costs to start, while what earlier ones left is followed already.
        await asyncio.to_thread(import_module, "gateway.api.application")
        gateway = _gateway_over(parts, settings)
        looking = [asyncio.create_task(look()) for look in (gateway.waiters.look, gateway.hub.look)]
        failed = partial(gateway.telemetry.storage_failed, "uploads")
        sweeping = asyncio.create_task(sweep_uploads(gateway.store.uploads, gateway.now, failed))
        unknown = partial(gateway.telemetry.storage_failed, "keys")
        looking.append(asyncio.create_task(gateway.door.look(unknown)))
        looking += [asyncio.create_task(tell(parts.engine)) for tell in (tell_spent, count_ever)]
        telling = [] if role == "api" else [asyncio.create_task(_outbox_over(parts, settings).run())]
        failing = asyncio.create_task(_first_error([*looking, sweeping, *telling]))
        try:
            yield Running(gateway, parts, failing)
        finally:
            for one in (failing, *looking):
                one.cancel()
            sweeping.cancel()
            for one in telling:
                one.cancel()
                await asyncio.wait([one])


async def _first_error(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until one of these fails, and raise why; one may end by itself without a word."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for one in done:
        one.result()


def _gateway_over(parts: Parts, settings: Settings) -> Gateway:
    from gateway.api.auth import Door  # noqa: PLC0415 - see `running`
    from gateway.api.gateway import Gateway  # noqa: PLC0415
    from gateway.api.hub import Hub  # noqa: PLC0415
    from gateway.api.rates import Rates  # noqa: PLC0415
    from gateway.api.waiting import Waiters  # noqa: PLC0415

    engine, hub = parts.engine, Hub(parts.store, partial(parts.telemetry.step_failed, ""))
    return Gateway(
        hub=hub, store=parts.store, engine=engine, fleet=parts.fleet, telemetry=parts.telemetry,
        waiters=Waiters(parts.store, hub.release), links=parts.wires.links, hooks=parts.wires.hooks,
        callbacks=Callbacks(engine), around=parts.seams.application, now=engine.now,
        rates=Rates(time.monotonic, lambda: engine.doors),
        door=Door(
            parts.store, engine.now, is_open=settings.auth.mode == "off",
            teams=lambda: parts.fleet.settings.teams,
        ),
    )


def _outbox_over(parts: Parts, settings: Settings) -> Outbox:
    from gateway.api.base import use_base  # noqa: PLC0415 - see `running`
    from gateway.api.messages import body_of  # noqa: PLC0415

    use_base(settings.server.base_path)  # of the videos in messages
    hooks = parts.wires.hooks
    terms = Terms(secrets=hooks.secrets, kept_seconds=settings.files.records_retention)


    async def send(letter: Letter, _now: float) -> Answer:
        """By the machine's clock, not by the steady one: receivers judge a message by its time."""
        return await post(hooks.links, letter, time.time())

    return Outbox(parts.engine, parts.seams.post(send), body_of, terms)


def run(settings_path: Path, role: ReplicaRole = "all") -> int:
    """Serve by this file, which is followed, until SIGTERM or SIGINT; the exit code.

    Raises SettingsError and StorageError before serving.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can be obeyed; what changes meanwhile is noticed
    marks: Marks = {}
    settings = load(settings_path, adapters(), os.environ, marks)
    configure_logging(settings.log.level, settings.log.format)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_serve(settings, partial(Reloads, path=settings_path, marks=marks), role))


async def _serve(settings: Settings, followed: Callable[[Parts], Reloads], role: ReplicaRole) -> int:
    # Before anything is taken over: who holds these is alive.
    listen, management = free(settings.server.listen), settings.server.management
    management = None if management is None else free(management)
    async with running(settings, role) as found:
        from gateway.api.application import (  # noqa: PLC0415 - see `running`
            MANAGEMENT,
            PUBLIC,
            make_application,
        )

        gateway = found.gateway
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _on_stop, stopping)
        reloads = followed(found.parts)
        loop.add_signal_handler(signal.SIGHUP, reloads.ask)
        shown = MANAGEMENT if role == "engine" else PUBLIC if management else None
        servers = [server(make_application(gateway, shown), listen)]
        if management is not None:
            servers.append(server(make_application(gateway, MANAGEMENT), management))
        serving = [asyncio.create_task(one.serve()) for one in servers]
        await listening(listen)
        settle_memory()
        gateway.is_ready = True
        looked = asyncio.create_task(_say_if_files_fail(gateway))
        gateway.telemetry.log.info("ready", listen=str(listen), providers=len(settings.providers))
        stopped = asyncio.create_task(stopping.wait())
        reloading = asyncio.create_task(reloads.run())
        lasting = [*serving, found.parts.following, found.failing, reloading]
        await asyncio.wait([*lasting, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in lasting:
            if task.done() and (error := task.exception()) is not None:
                gateway.telemetry.log.error("ended_by_itself", error=type(error).__name__, exc_info=error)
                raise error
        looked.cancel()
        reloading.cancel()
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # by itself, one that comes late would end it
        await _drain(gateway, servers, serving)
    return 0


async def _say_if_files_fail(gateway: Gateway) -> None:
    """Tell an operator at once of what would otherwise be noticed when the first video is done."""
    keeping = gateway.engine.keeping
    if keeping is not None and (why := await keeping.store.trouble()) is not None:
        gateway.telemetry.log.error("files_cannot_be_stored", error=why)


async def _drain(gateway: Gateway, servers: list[Server], serving: list[asyncio.Task[None]]) -> None:
    """Take nothing more, and let requests and submits under way end, within an orchestrator's patience."""
    gateway.is_ready = False
    gateway.telemetry.log.info("draining")
    gateway.waiters.release()
    for one in servers:
        one.stop()  # type: ignore[no-untyped-call]  # the server has no types
    submits = asyncio.create_task(gateway.engine.stop())
    _, late = await asyncio.wait([*serving, submits], timeout=DRAIN_SECONDS)
    if late:
        gateway.telemetry.log.warning("drain_timed_out", seconds=DRAIN_SECONDS)


def _on_stop(stopping: asyncio.Event) -> None:
    if stopping.is_set():
        write_lines()
        os._exit(1)  # asked twice: now. Whatever was being sent is `submission_unknown` at the next start
    stopping.set()


def openapi_yaml() -> str:
    """The API's description, as committed in openapi/reelgate.yaml."""
    import yaml  # noqa: PLC0415 - serving does not need it

    from gateway.api.application import make_litestar  # noqa: PLC0415 - see `running`
    from gateway.api.document import openapi_document  # noqa: PLC0415

    document = openapi_document(make_litestar(None))
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
