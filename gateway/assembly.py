"""The parts that follow tasks, put together: settings -> storage -> engine, and let go in reverse.

They work before, and without, anything that answers callers. Not held here: routes and the life of the
process (`gateway.app`), anything that decides.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec

from gateway import __version__
from gateway.core.lease import Lease
from gateway.engine.callbacks import introduce
from gateway.engine.collect import Links
from gateway.engine.copies import oldest_unstored_seconds
from gateway.engine.keeping import Keeping
from gateway.engine.loop import Engine
from gateway.engine.provider import Fleet, Provider, make_provider
from gateway.engine.replica import Identity, ReplicaRole, follow
from gateway.engine.watch import Outside
from gateway.engine.webhooks import Hooks
from gateway.seams import UNTRACED, Seams, seams_of
from gateway.settings import ProviderSettings, Settings
from gateway.storage.copying import prepare
from gateway.storage.db import Database, StorageError
from gateway.storage.files import FileStore, LocalFiles
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from gateway.telemetry import Telemetry
from gateway.values import StoreUrl
from providers.egress import AddressPolicy, Origin, Reach, guard, origin
from providers.http import Account, Limits, VendorHTTP
from providers.spec import Adapter
from providers.transport import Transport, tls_context

CONNECT_SECONDS: Final = 10.0  # for name, connection and TLS towards a vendor
CONNECT_SHARE: Final = 0.8  # of submit_timeout, where that is short
SLOWER: Final = 0.1  # of its pace a clock gives up that is ahead
STEP_SECONDS: Final = 3.0  # more than a synchronised clock is ever set by
_REACHES: Final[tuple[Reach, ...]] = ("origin", "public", "listed")


class Wires:
    """The transports towards vendors and their files, made from `[egress]` once; a reload keeps them.

    `lease`: the right to send what is paid for. `seams`: what goes around the vendors' doors.
    """

    def __init__(self, settings: Settings, lease: Lease, seams: Seams = UNTRACED) -> None:
        self.lease, self.seams = lease, seams
        egress = settings.egress
        policy = _policy(settings)
        proxy = None if egress.proxy is None else egress.proxy.reveal()
        make = partial(Transport, proxy=proxy, tls=tls_context(egress.ca_file), max_connections=0)
        guards = {reach: None if proxy else guard(policy, reach) for reach in _REACHES}
        own = guards["origin"]  # a base_url, too, may resolve to where a machine's credentials are
        self.fresh, self.pooled = make(fresh=True, guard=own), make(guard=own)
        # Fresh, so that what is left over on a connection is never taken for another caller's file.
        files = {reach: make(fresh=True, guard=guards[reach]) for reach in _REACHES}
        self.links = Links(policy, files)
        listed = AddressPolicy(egress.networks, hosts=egress.hosts)
        self.hooks = Hooks(Links(listed, files), settings.webhooks.secrets)
        self._all = (self.fresh, self.pooled, *files.values())

    def allow(self, entries: Iterable[ProviderSettings]) -> None:
        """Have links to these providers' own origins followed."""
        self.links.policy = msgspec.structs.replace(self.links.policy, origins=_origins(entries))

    async def close(self) -> None:
        """Close every connection."""
        for transport in self._all:
            await transport.aclose()


def _policy(settings: Settings) -> AddressPolicy:
    origins = _origins(settings.providers.values())
    return AddressPolicy(settings.egress.networks, origins, settings.egress.hosts)


def _origins(entries: Iterable[ProviderSettings]) -> frozenset[Origin]:
    return frozenset(origin(entry.base_url) for entry in entries)


def make_providers(settings: Settings, wires: Wires, telemetry: Telemetry, fleet: Fleet) -> list[Provider]:
    """The configured providers, each with its own door; a known one keeps its gate.

    Nothing has changed where an adapter cannot be built: all are, before any gate is touched.
    """
    built = [(entry, _adapter(entry, wires, telemetry)) for entry in settings.providers.values()]
    for entry, adapter in built:
        introduce(adapter, entry, settings.server.public_url)
    for entry, _ in built:
        models = {offering.model for offering in entry.offerings}
        currencies = {price.currency for prices in entry.prices.values() for price in prices}
        telemetry.add_provider(entry.name, sorted(models), sorted(currencies))
    return [make_provider(entry, adapter, fleet.providers.get(entry.name)) for entry, adapter in built]


def _adapter(entry: ProviderSettings, wires: Wires, telemetry: Telemetry) -> Adapter:
    account = Account(
        base_url=entry.base_url, api_key=entry.api_key.reveal(), auth_scheme=entry.adapter.auth_scheme
    )
    observe = partial(telemetry.vendor_called, entry.name)
    # Given up before the submit is: a connection that was never made proves that nothing was sent.
    connect_seconds = min(CONNECT_SECONDS, entry.submit_timeout * CONNECT_SHARE)
    limits = Limits(
        connect_seconds=connect_seconds, submit_seconds=entry.submit_timeout,
        may_send=lambda: wires.lease.may_send,
    )
    door = VendorHTTP(account, fresh=wires.fresh, pooled=wires.pooled, observe=observe, limits=limits)
    return entry.adapter.build(wires.seams.door(door, entry))


