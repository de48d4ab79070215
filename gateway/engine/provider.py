"""A configured provider at run time: its settings, its adapter, its gate and the turns of its polls.

Not held here: who may submit when (`gateway.core.admission`), what makes it healthy (`gateway.core.health`),
HTTP (`providers.http`), what a provider offers (data).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from gateway.core.admission import Gate, Pace, Rate
from gateway.core.facts import Candidate
from gateway.core.grants import EVERYTHING, Grant
from gateway.core.health import Health, HoldAction, ProviderState
from gateway.core.pacing import Bounds, PollPlan, next_poll
from gateway.core.pricing import Estimate, dearest, estimate
from gateway.core.render_times import Kind, Learned
from gateway.core.reports import Report
from gateway.core.routing import Knowledge, Listing, Route, choose, retired, retires_next
from gateway.core.states import Task
from gateway.engine.handing import takes
from gateway.engine.pulse import Pulse
from gateway.engine.turns import ASKING_MAX, Turns
from gateway.settings import ProviderSettings, Settings
from providers.spec import Adapter, Charged, FindsSubmission, MakesRefs, Offering, Ref, VideoRequest

BEGUN_SECONDS: Final = 10.0  # of an answer that was long in coming nobody knows when the render began
NO_JOB: Final = "reelgate-0"  # an id that no vendor gives: asking for it finds out whether anybody answers


class Provider(msgspec.Struct, kw_only=True):
    """One provider in use. `known` holds every offering: a slug that was switched off is still followed.

    `asking` counts the polls under way; `last_ref` is its latest job, that of the task `last_task`: a free
    call can ask for it. `finder` is the adapter, if its vendor keeps references of ours.
    """

    settings: ProviderSettings
    adapter: Adapter
    gate: Gate
    polls: Turns
    bounds: Bounds
    known: dict[str, Offering]
    finder: FindsSubmission | None = None
    asking: int = 0
    last_ref: Ref | None = None
    last_task: str = ""
    probes: int = 0

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self.settings.name

    @property
    def health(self) -> Health:
        """How it is."""
        return self.gate.health

    def state(self, now: float) -> ProviderState:
        """How it is, in one word."""
        return self.gate.state(now)

    def share(self, part: float) -> None:
        """Use only this part of the budget of polls: the rest belongs to other replicas."""
        whole = self.settings.polls_per_minute
        self.polls.pace.per_minute = None if whole is None else max(1, int(whole * part))

    def left(self, task: Task) -> None:
        """A task has no job here any more."""
        self.gate.leave()
        self.polls.leave(task.id, task.owner)

    @property
    def asking_room(self) -> int:
        """How many more polls may be under way at once."""
        return ASKING_MAX - self.asking - self.polls.granted

    def probe_ref(self) -> Ref | None:
        """What a free call can ask for: its latest job and one that cannot exist, in turn. None: nothing.

        One job alone may be what the vendor stumbles over.
        """
        self.probes += 1
        if self.last_ref is None or self.probes % 2 == 0:
            return self.no_ref() or self.last_ref
        return self.last_ref

    def no_ref(self) -> Ref | None:
        """What a free call asks for that is to be of no task: a job that cannot exist. None: it needs one."""
        return self.adapter.ref_of(NO_JOB) if isinstance(self.adapter, MakesRefs) else None

    def offering(self, slug: str) -> Offering | None:
        """The vendor's offering of that slug, on or off; None when the adapter no longer knows it."""
        return self.known.get(slug)

    def price(self, offering: Offering, request: VideoRequest) -> Estimate | None:
        """What a request is expected to cost here; None where no price is configured."""
        return estimate(self.settings.prices.get(offering.slug, ()), request)

    def failed_is_charged(self, offering: Offering) -> Charged:
        """What is known of a failed render's price: the configuration's word, else the offering's."""
        return self.settings.failed_is_charged or offering.failed_is_charged


