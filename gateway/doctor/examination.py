"""All of the examination at once: each part within its bounds of time, and no part's failure hides another's.

Not held here: what a part looks for.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from gateway.doctor import places, refusals, settings, stores, vendors
from gateway.doctor.case import Case
from gateway.doctor.machine import Machine
from gateway.doctor.rules import RULES, Finding
from gateway.settings import SettingsError, load, written
from providers import adapters

Part: TypeAlias = Callable[[Case], Awaitable[list[Finding]]]

PART_SECONDS: Final = 45.0  # a bucket's client tries for thirty
_ORDER: Final = {"error": 0, "warning": 1}


class Look(NamedTuple):
    """A part: what people call it, and whether it goes out to vendors."""

    name: str
    part: Part
    goes_out: bool = False


async def _settings(case: Case) -> list[Finding]:
    found = [finding for check in settings.CHECKS for finding in check(case.settings)]
    return [*found, *settings.retiring(case.settings, case.machine.now())]


PARTS: Final[tuple[Look, ...]] = (
    Look("settings", _settings),
    Look("secrets", places.secrets),
    Look("process", places.process),
    Look("disks", places.disks),
    Look("authorities", places.authorities),
    Look("ports", places.ports),
    Look("files", places.files),
    Look("store", stores.store),
    Look("vendors", vendors.vendors, goes_out=True),
)


async def examine(
    path: Path, machine: Machine, *, is_offline: bool = False, told: Callable[[str], None],
) -> list[Finding]:
    """Everything that is wrong with the configuration at `path`, what does not work first.

    `told` hears how it goes on. `is_offline`: no vendor is asked. Of a configuration that cannot be used
    only that is said. Raises RegisterError for an adapter that cannot join.
    """
    try:
        loaded = load(path, adapters(), machine.environ)
        tree = tomllib.loads(written(path))
    except SettingsError as error:
        return _sorted([refusals.told(problem) for problem in error.problems])
    case = Case(path=path, tree=tree, settings=loaded, machine=machine, told=told)
    looks = [look for look in PARTS if not (is_offline and look.goes_out)]
    found = await asyncio.gather(*(_looked(look, case) for look in looks))
    return _sorted(list(dict.fromkeys(finding for findings in found for finding in findings)))


async def _looked(look: Look, case: Case) -> list[Finding]:
    try:
        async with asyncio.timeout(PART_SECONDS):
            found = await look.part(case)
    except TimeoutError:
        found = [Finding("no-answer-in-time", look.name, f"nothing after {PART_SECONDS:g} s")]
    except Exception as error:  # noqa: BLE001 - told, and what the others find is told as well
        found = [Finding("check-failed", look.name, type(error).__name__)]
    case.told(f"{look.name}: {len(found) or 'nothing'} found.")
    return found


def _sorted(findings: list[Finding]) -> list[Finding]:
    """Errors first, else as RULES has them."""
    rank = {rule: number for number, rule in enumerate(RULES)}
    return sorted(findings, key=lambda finding: (_ORDER[finding.meaning.level], rank[finding.rule]))
