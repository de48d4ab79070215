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
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec.structs import replace

from gateway.core.lease import Lease
from gateway.core.states import Event, Task
from gateway.engine.loop import Engine
from gateway.engine.provider import Fleet, Provider, make_provider
from gateway.engine.replica import Identity, ReplicaRole, follow
from gateway.engine.steps import STEPS
from gateway.engine.watch import Outside
from gateway.settings import Price, ProviderSettings, Settings, parse
from gateway.storage.db import StorageError
from gateway.storage.store import Store
from gateway.telemetry import Telemetry
from providers import adapters
from providers.http import Account, Clocks, Limits, VendorHTTP
from tests.simulation.disk import Disk
from tests.simulation.frost import OWNER, Turn
from tests.simulation.history import Life
from tests.simulation.plan import CENTS_PER_SECOND, Plan, VendorPlan
from tests.simulation.shared_database import Link
from tests.simulation.wire import Wire

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
DRAIN_SECONDS: Final = 20.0  # as in gateway.app
GOODBYE_SECONDS: Final = 3.0
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


class ConnectionLost(Exception):
    """The process died while it was serving this request."""


class Clock:
    """As `gateway.assembly.SteadyClock`: follows the machine's clock forward, never back."""

    def __init__(self, process: Process) -> None:
        self._process, self._offset = process, 0.0

    def __call__(self) -> float:
        """Now."""
        elapsed = self._process.world.loop.skew
        self._offset = max(self._offset, self._process.wall() - elapsed)
        return elapsed + self._offset


