"""A configuration that changes under load, by SIGHUP and by itself: no caller notices, no job is left alone.

Each change is known beforehand to be good or bad, and is waited for in the metrics. Held here: what changes,
and what nobody may meet meanwhile: a request without an answer, an answer that is not the expected one, a job
bought at a provider that the file does not have. That the jobs of a removed provider came to their end is
among the promises of every campaign (`history`). Not held here: what one reload does
(`tests/test_reloading.py`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from gateway.reloading import LOOK_SECONDS, STILL_SECONDS
from gateway.sandbox.renders import Entry
from tests.campaigns.callers import Menu
from tests.campaigns.report import Report, reported, times
from tests.campaigns.stage import SUBMIT_TIMEOUT_SECONDS, Plan, Stage, staged, vendor_get
from tests.campaigns.wire import Client, Unanswered
from tests.kill.process import KEY

NOTICED_WITHIN_SECONDS: Final = LOOK_SECONDS + 2 * STILL_SECONDS + 5.0
PATIENT_SECONDS: Final = 30  # with a vendor: a busy machine shall leave no doubt of a submission
HELD_SECONDS: Final = 0.4  # that a file is in force before the next one comes
ON_ITS_WAY_SECONDS: Final = 1.0  # what was being sent when its provider was removed, arrives
MENU: Final = Menu(doomed=0.0, cancelled=0.05)
EXPECTED: Final = frozenset({200, 202, 409})  # 409: a video that cannot be cancelled any more
ENDS: Final = frozenset({"completed", "cancelled"})  # nothing else goes wrong here
_ENV_KEY: Final = '{ env = "REELGATE_SANDBOX_KEY" }'
_KEY_FILE: Final = "vendor.key"
_OUTCOMES: Final = "reelgate_config_reloads_total"
_VENDORS: Final = {"highway": "highwayapi", "router": "myrouter", "united": "unified"}


def _without(name: str) -> Callable[[str], str]:
    def cut(text: str) -> str:
        begin = text.index(f"[providers.{name}]")
        end = text.find("[providers.", begin + 1)
        return text[:begin] + (text[end:] if end >= 0 else "")

    return cut


class Change(msgspec.Struct, frozen=True):
    """One new file, made of the whole one. `removes`: whom it does not have."""

    name: str
    make: Callable[[str], str]
    is_good: bool = True
    removes: str | None = None


CHANGES: Final = (
    Change("without router", _without("router"), removes="router"),
    Change("no TOML", lambda text: text[: len(text) // 2] + "= ", is_good=False),
    Change("whole again", lambda text: text),
    Change("without highway", _without("highway"), removes="highway"),
    Change("a key that is nowhere", lambda text: text.replace(_KEY_FILE, "no.key"), is_good=False),
    Change("without united", _without("united"), removes="united"),
    Change("a canary", lambda text: text.replace("max_in_flight = 20", "max_in_flight = 30", 1)
           .replace('on_unknown = "resubmit"', 'on_unknown = "resubmit"\ncanary = 0.2')),
    Change("another strategy", lambda text: text.replace('"weighted"', '"priority"')),
    Change("no providers", lambda text: text.partition("[providers.")[0], is_good=False),
)


class Told(msgspec.Struct, frozen=True):
    """One change as it went. `had`: the jobs at the provider that it removed. Times in Unix seconds."""

    change: Change
    seconds: float
    had: float
    in_force: tuple[float, float]


async def reloads(plan: Plan, count: int) -> Report:
    """Change the file `count` times, every fourth time without a signal, and judge the whole history."""
    began = time.monotonic()
    told: list[Told] = []
    async with staged(plan) as stage:
        whole = stage.config.read_text("utf-8").replace(_ENV_KEY, f'{{ file = "{_KEY_FILE}" }}', 1)
        whole = whole.replace(f'"{SUBMIT_TIMEOUT_SECONDS}s"', f'"{PATIENT_SECONDS}s"')
        _write(plan.folder / _KEY_FILE, KEY)
        _write(stage.config, whole)
        await stage.start()
        async with stage.load(MENU) as callers:
            for number in range(count):
                told.append(await _changed(stage, CHANGES[number % len(CHANGES)], whole, number % 4 == 3))
                if (number + 1) % 20 == 0 or number + 1 == count:
                    plan.say(f"{number + 1:5} of {count} changed, {len(callers.orders)} ordered")
        verdict = await stage.judged()
        ledger = msgspec.convert((await vendor_get(stage, "/admin/ledger"))["entries"], list[Entry])
    failed = [f"answers: {failure.what}: {failure.fate}" for failure in callers.failures]
    odd = [f"answers: {number} times {status}" for status, number in callers.statuses.items()
           if status not in EXPECTED]
    bought = list(_bought_nowhere(ledger, told))
    bought += [f"ends: {end} {number}" for end, number in verdict.ends.items() if end not in ENDS]
    rows = [
        ("changes", f"{count}, {sum(not one.change.is_good for one in told)} of them bad"),
        ("change to outcome", times([one.seconds for one in told])),
        ("jobs at removed providers", f"{sum(one.had for one in told):.0f}"),
        ("failed requests", f"{len(failed)} of {sum(callers.statuses.values())}"),
        ("seconds", f"{time.monotonic() - began:.0f}"),
    ]
    if not any(one.had for one in told):
        bought.append("jobs: no provider that was removed had any, so nothing is shown")
    return reported("reloads", stage, rows, verdict, [*failed, *odd, *bought])


async def _changed(stage: Stage, change: Change, whole: str, by_itself: bool) -> Told:
    """Write a file, and wait until its outcome is told; `by_itself`: nobody says that it has changed."""
    client = Client(stage.port, keeps=True)
    result = "applied" if change.is_good else "refused"
    try:
        had = await _told(stage, client, "reelgate_provider_in_flight", "provider", change.removes or "")
        before = await _told(stage, client, _OUTCOMES, "result", result)
        began = time.monotonic()
        _write(stage.config, change.make(whole))
        if not by_itself:
            stage.gateway.signal(signal.SIGHUP)
        async with asyncio.timeout(NOTICED_WITHIN_SECONDS):
            while await _told(stage, client, _OUTCOMES, "result", result) <= before:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the outcome is in another process
        seconds, since = time.monotonic() - began, time.time()
        await asyncio.sleep(HELD_SECONDS + (ON_ITS_WAY_SECONDS if change.removes else 0.0))
        return Told(change, seconds, had, (since, time.time()))
    finally:
        client.close()


async def _told(stage: Stage, client: Client, metric: str, label: str, value: str) -> float:
    with suppress(Unanswered):
        return (await stage.metrics(client)).get((metric, ((label, value),)), 0.0)
    return 0.0


def _write(path: Path, text: str) -> None:
    """In its place, as an editor does."""
    path.write_text(text, "utf-8")


def _bought_nowhere(ledger: Sequence[Entry], told: Sequence[Told]) -> Iterator[str]:
    """What was bought at a provider while the file in force did not have it."""
    for one in told:
        if one.change.removes is not None:
            since, until = one.in_force
            for entry in ledger:
                is_its = entry.vendor == _VENDORS[one.change.removes]
                if is_its and since + ON_ITS_WAY_SECONDS < entry.at < until:
                    yield f"bought: {entry.vendor} {entry.vendor_task_id}, which is removed"