def make_provider(settings: ProviderSettings, adapter: Adapter, before: Provider | None = None) -> Provider:
    """A provider by its settings; at a reload it keeps the gate of the one `before`, with what it counts."""
    gate = Gate(rate=Rate(settings.requests_per_minute)) if before is None else before.gate
    gate.max_in_flight = settings.max_in_flight
    gate.rate.per_minute = settings.requests_per_minute
    gate.health.is_removed = False
    is_same = before is not None and _place_of(before.settings) == _place_of(settings)
    if before is not None and not (is_same and before.settings.api_key == settings.api_key):
        gate.health.forgive()
    bounds = Bounds(settings.poll_min, settings.poll_max)
    known = {offering.slug: offering for offering in settings.adapter.offerings}
    polls = Turns(Pace(settings.polls_per_minute), gate.health) if before is None else before.polls
    polls.pace.per_minute = settings.polls_per_minute
    return Provider(
        settings=settings, adapter=adapter, gate=gate, polls=polls, bounds=bounds, known=known,
        finder=adapter if isinstance(adapter, FindsSubmission) else None,
        last_ref=before.last_ref if before is not None and is_same else None,
        last_task=before.last_task if before is not None and is_same else "",
    )


def _place_of(settings: ProviderSettings) -> tuple[str, str]:
    """The vendor that an account is at: elsewhere its jobs mean nothing, and its refusals neither."""
    return settings.adapter.name, settings.base_url


def _listing(settings: ProviderSettings, offering: Offering) -> Listing:
    day = settings.retires_on(offering.slug)
    return Listing(settings.name, offering, settings.weight, settings.canary, day)


