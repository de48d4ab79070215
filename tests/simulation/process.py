"""A gateway process: the real engine, store and adapters, which can be killed, stopped, frozen.

A dead process writes nothing and sends nothing: its tasks are cancelled where they stand, and whatever their
cleaning-up still tries meets a cancellation at the disk and at the wire.
Not held here: when that happens (`fate`), what callers want (`callers`).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec.structs import replace

from gateway.core.lease import Lease
from gateway.core.states import Event, Task
from gateway.engine.loop import Engine
from gateway.engine.provider import Fleet, Provider, make_provider
from gateway.engine.replica import Identity, follow
from gateway.engine.steps import STEPS
from gateway.engine.watch import Outside
from gateway.settings import Price, ProviderSettings, Settings, parse
from gateway.storage.db import StorageError
from gateway.storage.store import Store
from gateway.telemetry import Telemetry
from providers import adapters
from providers.http import Account, Clocks, Limits, VendorHTTP
from tests.simulation.disk import Disk
from tests.simulation.history import Life
from tests.simulation.plan import CENTS_PER_SECOND, Plan, VendorPlan
from tests.simulation.wire import Wire

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
DRAIN_SECONDS: Final = 20.0  # as in gateway.app
CONFIGURATION: Final = """
[providers.highway]
adapter = "highwayapi"
offerings = ["kling-v3.0-std-t2v"]
api_key = { env = "KEY" }
[providers.myrouter]
adapter = "myrouter"
offerings = ["kling-v3.0-std-t2v"]
api_key = { env = "KEY" }
[providers.unified]
adapter = "unified"
base_url = "https://api.aihubmax.com"
api_key = { env = "KEY" }
"""
ALONE: Final = Identity("all", "", "0", lambda: "unused")
OWNER: contextvars.ContextVar[Process | None] = contextvars.ContextVar("OWNER", default=None)


class ConnectionLost(Exception):
    """The process died while it was serving this request."""


class Clock:
    """As `gateway.app.SteadyClock`: follows the machine's clock forward, never back."""

    def __init__(self, world: World) -> None:
        self._world, self._offset = world, 0.0

    def __call__(self) -> float:
        """Now."""
        elapsed = self._world.loop.skew
        self._offset = max(self._offset, self._world.wall() - elapsed)
        return elapsed + self._offset


