"""The composition root: settings -> storage -> engine -> routes, and the life of the process.

Not held here: anything that decides. Each part is built from what stands below it, and let go in reverse.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from granian.server.embed import Server

from gateway import __version__
from gateway.api.application import MANAGEMENT, PUBLIC, make_application, make_litestar
from gateway.api.auth import Door
from gateway.api.document import openapi_document
from gateway.api.gateway import Gateway
from gateway.api.waiting import Waiters
from gateway.core.lease import Lease
from gateway.engine.collect import Links
from gateway.engine.loop import Engine
from gateway.engine.provider import Fleet, Provider, make_provider
from gateway.engine.replica import Identity, ReplicaRole, follow
from gateway.engine.steps import STEPS
from gateway.engine.watch import Outside
from gateway.listening import free, listening, server, settle_memory
from gateway.settings import ProviderSettings, Settings, SettingsError, load
from gateway.storage.db import Database, StorageError
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from gateway.telemetry import Telemetry, configure_logging
from gateway.values import StoreUrl
from providers import adapters
from providers.egress import AddressPolicy, Reach, guard, origin
from providers.http import Account, Limits, VendorHTTP
from providers.transport import Transport, tls_context

CONNECT_SECONDS: Final = 10.0  # for name, connection and TLS towards a vendor
CONNECT_SHARE: Final = 0.8  # of submit_timeout, where that is short
DRAIN_SECONDS: Final = 20.0  # an orchestrator kills after 30; closing takes its time too
_NEEDS_RESTART: Final = ("server", "auth", "store", "files", "egress", "webhooks")
_MOVED: Final = "it has jobs that are followed and cannot change its adapter or base_url; use another name"
_REACHES: Final[tuple[Reach, ...]] = ("origin", "public", "listed")


class Wires:
    """The transports towards vendors and their files, made from `[egress]` once; a reload keeps them.

    `lease`: the right to send what is paid for.
    """

    def __init__(self, settings: Settings, lease: Lease) -> None:
        self.lease = lease
        egress = settings.egress
        policy = _policy(settings)
        proxy = None if egress.proxy is None else egress.proxy.reveal()
        make = partial(Transport, proxy=proxy, tls=tls_context(egress.ca_file), max_connections=0)
        self.fresh, self.pooled = make(fresh=True), make()
        # Fresh, so that what is left over on a connection is never taken for another caller's file.
        guards = {reach: None if proxy else guard(policy, reach) for reach in _REACHES}
        files = {reach: make(fresh=True, guard=guards[reach]) for reach in _REACHES}
        self.links = Links(policy, files)
        self._all = (self.fresh, self.pooled, *files.values())

    def allow(self, settings: Settings) -> None:
        """Have links to these providers' own origins followed."""
        self.links.policy = _policy(settings)

    async def close(self) -> None:
        """Close every connection."""
        for transport in self._all:
            await transport.aclose()


def _policy(settings: Settings) -> AddressPolicy:
    origins = frozenset(origin(entry.base_url) for entry in settings.providers.values())
    return AddressPolicy(settings.egress.networks, origins)


def make_providers(settings: Settings, wires: Wires, telemetry: Telemetry, fleet: Fleet) -> list[Provider]:
    """The configured providers, each with its own door; a known one keeps its gate."""
    return [_make_provider(entry, wires, telemetry, fleet) for entry in settings.providers.values()]


def _make_provider(entry: ProviderSettings, wires: Wires, telemetry: Telemetry, fleet: Fleet) -> Provider:
    account = Account(
        base_url=entry.base_url, api_key=entry.api_key.reveal(), auth_scheme=entry.adapter.auth_scheme
    )
    observe = partial(telemetry.vendor_called, entry.name)
    # Given up before the submit is: a connection that was never made proves that nothing was sent.
    connect_seconds = min(CONNECT_SECONDS, entry.submit_timeout * CONNECT_SHARE)
    limits = Limits(
        connect_seconds=connect_seconds, submit_seconds=entry.submit_timeout,
        may_send=lambda: wires.lease.is_held,
    )
    door = VendorHTTP(account, fresh=wires.fresh, pooled=wires.pooled, observe=observe, limits=limits)
    telemetry.add_provider(entry.name, sorted({offering.model for offering in entry.offerings}))
    return make_provider(entry, entry.adapter.build(door), fleet.providers.get(entry.name))


def open_database(url: StoreUrl, settings: Settings, *, exclusive: bool) -> Database:
    """The database at `url`. Raises StorageError when it cannot be opened, or is another process's."""
    if url.path is not None:
        return SqliteDatabase(url.path, exclusive=exclusive)
    dsn = "" if url.dsn is None else url.dsn.reveal()
    return PostgresDatabase(dsn, statement_cache_size=settings.store.statement_cache_size)


class Running(msgspec.Struct):
    """A started gateway. `following` is the engine's loop: if it ends by itself, something is badly wrong."""

    gateway: Gateway
    wires: Wires
    following: asyncio.Task[None]


class SteadyClock:
    """Unix time in seconds that follows the machine's clock forward, never back: a step stops no timer."""

    def __init__(self) -> None:
        self._offset = 0.0

    def __call__(self) -> float:
        """Now."""
        elapsed = time.monotonic()
        self._offset = max(self._offset, time.time() - elapsed)
        return elapsed + self._offset