def open_database(url: StoreUrl, settings: Settings, *, exclusive: bool) -> Database:
    """The database at `url`. Raises StorageError when it cannot be opened, or is another process's."""
    if url.path is not None:
        return SqliteDatabase(url.path, exclusive=exclusive)
    from gateway.storage.postgres import PostgresDatabase  # noqa: PLC0415 - 0.1 s, for who needs it

    dsn = "" if url.dsn is None else url.dsn.reveal()
    return PostgresDatabase(dsn, statement_cache_size=settings.store.statement_cache_size)


def open_files(settings: Settings, *, has_files: bool = False) -> FileStore | None:
    """Where finished videos are kept; None: nowhere. `has_files`: some are known to be kept there."""
    files = settings.files
    if files.url.path is not None:
        return LocalFiles(files.url.path, has_files=has_files)
    if files.url.kind == "off":
        return None
    from gateway.storage.files_s3 import Bucket, S3Files  # noqa: PLC0415 - 0.1 s, for who needs it

    return S3Files(Bucket(
        name=files.url.bucket, prefix=files.url.prefix, endpoint=files.endpoint, region=files.region,
        access_key_id=files.access_key_id, secret_access_key=files.secret_access_key,
    ))


class Parts(msgspec.Struct, frozen=True):
    """What follows tasks. `following` is the engine's life; if it ends by itself, something is very wrong."""

    store: Store
    engine: Engine
    fleet: Fleet
    telemetry: Telemetry
    wires: Wires
    seams: Seams
    following: asyncio.Task[None]


class SteadyClock:
    """Unix time in seconds that follows the machine's clock and never goes back, so that no timer stops.

    Where the machine's clock was set back, this one runs slower by SLOWER until both agree: after an hour's
    step for ten hours, in which every timer takes a ninth longer. `wall` is the machine's clock, `passed`
    counts seconds; `told` hears of every step of more than STEP_SECONDS once: how far it was, and how far
    this clock is ahead of the machine's now.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, passed: Callable[[], float] = time.monotonic, *,
        told: Callable[[float, float], None] = lambda _step, _ahead: None,
    ) -> None:
        self._wall, self._passed, self._told = wall, passed, told
        self._now, self._at = wall(), passed()
        self._offset = self._now - self._at

    def __call__(self) -> float:
        """Now."""
        wall, at = self._wall(), self._passed()
        self._now = max(wall, self._now + (at - self._at) * (1 - SLOWER))
        step, self._at, self._offset = wall - at - self._offset, at, wall - at
        if abs(step) > STEP_SECONDS:
            self._told(step, self._now - wall)
        return self._now


def _tell_step(telemetry: Telemetry, step: float, ahead: float) -> None:
    found = {"step_seconds": round(step, 1), "ahead_seconds": round(ahead, 1)}
    telemetry.log.warning("clock_stepped", **found)


def elapsed() -> float:
    """Seconds that pass while the machine sleeps, too, and never go back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def identity_of(settings: Settings, role: ReplicaRole) -> Identity:
    """Who this process is among those on its database."""
    listen = settings.server.listen
    place = f"{socket.gethostname()} {listen}" if listen.port else ""
    return Identity(role, place, __version__, lambda: secrets.token_hex(8))


@asynccontextmanager
async def assembled(settings: Settings, role: ReplicaRole = "all") -> AsyncIterator[Parts]:
    """All parts, started; tasks are followed until the context ends. Raises StorageError."""
    chance, seams = random.Random(), seams_of(settings.tracing)  # noqa: S311 - for jitter; ids: `secrets`
    telemetry = seams.telemetry()
    clock = SteadyClock(told=partial(_tell_step, telemetry))
    database = open_database(settings.store.url, settings, exclusive=True)
    if role != "all" and not database.is_shared:
        await database.close()
        raise StorageError(f"--role {role} needs a database to share: [store] url = postgresql://...")
    lease = Lease(elapsed, is_shared=database.is_shared)
    wires = Wires(settings, lease, seams)
    try:
        await prepare(database)
        store, identity = seams.store(database), identity_of(settings, role)
        fleet = Fleet(chance, clock)
        fleet.use(settings, make_providers(settings, wires, telemetry, fleet))
        files = open_files(settings, has_files=await store.files.has_any())
        keeping = None if files is None else Keeping(files, wires.links, settings.files.retention)
        name = identity.new_name()
        outside = Outside(clock, chance, name, lease, follows=role != "api", keeping=keeping)
        engine = Engine(store, fleet, telemetry, outside, seams.steps)
        telemetry.ages(
            engine.oldest_unfinished_seconds,
            lambda: oldest_unstored_seconds(engine.tasks.values(), engine.now()),
        )
        telemetry.videos_are(await store.counts())
        following = asyncio.create_task(follow(engine, identity))
        try:
            yield Parts(store, engine, fleet, telemetry, wires, seams, following)
        finally:
            following.cancel()
            await asyncio.wait([following])
            if files is not None:
                await files.close()
    finally:
        await wires.close()
        await database.close()
        await seams.close()
