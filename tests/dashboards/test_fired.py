"""Each alert fires by a fault of its own: a running gateway, a real Prometheus, an Alertmanager that is told.

One fault after the other is added, and each brings its own alert and no other. The rules are as deployed,
with `for` and windows shortened; hours pass by the gateway's clock, which the test moves. Not held here: when
an alert must not fire (`alerts_test.yml`, `test_live`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
import yaml

from gateway import assembly
from gateway.assembly import SteadyClock
from gateway.core.tasks import InvariantViolation
from gateway.engine import saving
from gateway.sandbox.admin import ArmRequest, arm
from gateway.storage.webhooks import Message, Webhooks
from tests.dashboards.prometheus import (
    PATIENCE_SECONDS,
    RULES,
    Alertmanager,
    Prometheus,
    alertmanager,
    needs_prometheus,
    prometheus,
)
from tests.dashboards.stage import receiver
from tests.serving import Json, Served, serving
from tests.storage.faults import Plan, full, planned

pytestmark = needs_prometheus

_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# The first line is the last of the table [providers.unified].
_MORE: Final = """
polls_per_minute = 6
[webhooks]
secrets = [{ file = "hook" }]
[egress]
allow = ["127.0.0.0/8"]
"""
_STEPS_MOST: Final = 100


class MovedClock(SteadyClock):
    """The gateway's clock, moved forward by `moved_seconds`."""

    moved_seconds = 0.0

    def __call__(self) -> float:
        """Now."""
        return super().__call__() + type(self).moved_seconds


class Fault:
    """A gateway, and what can be done to it and to what is around it. `stack` ends the gateway."""

    def __init__(self, served: Served, plan: Plan, hook: str, stack: ExitStack) -> None:
        self.served, self.plan, self.hook, self.stack = served, plan, hook, stack
        self.there: Prometheus
        self.told: Alertmanager

    def make(self, fault: str = "", provider: str = "highway", hook: str | None = None) -> Json:
        """A new video at a provider whose simulator is asked for a fault by its prompt."""
        prompt = f"[[fault:{fault}]] a fox" if fault else "a fox"
        return self.served.create(prompt=prompt, provider=provider, webhook_url=hook)

    def pass_time(self, seconds: float) -> None:
        """Hours later, by the gateway's clock."""
        MovedClock.moved_seconds += seconds

        async def look() -> None:
            self.served.gateway.engine.look()

        self.served.run(look)

    @staticmethod
    def await_true(is_so: Callable[[], bool]) -> None:
        """Ask again and again."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert time.monotonic() < until


def stopped(fault: Fault) -> None:
    fault.stack.close()


def full_disk(fault: Fault) -> None:
    fault.plan.arm(1, full(), for_good=True)
    fault.served.client.post("/v1/videos", json={"prompt": "a fox"})


def planted_bug(fault: Fault) -> None:
    def broken(*_: object) -> None:
        raise InvariantViolation("planted: two purchases of one attempt")

    patch = pytest.MonkeyPatch()
    fault.stack.callback(patch.undo)
    patch.setattr(saving, "apply", broken)
    fault.make(provider="unified")


def lost_answer(fault: Fault) -> None:
    fault.make("reset_after_accept")


def nobody_free(fault: Fault) -> None:
    fault.make()  # its provider is away
    fault.pass_time(2 * 3600)


def bad_renders(fault: Fault) -> None:
    made = [fault.make("failed") for _ in range(7)]
    for video in made:
        assert fault.served.finish(video["id"])["status"] == "failed"


def dead_vendor(fault: Fault) -> None:
    away = ArmRequest(fault="maintenance_window", vendor="highwayapi")
    arm(fault.served.sandbox.world, away)
    for _ in range(6):
        fault.make()


def revoked_key(fault: Fault) -> None:
    fault.served.create(prompt="[[fault:key_revoked]] a fox", provider="narrow", resolution="1080p")


def few_polls(fault: Fault) -> None:
    """More renders than the vendor may be asked about: each scrape finds one more late poll."""
    for _ in range(4):
        fault.served.started(fault.make(provider="unified")["id"])
    def polls() -> str | None:
        """How many were scraped; None: on a busy machine a scrape may fail."""
        found = fault.there.query('reelgate_polls_total{provider="unified", outcome="pending"}')
        return str(found[0]["value"][1]) if found else None

    for _ in range(_STEPS_MOST):
        if "ReelgatePollsLate" in fault.told.told:
            return
        seen = polls()
        fault.pass_time(11)
        fault.await_true(lambda: polls() not in {None, seen})  # noqa: B023


def new_word(fault: Fault) -> None:
    fault.served.finish(fault.make("unknown_status")["id"])


def no_downloads(fault: Fault) -> None:
    fault.served.finish(fault.make("server_error phase=download times=always")["id"])
    fault.pass_time(1200)


def nothing_is_taken(fault: Fault) -> None:
    """To a receiver that is away, which alone is no reason, nothing is sent any more."""
    fault.served.finish(fault.make(hook=fault.hook)["id"])
    fault.pass_time(1200)

    async def none(*_: object) -> list[Message]:
        return []

    patch = pytest.MonkeyPatch()
    fault.stack.callback(patch.undo)
    patch.setattr(Webhooks, "due", none)
    fault.served.finish(fault.make(hook=fault.hook)["id"])
    fault.pass_time(1200)


# In this order: what comes later does not bring about what was to come before.
FAULTS: Final[tuple[tuple[str, Callable[[Fault], None]], ...]] = (
    ("ReelgateProviderRefusesUs", revoked_key),
    ("ReelgateSubmissionsUnknown", lost_answer),
    ("ReelgateStatusUnrecognised", new_word),
    ("ReelgateSuccessRateLow", bad_renders),
    ("ReelgateFilesNotStored", no_downloads),
    ("ReelgateWebhooksBehind", nothing_is_taken),
    ("ReelgatePollsLate", few_polls),
    ("ReelgateProviderAway", dead_vendor),
    ("ReelgateVideosStuck", nobody_free),
    ("ReelgateInvariantViolated", planted_bug),
    ("ReelgateDatabaseShort", full_disk),
    ("ReelgateDown", stopped),
)


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
    monkeypatch.setattr(assembly, "SteadyClock", MovedClock)
    MovedClock.moved_seconds = 0.0
    (tmp_path / "hook").write_text(_SECRET)
    plan = planned(monkeypatch)
    with ExitStack() as around:
        *_, bad = around.enter_context(receiver())
        gateway = ExitStack()
        around.callback(gateway.close)
        served = gateway.enter_context(serving(tmp_path, more=_MORE, files='url = "file:videos"'))
        around.callback(plan.disarm)
        yield Fault(served, plan, bad, gateway)


@pytest.mark.long
def test_each_alert_fires_by_its_fault_and_no_other_does(fault: Fault, tmp_path: Path) -> None:
    target, fired = fault.served.url.removeprefix("http://"), list[str]()
    with alertmanager() as told, prometheus(tmp_path / "prometheus", target, told) as there:
        fault.there, fault.told = there, told
        for name, strike in FAULTS:
            assert list(told.told) == fired, f"before {name}"
            strike(fault)
            assert told.wait(name)["annotations"]["summary"], name
            fired.append(name)
        assert list(told.told) == fired


def test_every_alert_has_its_fault() -> None:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    assert {rule["alert"] for group in groups for rule in group["rules"]} == {name for name, _ in FAULTS}
