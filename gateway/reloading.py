"""Following the configuration file while serving: on SIGHUP, and whenever it or the file of a secret changes.

All of a new file is in force, or nothing of it: it is read, checked and built beside the one in force, and
then one reference is swapped. Held here as well: what is told of providers and offerings whose last day is
near. Not held here: what a file may say (`gateway.settings`), what becomes of a provider that is in it no
more (`gateway.engine.provider`).
"""

from __future__ import annotations

import asyncio
import os
from datetime import date
from pathlib import Path
from typing import Final

from gateway.assembly import Parts, make_providers
from gateway.core.facts import Candidate
from gateway.core.routing import Listing
from gateway.effective import changes, in_force
from gateway.engine.loop import Engine
from gateway.engine.provider import Provider
from gateway.engine.takeover import tell_missing
from gateway.logs import configure_logging
from gateway.settings import Problem, Settings, SettingsError, load
from gateway.values import Mark, Marks, mark_of
from providers import RegisterError, adapters

LOOK_SECONDS: Final = 5.0
STILL_SECONDS: Final = 1.0  # a file that has changed is read once it has stood still for so long
DAY_SECONDS: Final = 86_400.0
WARNED_DAYS: Final = (30, 7, 1)  # before a last day, beside every start and reload
_MOVED: Final = "it has jobs that are followed and cannot change its adapter or base_url; use another name"


class Reloads:
    """The reloads of one process. `marks` are the files as they were read; `ask` is SIGHUP."""

    def __init__(self, parts: Parts, path: Path, marks: Marks) -> None:
        self._parts, self._path, self._marks = parts, path, marks
        self._seen: Marks | None = None  # of a change that was noticed, and may still go on
        self._asked = asyncio.Event()
        self._retired: frozenset[Candidate] = frozenset()
        self._warned: dict[tuple[str, date], int] = {}
        parts.telemetry.configured(parts.engine.now())
        self.tell_last_days()

    def ask(self) -> None:
        """Read the file anew, changed or not, as soon as may be."""
        self._asked.set()

    async def run(self) -> None:
        """Follow the file for ever."""
        while True:
            wait_seconds = LOOK_SECONDS if self._seen is None else STILL_SECONDS
            try:
                await asyncio.wait_for(self._asked.wait(), wait_seconds)
            except TimeoutError:
                await self.look()
            else:
                self._asked.clear()
                await self.reload()

    async def look(self) -> None:
        """Read the files anew if they have changed and stand still; see to those whose last day is over."""
        found = await asyncio.to_thread(_marks_of, list(self._marks))
        if found == self._marks:
            self._seen = None
        elif found != self._seen:
            self._seen = found
        else:
            await self.reload()
        self._parts.fleet.retire()
        self.tell_last_days()

    async def reload(self) -> bool:
        """Use the file as it is now, or nothing of it when it is bad; whether it is in force."""
        before, self._marks, self._seen = list(self._marks), {}, None
        try:
            settings = await asyncio.to_thread(_read, self._path, self._marks)
            why = _swap(self._parts, settings)
        except SettingsError as error:
            why = [str(problem) for problem in error.problems]
        if not self._marks:  # it was not even opened
            self._marks = await asyncio.to_thread(_marks_of, before)
        if why:
            self._parts.telemetry.reload_refused(why)
            return False
        self._warned.clear()
        self.tell_last_days()
        return True

    def tell_last_days(self) -> None:
        """Warn of last days that are near, and say which are over."""
        fleet, log, now = self._parts.fleet, self._parts.telemetry.log, self._parts.engine.now()
        for (provider, day), offerings in _by_last_day(fleet.listings).items():
            fresh = [one.candidate for one in offerings if one.candidate in fleet.retired - self._retired]
            slugs = [one.offering.slug for one in offerings]
            if fresh:
                log.warning("retired", provider=provider, offerings=slugs, on=str(day))
            elif not any(one.candidate in fleet.retired for one in offerings):
                left = days_left(offerings[0], now)
                stage = min((days for days in WARNED_DAYS if left <= days), default=max(WARNED_DAYS) + 1)
                if self._warned.get((provider, day)) != stage:
                    self._warned[provider, day] = stage
                    log.warning("retires", provider=provider, offerings=slugs, on=str(day), days=left)
        self._retired = fleet.retired


def _read(path: Path, marks: Marks) -> Settings:
    """The file as it is now. Raises SettingsError, also where an adapter that was installed cannot join."""
    try:
        return load(path, adapters(), os.environ, marks)
    except RegisterError as error:
        raise SettingsError([Problem("providers", f"an adapter cannot join: {error}")]) from error


def days_left(listing: Listing, now: float) -> int:
    """Whole days to its last one, at least 0."""
    return max(0, int((listing.retires_at - now) // DAY_SECONDS))


def _by_last_day(listings: list[Listing]) -> dict[tuple[str, date], list[Listing]]:
    found: dict[tuple[str, date], list[Listing]] = {}
    for listing in listings:
        if listing.retires_on is not None:
            found.setdefault((listing.provider, listing.retires_on), []).append(listing)
    return found


def _marks_of(paths: list[Path]) -> Marks:
    """These files as they are now."""
    return {path: _mark_of(path) for path in paths}


def _mark_of(path: Path) -> Mark | None:
    try:
        return mark_of(path.stat())
    except OSError:
        return None


def _swap(parts: Parts, new: Settings) -> list[str]:
    """Put these settings in force at one blow; why that cannot be, and then nothing has changed."""
    fleet, engine, old = parts.fleet, parts.engine, parts.fleet.settings
    moved = [one.name for one in fleet.providers.values() if _has_moved(one, new, engine)]
    if moved:
        return [f"providers.{name}: {_MOVED}" for name in moved]
    settings, found = in_force(old, new), changes(old, new)
    try:
        providers = make_providers(settings, parts.wires, parts.telemetry, fleet)
    except Exception as error:  # noqa: BLE001 - an adapter may be anybody's, and the old one goes on
        return [f"providers: an adapter cannot be built: {type(error).__name__}"]
    fleet.use(settings, providers)
    parts.wires.allow(one.settings for one in fleet.providers.values())  # of removed ones, too
    configure_logging(settings.log.level, settings.log.format)
    parts.telemetry.follow_configuration()
    engine.recount()
    engine.look()
    if found.waiting:
        parts.telemetry.log.warning("reload_needs_restart", keys=found.waiting)
    told = {"changed": found.changed, "added": found.added, "removed": found.removed}
    parts.telemetry.reloaded(engine.now(), len(providers), told)
    tell_missing(engine)
    return []


def _has_moved(provider: Provider, settings: Settings, engine: Engine) -> bool:
    """Whether a provider would be another vendor while it has jobs: their ids mean nothing there."""
    new, old = settings.providers.get(provider.name), provider.settings
    is_used = any(task.provider == provider.name for task in engine.tasks.values())
    if new is None or not (provider.gate.in_flight or is_used):
        return False
    return (new.adapter.name, new.base_url) != (old.adapter.name, old.base_url)