class Process:
    """One life of the gateway.

    `is_outlived`: it stood still, and another one has taken over from it.
    """

    def __init__(self, world: World) -> None:
        self.world, self.number = world, len(world.processes)
        self.name = f"gateway-{self.number}"
        self.is_dead = self.is_outlived = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.life = Life(number=self.number, born_at=world.time())
        self.now, self.chance = Clock(world), world.chance(self.name)
        self._following: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[Any]] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._context = contextvars.copy_context()
        self._context.run(OWNER.set, self)
        telemetry = _telemetry()
        telemetry.log = Log(self)
        self.store, self.fleet = Store(Disk(self)), Fleet(self.chance)
        self.store.listen(self._saved)
        settings = settings_of(world.plan)
        wire = Wire(self)
        plans: dict[str, VendorPlan] = {plan.name: plan for plan in world.plan.vendors}
        self.fleet.use(settings, [
            self._provider(entry, plans[name], wire, telemetry) for name, entry in settings.providers.items()
        ])
        self.engine = Engine(
            self.store, self.fleet, telemetry, Outside(self.now, self.chance, self.name, Lease(self.now)), STEPS
        )
        world.processes.append(self)
        world.history.lives.append(self.life)

    def _provider(
        self, entry: ProviderSettings, plan: VendorPlan, wire: Wire, telemetry: Telemetry
    ) -> Provider:
        account = Account(base_url=entry.base_url, api_key="secret", auth_scheme=entry.adapter.auth_scheme)
        door = VendorHTTP(
            account, fresh=wire, pooled=wire, observe=partial(telemetry.vendor_called, plan.name),
            limits=Limits(submit_seconds=entry.submit_timeout),
            clocks=Clocks(monotonic=self.world.time, wall=self.world.wall),
        )
        return make_provider(entry, entry.adapter.build(door))

    @property
    def has_claimed(self) -> bool:
        """Whether it has taken over all that was left by earlier ones."""
        return self.engine.is_settled

    # --- its life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Take over what is unfinished, and run."""
        self.world.say(self.name, "starts")
        self._following = self.spawn(follow(self.engine, ALONE))
        self._following.add_done_callback(self._ended)

    def _ended(self, following: asyncio.Task[None]) -> None:
        """The engine's loop is over: by itself it never is."""
        error = None if following.cancelled() else following.exception()
        if error is not None:
            self.world.history.ending.faults.append(f"the engine's loop ended: {error!r}")

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something inside this process, to die with it."""
        return self._context.run(self.world.loop.create_task, work)

    async def request(self, work: Coroutine[Any, Any, T]) -> T:
        """Have this process do something for a caller. Raises ConnectionLost when it is gone, or dies."""
        if self.is_dead or self.is_outlived:
            work.close()
            raise ConnectionLost
        task = self.spawn(work)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        await asyncio.wait([task])
        if task.cancelled():
            raise ConnectionLost
        return task.result()

    def kill(self, how: str = "killed") -> None:
        """End it at once, wherever it stands."""
        if self.is_dead:
            return
        self.is_dead = True
        if self.life.ended_at is None:
            self.life.ended_at, self.life.end = self.world.time(), how
        self.world.say(self.name, how)
        for task in self.tasks:
            task.cancel()
        if self.world.process is self:
            self.world.process = None

    async def stop(self) -> None:
        """As on SIGTERM: let submits under way end, for as long as an orchestrator waits; then it is gone."""
        stopping = self.spawn(self.engine.stop())
        await asyncio.wait([stopping], timeout=DRAIN_SECONDS)
        if self._following is not None:
            self._following.cancel()

    def freeze(self) -> None:
        """Stand still, and be taken for dead: its callers are gone."""
        self._thawed.clear()
        self.is_outlived = True
        for request in sorted(self._requests, key=self.tasks.index):
            request.cancel()
        self.life.ended_at, self.life.end = self.world.time(), "frozen"
        self.world.say(self.name, "stands still")
        self.world.process = None

    def thaw(self) -> None:
        """Go on, with whatever is remembered."""
        self.world.say(self.name, "goes on")
        self._thawed.set()

    # --- its ways into the world --------------------------------------------------------------------

    async def may_go_on(self) -> None:
        """Return at once for who lives, later for who stands still. Raises CancelledError for the dead."""
        if not self._thawed.is_set():
            await self._thawed.wait()
        if self.is_dead:
            raise asyncio.CancelledError

    async def crosses(self, what: str) -> None:
        """A point where it may be planned to die."""
        await self.may_go_on()
        world = self.world
        world.crossings += 1
        if world.crash_points and world.crossings >= world.crash_points[0]:
            world.crash_points.pop(0)
            self.kill(f"dies where {what}")
            world.loop.call_later(2.0, world.boot)
            raise asyncio.CancelledError

    def _saved(self, task: Task, events: tuple[Event, ...]) -> None:
        for event in events:
            self.world.say(self.name, f"{task.id[-6:]} {event.type} {event.status} {event.stage}")
        self.world.changed.set()


class Log:
    """In place of the log: keeps what should not happen."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def info(self, event: str, **fields: object) -> None:
        """Nothing to keep."""

    warning = debug = info

    def error(self, event: str, **fields: object) -> None:
        """A violation, or a fault in a step that is not the disk's."""
        ending, error = self._process.world.history.ending, fields.get("exc_info")
        if event == "invariant_violation":
            ending.violations += 1
            ending.faults.append(f"violation: {fields.get('message')}")
        elif error is not None and not isinstance(error, StorageError):
            ending.faults.append(f"{event}: {error!r}")


@cache
def _telemetry() -> Telemetry:
    """One for all runs of this operating system's process: making it costs as much as half a run."""
    return Telemetry(dict.fromkeys(CENTS_PER_SECOND, ("kling-v3",)))


@cache
def _settings() -> Settings:
    folder = Path("/tmp")  # noqa: S108 (nothing is written)
    return parse(CONFIGURATION, folder, adapters(), {"KEY": "secret"})


def settings_of(plan: Plan) -> Settings:
    """The configuration of a run, in the plan's order of providers."""
    base = _settings()
    providers = {one.name: _configured(base.providers[one.name], one) for one in plan.vendors}
    limit = None if plan.rerun_cost_limit is None else Decimal(plan.rerun_cost_limit)
    routing = replace(
        base.routing, strategy=plan.strategy, rerun_failed=plan.rerun_failed, rerun_cost_limit=limit
    )
    return replace(base, providers=providers, routing=routing)


def _configured(entry: ProviderSettings, plan: VendorPlan) -> ProviderSettings:
    prices = {}
    if plan.is_priced:
        amount = Decimal(CENTS_PER_SECOND[plan.name]) / 100
        prices = {offering.slug: (Price(per_second=amount),) for offering in entry.offerings}
    names = (
        "max_in_flight", "requests_per_minute", "max_queue_age", "on_unknown", "unknown_timeout",
        "submit_timeout", "poll_min", "poll_max", "failed_is_charged",
    )
    return replace(entry, prices=prices, **{name: getattr(plan, name) for name in names})