def elapsed() -> float:
    """Seconds that pass while the machine sleeps, too, and never go back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def identity_of(settings: Settings, role: ReplicaRole) -> Identity:
    """Who this process is among those on its database."""
    listen = settings.server.listen
    place = f"{socket.gethostname()} {listen}" if listen.port else ""
    return Identity(role, place, __version__, lambda: secrets.token_hex(8))


@asynccontextmanager
async def running(settings: Settings, role: ReplicaRole = "all") -> AsyncIterator[Running]:
    """All parts of a gateway, started; the engine runs until the context ends. Raises StorageError."""
    chance = random.SystemRandom()
    now, telemetry = SteadyClock(), Telemetry({})
    database = open_database(settings.store.url, settings, exclusive=True)
    if role != "all" and not database.is_shared:
        await database.close()
        raise StorageError(f"--role {role} needs a database that replicas share: [store] url = postgresql://...")
    lease = Lease(elapsed, is_shared=database.is_shared)
    wires = Wires(settings, lease)
    try:
        await database.migrate()
        store, fleet, identity = Store(database), Fleet(chance), identity_of(settings, role)
        fleet.use(settings, make_providers(settings, wires, telemetry, fleet))
        outside = Outside(now, chance, identity.new_name(), lease, follows=role != "api")
        engine = Engine(store, fleet, telemetry, outside, STEPS)
        telemetry.ages(engine.oldest_unfinished_seconds)
        gateway = Gateway(
            store=store, engine=engine, fleet=fleet, telemetry=telemetry, waiters=Waiters(store),
            links=wires.links, now=now, chance=chance,
            door=Door(store, time.monotonic, is_open=settings.auth.mode == "off"),
        )
        telemetry.videos_are(await store.counts())
        following = asyncio.create_task(follow(engine, identity))
        tasks = [following, *([asyncio.create_task(gateway.waiters.look())] if store.is_shared else [])]
        try:
            yield Running(gateway, wires, following)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    finally:
        await wires.close()
        await database.close()


def run(settings_path: Path, role: ReplicaRole = "all") -> int:
    """Serve by this file until SIGTERM or SIGINT; the exit code.

    Raises SettingsError and StorageError before serving.
    """
    settings = load(settings_path, adapters(), os.environ)
    configure_logging(settings.log.level, settings.log.format)
    return asyncio.run(_serve(settings, settings_path, role))


async def _serve(settings: Settings, settings_path: Path, role: ReplicaRole) -> int:
    async with running(settings, role) as parts:
        gateway = parts.gateway
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _on_stop, stopping)
        loop.add_signal_handler(signal.SIGHUP, _on_reload, gateway, parts.wires, settings_path)
        listen = free(settings.server.listen)
        management = settings.server.management
        shown = MANAGEMENT if role == "engine" else PUBLIC if management else None
        servers = [server(make_application(gateway, shown), listen)]
        if management is not None:
            servers.append(server(make_application(gateway, MANAGEMENT), free(management)))
        serving = [asyncio.create_task(one.serve()) for one in servers]
        await listening(listen)
        settle_memory()
        gateway.is_ready = True
        _say_what_waits(gateway.telemetry, settings)
        gateway.telemetry.log.info("ready", listen=str(listen), providers=len(settings.providers))
        stopped = asyncio.create_task(stopping.wait())
        lasting = [*serving, parts.following]
        await asyncio.wait([*lasting, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in lasting:
            if task.done():
                task.result()  # what ended by itself says why
        await _drain(gateway, servers, serving)
    return 0


def _say_what_waits(telemetry: Telemetry, settings: Settings) -> None:
    """What the contract's configuration has and this version does not do yet: never accepted in silence."""
    if settings.files.url.kind != "off":
        effect = "videos stream from the vendor's link while it lives"
        telemetry.log.warning("files_are_not_kept_yet", effect=effect)
    if settings.webhooks.secrets:
        telemetry.log.warning("webhooks_are_not_sent_yet", effect="a request with a webhook_url is refused")


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
        os._exit(1)  # asked twice: now. Whatever was being sent is `submission_unknown` at the next start
    stopping.set()


def _has_moved(provider: Provider, settings: Settings, engine: Engine) -> bool:
    """Whether a provider would be another vendor while it has jobs: their ids mean nothing there."""
    new, old = settings.providers.get(provider.name), provider.settings
    is_used = any(task.provider == provider.name for task in engine.tasks.values())
    if new is None or not (provider.gate.in_flight or is_used):
        return False
    return (new.adapter.name, new.base_url) != (old.adapter.name, old.base_url)


def _on_reload(gateway: Gateway, wires: Wires, settings_path: Path) -> None:
    """SIGHUP: the providers, routing and log of the file as it is now, or none of it when the file is bad."""
    log, old = gateway.telemetry.log, gateway.fleet.settings
    try:
        settings = load(settings_path, adapters(), os.environ)
    except SettingsError as error:
        problems = [str(problem) for problem in error.problems]
        log.error("reload_refused", problems=problems)  # noqa: TRY400 - the file's fault: no traceback helps
        return
    providers = gateway.fleet.providers.values()
    moved = [one.name for one in providers if _has_moved(one, settings, gateway.engine)]
    if moved:
        log.error("reload_refused", problems=[f"providers.{name}: {_MOVED}" for name in moved])
        return
    waits = [name for name in _NEEDS_RESTART if getattr(settings, name) != getattr(old, name)]
    if waits:
        log.warning("reload_needs_restart", sections=waits)
    wires.allow(settings)
    gateway.fleet.use(settings, make_providers(settings, wires, gateway.telemetry, gateway.fleet))
    configure_logging(settings.log.level, settings.log.format)
    gateway.engine.recount()
    log.info("reloaded", providers=len(settings.providers))


def openapi_yaml() -> str:
    """The API's description, as committed in openapi/reelgate.yaml."""
    import yaml  # noqa: PLC0415 - serving does not need it

    document = openapi_document(make_litestar(None))
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