class Fleet:
    """All providers in use, and the routing over them. A removed one stays, draining, for its tasks."""

    def __init__(self, chance: random.Random, now: Callable[[], float] = time.time) -> None:
        self.providers: dict[str, Provider] = {}
        self.learned = Learned()
        self.listings: list[Listing] = []  # every enabled offering, in the providers' order of priority
        self.models: dict[str, list[Listing]] = {}  # what can be asked for, with the offerings that serve it
        self.retired: frozenset[Candidate] = frozenset()  # those whose last day is over take nothing new
        self.unknown = Counter[str]()  # tasks followed here that a provider may or may not have accepted
        self.others: dict[str, list[Report]] = {}  # what the other replicas tell of each provider
        self._retires_at = float("inf")
        self._holds: dict[str, HoldAction] = {}
        self._chance, self._now = chance, now
        self._settings: Settings | None = None

    def use(self, settings: Settings, providers: Iterable[Provider]) -> None:
        """Swap to these providers, in their order of priority."""
        named = {provider.name: provider for provider in providers}
        for name, old in self.providers.items():
            if name not in named:
                old.health.is_removed = True
                named[name] = old
        for name, provider in named.items():
            provider.health.hold = self._holds.get(name)
        self.providers = named
        self._settings = settings
        self.listings = [
            takes(_listing(provider.settings, offering), settings.server.public_url)
            for provider in named.values() if not provider.health.is_removed
            for offering in provider.settings.offerings
        ]
        self.models = {}
        for listing in self.listings:
            self.models.setdefault(listing.offering.model, []).append(listing)
        self.retire()

    def retire(self) -> None:
        """Obey `retire_on`: of whom the last day is over, nothing new is taken. All of a provider: it drains.

        Callers beside `route` see to it that those that wait learn of it, too.
        """
        now = self._now()
        self.retired, self._retires_at = retired(self.listings, now), retires_next(self.listings, now)
        for name, provider in self.providers.items():
            own = {listing.candidate for listing in self.listings if listing.provider == name}
            provider.health.is_retired = bool(own) and own <= self.retired

    def hold(self, name: str, action: HoldAction | None) -> None:
        """Obey an operator, also where the configuration has that provider only later; None: no hold."""
        if action is None:
            self._holds.pop(name, None)
        else:
            self._holds[name] = action
        if name in self.providers:
            self.providers[name].health.hold = action

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        if self._settings is None:
            raise RuntimeError("the fleet is used before it was given its settings")
        return self._settings

    def resume(self, name: str) -> None:
        """An operator knows that all is well again, whatever calls have met here or elsewhere."""
        if name in self.providers:
            self.providers[name].gate.resume()
        self.others[name] = [one.resumed() for one in self.others.get(name, ())]

    def route(
        self, request: VideoRequest, pins: tuple[str, ...], grant: Grant = EVERYTHING
    ) -> Route:
        """The candidates for a request by the configured strategy, and the others' reasons.

        `grant` is what the caller may use.
        """

        def price(listing: Listing) -> Estimate | None:
            return self.providers[listing.provider].price(listing.offering, request)

        if self._now() >= self._retires_at:
            self.retire()
        draining = frozenset(name for name, one in self.providers.items() if one.health.is_draining)
        strategy = self.settings.routing.strategy
        times = self._render_seconds(request) if strategy == "fastest" else {}
        known = Knowledge(price, times, self._chance, draining, grant, retired=self.retired)
        return choose(request, self.listings, pins, strategy, known)

    def aside(self, candidates: Iterable[Candidate], request: VideoRequest) -> Estimate | None:
        """What to put aside for a request, whichever of these candidates it goes to; None: nobody knows."""
        found = (self.find(candidate) for candidate in candidates)
        return dearest(None if one is None else one[0].price(one[1], request) for one in found)

    def _render_seconds(self, request: VideoRequest) -> dict[Candidate, float]:
        kind = Kind(request.duration, request.audio)
        candidates = (listing.candidate for listing in self.models.get(request.model, ()))
        times = ((candidate, self.learned.seconds(candidate, kind)) for candidate in candidates)
        return {candidate: seconds for candidate, seconds in times if seconds is not None}

    def gates(self) -> dict[str, Gate]:
        """Every provider's gate."""
        return {name: provider.gate for name, provider in self.providers.items()}

    def find(self, candidate: Candidate) -> tuple[Provider, Offering] | None:
        """The provider and offering of a candidate; None when configuration or adapter no longer has it."""
        provider = self.providers.get(candidate.provider)
        offering = None if provider is None else provider.offering(candidate.offering)
        return None if provider is None or offering is None else (provider, offering)

    # --- polls --------------------------------------------------------------------------------------

    def plan(self, task: Task, now: float, eta_seconds: float | None) -> PollPlan | None:
        """When a rendering task is to be asked for next; None when its provider is no longer configured."""
        provider = self.providers.get(task.provider or "")
        if provider is None:
            return None
        bounds = provider.polls.bounds(task.owner, provider.bounds, now)
        times = self.learned.times(task.tried, Kind(task.duration, task.audio))
        plan = next_poll(
            now, task.started_at or now, bounds, self._chance, times=times, eta_seconds=eta_seconds
        )
        if plan.wished_seconds is not None:
            provider.polls.wish(task.id, task.owner, plan.wished_seconds)
        return plan

    def learn(self, task: Task, polled_at: float | None, now: float) -> None:
        """A render has ended between the last poll that found it unfinished, if there was one, and now."""
        began = task.started_at
        if began is not None and task.submitted_at is not None and began - task.submitted_at <= BEGUN_SECONDS:
            at_least = (polled_at or began) - began
            self.learned.learn(task.tried, Kind(task.duration, task.audio), at_least, now - began)

    def line_up(self, task: Task, polled_at: float | None, now: float) -> bool:
        """Let a task wait for its turn to be asked for; False: it has it, or nobody can be asked for it."""
        provider = self.providers.get(task.provider or "")
        if provider is None or task.ref is None:
            return False
        return provider.polls.line_up(task.id, task.owner, polled_at or task.started_at or now, now)

    def wait_seconds(self, task: Task, now: float) -> float:
        """How long a task may still wait for its turn to be asked for; 0 when it is not due."""
        provider = self.providers.get(task.provider or "")
        return 0.0 if provider is None else provider.polls.wait_seconds(task.id, now, self._chance)

    def turns(self, now: float, room: int, pulse: Pulse) -> list[str]:
        """At most `room` tasks whose turn to be asked for it is now. Where more wait, the `pulse` is felt."""
        going: list[str] = []
        for provider in self.providers.values():
            places = min(room - len(going), provider.asking_room)
            going += provider.polls.ready(now, places, self._chance, is_late=pulse.is_late)
            if provider.polls.has_line:
                pulse.feel()
        return going

    def turns_at(self, now: float) -> float:
        """When the next turn may come by itself, without a poll that ends."""
        free = (one for one in self.providers.values() if one.asking_room > 0)
        return min((one.polls.free_at(now, self._chance) for one in free), default=float("inf"))