class Process:
    """One life of the gateway, at its slot among those that serve at once."""

    def __init__(self, world: World, slot: int) -> None:
        self.world, self.number, self.slot = world, len(world.processes), slot
        self.name = f"gateway-{self.number}"
        self.is_dead = self.is_frozen = False
        self.asleep: list[Turn] = []  # what waits while it is frozen
        self.tasks: list[asyncio.Task[Any]] = []
        self.life = Life(number=self.number, born_at=world.time())
        self.identity, self.skew_seconds = self._identity()
        self.is_stopping = False
        self.cut_from_vendors_until = -1.0
        self.now, self.chance = Clock(self), world.chance(self.name)
        started_at = world.time()
        # Seconds since something or other, as machines count them; they pass while it stands still, too.
        self.lease = Lease(lambda: 77.0 + world.time() - started_at, is_shared=world.server is not None)
        self._following: asyncio.Task[None] | None = None
        self._gone: asyncio.Future[None] = world.loop.create_future()  # its callers need not wait
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)
        telemetry = _telemetry()
        telemetry.log = Log(self)  # type: ignore[assignment]  # of the real one it has what is called
        self.link = None if world.server is None else Link(self, world.server)
        self.store, self.fleet = Store(self.link or Disk(self)), Fleet(self.chance)
        self.store.listen(self._saved)
        settings = settings_of(world.plan)
        wire = Wire(self)
        plans: dict[str, VendorPlan] = {plan.name: plan for plan in world.plan.vendors}
        self.fleet.use(settings, [
            self._provider(entry, plans[name], wire, telemetry) for name, entry in settings.providers.items()
        ])
        outside = Outside(self.now, self.chance, self.name, self.lease, follows=self.role != "api")
        self.engine = Engine(self.store, self.fleet, telemetry, outside, STEPS)
        world.processes.append(self)
        world.history.lives.append(self.life)

    def _provider(
        self, entry: ProviderSettings, plan: VendorPlan, wire: Wire, telemetry: Telemetry
    ) -> Provider:
        account = Account(base_url=entry.base_url, api_key="secret", auth_scheme=entry.adapter.auth_scheme)
        door = VendorHTTP(
            account, fresh=wire, pooled=wire, observe=partial(telemetry.vendor_called, plan.name),
            limits=Limits(submit_seconds=entry.submit_timeout, may_send=lambda: self.lease.may_send),
            clocks=Clocks(monotonic=self.world.time, wall=self.wall),
        )
        return make_provider(entry, entry.adapter.build(door))

    def _identity(self) -> tuple[Identity, float]:
        """Who it is among others, and how far its clock is off."""
        shared = self.world.plan.shared
        if shared is None:
            return ALONE, 0.0
        plan, names = shared.replicas[self.slot], count(1)

        def new_name() -> str:
            self.world.history.outlived += 1
            return f"{self.name}.{next(names)}"

        return Identity(plan.role, plan.place, "0", new_name), plan.skew_seconds

    @property
    def role(self) -> ReplicaRole:
        """What it does."""
        return self.identity.role

    def wall(self) -> float:
        """What its machine's clock shows."""
        return self.world.wall() + self.skew_seconds

    def is_disturbed(self, seconds: float) -> None:
        """For so long from now it cannot do what it should."""
        now = self.world.time()
        self.life.troubles.append((now, now + seconds))

    def undisturbed_since(self) -> float:
        """Since when it could do what it should; now while it cannot."""
        ends = [end for _, end in self.life.troubles]
        ends += [end for start, end in self.world.plan.disk.outages if start <= self.world.time()]
        return max((*ends, self.life.born_at))

    # --- its life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Take over what is unfinished, and run."""
        self.world.say(self.name, "starts")
        self._following = self.spawn(follow(self.engine, self.identity))
        self._following.add_done_callback(self._ended)

    def _ended(self, following: asyncio.Task[None]) -> None:
        """The engine's loop is over: by itself it never is."""
        error = None if following.cancelled() else following.exception()
        if error is not None:
            self.world.history.ending.faults.append(f"the engine's loop ended: {error!r}")

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something inside this process, to die with it."""
        return self.context.run(self.world.loop.create_task, work)

    async def request(self, work: Coroutine[Any, Any, T]) -> T:
        """Have this process do something for a caller. Raises ConnectionLost when it is gone, or dies."""
        if self.is_dead:
            work.close()
            raise ConnectionLost
        task = self.spawn(work)
        task.add_done_callback(lambda _: task.cancelled() or task.exception())  # seen, whoever waits
        either: list[asyncio.Future[Any]] = [task, self._gone]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or task.cancelled():
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
        if self.world.server is not None:
            self.world.server.promises.has_died(self)
        for task in self.tasks:
            task.cancel()
        self.is_given_up()
        self.thaw()

    def is_given_up(self) -> None:
        """Its callers wait no longer, and nobody reaches it any more."""
        if not self._gone.done():
            self._gone.set_result(None)
        self.world.gone(self)

    def is_found_again(self) -> None:
        """It answers after all, and requests reach it as before."""
        self._gone = self.world.loop.create_future()
        self.world.serving[self.slot] = self

    async def stop(self) -> None:
        """As on SIGTERM: let submits under way end, for as long as an orchestrator waits; then it is gone."""
        self.is_stopping = True
        stopping = self.spawn(self.engine.stop())
        await asyncio.wait([stopping], timeout=DRAIN_SECONDS)
        if self._following is not None:
            self._following.cancel()
            if self.link is not None:  # it says goodbye
                await asyncio.wait([self._following], timeout=GOODBYE_SECONDS)

    def stand_still(self, seconds: float) -> None:
        """Nothing of it runs for a while; its callers wait."""
        if not self.is_frozen and not self.is_dead:
            self.world.say(self.name, f"stands still for {seconds:.1f} s")
            self.is_disturbed(seconds)
            self.is_frozen = True
            self.world.later(seconds, self.thaw)

    def thaw(self) -> None:
        """Go on, with whatever is remembered."""
        if not self.is_frozen:
            return
        self.world.say(self.name, "goes on")
        self.is_frozen = False
        asleep, self.asleep = self.asleep, []
        for turn in asleep:
            self.world.loop.call_soon(turn.goes_on, context=turn.context)

    # --- its ways into the world --------------------------------------------------------------------

    def must_live(self) -> None:
        """Raises CancelledError for the dead."""
        if self.is_dead:
            raise asyncio.CancelledError

    def crosses(self, what: str) -> None:
        """A point where it may be planned to die. Raises CancelledError then."""
        self.must_live()
        world = self.world
        world.crossings += 1
        if world.crash_points and world.crossings >= world.crash_points[0]:
            world.crash_points.pop(0)
            self.kill(f"dies where {what}")
            world.later(2.0, world.boot, self.slot)
            raise asyncio.CancelledError

    async def crosses_or_stays(self, what: str, *, is_at_door: bool = False) -> None:
        """As `crosses`, where it may be planned to stand still, too, or to be cut off."""
        self.crosses(what)
        world = self.world
        world.doors += is_at_door
        reached = {True: world.doors if is_at_door else 0, False: world.crossings}
        met = (hurdle for hurdle in world.hurdles if reached[hurdle.is_at_door] >= hurdle.crossing)
        hurdle = next(met, None)
        if hurdle is None:
            return
        world.hurdles.remove(hurdle)
        if hurdle.is_cut:
            self.is_cut_off(hurdle.seconds, is_silent=hurdle.is_silent)
        else:
            self.stand_still(hurdle.seconds)
            await asyncio.sleep(0)  # which it does not get to do before it goes on
            self.must_live()

    def is_cut_off(self, seconds: float, *, is_silent: bool) -> None:
        """It cannot reach the database for a while."""
        if self.link is not None:
            manner = "silently" if is_silent else "openly"
            self.world.say(self.name, f"is cut off {manner} for {seconds:.1f} s")
            self.is_disturbed(seconds)
            self.link.is_cut(seconds, is_silent=is_silent)

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

